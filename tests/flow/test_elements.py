"""Of a large collection only what differs is fetched: a real site, and a real server in the place of the hub."""

from __future__ import annotations

import contextlib

import pytest

from redisrepl.changes import Deleted, HashState, LargeState, StringSet
from redisrepl.engine.continuity import Event
from redisrepl.flow.applying import Applying
from redisrepl.flow.elements import LargeCollections
from redisrepl.local.address import parse_address
from redisrepl.local.apply import SiteWriter
from redisrepl.local.compare import SiteComparer
from redisrepl.local.connection import open_client
from redisrepl.local.read import SiteReader
from redisrepl.remote.fetch import Fetched
from redisrepl.wire.collections import COLLECTIONS, put_words
from redisrepl.wire.elements import ELEMENTS_SCRIPT, parse_elements
from testbed import RedisServer, eventually_async
from tests.flow.test_applying import World
from tests.tasks import beside

KEY = b"ns:large"
COUNT = 4000  # by then the server has moved all of them to a larger table: what is moved seems changed


@pytest.fixture(scope="module")
def servers():
    with RedisServer() as site, RedisServer() as hub:
        yield site, hub


class Elements:
    """`remote.elements.HubElements`, without HTTP; counts what is asked for and told."""

    def __init__(self, client):
        self.client = client
        self.readable = True
        self.refuses = False
        self.during = None
        self.asked, self.told = [], 0

    async def ask(self, question):
        if self.refuses:
            self.readable = False
            return None
        if self.during is not None:
            during, self.during = self.during, None
            during()
        items = self.client.execute_command("EVAL", ELEMENTS_SCRIPT, 0, *question.words(b"t"))
        page = parse_elements(items, b"t", question)
        self.asked.append(question.wanted)
        self.told += sum(len(section.found) for section in page.sections)
        return page


class LargeWorld(World):
    """A world whose hub is a server."""

    reads = Elements

    def __init__(self, servers, store, kind, piece=None, **options):
        super().__init__(servers[0], store, **options)
        self.kind, self.its = kind, COLLECTIONS[kind]
        self.at_site, self.at_hub = servers[0].client(), servers[1].client()
        self.at_site.flushall()
        self.at_hub.flushall()
        self.elements = self.reads(self.at_hub)
        self.whole, self.far = 0, None
        self.reader = SiteReader(self.client, self.reader._address, types=COLLECTIONS)
        more = {} if piece is None else {"sides": self.sides(servers), "piece": piece}
        self.applying = Applying(
            self.core,
            store,
            self,
            self.reader,
            SiteWriter(self.client, self.reader._address, b"us"),
            same_hub=self.same_hub,
            site_evicted=self.site_evicted,
            reach=self.reach,
            max_keys=8,
            retry={"attempts": None, "timeout": None, "wait_initial": 0.01, "wait_max": 0.05},
            elements=LargeCollections(self.core, store, self.elements, 1 << 20, least=1000, **more),
        )

    def sides(self, servers):
        """What tells digests; another server is asked like a site where there is no HTTP."""
        self.far = open_client(
            parse_address(f"redis://127.0.0.1:{servers[1].port}", flag="--raddr"), 5.0, connections=1
        )
        return {
            side: SiteComparer(client, self.reader._address, self.reader, expiries=True, types=COLLECTIONS)
            for side, client in (("site", self.client), ("hub", self.far))
        }

    def value(self, number):
        return {"hash": b"value %d" % number, "set": b"", "zset": b"%d" % number}[self.kind]

    def put(self, client, elements):
        client.execute_command(self.its.put, KEY, *put_words(self.kind, elements.items()))

    def held(self, client):
        return client.execute_command(self.its.read, KEY, *self.its.range)

    def equal(self):
        return self.elements_at(self.at_site) == self.elements_at(self.at_hub)

    def elements_at(self, client):
        flat = self.held(client)
        return set(flat) if self.kind == "set" else dict(zip(flat[::2], flat[1::2], strict=True))

    async def states(self, keys, large=0):
        """As the script would tell: here it is asked for one key."""
        flat = self.held(self.at_hub)
        count = len(flat) // (1 if self.kind == "set" else 2)
        at = self.at_hub.pexpiretime(KEY)
        expires_at_ms = at if at >= 0 else None
        if large and count > large:
            return Fetched({}, 1, {KEY: LargeState(self.kind, count, expires_at_ms)})
        self.whole += 1
        held = self.elements_at(self.at_hub)
        elements = dict.fromkeys(held, b"") if self.kind == "set" else held
        return Fetched(dict.fromkeys(keys, HashState(elements, expires_at_ms, self.kind) if flat else None), 1)

    async def announced(self, *, suspect=False):
        """The key was announced, and everything is done about it; how many elements that took."""
        self.elements.asked.clear()
        self.elements.told = 0
        self.dirty(KEY, suspect=suspect)
        await self.applying.idle()
        self.expected.void([KEY])  # nobody reads the stream
        return self.elements.told

    async def comes_to_an_end(self, *, suspect=False, after_piece=lambda _number: None):
        """The key was announced, and the site's stream shows each piece; returns how many elements each piece has."""
        self.dirty(KEY, suspect=suspect)
        pieces, applied = [], self.inbound.counters.applied

        def went_on():
            nonlocal applied
            if self.inbound.counters.applied > applied:
                applied = self.inbound.counters.applied
                pieces.append(len(self.elements_at(self.at_site)) - sum(pieces))
                after_piece(len(pieces))
            self.expected.void([KEY])
            self.applying.wake()
            return not self.inbound.in_progress

        await eventually_async(went_on)
        return pieces


