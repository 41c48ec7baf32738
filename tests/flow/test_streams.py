"""Of a large stream only what is new is fetched: a real site, and a real server in the place of the hub."""

from __future__ import annotations

import pytest

from redisrepl.changes import HashState, LargeState
from redisrepl.engine.continuity import Event
from redisrepl.remote.fetch import Fetched
from redisrepl.wire.entries import LAST_ID, entry_name, is_entry
from redisrepl.wire.entrypages import ENTRIES_SCRIPT, parse_entries, words_of
from testbed import eventually_async
from tests.flow.test_elements import KEY, Elements, LargeWorld, feed_goes_on, running
from tests.flow.test_elements import servers as servers  # noqa: PLC0414 - a fixture

COUNT = 7000
#: Entries of a piece, of which one answer has more.
PIECE = 2000
#: As one of us does it, below the last id.
INSERT = """
redis.call('XDEL', KEYS[1], '7000-1')
redis.call('XSETID', KEYS[1], '6999-1')
redis.call('XADD', KEYS[1], '6999-2', 'n', 'inserted')
redis.call('XADD', KEYS[1], '7000-1', 'n', '7000')
"""
#: All entries once more, by a server that counts them anew, and one between them.
REPLACE_ALL = """
local all = redis.call('XRANGE', KEYS[1], '-', '+')
redis.call('DEL', KEYS[1])
for _, entry in ipairs(all) do
  redis.call('XADD', KEYS[1], entry[1], unpack(entry[2]))
  if entry[1] == '3-1' then redis.call('XADD', KEYS[1], '3-2', 'n', 'between') end
end
"""
ADD = "for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do redis.call('XADD', KEYS[1], i .. '-1', 'n', i) end"


class Entries(Elements):
    """Likewise entries."""

    async def entries(self, key, begin, enough):
        if self.refuses:
            self.readable = False
            return None
        if self.during is not None:
            during, self.during = self.during, None
            during()
        items = self.client.execute_command("EVAL", ENTRIES_SCRIPT, 0, *words_of(b"t", key, begin, enough, 1 << 20))
        page = parse_entries(items, b"t", begin)
        self.asked.append(begin)
        self.told += sum(map(is_entry, page.found))
        return page


class StreamWorld(LargeWorld):
    """A world with a stream."""

    reads = Entries

    def elements_at(self, client):
        if not client.exists(KEY):
            return {}
        entries = {entry_name(id_): words for id_, words in client.execute_command("XRANGE", KEY, "-", "+")}
        return {**entries, LAST_ID: client.xinfo_stream(KEY)["last-generated-id"]}

    async def states(self, keys, large=0):
        count = self.at_hub.xlen(KEY) if self.at_hub.exists(KEY) else 0
        at = self.at_hub.pexpiretime(KEY)
        if large and count > large:
            return Fetched({}, 1, {KEY: LargeState("stream", count, at if at >= 0 else None)})
        self.whole += 1
        page = await self.elements.entries(KEY, b"0", 1_000_000)
        state = HashState(dict(page.found), page.expires_at_ms, "stream") if page.facts is not None else None
        return Fetched(dict.fromkeys(keys, state), 1)


@pytest.fixture
def worlds(servers, store):
    def run(**options):
        world = StreamWorld(servers, store, "stream", **options)
        world.at_hub.eval(ADD, 1, KEY, 1, COUNT)
        return running(world)

    return run


async def test_what_is_added_at_the_end_is_all_that_is_fetched(worlds):
    async with worlds() as world:
        assert await world.announced() == COUNT
        assert world.equal()

        for _ in range(2):  # what was found then is known now
            world.at_hub.xadd(KEY, {"n": "added"})
            world.at_hub.xadd(KEY, {"n": "and another"})
            world.at_hub.pexpireat(KEY, 4_102_444_800_000)
            assert await world.announced() == 2
            assert world.equal()
        assert world.at_site.pexpiretime(KEY) == 4_102_444_800_000
        assert await world.announced() == 0
        assert world.whole == 0


