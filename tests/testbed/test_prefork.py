"""Processes that are forked from one which has loaded the modules are like those that are started."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from redisrepl import __version__
from testbed import Daemon, eventually, free_port
from testbed.prefork import Forked, suits
from tests.e2e.support import certificate_flags

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def waiting(certificates):
    """A daemon whose servers are away."""
    port = free_port()
    flags = [*certificate_flags(certificates), "--raddr", f"127.0.0.1:{port}", "--haddr", f"https://localhost:{port}/"]
    return [*map(str, flags), "--ns", "site1:", "--log-format", "json"]


def run(*args, **options):
    with Daemon(args, **options) as process:
        assert isinstance(process._process, Forked)
        return process.wait(), process.stdout, process.stderr


def test_it_says_and_ends_as_the_command_does(tmp_path):
    assert run("--version") == (0, f"redisrepl {__version__}\n", "")
    code, out, err = run("--nonsense")
    assert (code, out) == (2, "")
    assert "--nonsense" in err
    assert run("status", cwd=tmp_path, env={"STATE_DIRECTORY": "nowhere"})[0] == 69


def test_the_environment_is_its_own(monkeypatch):
    monkeypatch.setenv("REDISREPL_NS", "leaked:")
    assert "nothing says what to replicate" in run()[2]
    assert "client certificate" in run(env={"REDISREPL_NS": "site1:"})[2]
    assert "nothing says what to replicate" in run()[2]


def test_it_is_a_process_of_its_own_that_dies_by_signals(waiting):
    with Daemon(waiting) as daemon:
        daemon.wait_for_log("stream.failed")
        assert os.getsid(daemon.pid) == daemon.pid
        assert daemon.running
        assert daemon.kill() == -signal.SIGKILL
        assert not daemon.running
        daemon.start()
        daemon.wait_for_log("stream.failed", after=daemon.mark())
        assert daemon.stop() == 0


def test_it_does_not_outlive_the_tests(waiting):
    code = f"""
        from testbed import Daemon
        from testbed.prefork import Parent
        Daemon.parent = Parent()
        daemon = Daemon({waiting!r}).start()
        daemon.wait_for_log("stream.failed")
        print(daemon.pid, flush=True)
        daemon.wait(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT) as tests:
        pid = int(tests.stdout.readline())
        tests.kill()
    eventually(lambda: not Path(f"/proc/{pid}/stat").exists() or ") Z " in Path(f"/proc/{pid}/stat").read_text())


@pytest.mark.parametrize(
    ("interpreter", "env", "forked"),
    [
        ((sys.executable,), {}, True),
        ((sys.executable,), {"REDISREPL_NS": "a:", "STATE_DIRECTORY": "x"}, True),
        ((sys.executable,), {"PYTHONPATH": "x"}, False),
        ((sys.executable,), {"LC_ALL": "C"}, False),
        ((sys.executable, "-W", "error"), {}, False),
        (("/usr/bin/python3",), {}, False),
    ],
)
def test_what_depends_on_how_the_interpreter_starts_is_started(interpreter, env, forked, monkeypatch):
    monkeypatch.delenv("REDISREPL_FRESH", raising=False)
    assert suits(interpreter, env) is forked
    monkeypatch.setenv("REDISREPL_FRESH", "1")
    assert not suits(interpreter, env)
