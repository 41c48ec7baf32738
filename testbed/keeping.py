"""`make demo KEEP=1`: two sites, a hub and two daemons that stay up until Ctrl-C, for trying things out.

In: installed servers, a directory that does not exist yet. Out: in that directory a command for each Redis (`east`,
`west`, `hub`) and the settings, log, process id and state of each daemon. All of it is removed at the end.
Left to others: the servers and the first writes (`testbed.demo`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from testbed.demo import NAMESPACE, SITES, Demo, Screen
from testbed.ports import claim_port, free_port
from testbed.processes import end_group, is_running, spawn
from testbed.programs import daemon_python
from testbed.redis_server import RedisServer
from testbed.server import ServerFailedError

__all__ = ["KeptDemo", "main"]

_CHECKOUT = Path(__file__).parents[1]
#: Where each daemon serves its status page, if nobody else does.
_PAGES = {"east": 9646, "west": 9647}
_MARK = ".made-by-make-demo"
_SETTINGS = """\
haddr = "{hub}"
ca = "{ca}"
cert = "{cert}"
key = "{key}"
raddr = "127.0.0.1:{port}"
user = "redisrepl"
password_file = "{password_file}"
ns = ["{namespace}"]
rc = true
replicate = ["set", "hset", "del", "expire"]
state_dir = "{state}"
listen = ["127.0.0.1:{page}"]
retry_max = 1.0
"""


class KeptDemo(Demo):
    """The servers and daemons of the demonstration, kept until somebody interrupts.

    Args:
        screen: where it is told.
        place: the directory to make.
        patience: seconds to wait for equal copies.
    """

    def __init__(self, screen: Screen, place: Path, *, patience: float) -> None:
        super().__init__(screen, count=0, steady=0.0, patience=patience)
        self.place = place.absolute()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._pages: dict[str, int] = {}

    def run(self) -> int:
        """Return the exit code."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(_own_directory(self.place))
            self._start_servers(stack)
            before = self._write_before()
            self._write_commands()
            self._start_daemons(stack)
            self._until_equal(before)
            equal = {side.keys() for side in self.sides} == {before}
            self._tell(before, equal=equal)
            with contextlib.suppress(KeyboardInterrupt):
                self._keep()
            self.screen.say("stopping everything, and removing " + self._shown(self.place))
        return 0 if equal else 1

    def _write_commands(self) -> None:
        logins = dict(zip(SITES, ([f"-p {site.port}"] for site in self._sites), strict=True))
        logins["hub"] = [f"-p {self._hub.server.port}", "--user admin", "--no-auth-warning", f"-a {self._admin}"]
        for name, words in logins.items():
            path = self.place / name
            path.touch(mode=0o700)
            path.write_text(f'#!/bin/sh\nexec {_CHECKOUT}/scripts/unpacked redis-cli {" ".join(words)} "$@"\n')

    def _start_daemons(self, stack: contextlib.ExitStack) -> None:
        for name, site in zip(SITES, self._sites, strict=True):
            config = self._write_settings(name, site)
            log = stack.enter_context((self.place / f"{name}.log").open("wb"))
            environment = {key: value for key, value in os.environ.items() if not key.startswith("REDISREPL_")}
            command = [daemon_python(), "-m", "redisrepl", "--config", str(config)]
            process = spawn(command, cwd=_CHECKOUT, env=environment, stdout=log, stderr=log, death_signal="TERM")
            stack.callback(end_group, process, gracefully_within=15.0)
            (self.place / f"{name}.pid").write_text(f"{process.pid}\n")
            self._processes[name] = process

    def _write_settings(self, name: str, site: RedisServer) -> Path:
        pair = self._hub.certificates.issue(name, f"{name}.example", common_name=name)
        page = self._pages[name] = _PAGES[name] if claim_port(_PAGES[name]) else free_port()
        path = self.place / f"{name}.toml"
        text = _SETTINGS.format(
            hub=self._hub.url,
            ca=self._hub.certificates.ca,
            cert=pair.cert,
            key=pair.key,
            port=site.port,
            password_file=self._password_file,
            namespace=NAMESPACE,
            state=self.place / f"{name}-state",
            page=page,
        )
        path.write_text(text)
        return path

    def _tell(self, keys: int, *, equal: bool) -> None:
        said = [f"{keys} keys are equal on east, hub and west" if equal else "the copies are not equal: see the logs"]
        said += [f"status page of {name}: http://127.0.0.1:{self._pages[name]}/" for name in SITES]
        place = self._shown(self.place)
        said += [
            f"commands: {place}/east, {place}/west, {place}/hub are redis-cli; keys start with {NAMESPACE}",
            f"settings and logs of the daemons: {place}/*.toml, {place}/*.log",
            "Ctrl-C stops everything",
        ]
        for line in said:
            self.screen.say(line)

    def _keep(self) -> None:
        """Until somebody interrupts; a daemon that ends is told once."""
        running = dict(self._processes)
        while True:
            time.sleep(0.5)
            for name, process in list(running.items()):
                if not is_running(process):
                    del running[name]
                    self.screen.say(f"the daemon of {name} has ended with {end_group(process)}")

    @staticmethod
    def _shown(path: Path) -> str:
        return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


@contextlib.contextmanager
def _own_directory(place: Path) -> Iterator[None]:
    """Make it; what a killed run has left is removed first, what is not ours is refused."""
    if place.exists() and not (place / _MARK).exists():
        raise ServerFailedError(f"{place} exists and was not made by `make demo`: give another one with KEEP=DIRECTORY")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    (place / _MARK).touch()
    try:
        yield
    finally:
        shutil.rmtree(place, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Start everything and wait; return the exit code."""
    parser = argparse.ArgumentParser(prog="make demo KEEP=1", description=__doc__)
    parser.add_argument("place", type=Path, nargs="?", default=Path("demo"), help="directory to make (default: demo)")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    screen = Screen(Console())
    try:
        return KeptDemo(screen, options.place, patience=30.0).run()
    except KeyboardInterrupt:
        return 130
    except (ServerFailedError, FileNotFoundError) as error:
        screen.say(f"the demonstration failed: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