@contextlib.asynccontextmanager
async def running(world):
    """A world in which changes are applied."""
    try:
        async with beside(world.applying.run()):
            yield world
    finally:
        await world.client.aclose()
        if world.far is not None:
            await world.far.aclose()


@pytest.fixture
def worlds(servers, store):
    def run(kind, **options):
        world = LargeWorld(servers, store, kind, **options)
        elements = {b"element %d" % number: world.value(number) for number in range(COUNT)}
        world.put(world.at_hub, elements)
        return running(world)

    return run


@pytest.mark.parametrize("kind", ["hash", "set", "zset"])
async def test_what_changes_of_a_large_collection_is_all_that_is_fetched(worlds, kind):
    async with worlds(kind) as world:
        assert await world.announced() >= COUNT
        assert world.equal()

        world.put(world.at_hub, {b"new": world.value(7)})
        if kind != "set":
            world.put(world.at_hub, {b"element 5": world.value(1_000_000)})
        world.at_hub.execute_command(world.its.remove, KEY, b"element 6", b"element 7")
        world.at_hub.pexpireat(KEY, 4_102_444_800_000)
        assert 0 < await world.announced() < COUNT // 4
        assert world.equal()
        assert world.at_site.pexpiretime(KEY) == 4_102_444_800_000

        world.put(world.at_hub, {b"element 8": world.value(2_000_000), b"newer": world.value(9)})
        assert 0 < await world.announced() < COUNT // 4  # what was found then is known now
        assert world.equal()

        world.at_hub.persist(KEY)
        assert await world.announced() < COUNT // 4  # the server may still be moving elements to a larger table
        assert world.at_site.pexpiretime(KEY) == -1
        assert world.whole == 0
        assert not world.inbound.in_progress


async def test_all_is_fetched_where_little_is_known(worlds):
    async with worlds("hash") as world:
        await world.announced()
        assert await world.announced() < COUNT // 4
        world.core.continuity.happened("hub", Event.ATTACHED)  # something may have been missed
        world.core.continuity.happened("hub", Event.RESUMED)
        assert await world.announced() >= COUNT


async def test_a_suspect_key_is_compared_as_a_whole(worlds):
    async with worlds("hash") as world:
        await world.announced()
        world.at_site.hdel(KEY, "element 9")  # as if nobody had seen it
        assert await world.announced() < COUNT // 4
        assert await world.announced(suspect=True) >= COUNT
        assert KEY in world.core.outbound.doubtful  # the hub is to lose it too


async def test_what_the_site_does_not_hold_any_more_is_compared_as_a_whole(worlds):
    async with worlds("hash") as world:
        await world.announced()
        world.at_site.delete(KEY)
        world.put(world.at_hub, {b"element 5": b"x"})
        assert await world.announced() >= COUNT
        assert world.equal()


async def test_a_collection_that_has_become_another_type_is_fetched_as_what_it_is(worlds):
    async with worlds("set") as world:
        await world.announced()
        world.at_hub.delete(KEY)
        await world.announced()
        assert not world.at_site.exists(KEY)
        assert world.whole == 1


async def test_a_collection_whose_values_are_too_large_is_left_out(worlds):
    async with worlds("hash") as world:
        world.put(world.at_hub, {b"element %d" % number: bytes(1000) for number in range(COUNT)})
        assert await world.announced() > 1000
        assert await world.announced() == 0  # it is known now
        world.put(world.at_hub, {b"element %d" % number: b"" for number in range(COUNT)})
        assert not world.at_site.exists(KEY)
        assert await world.announced(suspect=True) >= COUNT
        assert world.equal()
        assert not world.inbound.in_progress


