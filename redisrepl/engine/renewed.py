"""Where a server that went back has been written to since: what it holds there is not older than what was agreed on.

In: what was agreed on since; of a site also what waited for the hub when it was lost, and what its clients changed
since. Out: for a key, or a field of a hash, whether that was agreed on by what the server holds since it went back.
Left to others: what may be older otherwise (`engine.losses`).

An agreement that is made after the loss of a site need not be about what it holds: a change that was pending when the
site was lost may be acknowledged later, and the site may have lost it. So the places of pending changes are remembered
until a client writes to them again, or the site is known to have them. With the hub there is no such thing: what is
sent after it was found, it has.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress

from redisrepl.changes import Change, ExpirySet
from redisrepl.engine.ancestor import Agreed
from redisrepl.engine.continuity import Side
from redisrepl.engine.merging import elements_changed
from redisrepl.engine.places import (
    MOST_PLACES,
    Place,
    Places,
    entry_of_place,
    field_or_none,
    hex_or_none,
    list_of,
    place_of,
)

__all__ = ["Renewed"]


class Renewed:
    """Agreements since a server was lost, as far as they tell what it holds.

    Args:
        side: whose server it is.

    Attributes:
        since: number of agreements at the loss after which it had gone back; None: it has not.
    """

    def __init__(self, side: Side = "site") -> None:
        self._side = side
        self.since: int | None = None
        self._lost_at: int | None = None  # until it is judged
        self._history: str | None = None  # of the server that was found since; None: none was
        self._waiting: dict[bytes, set[bytes | None]] = {}  # since the loss, and not written since
        # Of these, keys that the site may lack though it has all that it had told when it was lost: they had waited
        # before, or another stream has told of them since.
        self._of_others: set[bytes] = set()
        self._sent: dict[Place, int] = {}  # of these, what has arrived, with the number of that agreement
        self._places: dict[bytes, dict[bytes | None, int]] = {}
        self._too_many = False  # waited: no agreement tells anything
        self._saved: dict[str, object] | None = None  # made when it is asked for: it may be large

    @property
    def watches(self) -> bool:
        """Whether it must be told of what changes and arrives, and outlive the daemon."""
        return bool(self._waiting) or self.since is not None or self._lost_at is not None

    @property
    def from_number(self) -> float:
        """What was agreed on after this number matters where the site went back, or may have; infinity: nothing."""
        return min(math.inf if number is None else number for number in (self.since, self._lost_at))

    def lost(self, number: int, waiting: Places | None) -> None:
        """The site is lost, after so many agreements; this waits for the hub (None: too much)."""
        if self._lost_at is None:
            self._of_others = set(self._waiting)
        else:
            self._of_others.update((waiting or {}).keys() - self._waiting.keys())
        self._lost_at, self._history, self._saved = number, None, None
        if waiting is None or len(self._waiting) + len(waiting) > MOST_PLACES:
            self._too_many = True
            return
        for key, parts in waiting.items():
            self._waiting.setdefault(key, set()).update(parts)

    def found(self, history: str) -> None:
        """A server with this history (empty: it does not tell) is followed now, perhaps by another process of ours."""
        if self._lost_at is not None and self._history not in (None, history or None):
            self._lost_at = None  # what was agreed on since may be about another server
        self._history, self._saved = history, None

    def judged(self) -> None:
        """The site still has what it had."""
        self._lost_at = self._saved = None

    def went_back(self, number: int) -> None:
        """The site has gone back; so many agreements there are by now."""
        self.since = number if self._lost_at is None else self._lost_at
        self._lost_at = self._saved = None
        self._places.clear()

    def has_all_but(self, keys: Collection[bytes]) -> None:
        """The site has all that it had told when it was lost, but for these keys."""
        self._saved = None
        for key in self._waiting.keys() - self._of_others - set(keys):
            del self._waiting[key]

    def made_good(self) -> None:
        """Both sides agree on all keys."""
        self.since = self._saved = None
        self._places.clear()
        self._sent.clear()
        if not self._waiting:
            self._too_many = False

    def changed(self, keys: Iterable[bytes]) -> None:
        """Clients of the site have set these keys: what is pending for them is what the site holds now."""
        if self._waiting:
            self._saved = None
            for key in keys:
                self._waiting.pop(key, None)

    def changed_by(self, change: Change) -> None:
        """A client of the site has made this change."""
        parts = _parts_of(change)
        if not parts or (waiting := self._waiting.get(change.key)) is None:
            return
        self._saved = None
        waiting.difference_update(parts)
        if None in parts or not waiting:
            del self._waiting[change.key]

    def arrived(self, changes: Iterable[Change], number: int, *, more: Collection[bytes] = ()) -> None:
        """Both sides hold what these changes say, under this number.

        Args:
            changes: what was acknowledged.
            number: of the agreement.
            more: keys of which something older may be left that has not arrived.
        """
        for change in changes:
            key, parts = change.key, _parts_of(change)
            if waiting := self._waiting.get(key):
                self._saved = None
                self._sent.update(((key, part), number) for part in waiting)
                parts = [part for part in parts if part not in waiting] if {None}.isdisjoint((*waiting, *parts)) else []
            if parts and self._is_later(number) and (key in self._places or len(self._places) < MOST_PLACES):
                self._places.setdefault(key, {}).update(dict.fromkeys(parts, number))
        for key in {change.key for change in changes}.difference(more):
            self._waiting.pop(key, None)

    def _is_later(self, number: int) -> bool:
        return self.since is not None and number > self.since

    def agreed(self, places: Places | None) -> None:
        """What was agreed on, or was about to be, since then at least; None: that is not known, which tells nothing."""
        if self.since is None:
            return
        for key, numbers in (places or {}).items():
            waiting = self._waiting.get(key, ())
            if None in waiting:
                continue
            for part, number in numbers.items():
                if part in waiting or (part is None and waiting):
                    continue
                if number > max(self.since, self._sent_at(key, part)):
                    self._places.setdefault(key, {})[part] = number

    def _sent_at(self, key: bytes, part: bytes | None) -> int:
        if part is None:
            return max((number for (of_key, _), number in self._sent.items() if of_key == key), default=0)
        return max(self._sent.get((key, part), 0), self._sent.get((key, None), 0))

    def holds(self, key: bytes, part: bytes | None, ancestor: Agreed) -> bool:
        """Whether what was agreed on about a place is what the server has held since it went back."""
        if self._side == "site":  # an apply of unknown outcome was agreed on by the hub alone
            doubted, doubted_parts = ancestor.applied, ancestor.element_applied
        else:  # and a push of unknown outcome by the site
            doubted, doubted_parts = ancestor.intents, ancestor.element_intents
        if self._too_many or doubted or (part is not None and part in doubted_parts):
            return False
        parts = self._places.get(key, {})
        return part in parts or None in parts

    def saved(self) -> dict[str, object]:
        """As JSON can hold it."""
        if self._saved is None:
            self._saved = {
                "since": self.since,
                "lost at": self._lost_at,
                "history": self._history,
                "too many": self._too_many,
                "waiting": [(key.hex(), [hex_or_none(part) for part in parts]) for key, parts in self._waiting.items()],
                "sent": [(*entry_of_place(place), number) for place, number in self._sent.items()],
            }
        return self._saved

    @classmethod
    def load(cls, document: object, side: Side = "site") -> Renewed:
        """From what was saved; what cannot be read is left out, and then no agreement tells anything."""
        renewed = cls(side)
        if not isinstance(document, Mapping):
            return renewed
        since, lost_at, history = document.get("since"), document.get("lost at"), document.get("history")
        waiting, sent = document.get("waiting"), document.get("sent")
        with suppress(ValueError, TypeError):
            renewed._waiting = {bytes.fromhex(key): set(map(field_or_none, parts)) for key, parts in list_of(waiting)}
            renewed._sent = {place_of(key, part): int(n) for key, part, n in list_of(sent)}
            renewed._of_others = set(renewed._waiting)
            renewed._too_many = bool(document.get("too many"))
            renewed.since = since if isinstance(since, int) else None
            renewed._lost_at = lost_at if isinstance(lost_at, int) else None
            renewed._history = history if isinstance(history, str) else None
        return renewed


def _parts_of(change: Change) -> Collection[bytes | None]:
    """The fields that a change is about; None: the key as a whole; an expiry tells nothing of its value."""
    if isinstance(change, ExpirySet):
        return ()
    names = elements_changed(change)
    return [None] if names is None else names
