"""Which arguments of large commands are left out of the replication stream while they come.

In: a command as far as it has come, and the length of its next argument. Out: whether to leave that out; and what to
make of a command of which something was. Left to others: reading (`wire.walker`), what commands mean (`wire.commands`).

What others write to the site's Redis is not ours, and may be of any size: memory must not depend on it. And of ours a
value can be too large for the hub; then it is as if the key had been touched, and reading it says that it is too large.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from redisrepl.wire.keys import names_one_key
from redisrepl.wire.walker import LEFT_OUT

__all__ = ["MAX_VALUE", "Unwanted"]

#: Bytes of a value, unless told otherwise: what the nginx.conf of deploy/hub lets through.
MAX_VALUE = 64 << 20
#: Shorter ones are not worth the question.
_LEAST = 128 << 10
#: No key is longer.
_LONGEST_KEY = 1 << 20
_PAIRS = frozenset({b"MSET", b"MSETNX"})
#: Decoded as: something has taken the place of what the key held.
_TOUCHED = b"RESTORE"


class Unwanted:
    """What is left out.

    Args:
        covers: whether a key belongs to the namespaces.
        max_value: larger values are left out, whoever's they are.
    """

    __slots__ = ("_covers", "_max_value")

    def __init__(self, covers: Callable[[bytes], bool], max_value: int = MAX_VALUE) -> None:
        self._covers = covers
        self._max_value = max_value

    def __call__(self, argv: Sequence[bytes], length: int) -> bool:
        """Whether the next argument of this length is left out."""
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

    def rest_of(self, argv: Sequence[bytes]) -> list[Sequence[bytes]]:
        """What a command of which something was left out amounts to, in commands."""
        name = argv[0].upper()
        if name in _PAIRS:
            pairs = list(zip(argv[1::2], argv[2::2], strict=False))
            whole = [word for pair in pairs if pair[0] is not LEFT_OUT and pair[1] is not LEFT_OUT for word in pair]
            touched = [key for key, value in pairs if value is LEFT_OUT and key is not LEFT_OUT and self._covers(key)]
            return [*([[argv[0], *whole]] if whole else []), *([_TOUCHED, key] for key in touched)] or [[b"PING"]]
        if argv[0] is LEFT_OUT or argv[1] is LEFT_OUT:
            return [[b"PING"]]
        if names_one_key(name) and self._covers(argv[1]):
            return [[_TOUCHED, argv[1]]]
        return [argv]
