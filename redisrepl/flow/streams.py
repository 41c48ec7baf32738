"""What differs of a large stream at the hub since it was compared last: mostly some entries at its end.

In: a key of the hub that was announced. Out: the entries that may differ, for a job. Left to others: asking the hub
(`remote.elements`), large collections without an order (`flow.elements`), applying (`flow.applying`).

A stream that was compared is known by a few numbers (`wire.entrypages.StreamFacts`). When it is announced again, what
is behind its last id is read; the numbers then tell whether something else has changed, and how many entries are gone.
If they are the first ones, which they are where clients trim a stream, they are known by name from what was agreed on.
Whatever is not as simple as that is compared from the beginning.

From the beginning, it is read and compared piece by piece, as other large collections are.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable
from contextlib import aclosing
from typing import Protocol

from redisrepl.changes import HashState, LargeState, value_size
from redisrepl.engine.core import Core
from redisrepl.flow.compared import BegunStream, ChangedError, Part, SeenStream
from redisrepl.store import Store
from redisrepl.wire.entries import LAST_ID, entry_name, is_entry
from redisrepl.wire.entrypages import BEGINNING, EntryPage, StreamFacts, behind
from redisrepl.wire.states import TOO_LARGE

__all__ = ["EntriesReader", "LargeStreams"]

#: Entries that are read in one answer.
_PAGE = 2000
#: Entries behind the last id that was known, or gone before the first, of which more are compared from the beginning.
_FEW = 2000
#: So many times as many entries as a stream has may come while it changes, at the most.
_OVERLAP = 2
#: Streams of which something is kept.
_KEPT = 10_000
#: Bytes of entries after which a piece ends.
_PIECE_BYTES = 2 << 20


class EntriesReader(Protocol):
    """Reads entries of the hub: `remote.elements.HubElements`."""

    async def entries(self, key: bytes, begin: bytes, enough: int) -> EntryPage | None:
        """Some entries of a stream; None: it is refused."""


class LargeStreams:
    """Reads what differs of large streams.

    Args:
        core: decides.
        store: remembers what was agreed on.
        hub: reads entries.
        max_value: bytes of the largest value.
        piece: entries of a piece.
        is_as_agreed: whether both sides hold what was agreed on about a key.
    """

    def __init__(
        self,
        core: Core,
        store: Store,
        hub: EntriesReader,
        *,
        max_value: int,
        piece: int,
        is_as_agreed: Callable[[bytes], Awaitable[bool]],
    ) -> None:
        self._core = core
        self._store = store
        self._hub = hub
        self._max_value = max_value
        self._piece = piece
        self._is_as_agreed = is_as_agreed
        self._seen: dict[bytes, SeenStream] = {}
        self._begun: dict[bytes, BegunStream] = {}

    async def read(self, key: bytes, large: LargeState, *, suspect: bool, in_pieces: bool) -> Part:
        """The entries that may differ from what the site holds.

        Args:
            key: of the stream.
            large: what is known of it.
            suspect: whether the site may hold something else than was agreed on.
            in_pieces: whether it may be compared piece by piece.

        Raises:
            ChangedError: the key is to be fetched like a small one.
        """
        epoch = self._core.continuity.epoch
        seen, begun = self._seen.pop(key, None), self._begun.pop(key, None)
        if seen is not None and seen.epoch == epoch and not self._core.must_ask(key, suspect=suspect):
            part = await self._end(key, seen)
            if part is not None:
                return part
        if not in_pieces:
            return await self._whole(key, epoch)
        if begun is None or begun.epoch != epoch:
            begun = BegunStream(epoch)
            if suspect:
                seen = self._seen_in(await self._ask(key, BEGINNING, 0))
                if (part := await self._unchanged(key, large, seen)) is not None:
                    return part
        if begun.seen is None:
            return await self._next_piece(key, begun)
        return await self._unchanged(key, large, begun.seen) or await self._whole(key, epoch)

    def keep(self, key: bytes, part: Part, *, complete: bool) -> bool:
        """See `flow.elements.LargeCollections.keep`."""
        if isinstance(part.begun, BegunStream):
            if complete:
                self._begun[key] = part.begun
            return complete
        if complete and isinstance(part.kept, SeenStream) and part.kept.epoch == self._core.continuity.epoch:
            self._seen[key] = part.kept
            if len(self._seen) > _KEPT:
                del self._seen[next(iter(self._seen))]
        return False

    def not_large(self, keys: Collection[bytes]) -> None:
        """Forget how far these keys were compared: none of them holds a large stream any more."""
        for key in self._begun.keys() & keys:
            del self._begun[key]

    async def _unchanged(self, key: bytes, large: LargeState, seen: SeenStream) -> Part | None:
        """Nothing is left to compare of a stream that was seen before, if both sides hold what was agreed on."""
        if not await self._is_as_agreed(key):
            return None
        now = await self._ask(key, BEGINNING, 0)  # digests have no time of the hub: see `flow.elements`
        return Part(HashState({}, large.expires_at_ms, "stream"), (), now.time, seen)

    async def _end(self, key: bytes, seen: SeenStream) -> Part | None:
        """What is behind the last id that was known, and what is gone before it; None: something else has changed."""
        page = await self._ask(key, behind(seen.facts.last), _FEW)
        new = sum(map(is_entry, page.found))
        now = self._seen_in(page)
        removed = now.facts.removed_since(seen.facts, new)
        if page.following != BEGINNING or removed is None or removed > _FEW:
            return None
        gone: list[bytes] = []
        if now.facts.first != seen.facts.first and seen.facts.first is not None:
            before = now.facts.first or LAST_ID  # which sorts behind all entries
            gone = [name for name in await self._store.names(key, before=before) if is_entry(name)]
        if len(gone) != removed:
            return None
        state = HashState(page.found, page.expires_at_ms, "stream")
        return Part(state, [*page.found, *gone], page.time, now)

    async def _next_piece(self, key: bytes, begun: BegunStream) -> Part:
        """The next entries, those of some pages."""
        self._begun[key] = begun  # should this fail, it is read again
        found: dict[bytes, bytes] = {}
        size = 0
        async with aclosing(self._pages(key, begun.following)) as pages:
            async for page in pages:
                found |= page.found
                size += value_size(HashState(page.found))
                if begun.passed + len(found) > _OVERLAP * (self._seen_in(page).facts.length + 1):
                    raise ChangedError
                if len(found) >= self._piece or size >= _PIECE_BYTES:
                    break
        seen = self._seen_in(page) if page.following == BEGINNING else None
        state = HashState(found, page.expires_at_ms, "stream")
        done = begun._replace(following=page.following, seen=seen, passed=begun.passed + len(found))
        opens = begun.following == BEGINNING
        return Part(state, [*found], page.time, None, begun=done, opens=opens, before=begun.passed)

    async def _whole(self, key: bytes, epoch: int) -> Part:
        """All entries."""
        found: dict[bytes, bytes] = {}
        size, begun = 0, None
        async with aclosing(self._pages(key, BEGINNING)) as pages:
            async for page in pages:
                found |= page.found
                begun = begun or page.facts
                size += value_size(HashState(page.found))
                if size > self._max_value:
                    return Part(TOO_LARGE, None, page.time, None)
        seen = self._seen_in(page)
        only_grown = begun is not None and _has_only_grown(begun, seen.facts, found)
        if not only_grown or len(found) != seen.facts.length + 1 or seen.epoch != epoch:  # with its last id
            raise ChangedError
        return Part(HashState(found, page.expires_at_ms, "stream"), None, page.time, seen)

    async def _pages(self, key: bytes, begin: bytes) -> AsyncGenerator[EntryPage]:
        """All entries from one on, one page of them at least."""
        while True:
            page = await self._ask(key, begin, _PAGE)
            yield page
            if page.following == BEGINNING:
                return
            begin = page.following

    async def _ask(self, key: bytes, begin: bytes, enough: int) -> EntryPage:
        page = await self._hub.entries(key, begin, enough)
        if page is None or page.facts is None:
            raise ChangedError
        return page

    def _seen_in(self, page: EntryPage) -> SeenStream:
        if page.facts is None:
            raise ChangedError
        return SeenStream(self._core.continuity.epoch, page.facts)


def _has_only_grown(begun: StreamFacts, now: StreamFacts, found: Iterable[bytes]) -> bool:
    """Whether nothing happened to a stream while it was read, but that entries were added at its end."""
    if now == begun:
        return True
    last = entry_name(begun.last)
    new = sum(name > last for name in filter(is_entry, found))
    return now.first == begun.first and now.removed_since(begun, new) == 0
