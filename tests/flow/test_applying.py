"""Fetch, compare, apply: against a real site, with a hub that says what the test wants."""

import asyncio
import contextlib
import socket
import sys
import time
from functools import partial

import pytest

from redisrepl.changes import (
    KINDS,
    ExpirySet,
    HashSet,
    HashState,
    Invalidated,
    Position,
    StringSet,
    StringState,
    carries_groups,
    types_of,
)
from redisrepl.engine.ancestor import note_state
from redisrepl.engine.continuity import Continuity, Event, SideState
from redisrepl.engine.core import Core, CoreOptions
from redisrepl.engine.following import Following
from redisrepl.engine.losers import ConflictLoss
from redisrepl.engine.losses import Findings
from redisrepl.engine.streamedkeys import StreamedKeys
from redisrepl.errors import LinkLostError
from redisrepl.flow.applying import Applying
from redisrepl.flow.reach import StreamReach
from redisrepl.local.address import parse_address
from redisrepl.local.apply import SiteWriter
from redisrepl.local.connection import open_client
from redisrepl.local.read import SiteReader
from redisrepl.opening import keep_loss
from redisrepl.remote.fetch import Fetched
from redisrepl.store import Facts
from redisrepl.store.conflicts import Conflicts
from redisrepl.wire.digests import digest_of, elements_of
from redisrepl.wire.entries import LAST_ID, entry_name, entry_value
from redisrepl.wire.groups import place_name
from testbed import RedisServer, eventually_async
from tests.samples import write
from tests.tasks import beside

KEY, OTHER = b"ns:key", b"ns:other"


@pytest.fixture(scope="module")
def server():
    with RedisServer() as server:
        yield server


@pytest.fixture
def at_site(server):
    client = server.client()
    client.flushall()
    return client


class Reader(SiteReader):
    """A reader whose answer the test can hold up."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.asked = []
        self.read_again = 0

    async def first_states(self, keys, max_bytes):
        self.read_again += 1
        return await super().first_states(keys, max_bytes)

    async def states(self, keys, replies, large):
        states = await super().states(keys, replies, large)
        self.asked.append(list(keys))
        await self.go_on.wait()
        return states


def settled():
    return SideState(followed=True, judged=True, settled=True)


class World:
    """The parts of a pull; the hub holds `hub`, and the site's stream is read as far as `following` says."""

    def __init__(self, server, store, kinds=KINDS, winner="hub", linger=0.0, initial_sync="both"):
        address = parse_address(f"redis://127.0.0.1:{server.port}", flag="--raddr")
        self.client = open_client(address, 5.0, connections=2)
        self.hub = {}
        self.following = Following(read_to=sys.maxsize)
        self.is_same_hub = True
        self.evicts = False
        self.hub_time = 1
        self.fetched_at_most = 8
        self.store = store
        self.lost = []
        self.core = Core(
            lambda key: key.startswith(b"ns:"),
            kinds,
            options=CoreOptions(winner=winner, initial_sync=initial_sync, expectations=1000),
            continuity=Continuity(settled(), settled()),
            keep=self.lost.append,
        )
        self.expected, self.inbound = self.core.expected_local, self.core.inbound
        self.reader = Reader(self.client, address, types=types_of(kinds))
        self.reach = StreamReach(self.following, self.core.continuity)
        self.applying = Applying(
            self.core,
            store,
            self,
            self.reader,
            SiteWriter(self.client, address, b"us", groups=carries_groups(kinds)),
            same_hub=self.same_hub,
            site_evicted=self.site_evicted,
            reach=self.reach,
            max_keys=8,
            linger=linger,
            retry={"attempts": None, "timeout": None, "wait_initial": 0.01, "wait_max": 0.05},
        )

    async def states(self, keys, large=0):  # noqa: ARG002
        return Fetched({key: self.hub.get(key) for key in keys[: self.fetched_at_most]}, self.hub_time)

    async def site_evicted(self):
        self.core.continuity.site.evicts |= self.evicts
        return False

    async def same_hub(self):
        return self.is_same_hub

    def dirty(self, *keys, suspect=False):
        (self.inbound.suspect if suspect else self.inbound.mark_dirty)(keys)
        self.applying.wake()

    def fail_next_write(self, error, *, executed):
        """The next write to the site ends with this error, and was executed or not."""
        write = self.applying._write

        async def fail(*args):
            self.applying._write = write
            if executed:
                await write(*args)
            raise error

        self.applying._write = fail

    def agree(self, key, state):
        facts = Facts()
        note_state(facts, key, state)
        self.store.agreed(facts)

    async def agreed(self, key=KEY):
        """The digest, fields and expiry that are agreed."""
        known = (await self.store.lookup([key], elements=True)).get(key)
        return None if known is None else (known.digest, known.elements, known.expires_at_ms)


