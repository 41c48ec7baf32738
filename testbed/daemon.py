"""The real redisrepl process.

In: command-line arguments. Out: its log records as they come, its output, its exit code.
Left to others: everything it talks to.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar

from testbed.logs import keep
from testbed.prefork import Forked, Parent, suits
from testbed.processes import at_exit, end_group, forget_at_exit, is_running, spawn
from testbed.programs import daemon_python

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

__all__ = ["Daemon", "DaemonEndedError"]

_CHECKOUT = Path(__file__).parents[1]

Record = dict[str, Any]


class DaemonEndedError(RuntimeError):
    """The daemon ended while a test waited for it; the message ends with what it said."""


class Daemon:
    """`python -m redisrepl` with `args`; `env` is added to the environment, from which REDISREPL_* is removed.

    `records` holds one dict per line of stderr: the JSON object, or {"event": line} where a line is none.
    `parent`, if there is one, forks those that need no interpreter of their own.
    """

    parent: ClassVar[Parent | None] = None

    def __init__(
        self,
        args: Sequence[object] = (),
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        interpreter: Sequence[str] = (),
    ) -> None:
        self.args = [str(arg) for arg in args]
        self.env = dict(env or {})
        self.cwd = cwd
        self.interpreter = tuple(interpreter) or (daemon_python(),)
        self.records: list[Record] = []
        self.stdout = ""
        self.exit_code: int | None = None
        self._process: subprocess.Popen[bytes] | Forked | None = None
        self._news = threading.Condition(threading.RLock())
        self._has_fallen_silent = False
        self._threads: list[threading.Thread] = []
        at_exit(self, self.close)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the daemon has not been started")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and is_running(self._process)

    @property
    def stderr(self) -> str:
        """Everything said on stderr, records as JSON."""
        return "\n".join(_line(record) for record in self._seen())

    def start(self) -> Self:
        """Start it; it need not be ready when this returns, `wait_for_log` tells. Can be called again after an end."""
        if self.running:
            raise RuntimeError("the daemon is running already")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("REDISREPL_")}
        inherited.pop("PYTHONDONTWRITEBYTECODE", None)  # to compile all modules again is a third of a start's processor
        path = os.pathsep.join(filter(None, [str(_CHECKOUT), inherited.get("PYTHONPATH")]))
        self.exit_code = None
        self._has_fallen_silent = False
        env, cwd = (
            inherited | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"} | self.env,
            self.cwd or tempfile.gettempdir(),
        )
        if Daemon.parent is not None and suits(self.interpreter, self.env):
            self._process = Daemon.parent.fork(self.args, env, cwd)
        else:
            command = [*self.interpreter, "-m", "redisrepl", *self.args]
            self._process = spawn(command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._threads = [
            threading.Thread(target=self._collect_stderr, args=(self._process.stderr,), daemon=True),
            threading.Thread(target=self._collect_stdout, args=(self._process.stdout,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        return self

    def wait_for_log(self, event: str, timeout: float = 15.0, *, after: int = 0, **fields: object) -> Record:
        """Return the first record of this `event` with these `fields`, waiting for it if need be.

        `after` skips that many records; `mark()` gives the number to skip what has been said so far.
        """
        deadline = time.monotonic() + timeout
        looked_at = after
        with self._news:
            while True:
                for record in self.records[looked_at:]:
                    if record.get("event") == event and fields.items() <= record.items():
                        return record
                looked_at = max(after, len(self.records))
                if self._has_fallen_silent:
                    raise DaemonEndedError(f"ended ({self.wait()}) before it logged {event!r}:\n{self._tail()}")
                if not self._news.wait(deadline - time.monotonic()) and time.monotonic() >= deadline:
                    raise AssertionError(f"no {event!r} {fields or ''} within {timeout:g} s; it said:\n{self._tail()}")

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """A check that fails meanwhile tells how this daemon is, and what it said last."""
        try:
            yield
        except AssertionError as error:
            state = json.dumps(self.state()) if self.running else "it has ended"
            error.add_note(f"the daemon: {state}\nit said:\n{self._tail()}")
            raise

    def mark(self) -> int:
        """The number of records so far, for `wait_for_log(after=...)`."""
        return len(self._seen())

    def logged(self, event: str, *, after: int = 0, **fields: object) -> list[Record]:
        """All records so far of this event with these fields; `after` as in `wait_for_log`."""
        records = self._seen()[after:]
        return [record for record in records if record.get("event") == event and fields.items() <= record.items()]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def state(self) -> Record:
        """What it says of itself when it is asked (SIGUSR1)."""
        mark = self.mark()
        self.signal(signal.SIGUSR1)
        return self.wait_for_log("daemon.state", after=mark)

    def wait(self, timeout: float = 30.0) -> int:
        """Wait until it ends by itself; return its exit code."""
        if self._process is None:
            raise RuntimeError("the daemon has not been started")
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout:g} s; it said:\n{self._tail()}") from None
        return self._reap()

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM, and its exit code; an AssertionError if it does not end in time."""
        if self.running:
            self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self) -> int:
        """SIGKILL: nothing is drained, nothing saved."""
        if self._process is None:
            raise RuntimeError("the daemon has not been started")
        end_group(self._process)
        return self._reap()

    def restart(self) -> Self:
        """Stop in order and start again with the same arguments; records go on in the same list."""
        self.stop()
        return self.start()

    def close(self) -> None:
        """End it, in whatever state it is."""
        forget_at_exit(self)
        if self._process is not None:
            end_group(self._process, gracefully_within=5.0)
            self._reap()
            keep("daemon", {"daemon.log": self.stderr + self.stdout})

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _collect_stderr(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                record = _record(line)
                with self._news:
                    self.records.append(record)
                    self._news.notify_all()
        with self._news:
            self._has_fallen_silent = True
            self._news.notify_all()

    def _collect_stdout(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                self.stdout += line.decode(errors="replace")

    def _reap(self) -> int:
        self.exit_code = self._process.wait() if self._process else 0
        for thread in self._threads:
            thread.join(timeout=5)
        return self.exit_code

    def _seen(self) -> list[Record]:
        with self._news:
            return list(self.records)

    def _tail(self, lines: int = 40) -> str:
        return "\n".join(_line(record) for record in self.records[-lines:]) or "(nothing)"


def _record(line: bytes) -> Record:
    text = line.decode(errors="replace").rstrip("\n")
    if text.startswith("{"):
        try:
            return json.loads(text)
        except ValueError:
            pass
    return {"event": text}


def _line(record: Record) -> str:
    return record["event"] if record.keys() == {"event"} else json.dumps(record)