async def test_what_a_trim_removes_is_not_read_and_is_removed(worlds):
    async with worlds() as world:
        await world.announced()
        for _ in range(2):
            world.at_hub.xadd(KEY, {"n": "added"}, maxlen=world.at_hub.xlen(KEY) - 300, approximate=False)
            assert await world.announced() == 1
            assert world.equal()
        world.at_hub.xtrim(KEY, maxlen=COUNT - 700, approximate=False)
        assert await world.announced() == 0
        assert world.equal()


@pytest.mark.parametrize(
    "change",
    [
        ("XDEL", KEY, "5-1", "6000-1"),
        ("XTRIM", KEY, "MAXLEN", "3000"),  # more than is asked after by name
        ("EVAL", ADD, 1, KEY, COUNT + 1, COUNT + 2500),  # likewise
        ("EVAL", "redis.call('DEL', KEYS[1]) " + ADD, 1, KEY, 1000, COUNT + 10),
        ("EVAL", ADD + " redis.call('XDEL', KEYS[1], '8-1')", 1, KEY, COUNT + 1, COUNT + 2),
        ("EVAL", INSERT, 1, KEY),
    ],
)
async def test_whatever_else_has_changed_is_found_by_comparing_all_of_it(worlds, change):
    async with worlds() as world:
        await world.announced()
        world.at_hub.execute_command(*change)
        assert await world.announced() >= 3000
        assert world.equal()
        world.at_hub.xadd(KEY, {"n": "added"})
        assert await world.announced() == 1
        assert world.equal()


async def test_a_server_that_does_not_tell_how_many_were_added_has_it_read_again(worlds):
    """Redis before 7.0."""
    async with worlds() as world:
        ask = world.elements.entries

        async def before_seven(*arguments):
            page = await ask(*arguments)
            return page._replace(facts=page.facts._replace(added=None))

        world.elements.entries = before_seven
        await world.announced()
        world.at_hub.xadd(KEY, {"n": "added"})
        assert await world.announced() > COUNT
        assert world.equal()


async def test_all_is_fetched_where_little_is_known(worlds):
    async with worlds() as world:
        await world.announced()
        world.core.continuity.happened("hub", Event.ATTACHED)  # something may have been missed
        world.core.continuity.happened("hub", Event.RESUMED)
        assert await world.announced() == COUNT


async def test_a_suspect_stream_is_compared_as_a_whole(worlds):
    async with worlds() as world:
        await world.announced()
        world.at_site.xdel(KEY, "9-1")  # as if nobody had seen it
        assert await world.announced() == 0
        assert await world.announced(suspect=True) == COUNT
        assert KEY in world.core.outbound.doubtful  # the hub is to lose it too


async def test_a_stream_that_has_become_another_type_is_fetched_as_what_it_is(worlds):
    async with worlds() as world:
        await world.announced()
        world.elements.during = lambda: world.at_hub.delete(KEY)
        await world.announced()
        assert not world.at_site.exists(KEY)
        assert world.whole == 1


async def test_where_the_script_is_refused_a_stream_is_fetched_as_a_whole(worlds):
    async with worlds() as world:
        refused = Entries(world.at_hub)
        world.elements.entries = lambda *arguments: refused.entries(*arguments) if arguments[2] > 2000 else refusal()

        async def refusal():
            world.elements.readable = False

        for _ in range(2):
            await world.announced()
            assert world.equal()
            world.at_hub.xadd(KEY, {"n": "added"})
        assert world.whole == 2


async def test_a_very_large_stream_arrives_in_pieces_and_both_sides_are_agreed_on_all_of_it(worlds):
    async with worlds(piece=PIECE) as world:
        pieces = await world.comes_to_an_end(suspect=True)
        assert sum(pieces) >= COUNT  # and the last id
        assert len(pieces) > 2
        assert world.equal()
        agreed = (await world.store.lookup([KEY], elements=True))[KEY].elements
        assert agreed.keys() == world.elements_at(world.at_hub).keys()
        assert await world.announced(suspect=True) == 0  # digests alone
        world.at_hub.xadd(KEY, {"n": "added"})
        assert await world.announced() == 1
        assert world.equal()