@pytest.fixture
def running(store):
    """Starts a world on a server."""

    @contextlib.asynccontextmanager
    async def run(server, workers=1, **options):
        world = World(server, store, **options)
        try:
            async with beside(*(world.applying.run() for _ in range(workers))):
                yield world
        finally:
            await world.client.aclose()

    return run


def told(state, key=KEY):
    """What is agreed once both sides hold this."""
    elements = elements_of(state.fields) if isinstance(state, HashState) else None
    return digest_of(key, state), elements, state.expires_at_ms


def offset(client):
    return client.info("replication")["master_repl_offset"]


async def test_what_differs_is_written_and_its_echo_expected(server, at_site, running):
    at_site.hset(KEY, mapping={"same": "1", "old": "2"})
    async with running(server) as world:
        world.hub[KEY] = HashState({b"same": b"1", b"old": b"3"})
        world.dirty(KEY)
        await world.applying.idle()

        assert at_site.hgetall(KEY) == {b"same": b"1", b"old": b"3"}
        assert world.inbound.counters.applied == 1
        assert world.expected.holds(KEY)


async def test_what_was_found_equal_lies_where_the_stream_told_of_it_and_what_was_applied_where_the_site_is_then(
    server, at_site, running
):
    at_site.set(b"ns:equal", b"v")
    with socket.create_connection(("127.0.0.1", server.port)) as link:
        link.sendall(b"PSYNC ? -1\r\n")  # without a replica, the site does not count offsets
        await eventually_async(lambda: at_site.set(b"other", b"v") and offset(at_site))
    async with running(server) as world:

        class Keys(StreamedKeys):
            def offsets(self, keys):
                world.following.read_to = 0  # what is applied from now on, the stream has yet to show
                return dict.fromkeys(keys, 1)

        streamed = Keys()
        streamed.history = "history"
        world.reach._keys = lambda: streamed
        world.hub = {b"ns:equal": StringState(b"v"), b"ns:applied": StringState(b"v")}
        world.dirty(*world.hub, suspect=True)
        await world.applying.idle()
        since, now = partial(world.store.agreed_since, 0, most=9), offset(at_site)
        assert await since(Position("history", now)) == {}
        assert (await since(Position("history", now - 1))).keys() == {b"ns:applied"}  # shown by the end of it
        assert (await since(Position("history", 1))).keys() == {b"ns:applied"}
        assert (await since(Position("history", 0))).keys() == world.hub.keys()


async def test_a_stream_in_which_an_entry_that_came_back_is_pending_is_compared(server, at_site, running):
    """Redis kept it pending while it was gone; so the hub knows of nothing that is pending."""
    for number in (1, 2):
        at_site.xadd(KEY, {"f": "v"}, id=f"{number}-0")
    at_site.xgroup_create(KEY, "g", "0")
    at_site.xreadgroup("g", "c", {KEY: ">"})
    at_site.xack(KEY, "g", "2-0")
    at_site.xdel(KEY, "1-0")
    value = entry_value([b"f", b"v"])
    entries = {entry_name(b"1-0"): value, entry_name(b"2-0"): value, LAST_ID: b"2-0"}
    async with running(server, kinds=KINDS | {"streams-groups"}) as world:
        world.hub[KEY] = HashState(entries | {place_name(b"g"): b"2-0"}, None, "stream")
        world.dirty(KEY)
        await eventually_async(lambda: world.inbound.counters.applied)
        assert world.inbound.dirty == {KEY: True}
    assert [row["message_id"] for row in at_site.xpending_range(KEY, "g", "-", "+", 9)] == [b"1-0"]


# With the ancestor.

A, B, C = StringState(b"a"), StringState(b"b"), StringState(b"c")


