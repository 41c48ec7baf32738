"""Checks replies: returns a value of the expected type, or raises an error that names the command and the server.

In: replies, as a parser of RESP or JSON returns them. Out: integers, strings, pairs, times. Left to others: asking
(`local.client`, `remote.session`), and error replies, which are not values.

A peer may answer anything: another program at the same address, a proxy, a server of another version. So no part of a
reply is used before one of these functions has checked it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from redisrepl.errors import ProtocolError

__all__ = [
    "CLOCK_TOLERANCE",
    "Info",
    "as_bytes",
    "as_clock",
    "as_info",
    "as_integer",
    "as_integers",
    "as_option",
    "as_page",
    "as_pairs",
    "as_strings",
    "merged",
    "natural",
    "number",
    "wrong",
]

#: Seconds by which a server's clock may differ from ours before we warn.
CLOCK_TOLERANCE = 2.0
#: Digits: enough for 64 bits.
_LONGEST = 20
_MICROSECONDS = 1_000_000


def describe(reply: object) -> str:
    """The type and size of a reply, without its content, which may be secret."""
    match reply:
        case None:
            return "nothing"
        case bool() | int():
            return "a number"
        case bytes():
            return f"a string of {len(reply)} bytes"
        case list():
            return f"a list of {len(reply)}"
        case Exception():
            return f"an error ({reply})"
        case _:
            return f"something of another kind ({type(reply).__name__})"


def wrong(asked: str, wanted: str, reply: object) -> ProtocolError:
    """The error for a reply of the wrong shape."""
    return ProtocolError(f"{asked} was answered with {describe(reply)}, not {wanted}")


def number(text: bytes | str) -> int | None:
    """Parse a whole number that fits into 64 bits; None if it is not one."""
    digits = text[1:] if text[:1] in (b"-", "-") else text
    if not digits.isdigit() or not digits.isascii() or len(digits) > _LONGEST:
        return None
    value = int(text)
    return value if -(1 << 63) <= value < 1 << 64 else None


def natural(text: bytes) -> int:
    """Parse a number of `number` that is not negative.

    Raises:
        ValueError: it is none.
    """
    if (found := number(text)) is None or found < 0:
        raise ValueError
    return found


def as_integers(reply: object, command: str) -> list[int]:
    """The reply to this command, which must be a list of integers.

    Raises:
        ProtocolError: it is something else.
    """
    if not isinstance(reply, list) or not set(map(type, reply)) <= {int}:
        raise wrong(command, "a list of integers", reply)
    return reply


def as_integer(reply: object, asked: str) -> int:
    """A number, or a string that is one."""
    if type(reply) is int:
        return reply
    value = number(reply) if isinstance(reply, bytes) else None
    if value is None:
        raise wrong(asked, "a number", reply)
    return value


def as_bytes(reply: object, asked: str) -> bytes:
    """One string."""
    if type(reply) is not bytes:
        raise wrong(asked, "a string", reply)
    return reply


def as_strings(reply: object, asked: str) -> list[bytes]:
    """A flat list of strings."""
    if not isinstance(reply, list) or not set(map(type, reply)) <= {bytes}:
        raise wrong(asked, "a list of strings", reply)
    return reply


def as_pairs(reply: object, asked: str) -> dict[bytes, bytes]:
    """A list of names and values."""
    flat = as_strings(reply, asked)
    if len(flat) % 2:
        raise wrong(asked, "a list of names and values", reply)
    return dict(zip(flat[::2], flat[1::2], strict=True))


def as_option(reply: object, asked: str) -> str:
    """The value of the only option in a reply to CONFIG GET; empty if there is no such option."""
    values = list(as_pairs(reply, asked).values())
    return values[0].decode("utf-8", "replace") if values else ""


def as_clock(reply: object, asked: str) -> int:
    """A reply to TIME, in microseconds."""
    match reply:
        case [bytes(seconds), bytes(microseconds)]:
            whole, part = number(seconds), number(microseconds)
            if whole is not None and part is not None and 0 <= part < _MICROSECONDS and 0 <= whole < 1 << 40:
                return whole * _MICROSECONDS + part
    raise wrong(asked, "seconds and microseconds", reply)


def as_page(reply: object, asked: str) -> tuple[bytes, list[bytes]]:
    """A reply to SCAN: the next cursor, and keys."""
    match reply:
        case [bytes(cursor), list(keys)] if (at := number(cursor)) is not None and at >= 0:
            return cursor, as_strings(keys, asked)
    raise wrong(asked, "a cursor and keys", reply)


class Info:
    """A reply to INFO, by name; a missing field, or one that is not a number where one is wanted, is None."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = fields

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def text(self, name: str) -> str | None:
        """A field as text."""
        return self._fields.get(name)

    def number(self, name: str) -> int | None:
        """A field that is a whole number."""
        text = self._fields.get(name)
        return None if text is None else number(text)

    def part(self, name: str, part: str) -> int | None:
        """A number in a field like `calls=1,usec=2`."""
        pairs = (pair.partition("=") for pair in self._fields.get(name, "").split(","))
        return next((number(value) for key, _, value in pairs if key == part), None)

    def evicts(self) -> str | None:
        """How the server evicts keys when its memory is full; None: it does not, or does not tell."""
        limit, policy = self.number("maxmemory") or 0, self.text("maxmemory_policy") or "noeviction"
        return f"{policy} above {limit >> 20} MiB" if limit and policy != "noeviction" else None

    def names(self) -> Sequence[str]:
        """The names of the fields."""
        return tuple(self._fields)


def as_info(reply: object, asked: str) -> Info:
    """A reply to INFO."""
    text = as_bytes(reply, asked).decode("utf-8", "replace")
    lines = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return Info({name: value for name, colon, value in lines if colon})


def merged(infos: Sequence[Info]) -> Info:
    """Several sections as one."""
    return Info({name: info.text(name) or "" for info in infos for name in info.names()})
