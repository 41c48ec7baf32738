r"""Parses RESP without trusting the peer: allocates nothing for an announced length before the bytes have arrived.

In: bytes, in pieces. Out: values, as hiredis returns them. Left to others: what the values mean (`wire.replies`,
`wire.stream`, `wire.messages`).

hiredis allocates a list of as many elements as a header announces: `*1000000000\r\n` takes 8 GB, and blocks everything
for seconds. It also keeps all bytes of a string, however long. So it gets neither: a piece with a header of six digits
or more, and a value that has not ended after `_MUCH` bytes, go to a `Walker`. That is slower for small elements, but
creates an element only when it has arrived, and can skip one while it arrives. What is left for hiredis announces at
most 100,000 elements a level, and hiredis itself refuses more than nine levels.

If the end of a piece cuts a header, its beginning is kept for the next piece, so a header is always seen whole.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from typing import Any

import hiredis

from redisrepl.errors import ProtocolError
from redisrepl.wire.walker import ELEMENT, LONGEST_NUMBER, Walker

__all__ = [
    "DAMAGED",
    "PIECE",
    "CommandError",
    "RespReader",
    "announces_much",
    "cut_header",
    "parse_all",
    "parse_one",
    "parse_reply_in_steps",
    "resp_size",
]

#: What hiredis raises for bytes that are not RESP: a list as a key of a map, too many levels, ...
DAMAGED = (hiredis.ProtocolError, TypeError, MemoryError)
#: hiredis moves the rest of its buffer as it consumes: larger pieces are slower, not faster.
PIECE = 16384
#: Bytes of an incomplete value, after which a `Walker` reads it.
_MUCH = 64 << 10
#: Bytes of a whole reply, up to which hiredis parses it: even of empty lists it takes 64 MB and a fifth of a second.
_WHOLE = 4 << 20
#: Bytes of a large reply that are parsed in one step.
_STEP = 256 << 10
#: This many marks are checked one by one, with memchr between them; for more of them one regular expression is faster.
_FEW = 20
_LARGE_ARRAY = re.compile(rb"\*\d{6}").search
#: Searched everywhere: hiredis does not check that a string ends where it should, so a header may follow any byte.
_OTHERS = [(mark, re.compile(rb"%b\d{6}" % re.escape(mark)).search) for mark in (b"%", b"~", b">", b"|")]
_CUT_HEADER = re.compile(rb"[*%~>|]\d*\Z").search

#: Bytes on the wire of a string of n bytes, with `$<n>` and both line ends, for every common n.
_SIZES = [n + len(b"$%d\r\n\r\n" % n) for n in range(4096)]

#: What hiredis returns while there is no whole value. (Its default is `False`, which equals the reply 0.)
_NOTHING = object()


def announces_much(piece: bytes) -> bool:
    """Whether a piece may have a header for which hiredis would allocate too much."""
    at = -1
    for _ in range(_FEW):
        if (at := piece.find(b"*", at + 1)) < 0:
            break
        if len(digits := piece[at + 1 : at + 7]) == 6 and digits.isdigit():  # noqa: PLR2004 - 100,000 and more
            return True
    else:
        if _LARGE_ARRAY(piece, at):
            return True
    # Search for the bare marks first: nearly always there is none, and then that costs nothing.
    if b"%" in piece or b"~" in piece or b">" in piece or b"|" in piece:
        return any(mark in piece and search(piece) is not None for mark, search in _OTHERS)
    return False


def cut_header(piece: bytes) -> bytes:
    """The beginning of a header at the end of a piece, to be put before the next one."""
    cut = _CUT_HEADER(piece[-LONGEST_NUMBER:])
    return cut[0] if cut else b""


def resp_size(value: Any) -> int:
    """Bytes of a value on the wire; every server encodes it alike."""
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
    """Parses RESP in pieces of at most `PIECE` bytes: fast for small values, and bounded for all.

    Args:
        limit: as for `Walker`.
        more: likewise.

    Attributes:
        sizes: bytes of each value that `feed` returned last; None: the caller has to compute them, and call `taken`.
    """

    __slots__ = ("_cut", "_gets", "_limit", "_more", "_pending", "_piece", "_reader", "_tail", "_walker", "sizes")

    def __init__(self, limit: int, **more: Any) -> None:
        self._limit = limit
        self._more = more
        self._walker: Walker | None = None
        self._tail: list[bytes] = []  # the bytes of an incomplete value that hiredis has
        self._pending = 0  # their number
        self._cut = b""
        self._piece = b""
        self.sizes: list[int] | None = None
        self._renew()

    def _renew(self) -> None:
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._gets = self._reader.gets

    @property
    def idle(self) -> bool:
        """Whether all bytes so far were whole values."""
        return not (self._pending or self._cut or self._walker)

    @property
    def walking(self) -> bool:
        """Whether a large value is arriving: then pieces may have any size."""
        return self._walker is not None

    def feed(self, piece: bytes) -> Iterable[Any]:
        """Parse bytes; return the values that they complete. If `sizes` is then None, call `taken` after them.

        Raises:
            DAMAGED: the bytes are not RESP, by hiredis. ProtocolError: the same, by `Walker`.
        """
        if self._walker is not None:
            return self._walk(piece)
        if self._cut:
            piece = self._cut + piece
            self._cut = b""
        if self._pending > _MUCH or announces_much(piece):
            self._walker = Walker(self._limit, **self._more)
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

    def taken(self, size: int) -> None:
        """Report how many bytes the values took that `feed` returned last."""
        self._pending += len(self._piece) - size
        if not self._pending:
            self._tail = []
        elif size:
            self._tail = [self._piece[-self._pending :]]
        else:
            self._tail.append(self._piece)

    def _walk(self, piece: bytes) -> list[Any]:
        """Parse bytes element by element, until hiredis can continue behind a value."""
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
            self.taken(sum(of_more))
            sizes += of_more
        else:
            sizes += self.sizes
        self.sizes = sizes
        return values + more


def parse_all(data: bytes, limit: int) -> list[Any]:
    """Parse bytes that are whole values.

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
            fast.feed(b"+\r\n")  # hiredis does not say that it waits for more, but then this is not a value by itself
            whole = fast.gets() == b"" and not fast.has_data()
    except DAMAGED as error:
        raise ProtocolError(str(error)) from error
    if not whole:
        raise ProtocolError("it ends early")
    return values


def parse_one(data: bytes, limit: int) -> Any:
    """Parse bytes that are one value; see `parse_all`."""
    values = parse_all(data, limit)
    if len(values) != 1:
        raise ProtocolError("it is not one reply")
    return values[0]


def parse_reply_in_steps(data: bytes, limit: int) -> Generator[None, None, Any]:
    """Parse bytes that are one reply of the hub; a large one in many short steps, in between which this yields.

    A large reply may be a string, or a list of strings: it is refused at the first element that is something else, and
    when its elements take too much memory.

    Args:
        data: all of them.
        limit: most bytes of the reply, `ELEMENT` for each of its elements included.

    Raises:
        ProtocolError: they are not one whole reply.
    """
    if len(data) <= _WHOLE and not announces_much(data):
        return parse_one(data, limit)
    walker = Walker(limit, cost=ELEMENT, flat=True)
    values: list[Any] = []
    at = 0
    while at < len(data):
        # A long string is taken at once: in pieces, all of it would be copied once more.
        step = max(_STEP, walker.missing)
        values += walker.feed(data[at : at + step])
        at += step
        if len(values) > 1:
            raise ProtocolError("it is not one reply")
        yield
    if not walker.idle:
        raise ProtocolError("it ends early")
    return values[0]