@pytest.mark.parametrize(
    ("site", "hub", "ancestor", "suspect", "site_after", "pushed"),
    [
        # What differs is applied, without asking for the ancestor, where the hub lacks nothing.
        (A, B, A, False, B, False),
        (C, B, A, False, B, False),
        # What the hub lacks was removed there, or never was.
        (A, None, A, False, None, False),
        (C, None, A, False, C, True),
        (A, None, None, False, A, True),
        # What may have changed on both sides is compared as a whole.
        (B, A, A, True, B, True),
        (A, B, A, True, B, False),
        (None, A, A, True, None, True),
        (None, B, A, True, B, False),
        (A, A, A, True, A, False),
    ],
)
async def test_what_is_fetched_is_compared_with_what_was_agreed(  # noqa: PLR0913, PLR0917 - a table
    server, at_site, running, site, hub, ancestor, suspect, site_after, pushed
):
    if site is not None:
        at_site.set(KEY, site.value)
    async with running(server) as world:
        world.hub = {KEY: hub}
        world.agree(KEY, ancestor)
        world.dirty(KEY, suspect=suspect)
        await world.applying.idle()

        assert at_site.get(KEY) == (None if site_after is None else site_after.value)
        assert world.core.outbound.doubtful.take(10, 1000) == ([Invalidated(KEY, replaces=True)] if pushed else [])
        if not pushed:
            assert await world.agreed() == (None if site_after is None else told(site_after))


async def test_a_field_that_was_removed_at_the_hub_is_removed_and_one_that_is_new_here_is_pushed(
    server, at_site, running
):
    at_site.hset(KEY, mapping={"f": 1, "gone": 1, "new": 1})
    async with running(server) as world:
        world.agree(KEY, HashState({b"f": b"1", b"gone": b"1"}))
        world.hub = {KEY: HashState({b"f": b"1"})}
        world.dirty(KEY)
        await world.applying.idle()

        assert at_site.hgetall(KEY) == {b"f": b"1", b"new": b"1"}
        (push,) = world.core.outbound.doubtful.take(10, 1000)
        assert push.fields == {b"new": None}
        assert await world.agreed() == told(HashState({b"f": b"1"}))


@pytest.mark.parametrize("state", [A, HashState({b"f": b"1"}), HashState({b"f": b"1"}, 4_000_000_000_000)])
async def test_what_both_have_come_to_hold_is_agreed(server, at_site, running, state):
    write(at_site, KEY, state)
    async with running(server) as world:
        world.hub = {KEY: state}
        world.dirty(KEY, suspect=True)
        await world.applying.idle()

        assert world.inbound.counters.equal == 1
        assert await world.agreed() == told(state)


async def test_that_values_agree_is_noted_before_the_expiry_that_is_applied(server, at_site, running):
    at_site.set(KEY, "a")
    async with running(server) as world:
        world.hub = {KEY: StringState(b"a", 4_000_000_000_000)}
        world.dirty(KEY, suspect=True)
        await world.applying.idle()

        assert at_site.pexpiretime(KEY) == 4_000_000_000_000
        assert await world.agreed() == told(StringState(b"a", 4_000_000_000_000))


async def test_what_the_hub_refused_of_a_key_is_not_undone_by_what_it_announces_of_it(server, at_site, running):
    """A client of the site removed a field, which the hub did not let us do; another one was added there since."""
    at_site.hset(KEY, "kept", "1")
    async with running(server) as world:
        world.agree(KEY, HashState({b"kept": b"1", b"removed": b"2"}))
        world.core.outbound.refusals.name(KEY, "NOPERM")
        world.hub = {KEY: HashState({b"kept": b"1", b"removed": b"2", b"new": b"3"})}
        world.dirty(KEY)
        await world.applying.idle()
        assert at_site.hgetall(KEY) == {b"kept": b"1", b"new": b"3"}


async def test_until_the_site_is_settled_everything_is_compared_with_what_was_agreed(server, at_site, running):
    at_site.set(KEY, "b")
    async with running(server) as world:
        world.core.continuity.site.settled = False
        world.agree(KEY, A)
        world.hub = {KEY: A}
        world.dirty(KEY)
        await world.applying.idle()

        assert at_site.get(KEY) == b"b"
        assert KEY in world.core.outbound.doubtful


@pytest.mark.parametrize("found", ["no", "before", "after", "while fetched"])
@pytest.mark.parametrize("ways", ["none", "push"])
async def test_what_the_hub_announces_did_not_stand_there_at_first_contact(server, at_site, running, ways, found):
    """Also if the first comparison, which is under way, finds the key too."""
    async with running(server, initial_sync=ways) as world:
        world.core.continuity.site.settled = world.core.continuity.hub.settled = False
        world.hub = {KEY: A, OTHER: A}
        world.inbound.suspect([OTHER, *([KEY] if found == "before" else ())])
        world.inbound.events([(KEY, b"set")])
        if found == "while fetched":
            assert KEY in world.inbound.take(9)
            world.inbound.suspect([KEY])
            world.inbound.put_back([OTHER, KEY])
        world.inbound.suspect([KEY] if found == "after" else ())
        world.applying.wake()
        await world.applying.idle()

        assert (at_site.get(KEY), at_site.get(OTHER)) == (b"a", None)


