"""A double of `store.Store`: what was written to the journal outlives a daemon, what was only buffered does not.

In: as there. Out: as there. Left to others: the formats, the folding, and everything that a disk does (tests/store).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from redisrepl.changes import HeldBy, Position
from redisrepl.engine.ancestor import Agreed
from redisrepl.engine.continuity import Side
from redisrepl.engine.places import Place, Places, Seen
from redisrepl.store.facts import Changes, Facts, Patch, concern_the_same, last_sent
from redisrepl.wire.digests import Look, add_sums, hash_digest, total_of
from tests.model.steps import Wire

Held = tuple[int | dict[bytes, int], int, int | None]  # a string's digest or the fields, number, expiry
Record = Callable[["Memory"], None]


class Memory:
    """What the records add up to."""

    def __init__(self) -> None:
        self.keys: dict[bytes, Held] = {}
        self.open: dict[int, Changes] = {}
        self.applying: dict[int, Changes] = {}
        self.ended: set[int] = set()  # of `open`
        self.document: dict[str, Any] = {}
        self.number = 0
        self.fresh = True
        self.log: list[tuple[int, Changes]] = []
        self.held_by: dict[int, HeldBy | None] = {}  # of what was agreed on under a number
        self.cleared = 0  # the last number when everything was forgotten

    def copy(self) -> Memory:
        """Another one that holds the same."""
        other = Memory()
        for key, (held, number, expires) in self.keys.items():
            other.keys[key] = (dict(held) if isinstance(held, dict) else held), number, expires
        other.open = {batch: Changes(changes) for batch, changes in self.open.items()}
        other.applying = {batch: Changes(changes) for batch, changes in self.applying.items()}
        other.ended = set(self.ended)
        other.log, other.held_by = list(self.log), dict(self.held_by)
        other.document, other.number, other.fresh = self.document, self.number, self.fresh
        other.cleared = self.cleared
        return other

    def clear(self) -> None:
        """Nothing is agreed on any more."""
        self.keys, self.log, self.held_by, self.fresh, self.cleared = {}, [], {}, True, self.number

    def agree(self, changes: Changes, refused: Collection[bytes] = (), number: int = 0) -> None:
        """These are agreed."""
        agreed = Changes({key: entry for key, entry in changes.items() if key not in refused})
        self.log.append((number, agreed))
        for batch in self.ended & self.open.keys():
            if batch < number:
                self.open[batch] = self.open[batch].without(agreed)
        for key, entry in changes.items():
            if key in refused:
                continue
            for applied in self.applying.values():
                if key in applied and concern_the_same(entry, applied[key]):
                    del applied[key]
            self.fresh = False
            if entry is None:
                self.keys.pop(key, None)
            elif isinstance(entry, Patch):
                self._patch(key, entry)
            else:
                self.keys[key] = entry

    def _patch(self, key: bytes, patch: Patch) -> None:
        held = self.keys.get(key)
        if held is not None and not patch.elements and not patch.whole:
            self.keys[key] = held[0], patch.number, patch.expires_at_ms
            return
        before = held[0] if held is not None and isinstance(held[0], dict) and not patch.whole else {}
        elements = {name: digest for name, digest in (before | patch.elements).items() if digest is not None}
        if not elements:
            self.keys.pop(key, None)
            return
        before = held[2] if held is not None and isinstance(held[0], dict) else None  # a string's is not that of a hash
        expires = patch.expires_at_ms if patch.sets_expiry else before
        self.keys[key] = elements, patch.number, expires

    def digest(self, key: bytes) -> int | None:
        """Of what is agreed about a key."""
        held = self.keys.get(key)
        return None if held is None else _digest(key, held[0])


def _digest(key: bytes, held: int | dict[bytes, int]) -> int:
    return hash_digest(key, total_of(held.values())) if isinstance(held, dict) else held


class Disk:
    """What outlives a daemon: the records that were written, and a sign that some were not."""

    def __init__(self) -> None:
        self.written: list[Record] = []
        self.memory = Memory()
        self.sign = False

    def read(self) -> Memory:
        """As the next daemon finds it."""
        for record in self.written:
            record(self.memory)
        self.written = []
        return self.memory.copy()


class Ancestors:
    """See `store.Store`.

    Args:
        disk: what an earlier daemon left.
        journalled: nothing is written before `flush` otherwise.
        remembers: it forgets everything at once otherwise.
        intends: it is known what an apply may have left at the site.

    Attributes:
        full: nothing can be written to the disk now.
    """

    def __init__(self, disk: Disk, *, journalled: bool = True, remembers: bool = True, intends: bool = True) -> None:
        self._disk = disk
        self._journalled, self._remembers, self._intends = journalled, remembers, intends
        self.memory = disk.read()
        self.durable = self.memory.number
        self.number = self.durable + (1000 if disk.sign else 0)  # some were assigned and not written
        self.saved = self.memory.document
        self.open_batches = sorted(self.memory.open)
        self.open_applies = {key for changes in self.memory.applying.values() for key in changes} if intends else ()
        self._buffer: list[Record] = []
        self.full = self._forgot = False
        self.behind = disk.sign

    @property
    def fresh(self) -> bool:
        return self.memory.fresh or not self._remembers

    def free(self) -> None:
        """There is room on the disk again: everything is written, in its order."""
        self.full = False
        self._put()

    def outgrow(self) -> None:
        """What could not be written is too much."""
        self.memory.clear()
        kept = self.memory.copy()
        self._buffer = [lambda memory: vars(memory).update(vars(kept.copy()))]
        self._forgot = True
        self._put()

    def caught_up(self) -> None:
        self.behind = False

    def take_forgot(self) -> bool:
        if not self._forgot or self.full:
            return False
        self.behind, self._forgot = True, False
        return True

    def die(self) -> None:
        """Nothing is written any more."""
        self._disk, self._buffer = Disk(), []

    def next_number(self, apart: int = 0) -> int:
        self.number += 1 + apart
        return self.number

    def _record(self, record: Record) -> None:
        record(self.memory)
        self._buffer.append(record)

    def _write(self) -> None:
        if self._journalled:
            self._put()

    def _put(self) -> None:
        if self.full:
            self._disk.sign = self._disk.sign or bool(self._buffer)
            return
        self._disk.written += self._buffer
        self._buffer, self.durable = [], self.memory.number

    def flush(self) -> None:
        self._put()
        if not (self.full or self.behind or self._forgot):
            self._disk.sign = False

    def sending(self, batch: int, facts: Facts, *, to_site: bool = False) -> None:
        self.number = max(self.number, batch)
        encoded = facts.encoded()

        def record(memory: Memory) -> None:
            changes = Changes()
            changes.take(encoded, batch)
            (memory.applying if to_site else memory.open)[batch] = changes
            memory.ended.discard(batch)
            memory.number = max(memory.number, batch)

        self._record(record)
        self._write()

    def acknowledged(self, batch: int, refused: Collection[bytes] = (), held_by: HeldBy | None = None) -> None:
        refused = frozenset(refused)

        def record(memory: Memory) -> None:
            memory.held_by[batch] = held_by
            for batches in (memory.open, memory.applying):
                if (changes := batches.pop(batch, None)) is not None:
                    memory.agree(changes, refused, batch)

        self._record(record)

    def ended(self, batch: int) -> None:
        self._record(lambda memory: memory.ended.add(batch))

    def dropped(self, batch: int) -> None:
        def record(memory: Memory) -> None:
            memory.open.pop(batch, None)
            memory.applying.pop(batch, None)

        self._record(record)

    def agreed(self, facts: Facts, held_by: HeldBy | None = None) -> None:
        if not facts:
            return
        number, encoded = self.next_number(), facts.encoded()

        def record(memory: Memory) -> None:
            changes = Changes()
            changes.take(encoded, number)
            memory.held_by[number] = held_by
            memory.agree(changes, (), number)
            memory.number = max(memory.number, number)

        self._record(record)

    def save(self, document: dict[str, object]) -> None:
        def record(memory: Memory) -> None:
            memory.document = document

        self._record(record)

    async def lookup(
        self,
        keys: Sequence[bytes],
        *,
        elements: bool = False,
        names: Mapping[bytes, Collection[bytes]] | None = None,
    ) -> dict[bytes, Agreed]:
        self._write()
        found = {} if not self._remembers else self.look(keys, elements=elements)
        for key, of_key in (names or {}).items():
            if key in found and found[key].elements is not None:
                named = {name: digest for name, digest in found[key].elements.items() if name in of_key}
                found[key] = replace(found[key], elements=named)
        await Wire()
        return found

    def look(self, keys: Sequence[bytes], *, elements: bool = True) -> dict[bytes, Agreed]:
        """`lookup`, at once."""
        found = {}
        for key in keys:
            held = self.memory.keys.get(key)
            its = held[0] if held is not None and isinstance(held[0], dict) else None
            unknown = (
                *self._intents(self.memory.open, key, its or {}, elements=elements),
                *self._intents(self.memory.applying if self._intends else {}, key, its or {}, elements=elements),
            )
            if self.behind or self._forgot:
                at_site = {name: left for name, left in unknown[3].items() if name in (its or {})}
                unknown = *unknown[:2], () if held is None else unknown[2], at_site
            if held is None:
                if any(unknown):
                    found[key] = Agreed(None, 0, None, None, None, *unknown)
                continue
            total = None if its is None else total_of(its.values())
            shown = dict(its) if its is not None and elements else None
            found[key] = Agreed(_digest(key, held[0]), held[1], held[2], total, shown, *unknown)
        return found

    def _intents(
        self, batches: Mapping[int, Changes], key: bytes, agreed: Collection[bytes], *, elements: bool
    ) -> tuple[tuple[int | None, ...], dict[bytes, tuple[int | None, ...]]]:
        of_key: dict[int | None, None] = {}
        of_elements: dict[bytes, dict[int | None, None]] = {}
        for changes in batches.values():
            if key not in changes:
                continue
            entry = changes[key]
            changed = dict(entry.elements) if isinstance(entry, Patch) else {}
            if not isinstance(entry, Patch) or entry.whole:
                alone = Memory()
                alone.agree(Changes({key: entry}))
                of_key[alone.digest(key)] = None
                changed = {**dict.fromkeys((*agreed, *of_elements)), **changed} if elements else {}
            for name, digest in changed.items():
                of_elements.setdefault(name, {})[digest] = None
        return tuple(of_key), {name: tuple(digests) for name, digests in of_elements.items()}

    async def names(
        self, key: bytes, wanted: Callable[[bytes], bool] | None = None, *, before: bytes | None = None
    ) -> set[bytes]:
        """See `store.Store`."""
        self._write()
        held = self.memory.keys.get(key) if self._remembers else None
        its = held[0] if held is not None and isinstance(held[0], dict) else {}
        await Wire()
        return {n for n in its if (wanted is None or wanted(n)) and (before is None or n < before)}

    async def sums(self, prefix: bytes) -> list[int]:
        await Wire()
        sums = [0] * 256
        if self._remembers:
            held = self.memory.keys
            add_sums(sums, {key: Look(self.memory.digest(key)) for key in held if key.startswith(prefix)})
        return sums

    async def listed(self, prefix: bytes, buckets: Collection[int]) -> AsyncIterator[list[tuple[bytes, int]]]:  # noqa: ARG002 - more than is asked for does no harm
        await Wire()
        if self._remembers:
            held = self.memory.keys
            yield [(key, self.memory.digest(key)) for key in sorted(held) if key.startswith(prefix)]

    async def agreed_since(
        self,
        number: float,
        kept: Position | None = None,
        *,
        most: int,  # noqa: ARG002 - there are few
    ) -> dict[bytes, dict[bytes | None, int]] | None:
        """See `store.Store`."""
        self._write()
        await Wire()
        places: dict[bytes, dict[bytes | None, int]] = {}
        for agreed_at, changes in self.memory.log:
            place = self.memory.held_by.get(agreed_at)
            held = set[bytes]()
            if kept and place and place.position.replid == kept.replid:
                held = {key for key in changes if place.later.get(key, place.position.offset) <= kept.offset}
            Changes({key: changes[key] for key in held}).forget(places)
            if agreed_at > number:
                Changes({key: changes[key] for key in changes if key not in held}).note(places, agreed_at)
        for batch, changes in sorted({**self.memory.open, **self.memory.applying}.items()):
            changes.note_open(places, batch)
        return places if self._remembers and number >= self.memory.cleared else None

    async def unanswered(self, by: Side, places: Places, number: float) -> Mapping[Place, Collection[int | None]]:
        """See `store.Store`."""
        await Wire()
        return last_sent((self.memory.open if by == "site" else self.memory.applying).items(), places, number)

    async def history(self, number: float, most: int) -> list[Seen] | None:  # noqa: ARG002 - there are few
        """See `store.Store`."""
        self._write()
        await Wire()
        seen = [Seen(at - 1, *what) for at, changes in self.memory.log for what in changes.digests()]
        return seen if self._remembers and number >= self.memory.cleared else None

    async def count(self) -> int:
        return len(self.memory.keys)
