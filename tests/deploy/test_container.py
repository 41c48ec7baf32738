"""Dockerfile and deploy/compose.yaml, as far as they can be tried without a container engine.

The steps of the build run here one by one, with paths below a temporary directory.
"""

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import redis
import yaml

from redisrepl import __version__
from redisrepl.cli import site_address
from redisrepl.settings.settings import ENV_PREFIX, Settings, load_settings
from testbed import RedisServer

CHECKOUT = Path(__file__).parents[2]
COMPOSE = CHECKOUT / "deploy" / "compose.yaml"


def instructions():
    """The instructions of the Dockerfile as (stage, name, argument)."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (CHECKOUT / "Dockerfile").read_text()).replace("\\\n", " ")
    stage, found = -1, []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, argument = line.split(None, 1)
        stage += name == "FROM"
        found.append((stage, name, argument))
    return found


def last(name):
    return [argument for stage, found, argument in instructions() if (stage, found) == (1, name)][-1]


def copied(stage):
    """What a stage copies from the context: (sources, destination)."""
    for number, name, argument in instructions():
        if (number, name) == (stage, "COPY") and "--from" not in argument:
            *sources, destination = argument.split()
            yield sources, destination


def is_sent(path):
    """Whether .dockerignore lets a path of the checkout into the build."""
    sent = True
    for line in (CHECKOUT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.lstrip("!").removeprefix("**/")
            parts = [path, path.split("/")[0], path.rsplit("/", 1)[-1], *path.split("/")]
            if any(fnmatch.fnmatchcase(part, pattern) for part in parts):
                sent = line.startswith("!")
    return sent


def test_there_are_two_stages_on_the_same_base():
    assert [argument for _, name, argument in instructions() if name == "FROM"] == [
        "python:${PYTHON} AS build",
        "python:${PYTHON}",
    ]
    assert not any(stage == 1 and name == "RUN" for stage, name, _ in instructions())


def test_the_base_never_changes():
    """By digest; no registry is asked here."""
    (base,) = [argument for stage, name, argument in instructions() if (stage, name) == (-1, "ARG")]
    assert re.fullmatch(r"PYTHON=3\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)


def test_the_daemon_is_pid_1_of_a_user_that_is_a_number():
    assert last("ENTRYPOINT") == '["redisrepl"]'
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last("USER"))
    assert last("STOPSIGNAL") == "SIGTERM"
    assert last("HEALTHCHECK").endswith(' CMD ["redisrepl", "status"]')


def test_the_label_tells_this_version():
    assert last("ARG") == f"VERSION={__version__}"
    assert 'image.version="${VERSION}"' in last("LABEL")
    assert 'image.licenses="MIT"' in last("LABEL")


def test_the_build_gets_what_it_copies_and_nothing_else():
    wanted = {source for sources, _ in copied(0) for source in sources}

    assert all((CHECKOUT / source).exists() and is_sent(source) for source in wanted)
    assert is_sent("redisrepl/cli.py")
    for path in (
        ".git/config",
        "tests/conftest.py",
        "deploy/secrets/org-key",
        "key.pem",
        "redisrepl/__pycache__/a.pyc",
    ):
        assert not is_sent(path), path


@pytest.mark.timeout(600)
def test_the_steps_of_the_build_give_a_program_that_starts(tmp_path):
    places = {
        "/src": tmp_path / "src",
        "/build": tmp_path / "build",
        "/opt": tmp_path / "opt",
        "/state": tmp_path / "s",
    }
    tools = tmp_path / "bin"
    for directory in (places["/src"], tools):
        directory.mkdir()
    (tools / "python").symlink_to(sys.executable)
    (tools / "pip").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pip "$@"\n')
    (tools / "pip").chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    environment.pop("PYTHONPATH", None)
    for sources, destination in copied(0):
        for source in sources:
            target = places["/src"] / destination
            if destination.endswith("/"):
                target.mkdir(exist_ok=True)
            if (CHECKOUT / source).is_dir():
                shutil.copytree(
                    CHECKOUT / source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
                )
            else:
                shutil.copy(CHECKOUT / source, target)
    for stage, name, argument in instructions():
        if (stage, name) == (0, "RUN"):
            step = re.sub(r"(?<![\w.])(/src|/build|/opt|/state)\b", lambda match: str(places[match[1]]), argument)
            done = subprocess.run(
                ["sh", "-ec", step], cwd=places["/src"], env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{step}\n{done.stdout}{done.stderr}"
    program = tmp_path / "opt" / "redisrepl" / "bin" / "redisrepl"
    answered = subprocess.run([program, "--version"], env={}, capture_output=True, text=True, check=False)

    assert (tmp_path / "opt" / "redisrepl" / "share" / "man" / "man1" / "redisrepl.1").exists()
    assert (answered.returncode, answered.stdout) == (0, f"redisrepl {__version__}\n"), answered.stderr
    # What is pulled of the base is 44 MB, by the list of the images' makers. All of it has to stay below 90 MB.
    layer = shutil.make_archive(str(tmp_path / "layer"), "gztar", tmp_path / "opt")
    assert Path(layer).stat().st_size < 30e6


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load(COMPOSE.read_text())


@pytest.fixture
def settings(compose, monkeypatch):
    """What the daemon makes of its command line and environment."""
    service = compose["services"]["redisrepl"]
    for name in os.environ:
        if name.startswith(ENV_PREFIX):
            monkeypatch.delenv(name)
    for name, value in service["environment"].items():
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:-(.*)\}", r"\1", value))
    assert service["command"] == ["-rc", "--log-format", "json"]
    return load_settings({"rc": True, "log_format": "json"})


def test_the_sidecar_is_locked_down(compose):
    service = compose["services"]["redisrepl"]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] == last("USER")
    assert service["image"] == f"redisrepl:{__version__}"
    assert service["volumes"] == [f"redisrepl-state:{last('VOLUME')}"]
    assert "entrypoint" not in service
    assert int(service["stop_grace_period"].removesuffix("s")) > Settings().shutdown_timeout


def test_every_variable_is_a_setting(compose):
    names = {name.removeprefix(ENV_PREFIX).lower() for name in compose["services"]["redisrepl"]["environment"]}

    assert names <= set(Settings.fields)


def test_the_secrets_are_files_named_as_before(compose, settings):
    """The names that sites of redisRepl 1.2 have given their secrets."""
    secrets = compose["services"]["redisrepl"]["secrets"]
    used = [settings.ca, settings.cert, settings.key, settings.password_file]

    assert [str(path) for path in used] == [f"/run/secrets/{name}" for name in secrets]
    assert secrets == ["main-cert", "org-cert", "org-key", "redis-password"]
    assert set(compose["secrets"]) == {*secrets, "redis-users"}


def test_the_command_line_is_accepted(compose, settings):
    """The program itself takes it, up to the secrets that are not there."""
    service = compose["services"]["redisrepl"]
    environment = {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in service["environment"].items()}
    run = subprocess.run(
        [sys.executable, "-m", "redisrepl", *service["command"]],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 78
    assert "/run/secrets/" in run.stderr
    assert settings.rc


def test_the_secrets_made_as_the_comment_says_open_redis(tmp_path, compose, settings):
    """The commands at the head of compose.yaml, and the command line of its Redis."""
    commands = [line[4:] for line in COMPOSE.read_text().splitlines() if re.match(r"#   (mkdir|openssl|\{)", line)]
    shutil.copytree(CHECKOUT / "deploy" / "site", tmp_path / "site")
    subprocess.run(["bash", "-euc", "\n".join(commands)], cwd=tmp_path, check=True)
    password = tmp_path / "secrets" / "redis-password"
    given = settings.replace(password_file=password)
    address = site_address(given, ask_password=False)
    command = compose["services"]["redis"]["command"]
    assert command[:3] == ["redis-server", "--aclfile", "/run/secrets/redis-users"]

    with RedisServer(config={"aclfile": tmp_path / "secrets" / "redis-users"}) as server:
        client = server.client(username=address.username, password=address.password)
        assert client.set("site1:a", 1)
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.set("site10:a", 1)
        with pytest.raises(redis.AuthenticationError):
            server.client().ping()
        kind, asks = compose["services"]["redis"]["healthcheck"]["test"]
        asks = asks.replace("redis-cli", f"redis-cli -p {server.port}")
        assert (kind, subprocess.run(["sh", "-c", asks], check=False).returncode) == ("CMD-SHELL", 0)
    assert subprocess.run(["sh", "-c", asks], check=False, capture_output=True).returncode != 0
    assert compose["services"]["redisrepl"]["depends_on"] == {"redis": {"condition": "service_healthy"}}