@pytest.mark.parametrize("ways", ["none", "push"])
async def test_a_field_that_the_hub_writes_later_reaches_a_hash_that_has_always_been_another(
    server, at_site, running, ways
):
    at_site.hset(KEY, "own", "s")
    async with running(server, initial_sync=ways) as world:
        world.hub = {KEY: HashState({b"old": b"h", b"new": b"h"})}
        world.inbound.events([(KEY, b"hset")])
        world.applying.wake()
        await world.applying.idle()

        assert at_site.hgetall(KEY) == {b"own": b"s", b"old": b"h", b"new": b"h"}


@pytest.mark.parametrize("winner", ["hub", "site"])
async def test_of_a_conflict_the_loser_is_kept(server, at_site, running, winner):
    at_site.set(KEY, "b")
    async with running(server, winner=winner) as world:
        world.agree(KEY, A)
        world.hub = {KEY: C}
        world.dirty(KEY, suspect=True)
        await world.applying.idle()

        assert at_site.get(KEY) == (b"c" if winner == "hub" else b"b")
        assert world.lost == [ConflictLoss(KEY, winner, B if winner == "hub" else C)]


async def test_what_loses_is_kept_before_it_is_replaced(server, at_site, running):
    """Should a client replace it in that very moment, it is kept all the same, and so is what then loses."""
    at_site.set(KEY, "b")
    async with running(server) as world:
        world.reader.go_on.clear()
        world.agree(KEY, A)
        world.hub = {KEY: C}
        world.dirty(KEY, suspect=True)
        await eventually_async(lambda: world.reader.asked)
        at_site.set(KEY, "d")
        world.reader.go_on.set()
        await world.applying.idle()

        assert at_site.get(KEY) == b"c"
        assert world.lost == [ConflictLoss(KEY, "hub", B), ConflictLoss(KEY, "hub", StringState(b"d"))]


async def test_what_loses_is_on_disk_before_it_is_replaced(server, at_site, running, tmp_path):
    at_site.set(KEY, "b")
    conflicts = Conflicts(tmp_path / "x.conflicts", 1 << 20, 1, time.time)
    async with running(server) as world:
        world.core.losers._keep = partial(keep_loss, conflicts)
        put, on_disk = world.applying._write, []

        async def look(*args):
            on_disk.append(conflicts.kept)
            return await put(*args)

        world.applying._write = look
        world.agree(KEY, A)
        world.hub = {KEY: C}
        world.dirty(KEY, suspect=True)
        await eventually_async(lambda: at_site.get(KEY) == b"c")
    conflicts.close()
    assert on_disk == [1]


@pytest.mark.parametrize("error", [LinkLostError("lost"), asyncio.CancelledError()])
async def test_what_may_have_been_replaced_is_kept(server, at_site, running, error):
    """No answer came, so it may be in nobody's hands any more."""
    at_site.set(KEY, "b")
    async with running(server) as world:
        world.fail_next_write(error, executed=True)
        world.agree(KEY, A)
        world.hub = {KEY: C}
        world.dirty(KEY, suspect=True)
        await eventually_async(lambda: at_site.get(KEY) == b"c")
        assert world.lost == [ConflictLoss(KEY, "hub", B)]


@pytest.mark.parametrize("ancestor", [None, A])
async def test_of_a_conflict_whose_winner_was_not_applied_the_loser_is_no_newer(server, at_site, running, ancestor):
    """The next process knows that the winner was about to be applied; it must not take the loser for written since."""
    at_site.set(KEY, "b")
    async with running(server) as world:
        world.fail_next_write(LinkLostError("lost"), executed=False)
        if ancestor is not None:
            world.agree(KEY, ancestor)
        world.hub = {KEY: C}
        world.dirty(KEY, suspect=True)
        await eventually_async(lambda: at_site.get(KEY) == b"c")
        await world.applying.idle()
        assert not world.core.outbound.waiting


