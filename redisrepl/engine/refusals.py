"""Keys that a server refused: each is named once for each reason, and all are tried again.

In: which keys were refused, and which passed. Out: keys to try again. Left to others: trying (`engine.outbound`,
`engine.inbound`).

An ACL that is edited, a type that clashes, a value that is too large: each of them may change at any time, and nobody
says so. So a few of the keys are tried now and then; once one passes, all that were refused for the same kind of reason
are. And all are when a daemon starts, for what was refused in the last process is saved.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import islice

import structlog

from redisrepl.namespaces import printable

__all__ = ["Refusals"]

_log = structlog.get_logger("redisrepl")

#: Refused keys that are remembered. Of more, only a comparison tells.
_MOST = 10_000
#: Of these, so many outlive the daemon. Of more, the next one compares all.
_SAVED = 1000
#: How many of them are tried at a time: of one that has changed at the hub meanwhile, a try tells nothing.
_TRIED = 8
#: Seconds before these are tried; twice as long each time that it was in vain.
_FIRST_PAUSE = 30.0
_LONGEST_PAUSE = 900.0


class Refusals:
    """Keys that one server refused.

    Args:
        refused: event of the log, for each of them.
        accepted: likewise, once it passes.
    """

    def __init__(self, refused: str, accepted: str) -> None:
        self._events = refused, accepted
        self._refused: dict[bytes, str] = {}
        self._more = False
        self._pause = _FIRST_PAUSE
        self._next_at: float | None = None
        self._passed: set[str] = set()  # kinds of reasons for which a key was refused that passed since `due`
        self._earlier: set[bytes] = set()  # refused in the last process, and not tried again by this one
        self._left_out = False

    def __len__(self) -> int:
        return len(self._refused)

    def __contains__(self, key: bytes) -> bool:
        return key in self._refused

    def saved(self) -> list[str] | None:
        """The keys as JSON can hold them; None: there are too many."""
        keys = self._refused.keys() | self._earlier
        return None if self._more or len(keys) > _SAVED else sorted(map(bytes.hex, keys))

    def load(self, saved: object) -> None:
        """Try these again at once; what cannot be read is left out.

        Args:
            saved: what the last process had saved.
        """
        for key in saved if isinstance(saved, list) else ():
            with suppress(ValueError, TypeError):
                self._earlier.add(bytes.fromhex(key))

    def take_left_out(self) -> bool:
        """Whether more were refused than are remembered, and keys pass again since: then all must be compared."""
        left_out, self._left_out = self._left_out, False
        return left_out

    def name(self, key: bytes, error: str) -> None:
        """Name this key, unless it was for the same reason."""
        if self._refused.get(key) == error:
            return
        _log.error(self._events[0], key=printable(key), error=error)
        if key in self._refused or len(self._refused) < _MOST:
            self._refused[key] = error
        else:
            self._more = True

    def passed(self, keys: Iterable[bytes]) -> set[bytes]:
        """The server took something of these; returns those that it had refused: there may be more to take of them."""
        taken = self._refused.keys() & keys
        for key in taken:
            # `due` looks for the others, once for all that passed: each time here, they would be ten thousand squared.
            self._passed.add(_kind(self._refused.pop(key)))
            _log.info(self._events[1], key=printable(key))
            self._left_out, self._more = self._left_out or self._more, False
            self._pause = _FIRST_PAUSE
        return taken

    def due(self, now: float) -> Iterable[bytes]:
        """Keys to try again now."""
        if self._passed or self._earlier:
            others = (key for key, error in self._refused.items() if _kind(error) in self._passed)
            due = dict.fromkeys([*self._earlier, *others])
            self._passed.clear()
            self._earlier.clear()
            return due
        if not self._refused:
            self._next_at, self._pause = None, _FIRST_PAUSE
            return ()
        if self._next_at is None:
            self._next_at = now + self._pause
        if now < self._next_at:
            return ()
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self._next_at = now + self._pause
        keys = list(islice(self._refused, _TRIED))
        self._refused.update({key: self._refused.pop(key) for key in keys})  # by turns: one may be refused for good
        return keys


def _kind(error: str) -> str:
    """By its first word: `NOPERM`, `WRONGTYPE`; the rest may name the key."""
    return error.partition(" ")[0]
