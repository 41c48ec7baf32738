"""Snapshot files for programs: `read_rdb`.

In: a file. Out: its keys with their values, one after the other. Left to others: the format (`wire.rdb`), printing
(`subcommands.rdb`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from redisrepl.wire.rdb import Aux, Entry, Event, Function, RdbReader, assemble

__all__ = ["read_rdb"]

_CHUNK = 256 << 10


def read_rdb(
    source: str | os.PathLike[str] | BinaryIO,
    *,
    prefixes: Sequence[bytes] = (),
    want_values: bool = True,
) -> Iterator[Entry | Function]:
    """The keys and function libraries of a snapshot, in its order, each whole.

    Memory is bounded by the biggest value. A file is opened when the first entry is asked for, and closed at the end
    or with the iterator; a file object is left open.

    Args:
        source: a path, "-" for standard input, or a binary file.
        prefixes: only keys that begin with one of these; the values of others are passed over undecoded.
        want_values: False gives keys only, three times as fast: `Entry.value` is None.

    Raises:
        RdbError: the snapshot is damaged; everything before the damage came first. OSError: it cannot be read.

    Example:
        >>> for entry in read_rdb("dump.rdb"):
        ...     print(entry.db, entry.key, entry.type, entry.value)
        0 b'greeting' string b'hello'
    """
    return (event for event in assemble(_events(source, prefixes, want_values)) if not isinstance(event, Aux))


def _events(source: str | os.PathLike[str] | BinaryIO, prefixes: Sequence[bytes], want_values: bool) -> Iterator[Event]:
    reader = RdbReader(prefixes, want_values=want_values)
    with ExitStack() as stack:
        if source == "-":
            file: BinaryIO = sys.stdin.buffer
        elif isinstance(source, (str, os.PathLike)):
            file = stack.enter_context(Path(source).open("rb"))
        else:
            file = source
        while not reader.finished and (chunk := file.read(_CHUNK)):
            yield from reader.feed(chunk)
    reader.close()
