r"""RESP from a peer that may announce what it likes: nothing is allocated for a length before the bytes are there.

In: bytes, in pieces. Out: values, as hiredis makes them. Left to others: what the values mean.

hiredis makes a list of as many elements as a header announces: `*1000000000\r\n` is 8 GB, and seconds in which nothing
else is done. And it keeps what comes of a string, however long that gets. So it sees neither: a piece with a header of
six digits or more, and a value that has not ended after `_MUCH` bytes, go to a `Walker`, which is slower for small
elements, takes an element only when it has come, and can leave one out while it comes. What is left for hiredis cannot
announce more than 100,000 elements a level, and it refuses more than nine levels itself.

A header that is cut by the end of a piece is kept for the next one, so it is always seen whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import hiredis

from redisrepl.errors import ProtocolError
from redisrepl.wire.walker import LONGEST_NUMBER, Skip, Walker

__all__ = [
    "DAMAGED",
    "PIECE",
    "CommandError",
    "RespReader",
    "announces_much",
    "cut_header",
    "parse_all",
    "parse_one",
    "resp_size",
]

#: What hiredis raises over bytes that are no RESP: a list as a key of a map, more levels than it follows, ...
DAMAGED = (hiredis.ProtocolError, TypeError, MemoryError)
#: hiredis moves what is left of its buffer as it consumes: larger feeds are slower, not faster.
PIECE = 16384
#: Bytes of a value that has not ended, from which on it is no business of hiredis.
_MUCH = 64 << 10
#: So many marks are looked at one by one, at the speed of memchr between them; from then on one expression is faster.
_FEW = 20
_LARGE_ARRAY = re.compile(rb"\*\d{6}").search
_OTHERS = [(mark, re.compile(rb"\n%b\d{6}" % re.escape(mark)).search) for mark in (b"%", b"~", b">", b"|")]
_LARGE_FIRST = re.compile(rb"[%~>|]\d{6}").match
_CUT_HEADER = re.compile(rb"[*%~>|]\d*\Z").search

#: Bytes that a string of n bytes takes, with `$<n>` and both line ends, for every n that is common.
_SIZES = [n + len(b"$%d\r\n\r\n" % n) for n in range(4096)]

#: What hiredis returns while there is no whole value. (`False`, unless told otherwise, and 0 equals that.)
_NOTHING = object()


def announces_much(piece: bytes) -> bool:
    """Whether there may be a header in it for which hiredis would allocate more than there is any reason to."""
    at = -1
    for _ in range(_FEW):
        if (at := piece.find(b"*", at + 1)) < 0:
            break
        if len(digits := piece[at + 1 : at + 7]) == 6 and digits.isdigit():  # noqa: PLR2004 - 100,000 and more
            return True
    else:
        if _LARGE_ARRAY(piece, at):
            return True
    # Marks are looked for by themselves first: where there is none, as nearly always, that costs nothing.
    if b"%" in piece or b"~" in piece or b">" in piece or b"|" in piece:
        return any(mark in piece and (search(piece) or _LARGE_FIRST(piece)) is not None for mark, search in _OTHERS)
    return False


def cut_header(piece: bytes) -> bytes:
    """The beginning of a header with which a piece may end; it has to come before what follows, to be seen whole."""
    cut = _CUT_HEADER(piece[-LONGEST_NUMBER:])
    return cut[0] if cut else b""


def resp_size(value: Any) -> int:
    """Bytes that a value took, as every server spells it."""
    match value:
        case bytes():
            length = len(value)
            return _SIZES[length] if length < len(_SIZES) else length + len(b"$%d\r\n\r\n" % length)
        case list():
            return len(b"*%d\r\n" % len(value)) + sum(map(resp_size, value))
        case int():
            return len(b":%d\r\n" % value)
        case None:
            return len(b"$-1\r\n")
    raise ProtocolError("a value of a kind that is not expected here")


class CommandError(Exception):
    """Redis' own error text for one command, as it arrived: `WRONGTYPE Operation against ...`."""