async def test_where_the_script_is_refused_collections_are_fetched_as_a_whole(worlds):
    async with worlds("zset") as world:
        world.elements.refuses = True
        for _ in range(2):
            assert await world.announced() == 0
            assert world.equal()
            world.put(world.at_hub, {b"new": world.value(7)})
        assert world.whole == 2


async def test_most_of_it_having_changed_all_is_fetched(worlds):
    async with worlds("hash") as world:
        await world.announced()
        world.put(world.at_hub, {b"element %d" % number: b"x" for number in range(0, COUNT, 10)})
        assert await world.announced() >= COUNT
        assert world.equal()


async def test_sections_of_which_not_all_was_applied_are_read_again(worlds):
    async with worlds("hash") as world:
        await world.announced()
        world.put(world.at_hub, {b"own": b"of the hub", b"element 5": b"x"})
        world.elements.during = lambda: world.inbound.changed_at_site((KEY,), {b"own"})
        world.dirty(KEY)
        await eventually_async(lambda: world.inbound.counters.applied == 2)
        assert world.at_site.hmget(KEY, "own", "element 5") == [None, b"x"]
        world.expected.void([KEY])
        assert 0 < await world.announced() < COUNT // 4
        assert world.equal()


PIECE = 500


@pytest.mark.parametrize("kind", ["hash", "set", "zset"])
@pytest.mark.parametrize("suspect", [False, True])
async def test_a_very_large_collection_arrives_in_pieces_and_both_sides_are_agreed_on_all_of_it(worlds, kind, suspect):
    async with worlds(kind, piece=PIECE) as world:
        pieces = await world.comes_to_an_end(suspect=suspect)
        assert sum(pieces) == COUNT
        assert len(pieces) > 1  # one run of the script tells of 4,000 words at least
        assert world.equal()
        assert len((await world.store.lookup([KEY], elements=True))[KEY].elements) == COUNT
        assert await world.announced(suspect=True) == 0  # digests alone
        world.put(world.at_hub, {b"new": world.value(7)})
        assert 0 < await world.announced() < COUNT // 4
        assert world.equal()


async def test_an_expiry_that_was_reckoned_is_no_reason_to_read_all_of_it_again(worlds):
    async with worlds("hash", piece=PIECE) as world:
        world.at_site.execute_command("ACL", "SETUSER", "default", "-pexpiretime")
        try:
            world.at_hub.pexpireat(KEY, 4_102_444_800_000)
            await world.comes_to_an_end()
            assert world.at_site.ttl(KEY) > 0
            assert await world.announced(suspect=True) == 0
            world.at_hub.pexpireat(KEY, 4_102_444_900_000)
            await world.comes_to_an_end(suspect=True)
        finally:
            world.at_site.execute_command("ACL", "SETUSER", "default", "+pexpiretime")
        assert world.at_site.pexpiretime(KEY) == 4_102_444_900_000


async def feed_goes_on(world):
    """Whether news of another key is taken as it is, and what is older than the comparison of this one is not."""
    (before, rest), other = world.at_hub.time(), b"ns:other"
    await world.comes_to_an_end(suspect=True)
    assert not world.inbound.in_progress
    world.inbound.feed(before * 1_000_000 + rest, [Deleted(KEY)], 0.0)
    seconds, rest = world.at_hub.time()
    world.inbound.feed(seconds * 1_000_000 + rest + 1, [StringSet(other, b"told")], 0.0)
    world.applying.wake()
    await world.applying.idle()
    world.expected.void([other])
    assert world.at_site.exists(KEY)
    return world.inbound.counters.fed == 1 and world.at_site.get(other) == b"told"


async def test_a_collection_that_was_compared_in_pieces_leaves_the_feed_of_other_keys_as_it_was(worlds):
    async with worlds("hash", piece=PIECE) as world:
        assert await feed_goes_on(world)
        world.at_site.delete("ns:other")
        world.inbound.counters.fed = 0
        assert await feed_goes_on(world)  # digests alone are compared


async def test_a_collection_that_is_gone_once_its_digests_were_compared_is_removed(worlds):
    async with worlds("hash", piece=PIECE) as world:
        await world.comes_to_an_end()
        looks = world.elements.ask

        async def ask(question):
            world.at_hub.delete(KEY)
            return await looks(question)

        world.elements.ask = ask
        await world.announced(suspect=True)
        assert not world.at_site.exists(KEY)


def names_kept(large):
    """Of how many elements something is in memory."""
    kept = [*large._kept.values(), *large._begun.values()]
    return sum(len(known.names) for each in kept for known in each.sections or ())


