"""Which modules each command loads: `redisrepl status` runs every few seconds in many places."""

import gc
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from redisrepl import cli
from redisrepl.imports import without
from testbed import RedisServer

CHECKOUT = Path(__file__).parents[1]
#: Packages that take long to load, of others and of Python itself.
HEAVY = {
    *("asyncio", "click", "cryptography", "dataclasses", "difflib", "hiredis", "httptools", "httpx", "inspect"),
    *(
        "logging",
        "prometheus_client",
        "pydantic",
        "pydantic_settings",
        "pygments",
        "redis",
        "rich",
        "ssl",
        "stamina",
        "structlog",
    ),
    *("tomllib", "websockets"),
}
PROGRAM = """
import json, sys
sys.argv[1:] = {argv!r}
from redisrepl.cli import main
try:
    main()
except SystemExit:
    pass
print()
print(json.dumps(sorted(sys.modules)))
"""


def loaded(*argv, said=""):
    """Which of the heavy packages a command line loads that says this."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(argv=list(map(str, argv)))],
        capture_output=True,
        text=True,
        check=True,
        cwd=CHECKOUT,
    )
    assert said in done.stderr
    modules = json.loads(done.stdout.splitlines()[-1])
    found = HEAVY & {name.partition(".")[0] for name in modules}
    # redis looks whether there is a cryptography, and loads nothing of it that takes long.
    return found if "cryptography.x509" in modules else found - {"cryptography"}


@pytest.mark.parametrize(
    "argv",
    [
        ["--version"],
        ["--help"],
        ["help", "tail"],
        ["status", "--help"],
        ["check", "--help"],
        ["conflicts", "--help"],
        ["verify", "--help"],
        ["tail", "--help"],
        ["status", "--state-dir", "/nonexistent"],
        ["status", "--json"],
    ],
)
def test_what_asks_no_server_loads_nothing_heavy(argv):
    assert not loaded(*argv)


def test_a_mistake_loads_what_finds_the_right_word_and_no_more():
    assert loaded("stauts") == {"difflib"}


def test_a_wrong_value_loads_what_reads_settings_and_no_server():
    servers = {"cryptography", "hiredis", "httptools", "httpx", "redis", "rich", "stamina", "structlog", "websockets"}
    assert not loaded("--batch", "0", "--ns", "a:") & servers


def test_conflicts_loads_no_client_of_anything(tmp_path):
    assert not loaded("conflicts", "--state-dir", str(tmp_path)) & {"hiredis", "httptools", "httpx", "websockets"}


def test_rdb_loads_no_client_of_anything(tmp_path):
    assert not loaded("rdb", str(tmp_path / "none.rdb")) & {"redis", "httpx", "cryptography", "rich", "asyncio"}


def test_tail_does_not_load_the_hubs_side():
    assert not loaded("tail", "--raddr", "127.0.0.1:1") & {"httpx", "httptools", "websockets"}


def test_a_daemon_loads_neither_websockets_nor_certificates_nor_metrics_unless_it_is_given_them():
    loads = loaded("--ns", "a:", "--haddr", "http://127.0.0.1:1/")  # refused once all modules are there

    assert "httptools" in loads
    assert not loads & {"cryptography", "websockets", "prometheus_client"}


def test_a_daemon_that_runs_holds_nothing_that_it_used_once(tmp_path, certificates):
    """What only reads settings, or serves a terminal: 20 MB once."""
    config = tmp_path / "redisrepl.toml"
    config.write_text('max_value = "1MiB"\nns = ["a:"]\nkeep_conflicts = "2MiB,1d"\n')
    with RedisServer(config={"requirepass": "another"}) as site:  # which ends it as soon as it would begin
        loads = loaded(
            *("--config", config, "-rc", "--raddr", f"127.0.0.1:{site.port}", "--haddr", "https://127.0.0.1:1/"),
            *("--cert", certificates.client, "--key", certificates.client_key, "--ca", certificates.ca),
            said="refuses us",
        )

    assert {"httptools", "redis", "structlog"} <= loads
    assert not loads & {"click", "pydantic", "pydantic_settings", "pygments", "rich", "tomllib"}


def test_what_is_left_out_is_found_again_afterwards():
    with without("rich"):
        pass

    assert importlib.util.find_spec("rich") is not None


def test_nothing_is_collected_while_modules_are_loaded(monkeypatch):
    collections = []

    def note(phase, _):
        collections.append(phase)

    def load(*_):
        gc.callbacks.append(note)
        modules = [[] for _ in range(100_000)]
        gc.callbacks.remove(note)
        return lambda: len(modules) if gc.isenabled() else 0

    monkeypatch.setattr(cli, "_status", load)

    assert cli.main(["status"]) == 100_000
    assert not collections