class RespReader:
    """RESP that comes in pieces, of at most `PIECE` bytes; fast for what is small, bounded for all.

    Args:
        limit, skip: as for `Walker`.

    Attributes:
        sizes: bytes that each of the values took that `feed` returned last; None: the caller has to find out, and tell
            `settle`.
    """

    __slots__ = ("_cut", "_gets", "_limit", "_pending", "_piece", "_reader", "_skip", "_tail", "_walker", "sizes")

    def __init__(self, limit: int, *, skip: Skip | None = None) -> None:
        self._limit = limit
        self._skip = skip
        self._walker: Walker | None = None
        self._tail: list[bytes] = []  # what hiredis has of a value that is not whole
        self._pending = 0  # bytes of that
        self._cut = b""
        self._piece = b""
        self.sizes: list[int] | None = None
        self._renew()

    def _renew(self) -> None:
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._gets = self._reader.gets

    @property
    def idle(self) -> bool:
        """Whether everything that came made whole values."""
        return not (self._pending or self._cut or self._walker)

    @property
    def walking(self) -> bool:
        """Whether a large value comes: then pieces may be of any size."""
        return self._walker is not None

    def feed(self, piece: bytes) -> Iterable[Any]:
        """Take bytes; return the values that they completed. If `sizes` is None, `settle` has to be called after them.

        Raises:
            DAMAGED: hiredis' exceptions. ProtocolError: likewise, of `Walker`.
        """
        if self._walker is not None:
            return self._walk(piece)
        if self._cut:
            piece = self._cut + piece
            self._cut = b""
        if self._pending > _MUCH or announces_much(piece):
            self._walker = Walker(self._limit, skip=self._skip)
            piece = b"".join(self._tail) + piece
            self._tail, self._pending = [], 0
            self._renew()
            return self._walk(piece)
        if cut := cut_header(piece):
            self._cut = cut
            piece = piece[: -len(cut)]
        self._piece = piece
        self.sizes = None
        self._reader.feed(piece)
        return iter(self._gets, _NOTHING)

    def settle(self, size: int) -> None:
        """So many bytes did the values take that `feed` returned last."""
        self._pending += len(self._piece) - size
        if not self._pending:
            self._tail = []
        elif size:
            self._tail = [self._piece[-self._pending :]]
        else:
            self._tail.append(self._piece)

    def _walk(self, piece: bytes) -> list[Any]:
        """Take bytes element by element, up to the end of a value behind which hiredis can go on."""
        values: list[Any] = []
        sizes: list[int] = []
        while self._walker is not None:
            values += self._walker.feed(piece, one=True)
            sizes += self._walker.sizes
            piece = self._walker.rest
            if self._walker.idle and not announces_much(piece):
                self._walker = None
            if not piece:
                self.sizes = sizes
                return values
        more = list(self.feed(piece))
        if self.sizes is None:
            of_more = list(map(resp_size, more))
            self.settle(sum(of_more))
            sizes += of_more
        else:
            sizes += self.sizes
        self.sizes = sizes
        return values + more


def parse_all(data: bytes, limit: int) -> list[Any]:
    """The values that these bytes are.

    Args:
        data: all of them.
        limit: most bytes of one value.

    Raises:
        ProtocolError: they are not whole values.
    """
    try:
        if announces_much(data):
            walker = Walker(limit)
            values, whole = walker.feed(data), walker.idle
        else:
            fast = hiredis.Reader(notEnoughData=_NOTHING)
            fast.feed(data)
            values = list(iter(fast.gets, _NOTHING))
            fast.feed(b"+\r\n")  # only behind a whole value is this one: hiredis does not tell that it waits for more
            whole = fast.gets() == b"" and not fast.has_data()
    except DAMAGED as error:
        raise ProtocolError(str(error)) from error
    if not whole:
        raise ProtocolError("it ends early")
    return values


def parse_one(data: bytes, limit: int) -> Any:
    """The one value that these bytes are; see `parse_all`."""
    values = parse_all(data, limit)
    if len(values) != 1:
        raise ProtocolError("it is not one reply")
    return values[0]