async def test_a_stream_that_was_compared_in_pieces_leaves_the_feed_of_other_keys_as_it_was(worlds):
    async with worlds(piece=PIECE) as world:
        assert await feed_goes_on(world)


async def test_of_a_stream_that_is_gone_nothing_is_kept(worlds):
    async with worlds(piece=PIECE) as world:
        begun = world.applying._elements._streams._begun

        def after_piece(number):
            if number == 1:
                assert begun
                world.at_hub.delete(KEY)

        await world.comes_to_an_end(after_piece=after_piece)
        assert not begun


async def test_what_changes_between_two_pieces_of_a_stream_is_not_lost_and_no_removal_is_undone(worlds):
    async with worlds(piece=PIECE) as world:

        def after_piece(number):
            if number == 1:
                world.at_hub.xdel(KEY, "3-1")  # nobody announces it
                world.at_hub.xadd(KEY, {"n": "added"})
            if number == 2:  # the links are made anew
                for side in ("site", "hub"):
                    world.core.continuity.happened(side, Event.ATTACHED)
                    world.core.continuity.happened(side, Event.RESUMED)

        await world.comes_to_an_end(suspect=True, after_piece=after_piece)
        assert world.equal()
        assert entry_name(b"3-1") not in (await world.store.lookup([KEY], elements=True))[KEY].elements


async def test_what_the_site_alone_has_of_a_stream_is_found_in_the_end(worlds):
    async with worlds(piece=PIECE) as world:
        world.at_site.eval(ADD, 1, KEY, 1, 10)
        world.at_site.xadd(KEY, {"n": "of the site"}, id="20-2")
        await world.comes_to_an_end(suspect=True)
        assert world.at_site.xlen(KEY) == COUNT + 1
        assert KEY in world.core.outbound.doubtful
        assert [change.fields for change in world.core.outbound.doubtful.take(10, 1 << 20)] == [
            {entry_name(b"20-2"): None}
        ]


@pytest.mark.parametrize(("own", "at_once"), [(1, False), (5001, True)])
async def test_where_much_would_be_moved_for_each_piece_a_stream_is_inserted_at_once(worlds, own, at_once):
    async with worlds(piece=PIECE) as world:
        world.at_site.eval(ADD, 1, KEY, COUNT + 1, COUNT + own)
        world.dirty(KEY, suspect=True)

        def all_there():
            world.expected.void([KEY])  # nobody reads the stream
            world.applying.wake()
            return world.at_site.xlen(KEY) == COUNT + own

        await eventually_async(all_there)
        assert (world.inbound.counters.applied < 3) == at_once


async def test_a_stream_whose_values_are_too_large_is_left_out_until_it_has_fewer(worlds):
    async with worlds() as world:
        world.at_hub.eval("for i = 1, 3000 do redis.call('XADD', KEYS[1], '*', 'n', string.rep('x', 400)) end", 1, KEY)
        assert await world.announced() > 1000
        assert await world.announced() == 0  # it is known now
        assert not world.at_site.exists(KEY)
        world.at_hub.xtrim(KEY, maxlen=1500, approximate=False)
        assert await world.announced() == 1500
        assert world.equal()


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (("EVAL", ADD, 1, KEY, COUNT + 1, COUNT + 9), False),
        (("XDEL", KEY, "5-1"), True),
        (("XTRIM", KEY, "MAXLEN", "6990"), True),
        # An entry that was read is gone, and another came where nobody looks any more: as many as there were.
        (("EVAL", "redis.call('XDEL', KEYS[1], '1-1') " + REPLACE_ALL, 1, KEY), True),
    ],
)
async def test_a_stream_that_changes_elsewhere_than_at_its_end_while_it_is_read_is_read_again(worlds, change, again):
    async with worlds() as world:
        ask = world.elements.entries

        async def asked(*arguments):
            if len(world.elements.asked) == 2:
                world.at_hub.execute_command(*change)
            return await ask(*arguments)

        world.elements.entries = asked
        await world.announced()
        assert world.equal()
        assert (world.whole == 1) == again
