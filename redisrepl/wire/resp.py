r"""RESP from a peer that may announce what it likes: nothing is allocated for a length before the bytes are there.

In: bytes, in pieces. Out: values, as hiredis makes them. Left to others: what the values mean.

hiredis makes a list of as many elements as a header announces: `*1000000000\r\n` is 8 GB, and seconds in which nothing
else is done. And it keeps what comes of a string, however long that gets. So it sees neither: a piece with a header of
six digits or more, and a value that has not ended after `_MUCH` bytes, go to `Walker`, which is slower for small
elements, takes an element only when it has come, and can leave one out while it comes. What is left for hiredis cannot
announce more than 100,000 elements a level, and it refuses more than nine levels itself.

A header that is cut by the end of a piece is kept for the next one, so it is always seen whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import hiredis

from redisrepl.errors import LimitExceededError, ProtocolError

__all__ = [
    "DAMAGED",
    "PIECE",
    "RespReader",
    "Skip",
    "Walker",
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
#: Most levels of lists in lists; EXEC around SCAN has three.
_DEEPEST = 8
#: The longest line: a status or an error. A header is one too.
_LONGEST_LINE = 64 << 10
_LONGEST_NUMBER = 20
_DOLLAR = ord("$")
_SHORT = len(b"$99999\r\n")

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

#: Told what has come of the list that is open, and the length of the next string in it: whether to leave that out.
Skip = Callable[[list[Any], int], bool]


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
    # Marks are looked for by themselves first: where there is none, that costs nothing.
    return any(mark in piece and (search(piece) or _LARGE_FIRST(piece)) is not None for mark, search in _OTHERS)


def cut_header(piece: bytes) -> bytes:
    """The beginning of a header with which a piece may end; it has to come before what follows, to be seen whole."""
    cut = _CUT_HEADER(piece[-_LONGEST_NUMBER:])
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


class Walker:
    """Reads RESP element by element.

    Args:
        limit: most bytes of one value.
        skip: see `Skip`; an empty string takes the place of what is left out, which does not count for the limit.
        error: makes an error of its text.

    Attributes:
        sizes: bytes that each of the values took that `feed` returned last.
        rest: what was left of the bytes that `feed` was given last.
    """

    def __init__(
        self, limit: int, *, skip: Skip | None = None, error: Callable[[str], Any] = hiredis.ReplyError
    ) -> None:
        self._limit = limit
        self._skip = skip
        self._error = error
        self._buffer = b""
        self._open: list[tuple[list[Any], int]] = []  # lists that are not complete, and how many elements they want
        self._left = 0  # bytes of the string that comes, with the line end behind it
        self._chunks: list[bytes] | None = None  # of that string; None: it is left out
        self._size = 0  # of the value that comes, until now
        self._kept = 0  # .. without what is left out
        self._values: list[Any] = []
        self.sizes: list[int] = []
        self.rest = b""

    @property
    def idle(self) -> bool:
        """Whether everything that came made whole values."""
        return not (self._buffer or self._open or self._left)

    def feed(self, data: bytes, *, one: bool = False) -> list[Any]:
        """Take bytes; return the values that they completed.

        Args:
            data: the next bytes.
            one: take no more than one value; what follows is then in `rest`.

        Raises:
            ProtocolError: it is no RESP of the kind that is used here. LimitExceededError: a value is too large.
        """
        self._values, self.sizes = [], []
        self.rest = b""
        data = self._buffer + data if self._buffer else data
        self._buffer = b""
        at, end = 0, len(data)
        while at < end:
            if one and self._values:
                self.rest = data[at:]
                return self._values
            if self._left:
                at = self._string(data, at)
                continue
            if self._open and (past := self._short_strings(data, at)) > at:
                at = past
                continue
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                if end - at > _LONGEST_LINE:
                    raise LimitExceededError("a line", end - at, _LONGEST_LINE)
                break
            self._size += line_end + 2 - at
            self._kept += line_end + 2 - at
            self._line(data[at : at + 1], data[at + 1 : line_end])
            at = line_end + 2
        self._buffer = data[at:]
        return self._values

    def _short_strings(self, data: bytes, at: int) -> int:
        """Take strings of the list that is open, as many as are short and whole, but not its last; where they end.

        What they need not do they do not do: nearly all elements of a long list are such.
        """
        items, wanted = self._open[-1]
        missing = wanted - len(items) - 1
        start, end, find = at, len(data), data.find
        while missing > 0 and at < end and data[at] == _DOLLAR:
            line_end = find(b"\r\n", at, at + _SHORT)
            if line_end < 0 or not (digits := data[at + 1 : line_end]).isdigit():
                break
            begin = line_end + 2
            stop = begin + int(digits)
            if data[stop : stop + 2] != b"\r\n":
                break
            items.append(data[begin:stop])
            missing -= 1
            at = stop + 2
        self._size += at - start
        self._kept += at - start
        if self._kept > self._limit:
            raise LimitExceededError("a value", self._kept, self._limit)
        return at

    def _string(self, data: bytes, at: int) -> int:
        """The next bytes of a string; where they end."""
        piece = data[at : at + self._left]
        self._left -= len(piece)
        if self._chunks is not None:
            self._chunks.append(piece)
        if not self._left:
            chunks, self._chunks = self._chunks, None
            value = b""
            if chunks is not None:
                value = chunks[0] if len(chunks) == 1 else b"".join(chunks)
                if not value.endswith(b"\r\n"):
                    raise ProtocolError("a string does not end where it should")
                value = value[:-2]
            self._add(value)
        return at + len(piece)

    def _line(self, kind: bytes, rest: bytes) -> None:
        match kind:
            case b"$":
                if (length := _number(rest)) < 0:
                    self._add(None)
                    return
                self._begin_string(length)
            case b"*":
                if (count := _number(rest)) < 0:
                    self._add(None)
                    return
                # Each element takes three bytes at least, and a place in a list that is kept.
                if 3 * count > self._limit:
                    raise LimitExceededError("a list", 3 * count, self._limit)
                if len(self._open) >= _DEEPEST:
                    raise ProtocolError(f"lists in more than {_DEEPEST} levels")
                if count:
                    self._open.append(([], count))
                else:
                    self._add([])
            case b":":
                self._add(_number(rest))
            case b"+":
                self._add(rest)
            case b"-":
                self._add(self._error(rest.decode("utf-8", "backslashreplace")))
            case _:
                raise ProtocolError("it is no RESP")

    def _begin_string(self, length: int) -> None:
        self._left = length + 2
        self._size += self._left
        if self._skip is not None and self._open and self._skip(self._open[-1][0], length):
            self._chunks = None
            return
        self._kept += self._left
        if self._kept > self._limit:
            raise LimitExceededError("a value", self._kept, self._limit)
        self._chunks = []

    def _add(self, value: Any) -> None:
        while self._open:
            items, wanted = self._open[-1]
            items.append(value)
            if len(items) < wanted:
                return
            value = items
            self._open.pop()
        self._values.append(value)
        self.sizes.append(self._size)
        self._size = self._kept = 0


def _number(text: bytes) -> int:
    if len(text) > _LONGEST_NUMBER or not (text.isdigit() or (text[:1] == b"-" and text[1:].isdigit())):
        raise ProtocolError("a length or number is none")
    return int(text)


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
