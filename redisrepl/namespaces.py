"""Which keys may be replicated: the ones that start with a namespace, a literal prefix of bytes.

In: the configured prefixes. Out: a yes or no for a key, and the glob that subscribes to a prefix.
Left to others: which commands are replicated (`engine.outbound`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from operator import methodcaller

from redisrepl.errors import ConfigError

__all__ = ["Namespaces", "glob_escape", "printable"]

_GLOB_SPECIAL = b"*?[]\\"
_DELIMITERS = b":./|-_#{}@ "


def printable(name: bytes, limit: int = 80) -> str:
    """A key or prefix for a person to read: escaped, cut at `limit` characters, never a value."""
    text = name.decode("utf-8", "backslashreplace")
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"


class Namespaces:
    """One or more literal key prefixes, none inside another.

    Raises:
        ConfigError: no prefix, an empty one, or two that overlap (a key would belong to both).
    """

    __slots__ = ("covers", "prefixes")

    def __init__(self, prefixes: Iterable[bytes]) -> None:
        self.prefixes = tuple(dict.fromkeys(prefixes))
        if not self.prefixes:
            raise ConfigError("no namespace is given: say which keys to replicate, for example --ns site1:")
        if b"" in self.prefixes:
            raise ConfigError("--ns is empty, which would mean every key: give the prefix of the keys to replicate")
        ordered = sorted(self.prefixes)
        for shorter, longer in pairwise(ordered):
            if longer.startswith(shorter):
                raise ConfigError(
                    f"--ns {printable(longer)} lies inside --ns {printable(shorter)}: leave the longer one out"
                )
        #: Whether a key belongs to a namespace; called for every command of a stream, so all of it is C.
        self.covers: Callable[[bytes], bool] = methodcaller("startswith", self.prefixes)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.prefixes)

    def __repr__(self) -> str:
        return f"Namespaces({', '.join(map(printable, self.prefixes))})"

    def without_delimiter(self) -> tuple[bytes, ...]:
        """The prefixes that end in a letter or digit: `RSE` also covers `RSE2:x`, which is seldom meant."""
        return tuple(p for p in self.prefixes if p[-1] not in _DELIMITERS)


def glob_escape(prefix: bytes) -> bytes:
    """The prefix as a Redis glob that matches just itself (`stringmatchlen` in Redis' util.c)."""
    return b"".join(b"\\" + bytes([c]) if c in _GLOB_SPECIAL else bytes([c]) for c in prefix)
