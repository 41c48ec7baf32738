"""Decides which arguments of large commands of the replication stream to skip, or to forget, while they arrive.

In: the received part of a command, and the length of its next argument. Out: whether to skip that argument, which ones
to forget; and the commands that replace one with skipped arguments. Left to others: parsing (`wire.walker`), what
commands mean (`wire.commands`).

Other clients write keys that we do not replicate, of any size: our memory must not depend on them, be it one long
argument or millions of short ones. And a value of our own namespaces may be too large for the hub. Its key then counts
as invalidated, and reading it will say that it is too large.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from redisrepl.wire.keys import keys_of, names_one_key
from redisrepl.wire.walker import LEFT_OUT

__all__ = ["MAX_VALUE", "Unwanted"]

#: Default limit of a value in bytes: what the nginx.conf of deploy/hub accepts.
MAX_VALUE = 64 << 20
#: Shorter arguments are never skipped.
_LEAST = 128 << 10
#: Longer arguments are never keys that we replicate.
_LONGEST_KEY = 1 << 20
_PAIRS = frozenset({b"MSET", b"MSETNX"})
_REMOVALS = frozenset({b"DEL", b"UNLINK"})
#: Others that have a value beside several keys.
_VALUED = frozenset({b"MSETEX", b"SMOVE"})
#: The decoder reads it as: the key has a new value, which has to be read.
_INVALIDATED = b"RESTORE"
#: Arguments that are always kept: the name and one key.
_AT_LEAST = 2


class Unwanted:
    """Decides which arguments to skip.

    Args:
        covers: whether a key belongs to the namespaces.
        max_value: larger values are skipped, whatever their key, and a command with more than that is forgotten.
    """

    __slots__ = ("_covers", "_max_value")

    def __init__(self, covers: Callable[[bytes], bool], max_value: int = MAX_VALUE) -> None:
        self._covers = covers
        self._max_value = max_value

    def __call__(self, argv: Sequence[bytes], length: int) -> bool:
        """Whether to skip the next argument, which has this length."""
        if length < _LEAST:
            return False
        if length > self._max_value or not argv:
            return True
        name = argv[0].upper()
        if name in _PAIRS:
            return length > _LONGEST_KEY if len(argv) % 2 else not self._covers(argv[-1])
        if len(argv) == 1:
            return length > _LONGEST_KEY
        if names_one_key(name):
            return not self._covers(argv[1])
        return length > _LONGEST_KEY and not any(map(self._covers, argv[1:]))

    def thin(self, argv: list[bytes], seen: int, kept: int) -> int:
        """Forget those arguments of the received part of a command that are of no account; see `walker.Thin`."""
        if len(argv) <= _AT_LEAST:
            return 0
        name = argv[0].upper()
        if name in _PAIRS:
            return self._thin_pairs(argv, seen, kept)
        if name in _REMOVALS:
            return _replaced(argv, seen or 1, [key for key in argv[seen or 1 :] if self._covers(key)])
        if names_one_key(name) and (kept > self._max_value or argv[1] is LEFT_OUT or not self._covers(argv[1])):
            return _replaced(argv, _AT_LEAST, [LEFT_OUT])
        return 0

    def _thin_pairs(self, argv: list[bytes], seen: int, kept: int) -> int:
        """Pairs of keys that are not ours go, and of the others the values, if they are too large together."""
        start = max(1, seen - (seen + 1) % 2)  # of a pair: the key may have come before, without its value
        end = len(argv) - (len(argv) + 1) % 2
        wanted: list[bytes] = []
        for key, value in zip(argv[start:end:2], argv[start + 1 : end : 2], strict=True):
            if key is not LEFT_OUT and self._covers(key):
                wanted += (key, LEFT_OUT if kept > self._max_value else value)
        return _replaced(argv, start, [*wanted, *argv[end:]])

    def rest_of(self, argv: Sequence[bytes]) -> list[Sequence[bytes]]:
        """The commands that replace one with skipped arguments."""
        name = argv[0].upper()
        if name in _PAIRS:
            pairs = list(zip(argv[1::2], argv[2::2], strict=False))
            whole = [word for pair in pairs if pair[0] is not LEFT_OUT and pair[1] is not LEFT_OUT for word in pair]
            unread = [key for key, value in pairs if value is LEFT_OUT and key is not LEFT_OUT and self._covers(key)]
            return [*([[argv[0], *whole]] if whole else []), *([_INVALIDATED, key] for key in unread)] or [[b"PING"]]
        if argv[0] is LEFT_OUT:
            return [[b"PING"]]
        if names_one_key(name):
            ours = argv[1] is not LEFT_OUT and self._covers(argv[1])
            return [[_INVALIDATED, argv[1]] if ours else [b"PING"]]
        if name in _VALUED:
            keys = [key for key in keys_of(argv) if key is not LEFT_OUT and self._covers(key)]
            return [[_INVALIDATED, key] for key in keys] or [[b"PING"]]
        return [argv]


def _replaced(argv: list[bytes], start: int, wanted: list[bytes]) -> int:
    """Replace the arguments from an index on; returns how many bytes fewer there are."""
    fewer = _kept(argv[start:]) - _kept(wanted)
    argv[start:] = wanted
    return fewer


def _kept(argv: Sequence[bytes]) -> int:
    return sum(len(argument) for argument in argv if argument is not LEFT_OUT)
