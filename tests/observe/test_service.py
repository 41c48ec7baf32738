"""What systemd is told, over a real datagram socket."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest

from redisrepl.observe.service import Service


class Manager:
    """The service manager's end; `clock` is the daemon's."""

    def __init__(self, address, watchdog=None):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)
        self.now = 1000.0
        self.status = "well"
        environment = {"NOTIFY_SOCKET": address} | ({"WATCHDOG_USEC": str(watchdog)} if watchdog else {})
        self.service = Service(environment, lambda: self.now)

    def tick(self, ready=True, after=0.0):
        self.now += after
        self.service.tick(ready=ready, status=lambda: self.status)
        return self.told()

    def told(self):
        lines = []
        try:
            while True:
                lines += self.socket.recv(4096).decode().split("\n")
        except BlockingIOError:
            return lines


@pytest.fixture(params=["path", "abstract"])
def manager(request):
    with tempfile.TemporaryDirectory() as directory:
        address = str(Path(directory) / "notify") if request.param == "path" else f"@redisrepl-{os.getpid()}"
        made = []

        def manager(**options):
            made.append(Manager(address, **options))
            return made[-1]

        yield manager
        for one in made:
            one.socket.close()
            if one.service._socket is not None:
                one.service._socket.close()


def test_it_is_ready_once_everything_is_there(manager):
    manager = manager()
    assert manager.tick(ready=False) == []
    assert manager.tick(ready=True, after=1) == ["READY=1", "STATUS=well"]
    assert manager.tick(after=100) == []


def test_a_hub_that_is_away_does_not_hold_up_the_machine_for_ever(manager):
    manager = manager()
    manager.status = "starting: attaching"
    assert manager.tick(ready=False, after=59) == ["STATUS=starting: attaching"]
    assert manager.tick(ready=False, after=1) == ["READY=1"]


def test_the_status_is_told_when_it_changes(manager):
    manager = manager()
    manager.tick()
    manager.status = "not well: push\nfailed"
    assert manager.tick(after=1) == []
    assert manager.tick(after=5) == ["STATUS=not well: push failed"]


def test_the_watchdog_is_told_in_time(manager):
    manager = manager(watchdog=60_000_000)
    manager.tick()
    barks = [manager.tick(after=1) for _ in range(60)]
    assert barks.count(["WATCHDOG=1"]) == 3


def test_no_watchdog_is_told_if_none_was_asked_for(manager):
    manager = manager()
    manager.tick()
    assert manager.tick(after=1000) == []


def test_a_reload_is_told_from_begin_to_end(manager):
    manager = manager()
    manager.service.reloading()
    manager.service.reloaded()
    assert manager.told() == []  # it is starting still, and that must not make it ready
    manager.tick()
    manager.service.reloading()
    reloading, monotonic = manager.told()
    assert reloading == "RELOADING=1"
    assert int(monotonic.removeprefix("MONOTONIC_USEC=")) > 0
    manager.service.reloaded()
    assert manager.told() == ["READY=1"]


def test_nothing_is_told_after_the_end(manager):
    manager = manager(watchdog=3_000_000)
    manager.tick()
    manager.service.stopping("stopping: 3 keys wait")
    assert manager.told() == ["STOPPING=1", "STATUS=stopping: 3 keys wait"]
    assert manager.tick(after=100) == []


def test_the_watchdog_of_another_process_is_not_ours(manager):
    manager = manager()
    environment = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}
    other = Service(environment, lambda: 0.0)
    assert other._watchdog == 0
    other._socket.close()


def test_without_a_manager_nothing_is_computed():
    service = Service({}, lambda: 0.0)
    service.tick(ready=True, status=lambda: pytest.fail("asked for"))
    service.reloading()
    service.reloaded()
    service.stopping("")


def test_a_manager_that_is_gone_does_no_harm():
    service = Service({"NOTIFY_SOCKET": "/nowhere/at/all"}, lambda: 0.0)
    service.tick(ready=True, status=str)
    service._socket.close()


def test_nothing_that_a_peer_says_is_told_as_it_is(manager):
    """`systemctl status` prints it; and what cannot be encoded must not end the daemon."""
    told = manager()
    told.status = "not well: \x1b]0;x\x07\nMAINPID=1 \ud800"
    assert told.tick()[1:] == ["STATUS=not well: \\x1b]0;x\\x07 MAINPID=1 \\ud800"]
