"""What is known of a large collection that was compared, or is being compared piece by piece.

In: nothing; these are values. Left to others: what follows from them (`flow.elements`, `flow.streams`).
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from typing import NamedTuple

from redisrepl.changes import State
from redisrepl.wire.entrypages import BEGINNING, StreamFacts

__all__ = ["Begun", "BegunStream", "ChangedError", "Kept", "Known", "Part", "SeenStream"]


class ChangedError(Exception):
    """The key is not what it was a moment ago, or the hub does not tell of elements any more."""


class Known(NamedTuple):
    """What is kept of a section: its digest, and four bytes of the name of each element."""

    digest: bytes
    names: array[int]


class Kept(NamedTuple):
    """What is kept of a collection.

    Attributes:
        epoch: of the links, in which it was compared.
        type: of it.
        shape: how many sections there are, and how many elements one has, about.
        sections: in order.
    """

    epoch: int
    type: str
    shape: tuple[int, int]
    sections: Sequence[Known]

    @property
    def elements(self) -> int:
        """How many it has, about."""
        return sum(len(section.names) for section in self.sections)

    def doubting(self, numbers: Collection[int]) -> Kept:
        """The same, but that these sections differ from whatever the hub holds."""
        doubted = (known._replace(digest=b"") if n in numbers else known for n, known in enumerate(self.sections))
        return self._replace(sections=list(doubted))


class Begun(NamedTuple):
    """How far a collection was compared piece by piece.

    Attributes:
        epoch, type, shape: as of `Kept`.
        first: the section with which the next piece begins; 0: there is none, all of it was compared.
        passed: elements before it, of which some may have come twice.
        sections: those before it; None: they are too many to be kept.
    """

    epoch: int
    type: str
    shape: tuple[int, int]
    first: int = 0
    passed: int = 0
    sections: Sequence[Known] | None = ()

    @property
    def elements(self) -> int:
        """Of how many something is kept."""
        return 0 if self.sections is None else self.passed


class SeenStream(NamedTuple):
    """What is kept of a stream.

    Attributes:
        epoch: of the links, in which it was compared.
        facts: about all of it.
    """

    epoch: int
    facts: StreamFacts


class BegunStream(NamedTuple):
    """How far a stream was compared piece by piece.

    Attributes:
        epoch: of the links.
        following: the id with which the next piece begins.
        seen: what was known of all of it when the last piece was read; None: that is still to come.
        passed: entries before it.
    """

    epoch: int
    following: bytes = BEGINNING
    seen: SeenStream | None = None
    passed: int = 0


class Part(NamedTuple):
    """Elements of a collection at the hub.

    Attributes:
        state: those that there are.
        names: which were asked for, or found; None: all.
        time: of the hub when the last of them was read, in microseconds.
        kept: what may be kept once they were compared.
        doubtful: what may be kept if not all of them were applied.
        begun: how far the collection was compared once they were applied; None: they are no piece.
        opens: they are the first piece: the site need not have the collection yet.
        before: entries of a stream that were compared before these.
    """

    state: State
    names: Sequence[bytes] | None
    time: float
    kept: Kept | SeenStream | None
    doubtful: Kept | None = None
    begun: Begun | BegunStream | None = None
    opens: bool = False
    before: int = 0
