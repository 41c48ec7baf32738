"""What a server is found to be at the end of a new link; of a site, for the next link and the next process as well.

In: what was found. Out: the same, as a document. Left to others: finding it (`flow.judging`), what follows from it
(`engine.losses`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from redisrepl.engine.continuity import Event
from redisrepl.engine.losses import DigestsByPlace
from redisrepl.engine.places import Place, Seen, digests_of, entries_of_digests, entry_of_place, place_of

__all__ = ["Found", "Held", "Judgement"]

#: Digests of what was at places.
Held = Mapping[Place, int | None]


class Judgement(NamedTuple):
    """What the history of a server is.

    Attributes:
        event: see there.
        reason: why it must be compared.
        number: agreements up to this one it has.
        kept: see `engine.evidence.Proof`.
        kept_to, known_to: of a site; see `engine.losses.Findings`.
        seen: what was agreed on, in order, as far as that tells what the hub has written since.
    """

    event: Event
    reason: str = ""
    number: float = math.inf
    kept: frozenset[Place] = frozenset()
    kept_to: int | None = None
    known_to: float = math.inf
    seen: Sequence[Seen] = ()


@dataclass(frozen=True)
class Found:
    """What was found of a site that is another process; that stays true of it, whatever becomes of our link to it.

    Attributes:
        process: which one, and its history.
        judged, held, since: see `Judgement`, and `engine.losses.Findings`; `since` is saved as `settled`.
    """

    process: tuple[str, str]
    judged: Judgement
    held: Held
    since: DigestsByPlace

    @cached_property
    def saved(self) -> dict[str, object]:
        """As JSON can hold it."""
        event, reason, number, kept, kept_to, known_to, _ = self.judged
        return {
            "process": list(self.process),
            "judged": [event.name, reason, _or_none(number), kept_to, _or_none(known_to)],
            "kept": list(map(entry_of_place, kept)),
            "held": [(*entry_of_place(place), digest) for place, digest in self.held.items()],
            "settled": entries_of_digests(self.since),
        }

    @classmethod
    def load(cls, document: object) -> Found | None:
        """From what was saved; None if it cannot be read: then it is to be found anew."""
        saved: Any = document
        try:
            run_id, replid = saved["process"]
            event, reason, number, kept_to, known_to = saved["judged"]
            kept = frozenset(place_of(*entry) for entry in saved["kept"])
            held = {place_of(key, field): digest for key, field, digest in saved["held"]}
            since = digests_of(saved["settled"])
            judged = Judgement(Event[event], reason, _number(number), kept, kept_to, _number(known_to))
        except (KeyError, TypeError, ValueError):
            return None
        return cls((run_id, replid), judged, held, since)


def _or_none(number: float) -> float | None:
    return None if number == math.inf else number


def _number(saved: float | None) -> float:
    return math.inf if saved is None else saved
