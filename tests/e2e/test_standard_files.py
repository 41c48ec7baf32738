"""Standard output and error of the real program: closed, full, or read by nobody."""

import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from testbed import eventually
from tests.e2e.support import SWIFT, certificate_flags, place_flags

FULL = "redisrepl: standard output cannot be written: No space left on device"
#: A log line for people.
_LOGGED = re.compile("\\d{4}-")
CLOSED = "redisrepl: standard output is closed: redirect it to a file"


@pytest.fixture
def command(certificates, site, hub, tmp_path):
    """The words of a command, for bash."""
    words = [*certificate_flags(certificates), *place_flags(site, hub), "--ns", "site1:", "-rc"]
    flags = {"status": [], "conflicts": [], "tail": ["--raddr", f":{site.port}"]}

    def command(name):
        given = [*flags.get(name, words), *([] if name == "tail" else ["--state-dir", tmp_path])]
        return " ".join(map(str, [sys.executable, "-m", "redisrepl", name, *given]))

    return command


def bash(line):
    """Exit codes of a pipeline's parts, and what was said."""
    line = f'{line}; printf %s "${{PIPESTATUS[*]}}" >&3'
    read, write = os.pipe()
    with os.fdopen(read) as codes:
        done = subprocess.run(
            ["bash", "-c", line.replace(">&3", f">&{write}")],
            capture_output=True,
            pass_fds=[write],
            timeout=60,
            check=False,
        )
        os.close(write)
        return list(map(int, codes.read().split())), done.stderr.decode()


@pytest.mark.parametrize("name", ["status", "check", "verify", "conflicts", "tail"])
def test_an_output_that_cannot_be_written_is_one_sentence(command, daemons, site, hub, tmp_path, name):
    if name == "status":
        daemons.live(site, hub, "--state-dir", str(tmp_path))
    site.client().set("site1:key", "v")
    for redirection, says in ((">/dev/full", FULL), (">&-", CLOSED)):
        codes, said = bash(f"{command(name)} {redirection}")
        assert [line for line in said.splitlines() if not _LOGGED.match(line)] == [says]
        assert codes == [74]


def test_what_was_found_out_is_in_the_exit_code_though_nobody_reads(command, at_site):
    at_site.set("site1:key", "v")
    assert bash(f"{command('verify')} | true")[0] == [1, 0]
    assert bash(f"{command('check')} --raddr :1 | true")[0] == [69, 0]


def test_a_live_table_that_nobody_reads_ends(command):
    assert bash(f"{command('status')} --watch 0.1 | true")[0] == [69, 0]


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "2> >(true)"])
def test_a_log_that_cannot_be_written_ends_nothing(command, at_site, at_hub, redirection):
    """Each lost link of the site is logged."""
    line = f"exec {command('run')} {' '.join(SWIFT)} {redirection}"
    with subprocess.Popen(["bash", "-c", line], stderr=subprocess.PIPE) as daemon:
        try:
            for number in range(3):
                at_site.set("site1:key", number)
                eventually(lambda: at_hub.get("site1:key") == b"%d" % number, 20, "it is at the hub")  # noqa: B023
                at_site.execute_command("CLIENT", "KILL", "TYPE", "replica")
        finally:
            daemon.terminate()
        assert daemon.wait(20) == 0


def test_a_table_that_is_watched_stays_in_its_place_on_a_terminal(tmp_path):
    terminal, end = pty.openpty()
    words = [sys.executable, "-m", "redisrepl", "status", "--watch", "0.1", "--state-dir", str(tmp_path)]
    with subprocess.Popen(words, stdout=end, stderr=end, start_new_session=True) as watching:
        os.close(end)
        shown = b""
        while shown.count(b"Ctrl-C ends this") < 3:
            shown += os.read(terminal, 4096)
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 69
    os.close(terminal)
    assert b"\x1b[" in shown  # the cursor goes back
    assert rb"\x1b" not in shown
