"""Records that could not be written to the journal: until they are, nothing counts as agreed about their keys.

In: records that were not written. Out: the records to write first when writing works again: the same ones or, if they
became too many, one that makes the store forget their keys. Left to others: writing, and retrying (`store.store`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from redisrepl.store.facts import Changes, Facts
from redisrepl.store.journal import Kind, parse, record
from redisrepl.store.reading import Reader, agreed, document, sending

__all__ = ["Unwritten"]

_MOST_BYTES = 16 << 20
_OVERHEAD = 100  # of a key in a set


class Unwritten:
    """Records that have to be written before any other.

    Attributes:
        open: facts of batches that were sent meanwhile, and neither acknowledged nor dropped.
    """

    def __init__(self) -> None:
        self.open: dict[int, bytes] = {}
        self._keys: set[bytes] = set()
        self._size = 0
        self._forgot = False
        self._asked: set[bytes] = set()  # of these, about which nothing was recorded since they were asked for
        self._all = False
        self._outcomes: list[bytes] = []  # records that end a batch which the journal holds
        self._document = False  # whether a part of the state document was not written
        self._records: list[bytes] | None = []  # all of them, but for the state document; None: they became too many
        self._records_size = 0

    def __bool__(self) -> bool:
        return bool(self._all or self._keys or self.open or self._outcomes or self._document)

    @property
    def forgets(self) -> bool:
        """Whether, once all is written, something is not known any more that was agreed on."""
        return self._records is None or self._forgot

    def take(self, records: bytes) -> None:
        """Add records that were not written."""
        for kind, payload, _ in parse(records):
            reader = Reader()
            reader.open = self.open
            known = len(self.open)
            facts = reader.take(kind, payload)
            if kind == Kind.PATCH:
                self._document = True
                continue
            written = record(Kind(kind), payload)
            self._keep(written)
            if kind == Kind.CLEARED:
                self._all = True
            elif kind == Kind.SENDING:
                self._forget(self.open[reader.number])
            elif kind == Kind.APPLYING:
                self._forget(reader.applying[reader.number][0])
            elif kind == Kind.AGREED and facts:
                self._forget(facts[0])
            elif known == len(self.open):  # acknowledged or dropped
                self._outcomes.append(written)
        if self._size + sum(map(len, self.open.values())) > _MOST_BYTES:
            self._all, self._keys, self._size = True, set(), 0
            self.open = dict.fromkeys(self.open, b"")

    def _keep(self, written: bytes) -> None:
        self._records_size += len(written)
        if self._records_size > _MOST_BYTES:
            self._records = None
        if self._records is not None:
            self._records.append(written)

    def asked(self, keys: Collection[bytes]) -> Facts:
        """Of these keys somebody decides without what was agreed on: the facts by which it is forgotten for good.

        Both sides may lose what was agreed on, and nobody records that about a key of which nothing is known.
        """
        facts = Facts()
        for key in self._keys.intersection(keys) - self._asked:
            facts.forget(key)
            self._asked.add(key)
            self._forgot = True
        return facts

    def _forget(self, facts: bytes) -> None:
        if self._all:
            return
        changes = Changes()
        changes.take(facts, 0)
        self._asked -= {key for key, entry in changes.items() if entry is not None}
        before = len(self._keys)
        self._keys |= changes.keys()
        self._size += sum(map(len, changes)) + _OVERHEAD * (len(self._keys) - before)

    def forgotten(self) -> Callable[[bytes], bool]:
        """A function that says whether nothing is agreed about a key, as of now."""
        if self._all:
            return lambda _: True
        return frozenset(self._keys).__contains__

    def records(self, number: int, saved: Mapping[str, object]) -> list[bytes]:
        """The records to write now.

        Args:
            number: for a record that replaces those which became too many.
            saved: the state document.
        """
        state = [document(saved)] if self._document else []
        if self._records is not None:
            return self._records + state
        facts = Facts()
        for key in self._keys:
            facts.forget(key)
        made_up = [*self._outcomes, agreed(number, facts.encoded())]
        if self._all:
            made_up.append(record(Kind.CLEARED))
        made_up += [sending(batch, facts) for batch, facts in self.open.items()]
        return made_up + state
