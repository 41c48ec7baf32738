"""`redisrepl rdb FILE|-`: what a snapshot holds, as JSON lines, as keys, or as a table.

Comes in: an RDB file or the same bytes on standard input, and what to choose of it.
Goes out: on `out` one JSON object a line (`--keys`: one key a line, `--summary`: a table); on `err` progress and
messages.
Left to others: parsing arguments (cli.py), the format (wire.rdb), the JSON (jsonlines).

With `--keys` a line is only the key, as a JSON string or `{"base64": "..."}`; values are passed over undecoded. A
snapshot that is damaged is printed up to the damage; a line begun by a big value then stays without its closing
brackets, so that nobody takes it for whole. Function libraries have no key: they are printed unless something was
chosen, and with `--type function`.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from contextlib import ExitStack
from heapq import heappush, heappushpop
from io import StringIO
from typing import TYPE_CHECKING, BinaryIO, TextIO

from redisrepl.errors import ConfigError, RdbError
from redisrepl.stdio import writing
from redisrepl.subcommands.jsonlines import encode_bytes, entry_line, function_line
from redisrepl.wire.rdb import Aux, Entry, Function, RdbReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from redisrepl.wire.rdb import Event

__all__ = ["CHUNK", "TYPES", "run"]

CHUNK = 256 << 10
"""Bytes read at a time."""

TYPES = ("string", "list", "set", "zset", "hash", "stream", "array", "module2", "function")
"""What `--type` may name."""

_BATCH = 64 << 10  # bytes written at once
_BIGGEST = 10  # keys listed in the summary
_SHOWN = 60  # characters of a key shown there

_OK, _DAMAGED = 0, 1


def run(
    file: str,
    *,
    ns: Sequence[bytes],
    types: Sequence[str],
    dbs: Sequence[int],
    keys: bool,
    summary: bool,
    out: BinaryIO,
    err: TextIO,
) -> int:
    """Prints the snapshot in `file` ("-" for standard input) and returns the exit code.

    Args:
        file: path of the snapshot.
        ns: prefixes of the keys to print, none for all.
        types: names from `TYPES` to print, none for all.
        dbs: databases to print, none for all.
        keys: print keys only.
        summary: print a table instead.
        out: where data goes.
        err: where progress and messages go.

    Raises:
        ConfigError: the file cannot be opened or read.
    """
    reader = RdbReader(tuple(ns), want_values=not (keys or summary))
    chosen = _chooser(ns, types, dbs)
    printer = _Summary() if summary else _Keys(out) if keys else _Lines(out)
    code, message = _OK, ""
    with writing(out):
        with ExitStack() as stack:
            try:
                for chunk in _chunks(file, stack, out, err):
                    events = reader.feed(chunk)
                    printer.take(events if chosen is None else filter(chosen, events))
                    if reader.finished:
                        break
                reader.close()
            except RdbError as error:
                code, message = _DAMAGED, f"{file}: {error}"
            else:
                code, message = _OK, _said_of(file, reader.unused)
        printer.finish(reader, out)
    if message:
        print(message, file=err)
    return code


def _said_of(file: str, rest: bytes) -> str:
    """`redis-cli --rdb -` cannot take the mark off that a master puts behind a snapshot."""
    return f"{file}: what follows the snapshot was not read" if rest and not _MARK.fullmatch(rest) else ""


#: RDB_EOF_MARK_SIZE
_MARK = re.compile(rb"[0-9a-f]{40}\n?")


def _chooser(ns: Sequence[bytes], types: Sequence[str], dbs: Sequence[int]) -> Callable[[Event], bool] | None:
    """A function that says whether to print an event; None when everything is printed."""
    if not (ns or types or dbs):
        return None

    def chosen(event: Event) -> bool:
        if isinstance(event, Entry):
            return (not types or event.type in types) and (not dbs or event.db in dbs)
        return isinstance(event, Aux) or "function" in types

    return chosen


def _chunks(file: str, stack: ExitStack, out: BinaryIO, err: TextIO) -> Iterator[bytes]:
    """The bytes of the file, with a progress bar if somebody can see it and it disturbs nothing."""
    if file == "-" and sys.stdin is None:
        raise ConfigError("standard input is closed: give a file, or a snapshot on standard input")
    try:
        source: BinaryIO = sys.stdin.buffer if file == "-" else stack.enter_context(open(file, "rb"))  # noqa: PTH123, SIM115
        total = os.fstat(source.fileno()).st_size if file != "-" else None
        advance = _progress(stack, total, err) if err.isatty() and not out.isatty() else None
        while chunk := source.read(CHUNK):
            if advance is not None:
                advance(len(chunk))
            yield chunk
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {(error.strerror or str(error)).lower()}: check the path") from error


def _progress(stack: ExitStack, total: int | None, err: TextIO) -> Callable[[int], None]:
    from rich.console import Console  # noqa: PLC0415 (most runs show no bar and need not load it)
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn  # noqa: PLC0415

    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    bar = stack.enter_context(Progress(*columns, console=Console(file=err), transient=True))
    task = bar.add_task("reading", total=total)
    return lambda size: bar.advance(task, size)


def _write(out: BinaryIO, pieces: Iterable[bytes]) -> None:
    """Writes in batches: standard output may be unbuffered, and then each write costs as much as a key."""
    batch: list[bytes] = []
    size = 0
    try:
        for piece in pieces:
            batch.append(piece)
            size += len(piece)
            if size > _BATCH:
                out.write(b"".join(batch))
                batch.clear()
                size = 0
    finally:
        out.write(b"".join(batch))


class _Lines:
    """Prints a JSON object for each key and function."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._open = False  # whether a line was begun and not ended

    def take(self, events: Iterable[Event]) -> None:
        _write(self._out, self._pieces(events))

    def _pieces(self, events: Iterable[Event]) -> Iterator[bytes]:
        for event in events:
            if isinstance(event, Entry):
                yield entry_line(event)
                self._open = not event.last
            elif isinstance(event, Function):
                yield function_line(event)

    def finish(self, _reader: RdbReader, out: BinaryIO) -> None:
        if self._open:
            out.write(b"\n")