@pytest.mark.parametrize(("hours_ahead", "removed"), [(0, True), (2, False)])
async def test_what_has_expired_by_the_clock_of_the_hub_only_is_not_removed(
    server, at_site, running, hours_ahead, removed
):
    """It was gone at once at a hub whose clock is two hours ahead, and has an hour to live at the site."""
    expires_at_ms = int((time.time() + 3600) * 1000)
    at_site.set(KEY, "a", pxat=expires_at_ms)
    async with running(server) as world:
        world.agree(KEY, StringState(b"a", expires_at_ms))
        world.hub_time = int((time.time() + hours_ahead * 3600) * 1_000_000)
        world.dirty(KEY)
        await world.applying.idle()

        assert at_site.exists(KEY) != removed


@pytest.mark.usefixtures("at_site")
@pytest.mark.parametrize("evicts", [False, True])
async def test_before_the_hub_loses_what_the_site_lacks_the_site_is_asked_whether_it_evicts(server, running, evicts):
    async with running(server) as world:
        world.agree(KEY, A)
        world.hub, world.evicts = {KEY: A}, evicts
        world.dirty(KEY, suspect=True)
        await world.applying.idle()

        assert (world.core.outbound.waiting == 0) == evicts


async def test_what_became_of_earlier_pushes_is_known_before_anything_is_fetched(server, at_site, running):
    """What is agreed on after a fetch is newer than what they carried."""
    told = []
    async with running(server) as world:

        async def outcomes():
            told.append("outcomes")

        fetch = world.states

        async def states(keys, **about):
            told.append("fetch")
            return await fetch(keys, **about)

        world.applying._outcomes, world.states = outcomes, states
        world.hub[KEY] = A
        world.dirty(KEY)
        await world.applying.idle()

    assert told == ["outcomes", "fetch"]
    assert at_site.get(KEY) == A.value


async def test_an_entry_below_the_last_id_of_a_stream_leaves_that_agreed_on(server, at_site, running):
    one, three, value = entry_name(b"1-1"), entry_name(b"3-1"), entry_value([b"f", b"v"])
    at_site.xadd(KEY, {"f": "v"}, id="3-1")
    async with running(server) as world:
        world.agree(KEY, HashState({three: value, LAST_ID: b"3-1"}, None, "stream"))
        world.hub[KEY] = HashState({one: value, three: value, LAST_ID: b"3-1"}, None, "stream")
        world.dirty(KEY)
        await world.applying.idle()

        assert len(at_site.xrange(KEY)) == 2
        assert (await world.agreed())[1] == elements_of(world.hub[KEY].fields, "stream")


async def test_a_stream_to_which_the_site_adds_takes_the_last_id_of_a_later_entry_of_the_hub(server, at_site, running):
    one, two, three, value = *(entry_name(b"%d-1" % number) for number in (1, 2, 3)), entry_value([b"f", b"v"])
    for id_ in ("1-1", "2-1"):
        at_site.xadd(KEY, {"f": "v"}, id=id_)
    async with running(server) as world:
        world.agree(KEY, HashState({one: value, LAST_ID: b"1-1"}, None, "stream"))
        world.core.outbound.pending.add(HashSet(KEY, {two: value}, "stream"))
        world.hub[KEY] = HashState({one: value, three: value, LAST_ID: b"3-1"}, None, "stream")
        world.dirty(KEY)
        await eventually_async(lambda: world.inbound.counters.applied)

        assert at_site.xinfo_stream(KEY)["last-generated-id"] == b"3-1"
        assert (await world.agreed())[1] == elements_of(world.hub[KEY].fields, "stream")


async def test_nothing_is_removed_for_a_site_that_came_back_while_it_was_compared(server, at_site, running):
    """What it lacks until its history is known, nobody need have removed."""
    async with running(server) as world:
        world.hub[KEY] = A
        world.agree(KEY, A)
        world.reader.go_on.clear()
        world.dirty(KEY, suspect=True)
        await eventually_async(lambda: world.reader.asked)
        world.core.site_lost(8)
        world.core.site_attached()
        world.reader.go_on.set()
        await eventually_async(lambda: not world.applying._site_turn.locked())
        assert not world.core.outbound.waiting

        world.core.judged("site", Event.WENT_BACK, "restarted", Findings(proved=0))
        world.applying.wake()
        await world.applying.idle()
        assert not world.core.outbound.waiting
        assert at_site.get(KEY) == b"a"


