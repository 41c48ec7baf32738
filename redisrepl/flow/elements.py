"""What differs of a large collection at the hub since it was compared last: a few elements, instead of all.

In: a key of the hub that was announced. Out: the elements that may differ, and a job for them. Left to others: asking
the hub (`remote.elements`), applying (`flow.applying`), deciding (`engine.core`).

A large collection is read in sections (`wire.elements`), and compared as a whole. A digest of each section is kept,
and of each element four bytes of its name. When the key is announced again, only sections whose digests differ are
read, and compared as a collection of no more than their elements; what was there before and is not any more is found
among the names that are agreed on. What was compared holds as long as neither link has ended; whatever is not as
simple as that is compared as a whole.

A very large one is not even then held as a whole: it is read and compared piece by piece, each of some sections, and
what was found out about a piece is agreed on before the next one is read. So a cut in between loses nothing. What no
piece can show is that the hub lacks an element. Therefore digests of all that either side holds are compared with the
ancestor in the end, and all of it is read at once only if they differ.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol
from zlib import crc32

from redisrepl.changes import Change, HashSet, HashState, LargeState, State, expiries_differ, value_size
from redisrepl.engine.ancestor import Agreed
from redisrepl.engine.continuity import SIDES, Side
from redisrepl.engine.core import Core
from redisrepl.flow.compared import Begun, BegunStream, ChangedError, Kept, Known, Part, SeenStream
from redisrepl.flow.comparison import Holder
from redisrepl.flow.jobs import FetchedJob
from redisrepl.flow.streams import EntriesReader, LargeStreams
from redisrepl.store import Store
from redisrepl.wire.elements import MOST_NAMES, MOST_SECTIONS, Elements, Question, Section
from redisrepl.wire.entries import entry_name
from redisrepl.wire.states import TOO_LARGE

__all__ = ["LEAST", "ElementsReader", "LargeCollections", "PartJob", "UnfitError"]

#: Collections of more elements are large: reading one as a whole costs more than what is kept of it (measured).
LEAST = 2000
#: Of more sections than one of so many that differ, all are read.
_PART = 4
#: Sections that are not the server's hold each element several times; so often it may be, at the most.
_OVERLAP = 2
#: Elements of which something is kept, of all collections, compared or begun: 4 bytes each.
_KEPT = 4_000_000
#: Collections that are known to be too large.
_NOTED = 10_000
#: Entries of a stream that each piece may move to be inserted before them (20 ms per thousand, measured).
_MOVED = 5000
#: Elements of one piece. Only collections of more than two pieces are compared piece by piece.
_PIECE = 20_000
#: Bytes of elements after which a piece ends.
_PIECE_BYTES = 2 << 20


class ElementsReader(EntriesReader, Protocol):
    """Reads elements of the hub: `remote.elements.HubElements`."""

    @property
    def readable(self) -> bool:
        """Whether it can."""

    async def ask(self, question: Question) -> Elements | None:
        """What one run of the script says; None: it is refused."""


class UnfitError(Exception):
    """The site holds another type now, or does not tell of elements: the key is to be compared as a whole."""


class LargeCollections:
    """Reads what differs of large collections.

    Args:
        core: decides.
        store: remembers what was agreed on.
        hub: reads elements.
        max_value: bytes of the largest value.
        least: see below.
        sides: tell digests of all that a side holds; None: nobody does, and nothing is compared piece by piece.
        piece: elements of a piece.

    Attributes:
        least: collections of more elements are large; 0: none are, since the hub takes no scripts.
    """

    def __init__(
        self,
        core: Core,
        store: Store,
        hub: ElementsReader,
        max_value: int,
        least: int = LEAST,
        sides: Mapping[Side, Holder] | None = None,
        piece: int = _PIECE,
    ) -> None:
        self._core = core
        self._store = store
        self._hub = hub
        self._max_value = max_value
        self._least = least
        self._kept: dict[bytes, Kept] = {}
        self._count = 0  # elements of which something is kept, in `_kept` and `_begun`
        self._too_large: dict[bytes, int] = {}  # how many elements a collection had that was
        self._sides = sides
        self._piece = piece
        self._begun: dict[bytes, Begun] = {}
        self._unfit: set[bytes] = set()  # that are to be read as a whole next
        self._streams = LargeStreams(
            core, store, hub, max_value=max_value, piece=piece, is_as_agreed=self._is_as_agreed
        )

    @property
    def least(self) -> int:
        """See the class."""
        return self._least if self._hub.readable else 0

    async def read(self, key: bytes, large: LargeState, *, suspect: bool) -> Part | None:
        """The elements that may differ from what the site holds; None: it is to be fetched like a small one."""
        epoch, kept = self._core.continuity.epoch, self._take(key)
        if not suspect and large.count >= self._too_large.get(key, math.inf):
            return Part(TOO_LARGE, None, 0, None)  # a comparison has it read again
        try:
            part = None
            if large.type == "stream":
                in_pieces = self._goes_in_pieces(key, large)
                part = await self._streams.read(key, large, suspect=suspect, in_pieces=in_pieces)
            known = kept is not None and (kept.epoch, kept.type) == (epoch, large.type)
            if kept is not None and known and not self._core.must_ask(key, suspect=suspect):
                part = await self._differing(key, kept)
            if part is None and (begun := self._to_go_on(key, large, epoch)) is not None:
                if not begun.first and (suspect or begun.passed) and await self._is_as_agreed(key):
                    kept = _all_of(begun) if begun.passed else kept if known else None
                    # Digests have no time of the hub; without one, nothing of the feed would be news any more.
                    now = await self._ask(Question(key, large.type, b"named", begun.shape))
                    return Part(HashState({}, large.expires_at_ms, large.type), (), now.time, kept)
                if begun.first or not begun.passed:
                    return await self._next_piece(key, begun)
            part = part or await self._whole(key, large, epoch)
        except ChangedError:
            self._take_begun(key)
            return None
        self._too_large.pop(key, None)
        if part.state == TOO_LARGE:
            self._too_large[key] = large.count
            if len(self._too_large) > _NOTED:
                del self._too_large[next(iter(self._too_large))]
        return part

    def keep(self, key: bytes, part: Part, *, complete: bool) -> bool:
        """Remember what was compared; if it is `complete`, the site holds all of it now.

        Returns:
            Whether the key is to be looked at again, since this was a piece.
        """
        if isinstance(part.begun, BegunStream) or isinstance(part.kept, SeenStream):
            return self._streams.keep(key, part, complete=complete)
        if part.begun is not None:
            if complete:
                self._note_begun(key, part.begun)
            return complete
        kept = part.kept if complete else part.doubtful
        if kept is None or kept.epoch != self._core.continuity.epoch:
            return False
        self._take(key)
        self._kept[key] = kept
        self._count += kept.elements
        self._make_room()
        return False

    def not_large(self, keys: Collection[bytes]) -> None:
        """Forget how far these keys were compared: none of them holds a large collection any more."""
        for key in self._begun.keys() & keys:
            self._take_begun(key)
        self._unfit.difference_update(keys)
        self._streams.not_large(keys)

    def unfit(self, key: bytes) -> None:
        """What was read could not be compared: the site holds another type, or the ancestor says that it had it."""
        self._unfit.add(key)

    def _to_go_on(self, key: bytes, large: LargeState, epoch: int) -> Begun | None:
        """Where to go on comparing a collection piece by piece; None: it is to be read at once."""
        begun = self._take_begun(key)
        if not self._goes_in_pieces(key, large):
            return None
        if begun is None or (begun.epoch, begun.type) != (epoch, large.type):
            return Begun(epoch, large.type, _shape(large.count), sections=() if large.count <= _KEPT else None)
        return begun

    def _goes_in_pieces(self, key: bytes, large: LargeState) -> bool:
        """Whether a collection is to be compared piece by piece."""
        core, unfit = self._core, key in self._unfit
        self._unfit.discard(key)
        return (
            not unfit
            and self._sides is not None
            and large.count > 2 * self._piece
            and core.options.initial_sync == "both"  # by another, it counts whether anything was agreed about the key
            and core.continuity.kept_all  # what a server may have lost concerns the key as a whole
        )

    async def _is_as_agreed(self, key: bytes) -> bool:
        """Whether both sides hold what was agreed on about a key, and nothing else can be there."""
        known = (await self._store.lookup((key,))).get(key)
        if self._sides is None or known is None or known.digest is None:
            return False
        if known.intents or known.element_intents or known.applied or known.element_applied:
            return False
        for side in SIDES:
            (look,) = await self._sides[side].looks((key,))
            if look.digest != known.digest:
                return False
            if "expire" in self._core.policy.kinds and expiries_differ(look.expires_at_ms, known.expires_at_ms):
                return False
        return True

    def _take(self, key: bytes) -> Kept | None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._count -= kept.elements
        return kept

    def _note_begun(self, key: bytes, begun: Begun) -> None:
        self._take_begun(key)
        self._begun[key] = begun
        self._count += begun.elements
        self._make_room()

    def _take_begun(self, key: bytes) -> Begun | None:
        begun = self._begun.pop(key, None)
        if begun is not None:
            self._count -= begun.elements
        return begun

    def _make_room(self) -> None:
        """Keep something of no more than `_KEPT` elements, the latest ones."""
        while self._count > _KEPT and self._kept:
            self._take(next(iter(self._kept)))
        for key, begun in self._begun.items():
            if self._count <= _KEPT:
                break
            self._begun[key] = begun._replace(sections=None)  # it goes on, and is read once more when it changes
            self._count -= begun.elements

    async def _ask(self, question: Question) -> Elements:
        page = await self._hub.ask(question)
        if page is None or page.type != question.kind:
            raise ChangedError
        return page

    async def _pages(self, question: Question) -> AsyncGenerator[Elements]:
        """All sections, in their order, one page of them at least."""
        while True:
            page = await self._ask(question)
            yield page
            if not page.following:
                return
            question = question._replace(first=page.following)

    async def _whole(self, key: bytes, large: LargeState, epoch: int) -> Part:
        """All elements."""
        shape, size, passed = _shape(large.count), 0, 0
        found: dict[bytes, bytes] = {}
        sections: list[Known] = []
        async with aclosing(self._pages(Question(key, large.type, b"all", shape))) as pages:
            async for page in pages:
                for section in page.sections:
                    sections.append(_known(section))
                    found |= section.found
                    passed += len(section.found)
                    size += value_size(HashState(section.found))
                if passed > _OVERLAP * page.length:
                    raise ChangedError
                if size > _OVERLAP * self._max_value:
                    return Part(TOO_LARGE, None, page.time, None)
        if len(found) != page.length:  # it has changed meanwhile, or has no sections
            raise ChangedError
        state = HashState(found, page.expires_at_ms, large.type)
        if value_size(state) > self._max_value:
            return Part(TOO_LARGE, None, page.time, None)
        return Part(state, None, page.time, Kept(epoch, large.type, shape, sections))

    async def _next_piece(self, key: bytes, begun: Begun) -> Part:
        """The next elements, some sections of them."""
        opens, found, size = not begun.passed, dict[bytes, bytes](), 0
        self._note_begun(key, begun)  # should this fail, it is read again
        sections = None if begun.sections is None else list(begun.sections)
        first, passed = begun.first, begun.passed
        async with aclosing(self._pages(Question(key, begun.type, b"all", begun.shape, first))) as pages:
            async for page in pages:
                for section in page.sections:
                    found |= section.found
                    passed += len(section.found)
                    size += value_size(HashState(section.found))
                if sections is not None:
                    sections += map(_known, page.sections)
                first = page.following
                if passed > _OVERLAP * page.length:
                    raise ChangedError
                if len(found) >= self._piece or size >= _PIECE_BYTES:
                    break
        state = HashState(found, page.expires_at_ms, begun.type)
        done = begun._replace(first=first, passed=passed, sections=sections)
        return Part(state, list(found), page.time, None, begun=done, opens=opens)

    async def _differing(self, key: bytes, kept: Kept) -> Part | None:
        """The elements of sections that have changed; None: that is most of it."""
        digests: list[bytes] = []
        async with aclosing(self._pages(Question(key, kept.type, b"digests", kept.shape))) as pages:
            async for page in pages:
                digests += (section.digest for section in page.sections)
        changed = [number for number, known in enumerate(kept.sections) if known.digest != digests[number]]
        if len(changed) * _PART > len(digests):
            return None
        return await self._read(key, kept, changed, page)

    async def _read(self, key: bytes, kept: Kept, numbers: Sequence[int], page: Elements) -> Part | None:
        """The sections of these numbers, and what was there before and is not any more; `page` was read last."""
        found: dict[bytes, bytes] = {}
        sections = list(kept.sections)
        gone: set[int] = set()
        for start in range(0, len(numbers), MOST_SECTIONS):
            asked = numbers[start : start + MOST_SECTIONS]
            page = await self._ask(
                Question(key, kept.type, b"at", kept.shape, names=[b"%d" % number for number in asked])
            )
            for section, number in zip(page.sections, asked, strict=True):
                before, sections[number] = sections[number], _known(section)
                gone |= set(before.names).difference(sections[number].names)
                found |= section.found
        lost = list(await self._store.names(key, lambda name: crc32(name) in gone)) if gone else []
        if not gone <= set(map(crc32, lost)):
            return None
        for start in range(0, len(lost), MOST_NAMES):  # they may be in another section now, or be namesakes
            page = await self._ask(
                Question(key, kept.type, b"named", kept.shape, names=lost[start : start + MOST_NAMES])
            )
            found |= page.sections[0].found
        state = HashState(found, page.expires_at_ms, kept.type)
        now = kept._replace(sections=sections)
        return Part(state, list(dict.fromkeys([*found, *lost])), page.time, now, now.doubting(frozenset(numbers)))


def _shape(count: int) -> tuple[int, int]:
    """Of a collection of so many elements: digests of all sections take about as many bytes as three of them.

    So many are read for one write, for an element may be at the end of one section and in the next one, and a server
    that enlarges its table changes the order of elements in a few others.
    """
    sections = 1 << (count.bit_length() + 3) // 2
    return sections, count // sections


def _all_of(begun: Begun) -> Kept | None:
    """What may be kept of a collection of which all pieces were compared."""
    return None if begun.sections is None else Kept(begun.epoch, begun.type, begun.shape, begun.sections)


def _known(section: Section) -> Known:
    return Known(section.digest, array("I", map(crc32, section.found)))


class PartJob(FetchedJob):
    """What was fetched of one collection: see `FetchedJob`.

    Args:
        args: as there.
        names: of the elements that are compared.
        opens: the site may lack the collection, if nothing was agreed about it.
        before: how many entries of a stream were compared before these.
    """

    def __init__(self, *args: Any, names: Sequence[bytes], opens: bool = False, before: int = 0) -> None:
        super().__init__(*args)
        self._names = names
        self._opens = opens
        self._before = before
        self._kinds = {key: state.type for key, state in self._states.items() if isinstance(state, HashState)}

    def request(self, keys: Sequence[bytes]) -> Sequence[Sequence[bytes]]:
        """See `Job.request`."""
        (key,) = keys
        return self._site.part_request(key, self._kinds[key], self._names)

    async def changes(self, keys: Sequence[bytes], replies: Sequence[object]) -> Mapping[bytes, Sequence[Change]]:
        """See `Job.changes`."""
        (key,) = keys
        changes = await super().changes(keys, replies)
        if self._kinds.get(key) == "stream" and (end := self._site.end_of(replies)) is not None:
            last_id, length = end
            moves = any(isinstance(c, HashSet) and min(c.fields) < entry_name(last_id) for c in changes[key])
            if moves and length - self._before > _MOVED:
                raise UnfitError  # each piece that is inserted moves all that is behind it, so it is done at once
        return changes

    async def _held_by_site(self, keys: Sequence[bytes], replies: Sequence[object]) -> Sequence[State]:
        (key,) = keys
        held = self._site.part(self._kinds[key], self._names, replies)
        if held is None and not (self._opens and replies[0] == b"none" and not await self._store.lookup(keys)):
            raise UnfitError
        return [held]

    async def _lookup(self, keys: Sequence[bytes]) -> Mapping[bytes, Agreed]:
        return await self._store.lookup(keys, elements=True, names=dict.fromkeys(keys, self._names))
