"""Parses RESP element by element: nothing is allocated before it has arrived, and strings can be skipped.

In: bytes, in pieces. Out: values, as hiredis returns them, and how many bytes each took. Left to others: when to use
this parser (`wire.resp`); hiredis is faster for small values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hiredis

from redisrepl.errors import LimitExceededError, ProtocolError

__all__ = ["ELEMENT", "LEFT_OUT", "LONGEST_NUMBER", "Skip", "Thin", "Walker"]

#: Most levels of nested lists; EXEC around SCAN has three.
_DEEPEST = 8
#: The longest line: a status, an error or a header.
_LONGEST_LINE = 64 << 10
LONGEST_NUMBER = 20
#: About what an element takes in memory beside its bytes; an empty list has four on the wire, and takes twice as much.
ELEMENT = 64
_DOLLAR = ord("$")
_SHORT = len(b"$99999\r\n")


#: Replaces a skipped string; compare with `is`.
LEFT_OUT = bytes(bytearray(b"(left out)"))

#: Called with the received elements of the open list, and the length of its next string: whether to skip that string.
Skip = Callable[[list[Any], int], bool]
#: Called now and then with the elements of a list that is not complete, how many of them it has seen before, and the
#: bytes that are kept of it. It may take out elements, and replace some by `LEFT_OUT`; returns their bytes.
Thin = Callable[[list[Any], int, int], int]


class Walker:
    """Parses RESP element by element.

    Args:
        limit: most bytes of one value.
        skip: see `Skip`; `LEFT_OUT` replaces a skipped string, whose bytes do not count towards the limit.
        thin: see `Thin`; nor do those count.
        error: makes an error reply from its text.
        cost: bytes that each element of a list counts for beside its own; a list counts twice.
        flat: refuse a list that holds anything but strings, at the first such element.

    Attributes:
        sizes: bytes of each value that `feed` returned last.
        rest: bytes that the last `feed` did not parse.
    """

    def __init__(
        self,
        limit: int,
        *,
        skip: Skip | None = None,
        thin: Thin | None = None,
        error: Callable[[str], Any] = hiredis.ReplyError,
        cost: int = 0,
        flat: bool = False,
    ) -> None:
        self._limit = limit
        self._cost = cost
        self._flat = flat
        self._skip = skip
        self._thin = thin
        self._seen = 0  # elements of the present list that `thin` has seen
        self._error = error
        self._buffer = b""
        self._open: list[tuple[list[Any], int]] = []  # lists that are not complete, and how many elements they want
        self._left = 0  # bytes to come of the present string and its line end
        self._chunks: list[bytes] | None = None  # of that string; None: it is skipped
        self._line_end = b""  # of that string, as far as it has come
        self._size = 0  # bytes of the present value so far
        self._kept = 0  # the same without skipped strings
        self._values: list[Any] = []
        self.sizes: list[int] = []
        self.rest = b""

    @property
    def idle(self) -> bool:
        """Whether all bytes so far were whole values."""
        return not (self._buffer or self._open or self._left)

    @property
    def missing(self) -> int:
        """Bytes to come of the string that is arriving."""
        return self._left

    def feed(self, data: bytes, *, one: bool = False) -> list[Any]:
        """Parse bytes; return the values that they complete.

        Args:
            data: the next bytes.
            one: stop after one value; the bytes that follow are then in `rest`.

        Raises:
            ProtocolError: they are not RESP 2. LimitExceededError: a value is too large.
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
        if self._open and self._thin is not None:
            self._thin_out(self._thin)
        return self._values

    def _thin_out(self, thin: Thin) -> None:
        """Forget what is not wanted of the outermost list."""
        items, wanted = self._open[0]
        before = len(items)
        self._kept -= thin(items, self._seen, self._kept)
        self._seen = len(items)
        self._open[0] = items, wanted - (before - self._seen)

    def _short_strings(self, data: bytes, at: int) -> int:
        """Parse short and whole strings of the open list, except its last; returns the index behind them.

        A fast path: nearly all elements of a long list are such strings.
        """
        items, wanted = self._open[-1]
        missing = first = wanted - len(items) - 1
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
        self._kept += at - start + self._cost * (first - missing)
        if self._kept > self._limit:
            raise LimitExceededError("a value", self._kept, self._limit)
        return at

    def _string(self, data: bytes, at: int) -> int:
        """Take the next bytes of a string; returns the index behind them."""
        piece = data[at : at + max(self._left - 2, 0)]
        if self._chunks is not None and piece:
            self._chunks.append(piece)
        self._left -= len(piece)
        at += len(piece)
        if self._left <= 2:  # noqa: PLR2004 - its line end is apart: to cut it off would copy all of the string
            part = data[at : at + self._left]
            self._line_end += part
            self._left -= len(part)
            at += len(part)
        if not self._left:
            chunks, self._chunks = self._chunks, None
            line_end, self._line_end = self._line_end, b""
            if chunks is not None and line_end != b"\r\n":
                raise ProtocolError("a string does not end where it should")
            self._add(LEFT_OUT if chunks is None else chunks[0] if len(chunks) == 1 else b"".join(chunks))
        return at

    def _line(self, kind: bytes, rest: bytes) -> None:
        self._charge(kind, rest)
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
                # Each element takes at least three bytes on the wire, and a slot in our list.
                if (least := (3 + self._cost) * count) > self._limit:
                    raise LimitExceededError("a list", least, self._limit)
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

    def _charge(self, kind: bytes, rest: bytes) -> None:
        """Count an element of a list, by its header."""
        if not self._open:
            return
        if self._flat and (kind != b"$" or rest[:1] == b"-"):
            raise ProtocolError("a list of strings holds something else")
        self._kept += 2 * self._cost if kind == b"*" else self._cost
        if self._kept > self._limit:
            raise LimitExceededError("a value", self._kept, self._limit)

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
        self._seen = 0
        self.sizes.append(self._size)
        self._size = self._kept = 0


def _number(text: bytes) -> int:
    digits = text[1:] if text[:1] == b"-" else text
    if len(text) > LONGEST_NUMBER or not digits.isdigit() or (digits[:1] == b"0" and len(digits) > 1):
        raise ProtocolError("a length or number is none")
    return int(text)
