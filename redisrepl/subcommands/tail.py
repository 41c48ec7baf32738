"""`redisrepl tail`: what a Redis server holds, then every write as it happens, as JSON lines.

Comes in: the address of a server and what to choose of its stream.
Goes out: on a file descriptor the lines of `redisrepl rdb` for the snapshot, then `{"db":0,"argv":[..],"offset":N,
"replid":".."}` for each write, and `"transaction":N` where it is part of one; on stderr what happens to the link.
Left to others: parsing arguments (cli.py), the stream (local.replica), which arguments are keys (wire.keys), JSON
(jsonlines).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from redisrepl.errors import ExitCode, OutputError, RedisreplError
from redisrepl.local.address import SiteAddress
from redisrepl.local.replica import Command, LinkOptions, ReplicaStream, SnapshotStart, StreamEvent
from redisrepl.observe.failures import FailureLog
from redisrepl.subcommands.jsonlines import encode_bytes, entry_line, function_line
from redisrepl.subcommands.output import Output
from redisrepl.wire.keys import keys_of, writes_whole_databases
from redisrepl.wire.rdb import Entry, Function
from redisrepl.wire.transactions import StreamPlace

__all__ = ["Choice", "run"]

_log = structlog.get_logger("redisrepl")


@dataclass(frozen=True, slots=True)
class Choice:
    """What to print of a stream.

    Attributes:
        ns: prefixes of keys, keys: whole keys; a key that either names is chosen, every key if both are empty.
        commands: names of commands in upper case; all if empty.
        snapshot: whether to begin with what is there.
        place: where to begin instead.
    """

    ns: tuple[bytes, ...] = ()
    keys: frozenset[bytes] = frozenset()
    commands: frozenset[bytes] = frozenset()
    snapshot: bool = True
    place: StreamPlace | None = None

    def line(self, event: StreamEvent) -> bytes:
        """The line of an event, with its end; empty if it is not chosen."""
        match event:
            case Command(argv):
                return _command_line(event) if self._wants(argv) else b""
            case Entry(key=key):
                return entry_line(event) if self._wants_key(key) else b""
            case Function() if not (self.ns or self.keys):
                return function_line(event)
            case _:
                return b""

    def _wants(self, argv: Sequence[bytes]) -> bool:
        if self.commands and argv[0].upper() not in self.commands:
            return False
        if not self.keys:  # prefixes were looked for in the stream
            return True
        return any(map(self._wants_key, keys_of(argv))) or writes_whole_databases(argv)

    def _wants_key(self, key: bytes) -> bool:
        return not (self.ns or self.keys) or key in self.keys or key.startswith(self.ns)


async def run(address: SiteAddress, choice: Choice, options: LinkOptions, descriptor: int) -> ExitCode:
    """Print until told to stop: by SIGINT, SIGTERM, or because nobody reads any more.

    Args:
        address: of the server.
        choice: what to print.
        options: for the link; `on_lost` is ours.
        descriptor: where lines go; each is there when its command has happened, not when a buffer is full.

    Raises:
        RedisreplError: the server cannot be attached to, or no longer lets us.
    """
    task = asyncio.current_task()
    output = Output(descriptor)
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        if task is not None:
            task.cancel()

    with _signals(stop), output.watched(stop):
        try:
            await _follow(address, choice, options, output)
        except BrokenPipeError:
            return ExitCode.OK
        except asyncio.CancelledError:
            if not stopped:
                raise
            if task is not None:
                task.uncancel()
    return ExitCode.OK


async def _follow(address: SiteAddress, choice: Choice, options: LinkOptions, output: Output) -> None:
    trouble = FailureLog("stream")

    def log_failure(error: RedisreplError) -> None:
        trouble.failed(error)

    stream = ReplicaStream(
        address,
        choice.place.position if choice.place else None,
        database=choice.place.database if choice.place else None,
        snapshot=choice.snapshot,
        prefixes=(*choice.ns, *choice.keys),
        options=LinkOptions(None, log_failure, options.silence, options.connect_wait, options.retry_max),
    )
    async with stream:
        _log.info("stream.attached", site=str(address), position=str(stream.position or "snapshot"))
        async for events in stream.batches():
            trouble.succeeded()
            match events:
                case [SnapshotStart(position, restarted=True)]:
                    shown = "what is there now follows" if choice.snapshot else "what is there now is left out"
                    _log.warning(
                        "stream.restarted", position=str(position), lost="writes of the time between", then=shown
                    )
            lines = b"".join(map(choice.line, events))
            try:
                await output.write(lines)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise OutputError(f"standard output cannot be written: {error.strerror or error}") from error


def _command_line(command: Command) -> bytes:
    argv, database, replid, offset, transaction = command
    part = "" if transaction is None else f',"transaction":{transaction}'
    words = ",".join(map(encode_bytes, argv))
    return f'{{"db":{database},"argv":[{words}],"offset":{offset},"replid":"{replid}"{part}}}\n'.encode()


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
