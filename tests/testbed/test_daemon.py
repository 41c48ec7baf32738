"""The daemon's handle, shown with a stand-in for the package, which says what the test wants to hear."""

import signal
import textwrap

import pytest

from testbed import Daemon, DaemonEndedError

STAND_IN = """
    import json, os, signal, sys

    def say(event, **fields):
        print(json.dumps({"event": event, **fields}), file=sys.stderr, flush=True)

    signal.signal(signal.SIGTERM, lambda *_: (say("stopping"), sys.exit(0)))
    signal.signal(signal.SIGHUP, lambda *_: say("reloaded"))
    print("data", flush=True)
    say("started", args=sys.argv[1:], setting=os.environ.get("REDISREPL_NS"))
    print("a plain line", file=sys.stderr, flush=True)
    if sys.argv[1:] == ["fail"]:
        sys.exit(78)
    while True:
        signal.pause()
"""


@pytest.fixture
def start(tmp_path):
    package = tmp_path / "redisrepl"
    package.mkdir()
    (package / "__init__.py").touch()  # without it an installed redisrepl would go before it
    (package / "__main__.py").write_text(textwrap.dedent(STAND_IN))
    daemons = []

    def start(*args, env=None):
        daemon = Daemon(args, env=(env or {}) | {"PYTHONPATH": str(tmp_path)}, cwd=tmp_path)
        daemons.append(daemon)
        return daemon.start()

    yield start
    for daemon in daemons:
        daemon.close()


def test_a_json_line_becomes_a_record(start):
    daemon = start("--ns", "site1:", env={"REDISREPL_NS": "other:"})
    assert daemon.wait_for_log("started") == {"event": "started", "args": ["--ns", "site1:"], "setting": "other:"}


def test_settings_of_the_test_runner_do_not_leak_in(start, monkeypatch):
    monkeypatch.setenv("REDISREPL_NS", "leaked:")
    assert start().wait_for_log("started")["setting"] is None


def test_another_line_becomes_an_event_of_its_own(start):
    assert start().wait_for_log("a plain line") == {"event": "a plain line"}


def test_stop_ends_it_in_order(start):
    daemon = start()
    daemon.wait_for_log("started")
    assert daemon.stop() == 0
    assert daemon.logged("stopping")
    assert daemon.stdout == "data\n"
    assert not daemon.running


def test_kill_leaves_it_no_chance(start):
    daemon = start()
    daemon.wait_for_log("started")
    assert daemon.kill() == -signal.SIGKILL
    assert not daemon.logged("stopping")


def test_an_end_while_waiting_is_told_with_what_it_said(start):
    daemon = start("fail")
    with pytest.raises(DaemonEndedError, match=r"(?s)ended \(78\) before it logged 'ready'.*a plain line"):
        daemon.wait_for_log("ready")
    assert daemon.exit_code == 78


def test_a_missing_record_is_told_with_what_was_said(start):
    daemon = start()
    daemon.wait_for_log("a plain line")
    with pytest.raises(AssertionError, match=r"(?s)no 'ready' .* within 0\.05 s.*a plain line"):
        daemon.wait_for_log("ready", timeout=0.05)


def test_fields_choose_among_records(start):
    daemon = start()
    assert daemon.wait_for_log("started", setting=None)
    with pytest.raises(AssertionError, match="setting"):
        daemon.wait_for_log("started", timeout=0.05, setting="other:")


def test_a_mark_skips_what_was_said_before(start):
    daemon = start()
    daemon.wait_for_log("started")
    for _ in range(2):
        mark = daemon.mark()
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_log("reloaded", after=mark)
    assert len(daemon.logged("reloaded")) == 2


def test_a_restart_goes_on_in_the_same_records(start):
    daemon = start()
    daemon.wait_for_log("a plain line")
    mark = daemon.mark()
    daemon.restart()
    daemon.wait_for_log("started", after=mark)
    assert len(daemon.logged("started")) == 2


def test_one_that_does_not_end_is_told(start):
    daemon = start()
    daemon.wait_for_log("started")
    with pytest.raises(AssertionError, match=r"still running after 0\.05 s"):
        daemon.wait(0.05)