class _Keys:
    """Prints the keys."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    def take(self, events: Iterable[Event]) -> None:
        _write(self._out, (f"{encode_bytes(event.key)}\n".encode() for event in events if isinstance(event, Entry)))

    def finish(self, _reader: RdbReader, _out: BinaryIO) -> None:
        """Nothing is kept back."""


class _Summary:
    """Counts keys, and prints tables when everything was read."""

    def __init__(self) -> None:
        self._keys: Counter[tuple[int, str]] = Counter()
        self._expiring: Counter[tuple[int, str]] = Counter()
        self._bytes: Counter[tuple[int, str]] = Counter()
        self._biggest: list[tuple[int, int, bytes, str]] = []
        self._functions = 0
        self._server = b""

    def take(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case Entry():
                    self._count(event)
                case Function():
                    self._functions += 1
                case Aux(b"redis-ver" | b"valkey-ver" as name, version):
                    self._server = name.removesuffix(b"-ver") + b" " + version

    def _count(self, entry: Entry) -> None:
        group = entry.db, entry.type
        self._keys[group] += 1
        self._bytes[group] += entry.size
        self._expiring[group] += entry.expires_at_ms is not None
        push = heappush if len(self._biggest) < _BIGGEST else heappushpop
        push(self._biggest, (entry.size, entry.db, entry.key, entry.type))

    def finish(self, reader: RdbReader, out: BinaryIO) -> None:
        from rich import box  # noqa: PLC0415 (only the summary needs it)
        from rich.console import Console  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        groups = Table(box=box.SIMPLE_HEAD)
        for name in ("db", "type", "keys", "expiring", "bytes"):
            groups.add_column(name, justify="left" if name == "type" else "right")
        for group, keys in sorted(self._keys.items()):
            db, kind = group
            groups.add_row(str(db), kind, f"{keys:,}", f"{self._expiring[group]:,}", f"{self._bytes[group]:,}")
        totals = (f"{counter.total():,}" for counter in (self._keys, self._expiring, self._bytes))
        groups.add_section()
        groups.add_row("", "all", *totals)
        biggest = Table(box=box.SIMPLE_HEAD)
        for name in ("bytes", "db", "type", "key"):
            biggest.add_column(name, justify="right" if name in ("bytes", "db") else "left", overflow="fold")
        for size, db, key, kind in sorted(self._biggest, reverse=True):
            shown = encode_bytes(key)
            biggest.add_row(f"{size:,}", str(db), kind, Text(shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"))
        text = StringIO()
        console = Console(file=text, width=120, force_terminal=out.isatty())
        server = encode_bytes(self._server).strip('"') if self._server else "unknown server"
        console.print(
            Text(f"RDB version {reader.version}, {server}, {reader.offset:,} bytes, {self._functions} functions")
        )
        console.print(groups)
        console.print("biggest values, as bytes of the snapshot")
        console.print(biggest)
        out.write(text.getvalue().encode())
