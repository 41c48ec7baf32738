"""Pipes, devices, sockets and sparse files in the place of each file that a flag names: at the start, and on SIGHUP."""

import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from redisrepl.errors import ExitCode
from tests.e2e.conftest import Daemons
from tests.e2e.support import SWIFT, all_replicated, certificate_flags
from tests.hostile.peers import peak

FLAGS = ["--ca", "--cert", "--key", "--config", "--password-file", "--hub-password-file", "--key-password-file"]
FLAGS += ["--listen-token-file", "--state-dir"]
FEW = ["--key", "--config", "--state-dir"]  # all are read by one function, of which `tests/test_files.py` has each kind
KINDS = ["fifo", "socket", "directory", "device", "large"]
#: More than reading a file takes, and less than reading one of these.
MOST = 40 << 20


def made(kind, path):
    """Something of this kind at this path; returns what is there instead, if it must be elsewhere."""
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(path))
        case "directory":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case "large":
            with path.open("wb") as file:
                file.truncate(2 << 30)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_start_it_is_said_in_one_sentence(certificates, tmp_path, kind):
    path = made(kind, tmp_path / "odd")
    flags = dict(zip(*[iter(certificate_flags(certificates))] * 2, strict=True))
    flags |= {
        "--raddr": "127.0.0.1:1",
        "--haddr": "https://localhost:1/",
        "--ns": "x:",
        "--state-dir": tmp_path / "state",
    }
    processes = {}
    for flag in FLAGS if kind == "fifo" else FEW:
        given = flags | {flag: path} | ({"--listen": "127.0.0.1:0"} if "listen" in flag else {})
        words = [str(word) for pair in given.items() for word in pair]
        command = ["prlimit", f"--as={1 << 30}", sys.executable, "-m", "redisrepl", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, "text": True}
        processes[flag] = subprocess.Popen(command, **pipes)
    for flag, process in processes.items():
        if flag == "--state-dir" and kind == "directory":
            process.kill()
            process.communicate()
            continue
        _, told = process.communicate(timeout=60)
        last = told.splitlines()[-1]
        assert process.returncode == ExitCode.CONFIG, (flag, told)
        assert f"{flag} {path}: " in last
        assert "Traceback" not in told


@pytest.mark.parametrize("kind", KINDS)
def test_on_sighup_the_daemon_goes_on_with_what_it_has(certificates, scene, tmp_path, kind):
    site, hub, _, _ = scene
    good = {"--ca": certificates.ca, "--cert": certificates.client, "--key": certificates.client_key}
    ours = {flag: tmp_path / flag.strip("-") for flag in good}
    for flag, path in ours.items():
        shutil.copy(good[flag], path)
    with Daemons(certificates) as daemons:
        flags = [str(word) for pair in ours.items() for word in pair]
        daemon = daemons.live(site, hub, *SWIFT, *flags)
        all_replicated(site.client(), hub.redis)
        before = peak(daemon)
        for flag, path in ours.items():
            path.unlink()
            made(kind, path)
            mark = daemon.mark()
            daemon.signal(signal.SIGHUP)
            line = daemon.wait_for_log("daemon.reload_failed", after=mark)
            assert f"{flag} {path}: " in line["error"]
            assert daemon.state()
            all_replicated(site.client(), hub.redis)
            path.rmdir() if kind == "directory" else path.unlink()
            shutil.copy(good[flag], path)
        assert peak(daemon) - before < MOST
        assert daemon.stop() == 0
