"""Large collections of the site that are in doubt: pushed page by page, since nobody needs to hold them whole.

In: keys in doubt. Out: what they hold; of a large collection no more than a page, as elements to push. Left to others:
the condition on which these are pushed (`engine.doubts`), sending them (`flow.pushing`).

A page is pushed like a part of a snapshot: each element on the condition that the hub holds what was agreed on about
it. So a cut in between loses nothing, and what a client changes meanwhile, the stream tells. What no page shows is that
the site lacks an element. So in the end the key is compared, which costs two digests if nothing differs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from typing import NamedTuple, Protocol

from redisrepl.changes import HashSet, LargeState, State
from redisrepl.engine.outbound import Outbound
from redisrepl.wire.scan import Scan
from redisrepl.wire.writes import MOVED, UNCHANGED

__all__ = ["PageSource", "Pages", "StateSource", "Wholes"]


class StateSource(Protocol):
    """What is read: `local.read.SiteReader`."""

    async def first_states(self, keys: Sequence[bytes], max_bytes: int) -> list[State]:
        """What the first of these keys hold, until so many bytes are read."""


class PageSource(StateSource, Protocol):
    """Likewise, where large collections are read in pages."""

    async def first_or_large(self, keys: Sequence[bytes], max_bytes: int) -> list[State | LargeState]:
        """Likewise, but a large collection is not read."""

    async def page_of(self, key: bytes, kind: str, scan: Scan, max_bytes: int) -> tuple[Mapping[bytes, bytes], bool]:
        """The next elements of a collection of this type, and whether they are the last."""


class _Turn(NamedTuple):
    """Up to where a collection was pushed.

    Attributes:
        history: of the site, by number; in another one it begins anew.
        scan: where to go on; None: all of it was pushed.
    """

    history: int
    scan: Scan | None


class Wholes:
    """Reads keys in doubt, each as a whole.

    Args:
        site: is read.
    """

    def __init__(self, site: StateSource) -> None:
        self._whole = site

    async def read(
        self, keys: Sequence[bytes], max_bytes: int, history: int
    ) -> tuple[dict[bytes, State], dict[bytes, HashSet]]:
        """See `Pages.read`."""
        del history
        read = await self._whole.first_states(keys, max_bytes) if keys else ()
        return dict(zip(keys, read, strict=False)), {}

    def arrived(self, keys: Collection[bytes], errors: Mapping[bytes, str]) -> None:
        """There is nothing to go on with."""

    def failed(self, keys: Collection[bytes]) -> None:
        """Likewise."""


class Pages(Wholes):
    """Reads keys in doubt, large collections page by page.

    Args:
        outbound: knows what is in doubt.
        site: is read.
        compare: has keys compared as a whole.
    """

    def __init__(self, outbound: Outbound, site: PageSource, compare: Callable[[Iterable[bytes]], None]) -> None:
        super().__init__(site)
        self._outbound = outbound
        self._site = site
        self._compare = compare
        self._turns: dict[bytes, _Turn] = {}
        self._next: dict[bytes, _Turn] = {}  # once what was read last has arrived

    async def read(
        self, keys: Sequence[bytes], max_bytes: int, history: int
    ) -> tuple[dict[bytes, State], dict[bytes, HashSet]]:
        """What the first of these keys hold, until so many bytes are read; and pages of large collections.

        Args:
            keys: that were invalidated.
            max_bytes: see there.
            history: of the site, by number.
        """
        states: dict[bytes, State] = {}
        pages: dict[bytes, HashSet] = {}
        read = await self._site.first_or_large(keys, max_bytes) if keys else ()
        for key, state in zip(keys, read, strict=False):
            if not isinstance(state, LargeState):
                states[key] = state
            elif self._goes_by_pages(key, state):
                pages[key] = await self._page(key, state.type, max_bytes, history)
            else:
                (states[key],) = await self._site.first_states([key], max_bytes)
        for key in states:
            self._turns.pop(key, None)
        return states, pages

    def _goes_by_pages(self, key: bytes, large: LargeState) -> bool:
        """Whether its elements can be pushed without the others.

        Its expiry cannot, and what the hub was seen to hold concerns the key as a whole. Where each write counts, those
        before the values that are read may still be under way.
        """
        outbound = self._outbound
        return not (
            outbound.every_write
            or outbound.following.by_events
            or outbound.doubts.expects(key)
            or large.expires_at_ms is not None
        )

    async def _page(self, key: bytes, kind: str, max_bytes: int, history: int) -> HashSet:
        turn = self._turns.get(key)
        before = turn.scan if turn is not None and turn.history == history else None
        scan = Scan("a large collection of the site") if before is None else copy(before)
        fields, done = await self._site.page_of(key, kind, scan, max_bytes)
        self._next[key] = _Turn(history, None if done else scan)
        return HashSet(key, dict(fields), kind)

    def arrived(self, keys: Collection[bytes], errors: Mapping[bytes, str]) -> None:
        """A batch with these keys has arrived; what the hub refused of it is not gone on with."""
        for key in self._next.keys() & keys:
            turn = self._next.pop(key)
            self._turns.pop(key, None)
            if key in errors and not errors[key].startswith((MOVED, UNCHANGED)):
                continue
            if turn.scan is None:
                self._compare((key,))
            else:
                self._turns[key] = turn
                self._outbound.doubt(key)

    def failed(self, keys: Collection[bytes]) -> None:
        """It has not, as far as is known: their pages are read again."""
        for key in self._next.keys() & keys:
            del self._next[key]
