"""Which part of its history a server still holds that was restarted, judged from what it holds now.

In: the last changes that were seen of it, in order, and what it holds now. Out: up to which of them it has all. Left to
others: asking it, and what follows (`engine.continuity`).

A replica that took over tells itself up to which offset of the old history it has all; which keys were told of later
is remembered for that (`engine.streamedkeys`), and which agreements are older (`Ring.number_at`). Of any other server,
only what it holds can tell.

What a Redis restores after a restart, or a replica has that takes over, is a prefix of its history: a change is there
only if all earlier ones are. So the last few hundred changes are remembered with their digests, and the prefix is found
that fits what the server holds now. Clients may have written since, so not every key needs to fit; of several prefixes
that fit equally well the shortest is taken, which claims the least.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from redisrepl.engine.places import Place, Seen
from redisrepl.engine.seen import Ring

__all__ = ["Proof", "holds_since", "proved"]

#: At least so many of the places changed in a prefix must fit, and three quarters of them; or so many that hold a value
#: they held at no other time, though clients have overwritten the others since; or so many that changed after a mark
#: that is there, for then nothing older than that was restored.
_WITNESSES = 5
_PART = 4


class Proof(NamedTuple):
    """What a server that was restarted still has.

    Attributes:
        number: agreements up to this one; 0: nothing is proved.
        kept: places of which it has a change that was seen, and all that came before.
        changes: of those that were seen, it has the first so many.
    """

    number: float
    kept: frozenset[Place] = frozenset()
    changes: int = 0


def proved(ring: Ring, held: Mapping[Place, int | None], marked: int = 0) -> Proof:
    """Up to where a server holds what was agreed, and what was seen.

    Args:
        ring: the last changes that were seen of it.
        held: what each place of them holds now.
        marked: agreements up to this number it has, by a mark that it holds; 0: it has none.

    Returns:
        What it has. What was agreed after the ring was brought up to date, it cannot prove.
    """
    changes = list(ring)
    unique = _unique(changes)
    state: dict[Place, int | None] = {}
    earlier: dict[Place, set[int | None]] = {}
    last = {seen.place: seen.digest for seen in changes}
    best = score = fits = alive = strong = late = end = 0
    found, proves = float(marked), False
    for index, seen in enumerate(changes):
        place, now = seen.place, held.get(seen.place)
        before = earlier.setdefault(place, set())
        if place in state:
            was = state[place]
            score -= _speaks(was, now, before, last[place])
            fits -= was is not None and now == was
            alive -= was is not None
            before.add(was)
        state[place] = seen.digest
        score += _speaks(seen.digest, now, before, last[place])
        fit = seen.digest is not None and now == seen.digest
        fits += fit
        alive += seen.digest is not None
        strong += fit and seen in unique
        late += fit and 0 < marked <= seen.number
        if score > best:
            proves = (
                (fits >= _WITNESSES and _PART * fits >= (_PART - 1) * alive)
                or (strong >= _WITNESSES and strong > _PART * (fits - score))
                or late >= _WITNESSES
            )
            best, found, end = score, float(max(seen.number, marked)) if proves else float(marked), index + 1
    tail = changes[end:]
    known = changes[ring.complete_from : end]
    if proves and all(not ring.was_valueless(c.place) and _was_written_since(c, held, known) for c in tail):
        found = float(max(ring.number, marked))
    return Proof(found, frozenset(seen.place for seen in known if proves), end if proves else 0)


def _speaks(digest: int | None, now: int | None, before: Collection[int | None], last: int | None) -> int:
    """What a place that holds `now` says of a prefix that ends with this digest there: for it (1), against it (-1).

    Against it is what was there before, or that nothing is there though nobody was seen to remove it: that change was
    not restored. Any other value may have been written since. That nothing is there never speaks for a prefix: a server
    that lost everything lacks the key too.
    """
    if now is None:
        return -int(digest is not None and last is not None)
    return 1 if now == digest else -int(now in before)


def holds_since(number: int, changes: Iterable[Seen], held: Mapping[Place, int | None]) -> bool:
    """Whether a server that holds all that was agreed up to a number holds the rest as well.

    Args:
        number: it.
        changes: the last changes of the server, in order.
        held: what each place of them holds now.

    Returns:
        Some of the changes since are there, and of no place that they changed is it the value before. Others may have
        written since.
    """
    before: dict[Place, set[int | None]] = {}
    latest: dict[Place, int | None] = {}
    for seen in changes:
        if seen.number >= number:
            if seen.place in latest:
                before.setdefault(seen.place, set()).add(latest[seen.place])
            latest[seen.place] = seen.digest
        else:
            before.setdefault(seen.place, set()).add(seen.digest)
    if not latest:
        return True
    witnesses = [place for place, digest in latest.items() if digest is not None and held[place] == digest]
    other = [place for place, digest in latest.items() if held[place] != digest]
    return bool(witnesses) and not any(held[place] is None or held[place] in before.get(place, ()) for place in other)


def _unique(changes: Sequence[Seen]) -> set[Seen]:
    """Changes to a value that their place held at no other time, among others: nothing but they can explain it."""
    values: dict[Place, Counter[int | None]] = {}
    for seen in changes:
        values.setdefault(seen.place, Counter())[seen.digest] += 1
    return {seen for seen in changes if len(of_place := values[seen.place]) > 1 and of_place[seen.digest] == 1}


def _was_written_since(seen: Seen, held: Mapping[Place, int | None], prefix: Sequence[Seen]) -> bool:
    """Whether a place that is known from this prefix holds neither what it held then nor nothing: a client's write."""
    known = {earlier.digest for earlier in prefix if earlier.place == seen.place}
    now = held.get(seen.place)
    return now is not None and bool(known) and now not in known
