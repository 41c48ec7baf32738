"""How the writes of the site are followed, for all who decide by it: one object that they share.

In: which of its two sources tells of them, and how far the stream was read. Out: the same. Left to others: following
(`sources`), whether the site is followed at the moment (`engine.continuity`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from redisrepl.changes import Change
from redisrepl.engine.echo import shown_in_stream

__all__ = ["Following"]


@dataclass(slots=True)
class Following:
    """By its replication stream, until `follow_events`.

    Attributes:
        read_to: offset up to which the stream was read; 0: it was not, or nobody reads it any more.
        by_events: keyspace events tell of them. These have no values and no offsets, and tell neither which elements
            of a collection changed nor whose a write is.
        echoes_of: what is seen of a change that was applied.
    """

    read_to: int = 0
    by_events: bool = False
    echoes_of: Callable[[Change], Iterable[Hashable]] = shown_in_stream

    def follow_events(self, echoes_of: Callable[[Change], Iterable[Hashable]]) -> None:
        """From here on keyspace events tell, and never the stream again."""
        self.read_to, self.by_events, self.echoes_of = 0, True, echoes_of