@pytest.mark.parametrize("hub", [None, HashState({})])
async def test_nothing_is_removed_for_a_hub_that_is_another_server(server, at_site, running, hub):
    """It restarted empty, say, in the moment of the fetch."""
    state = A if hub is None else HashState({b"f": b"1", b"g": b"1"})
    write(at_site, KEY, state)
    async with running(server) as world:
        world.is_same_hub = False
        world.agree(KEY, state)
        world.hub = {KEY: None if hub is None else HashState({b"f": b"1"})}
        world.dirty(KEY)
        await eventually_async(lambda: world.applying.apply_failures.failures > 1)
        assert at_site.exists(KEY)
        assert KEY in world.inbound.dirty or world.inbound.in_progress

        world.is_same_hub = True
        await world.applying.idle()
        assert at_site.exists(KEY) == (hub is not None)
        assert at_site.type(KEY) == b"none" or at_site.hgetall(KEY) == {b"f": b"1"}


@pytest.mark.parametrize("side", ["site", "hub"])
async def test_nothing_is_fetched_before_both_histories_are_known(server, at_site, running, side):
    async with running(server) as world:
        state = world.core.continuity.of(side)
        state.judged = False
        world.hub = {KEY: A}
        world.dirty(KEY)
        world.inbound.feed(1, [StringSet(OTHER, b"told")], 0.0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert (world.inbound.counters.fetched, at_site.dbsize()) == (0, 0)
        state.judged = True
        world.applying.wake()
        await world.applying.idle()
        assert at_site.mget(KEY, OTHER) == [b"a", b"told"]


async def test_what_the_feed_told_is_applied_and_agreed(server, at_site, running):
    async with running(server) as world:
        world.inbound.feed(1, [StringSet(KEY, b"a"), ExpirySet(KEY, 4_000_000_000_000)], 0.0)
        world.applying.wake()
        await world.applying.idle()

        assert (at_site.get(KEY), world.inbound.counters.fetched) == (b"a", 0)
        assert await world.agreed() == told(StringState(b"a", 4_000_000_000_000))


async def test_what_the_site_refuses_is_not_agreed(server, at_site, running):
    async with running(server) as world:
        world.hub = {KEY: HashState({b"f": b"1"}), OTHER: A}
        read = world.reader.states

        async def states(keys, replies, large):
            return [None for _ in await read(keys, replies, large)]  # it does not see the list

        world.reader.states = states
        at_site.rpush(KEY, "x")
        world.dirty(KEY, OTHER)
        await world.applying.idle()

        assert (at_site.type(KEY), at_site.get(OTHER)) == (b"list", b"a")
        assert world.inbound.counters.failed == 1
        assert (await world.agreed(), await world.agreed(OTHER)) == (None, told(A, OTHER))


# At the site.


async def test_few_keys_are_watched_at_a_time_however_many_are_fetched(server, at_site, running, monkeypatch):
    """Redis compares each key to be watched with all that are watched already."""
    monkeypatch.setattr("redisrepl.flow.applying._WATCHED", 3)
    async with running(server) as world:
        keys = [b"ns:%d" % number for number in range(8)]
        world.hub |= dict.fromkeys(keys, StringState(b"v"))
        world.dirty(*keys)
        await world.applying.idle()

        assert at_site.mget(keys) == [b"v"] * 8
        assert [len(asked) for asked in world.reader.asked] == [3, 3, 2]


async def apply_another(world):
    """The first apply takes one round trip more: it finds out whether the site allows transactions."""
    world.hub[b"ns:another"] = StringState(b"v")
    world.dirty(b"ns:another")
    await world.applying.idle()


async def test_what_the_site_holds_is_read_in_the_round_trip_that_watches_it(server, at_site, running):
    at_site.set(KEY, "old")
    async with running(server) as world:
        await apply_another(world)
        world.hub[KEY] = StringState(b"new")
        with at_site.monitor() as monitor:
            world.dirty(KEY)
            await world.applying.idle()
            seen = iter(lambda: monitor.next_command()["command"].split()[0], "EXEC")

            said = [word for word in seen if word in {"WATCH", "INFO", "EVAL", "MULTI"}]
            assert said == ["WATCH", "INFO", "EVAL", "MULTI"]
        assert world.reader.read_again == 0


LARGE = {b"field:%d" % number: b"%d" % number for number in range(600)}


async def test_a_large_hash_is_read_by_itself_and_not_in_a_script(server, at_site, running):
    """A script takes five times as long, and holds up the clients of the site."""
    at_site.hset(KEY, mapping=LARGE | {b"field:7": b"old"})
    at_site.set(OTHER, "old")
    async with running(server) as world:
        await apply_another(world)
        world.hub |= {KEY: HashState(LARGE), OTHER: StringState(b"new")}
        with at_site.monitor() as monitor:
            world.dirty(KEY, OTHER)
            await world.applying.idle()
            seen = [monitor.next_command()["command"]]
            while seen[-1] != "EXEC":
                seen.append(monitor.next_command()["command"])

        assert at_site.hgetall(KEY) == LARGE
        assert at_site.get(OTHER) == b"new"
        (script,) = [command for command in seen if command.startswith("EVAL ")]
        assert script.split()[-1] == OTHER.decode()
        assert "HSET ns:key field:7 7" in seen
        assert world.reader.read_again == 0


@pytest.mark.parametrize("kind", ["none", "string", "hash", "list"])
@pytest.mark.parametrize("version", ["7", "6"])
async def test_what_is_a_large_hash_at_the_hub_may_be_anything_at_the_site(running, kind, version):
    renamed = {"rename-command": 'PEXPIRETIME ""'} if version == "6" else {}  # which has no such command
    with RedisServer(config=renamed) as server:
        at_site = server.client()
        match kind:
            case "string":
                at_site.set(KEY, "old")
            case "hash":
                at_site.hset(KEY, mapping=LARGE | {b"field:7": b"old", b"more": b"1"})
                at_site.pexpireat(KEY, 4_000_000_000_000)
            case "list":
                at_site.rpush(KEY, "old")
        async with running(server) as world:
            world.hub[KEY] = HashState(LARGE)
            world.dirty(KEY)
            await world.applying.idle()

            assert at_site.hgetall(KEY) == LARGE | ({b"more": b"1"} if kind == "hash" else {})


async def test_what_does_not_fit_into_that_reply_is_read_too(server, at_site, running, monkeypatch):
    monkeypatch.setattr("redisrepl.local.read._MAX_REPLY", 1)
    async with running(server) as world:
        keys = [b"ns:%d" % number for number in range(5)]
        at_site.mset(dict.fromkeys(keys, b"old"))
        world.hub |= dict.fromkeys(keys, StringState(b"new"))
        world.dirty(*keys)
        await world.applying.idle()

        assert at_site.mget(keys) == [b"new"] * 5
        assert world.reader.read_again == 4


async def test_a_site_that_allows_no_scripts_is_read_without(server, at_site, running):
    at_site.execute_command("ACL", "SETUSER", "default", "-eval")
    try:
        async with running(server) as world:
            for value in (b"1", b"2"):
                world.hub[KEY] = StringState(value)
                world.dirty(KEY)
                await eventually_async(lambda value=value: at_site.get(KEY) == value)
                world.expected.void([KEY])  # nobody reads the stream
            assert not world.applying.apply_failures.failures
    finally:
        at_site.execute_command("ACL", "SETUSER", "default", "+eval")


async def test_news_wakes_one_of_those_who_wait_for_work(server, at_site, running):
    async with running(server, workers=16) as world:
        world.hub = {OTHER: StringState(b"first"), KEY: StringState(b"second")}
        world.dirty(OTHER)
        await world.applying.idle()
        looks, take = [], world.inbound.take
        world.inbound.take = lambda most: looks.append(most) or take(most)
        world.dirty(KEY)
        await world.applying.idle()

        assert at_site.get(KEY) == b"second"
        assert 0 < len(looks) < 8


async def test_batches_are_moved_side_by_side(server, at_site, running):
    async with running(server, workers=4) as world:
        asked, go_on = [], asyncio.Event()

        async def states(keys, large=0):  # noqa: ARG001
            asked.append(len(keys))
            await go_on.wait()
            return Fetched(dict.fromkeys(keys, StringState(b"v")), 1)

        world.applying._hub.states = states
        world.dirty(*(b"ns:%d" % number for number in range(40)))
        await eventually_async(lambda: len(asked) == 4)
        go_on.set()
        await world.applying.idle()

        assert asked == [8] * 5
        assert at_site.dbsize() == 40


async def test_nothing_is_written_before_the_stream_has_shown_what_was_read(server, at_site, running):
    at_site.set(KEY, "of a client")
    async with running(server) as world:
        world.following.read_to = offset(at_site) - 1
        world.hub[KEY] = StringState(b"of the hub")
        world.dirty(KEY)
        await eventually_async(lambda: world.reader.asked)
        assert at_site.get(KEY) == b"of a client"
        assert world.inbound.in_progress == 1

        world.inbound.changed_at_site([KEY])  # now it shows
        world.following.read_to = offset(at_site)
        world.reach.moved()
        await eventually_async(lambda: world.inbound.counters.stale)


async def test_a_lost_stream_ends_the_wait(server, at_site, running):
    async with running(server) as world:
        world.following.read_to = -1
        world.hub[KEY] = StringState(b"of the hub")
        world.dirty(KEY)
        await eventually_async(lambda: world.reader.asked)

        world.core.site_lost(8)
        world.reach.moved()
        await eventually_async(lambda: KEY in world.inbound.dirty)
        assert at_site.get(KEY) is None


@pytest.mark.parametrize("limit", ["_LONGEST_STANDSTILL", "_LONGEST_WAIT"])
async def test_a_stream_that_never_comes_so_far_does_not_hold_up_for_ever(server, at_site, running, monkeypatch, limit):
    """As when the server that answers was replaced by the one that is followed."""
    monkeypatch.setattr(f"redisrepl.flow.reach.{limit}", 0.1)
    async with running(server) as world:
        world.following.read_to = -1
        world.hub[KEY] = StringState(b"of the hub")
        world.dirty(KEY)
        await eventually_async(lambda: world.applying.apply_failures.failures > 1)
        assert at_site.get(KEY) is None

        world.following.read_to = sys.maxsize
        await eventually_async(lambda: at_site.get(KEY) == b"of the hub")


async def test_a_key_that_a_client_writes_meanwhile_is_left_alone_and_looked_at_again(server, at_site, running):
    at_site.set(KEY, 1)
    async with running(server) as world:
        world.reader.go_on.clear()
        world.hub = {KEY: StringState(b"of the hub"), OTHER: StringState(b"other")}
        world.dirty(KEY, OTHER)
        await eventually_async(lambda: world.reader.asked)
        at_site.incr(KEY)
        world.inbound._busy = lambda key: key == KEY  # as the stream will show
        world.inbound._changing = lambda _: None
        world.reader.go_on.set()

        await eventually_async(lambda: at_site.get(OTHER) == b"other")
        assert at_site.get(KEY) == b"2"
        assert list(world.inbound.dirty) == [KEY]
        assert not world.expected.holds(KEY)


async def test_a_key_that_is_written_all_the_time_does_not_hold_up_the_others(server, at_site, running):
    """What clients do to it (a list, say) may not even show as busy."""
    keys = [b"ns:%d" % number for number in range(8)]

    async with running(server) as world:
        read = world.reader.states

        async def disturbed(asked, replies, large):
            states = await read(asked, replies, large)
            if keys[3] in asked:
                at_site.rpush(keys[3], "x")
            return states

        world.reader.states = disturbed
        world.hub = {key: StringState(b"value") for key in keys}
        world.dirty(*keys)

        quiet = [key for key in keys if key != keys[3]]
        await eventually_async(lambda: at_site.mget(quiet) == [b"value"] * 7)
        assert at_site.type(keys[3]) == b"list"


FOR_EVER = 3600.0


@pytest.mark.parametrize(("keys", "at_most"), [(8, 3), (18, 8)])
async def test_with_linger_what_a_fetch_left_over_does_not_wait_for_more(server, at_site, running, keys, at_most):
    """As the reply was long enough, or the batch was full; only what is new is collected."""
    names = [b"ns:%d" % number for number in range(keys)]
    async with running(server, linger=FOR_EVER) as world:
        world.hub = dict.fromkeys((*names, KEY), StringState(b"v", None))
        world.dirty(KEY)
        await world.applying.idle()
        world.fetched_at_most = at_most
        world.dirty(*names)
        await asyncio.wait_for(world.applying.idle(), 30)
        assert at_site.mget(names) == keys * [b"v"]

        world.dirty(KEY)
        await asyncio.sleep(0)
        assert world.inbound.dirty == {KEY: False}  # which is new, and alone


async def test_with_linger_a_write_that_came_between_is_tried_again_at_once(server, at_site, running):
    async with running(server, linger=FOR_EVER) as world:
        world.hub[KEY] = StringState(b"hub", None)
        world.reader.go_on.clear()
        world.dirty(KEY)
        await eventually_async(lambda: world.reader.asked)
        at_site.set(KEY, "site")
        world.reader.go_on.set()
        await asyncio.wait_for(world.applying.idle(), 30)
        assert at_site.get(KEY) == b"hub"