async def test_many_that_are_compared_side_by_side_are_kept_no_more_of_than_of_one(worlds, monkeypatch):
    """And those that there is no room for come to an end likewise: all of them is read once."""
    monkeypatch.setattr("redisrepl.flow.elements._KEPT", most := 2 * COUNT)
    async with worlds("set", piece=PIECE) as world:
        large, keys = world.applying._elements, [b"ns:large:%d" % number for number in range(4)]
        for key in keys:
            world.at_hub.copy(KEY, key)
        state, passed = LargeState("set", COUNT, None), dict.fromkeys(keys, 0)
        while waiting := [key for key in keys if passed[key] < COUNT]:
            for key in waiting:
                part = await large.read(key, state, suspect=False)
                assert large.keep(key, part, complete=True)
                passed[key] = part.begun.passed
                assert names_kept(large) <= most
        assert names_kept(large) > most // 2
        assert large._count == names_kept(large)


async def test_a_collection_of_more_elements_than_are_kept_leaves_what_is_kept_of_others(worlds, monkeypatch):
    async with worlds("set", piece=PIECE) as world:
        await world.comes_to_an_end()
        kept = names_kept(large := world.applying._elements)
        monkeypatch.setattr("redisrepl.flow.elements._KEPT", kept)
        world.at_hub.copy(KEY, other := b"ns:larger")
        part = await large.read(other, LargeState("set", kept + 1, None), suspect=False)
        assert large.keep(other, part, complete=True)
        assert names_kept(large) == kept > 0


async def test_of_a_collection_that_is_gone_nothing_is_kept(worlds):
    async with worlds("hash", piece=PIECE) as world:

        def after_piece(number):
            if number == 1:
                assert world.applying._elements._begun
                world.at_hub.delete(KEY)

        await world.comes_to_an_end(after_piece=after_piece)
        assert not world.at_site.exists(KEY)
        assert not world.applying._elements._begun
        assert not world.applying._elements._count


async def test_a_collection_is_in_doubt_until_its_last_piece_is_compared(worlds):
    """Else what was sent of it without an answer would be forgotten after the first, and pass for somebody else's."""
    async with worlds("set", piece=PIECE) as world:
        world.put(world.at_site, dict.fromkeys(world.elements_at(world.at_hub), b""))
        turn, in_doubt = world.applying._writer.turn, []

        @contextlib.asynccontextmanager
        async def watched(*arguments):
            async with turn(*arguments) as opened:
                yield opened
            in_doubt.append(world.inbound.compares)  # the connection is put back: others have their turn

        world.applying._writer.turn = watched
        await world.comes_to_an_end(suspect=True)
        assert len(in_doubt) > 2
        assert all(in_doubt[:-1])
        assert not world.inbound.compares


async def test_what_changes_between_two_pieces_is_not_lost_and_no_removal_is_undone(worlds):
    async with worlds("hash", piece=PIECE) as world:

        def after_piece(number):
            if number == 1:
                world.removed = next(iter(world.elements_at(world.at_site)))
                world.at_hub.hdel(KEY, world.removed)  # nobody announces it
            if number == 2:  # the links are made anew
                for side in ("site", "hub"):
                    world.core.continuity.happened(side, Event.ATTACHED)
                    world.core.continuity.happened(side, Event.RESUMED)
                world.put(world.at_hub, {b"new": b"of the hub"})

        pieces = await world.comes_to_an_end(suspect=True, after_piece=after_piece)
        assert len(pieces) > 2
        assert world.equal()
        held = (await world.store.lookup([KEY], elements=True))[KEY]
        assert world.removed not in held.elements
        assert world.removed not in world.elements_at(world.at_site)


async def test_what_the_site_alone_has_is_found_in_the_end(worlds):
    async with worlds("hash", piece=PIECE) as world:
        world.put(world.at_site, {b"own": b"of the site", b"element 7": b"x"})
        await world.comes_to_an_end(suspect=True)
        assert world.at_site.hlen(KEY) == COUNT + 1
        assert world.at_site.hget(KEY, "element 7") == world.value(7)  # the hub wins
        assert KEY in world.core.outbound.doubtful
        assert [change.fields for change in world.core.outbound.doubtful.take(10, 1 << 20)] == [{b"own": None}]


async def test_a_collection_that_the_site_has_removed_between_two_pieces_is_compared_as_a_whole(worlds):
    async with worlds("hash", piece=PIECE) as world:
        removed = {}

        def after_piece(number):
            if number == 2:
                removed.update(world.elements_at(world.at_site))
                world.at_site.delete(KEY)

        await world.comes_to_an_end(suspect=True, after_piece=after_piece)
        assert len(removed) > PIECE
        assert world.elements_at(world.at_site).keys() == world.elements_at(world.at_hub).keys() - removed.keys()
