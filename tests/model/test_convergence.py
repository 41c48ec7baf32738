"""Whatever the order of things: in the end every copy is equal, and nothing is left in any map.

The seeds of a failing run are in its message; `World(seed, sites=.., ..).run()` plays it again.
`REDISREPL_SCHEDULES` sets how many schedules each case plays.
"""

import os

import pytest

from redisrepl.freshness import Freshness
from redisrepl.inbound import Inbound
from redisrepl.outbound import Outbound
from tests.model.world import World

SCHEDULES = int(os.environ.get("REDISREPL_SCHEDULES", "1500"))


@pytest.mark.parametrize("sites", [1, 2, 3])
@pytest.mark.parametrize(
    "circumstances",
    [
        pytest.param({"faults": False}, id="no faults"),
        pytest.param({"faults": True, "sweep": False}, id="faults that are noticed, rules 1 to 3"),
        pytest.param({"faults": True, "silent": True}, id="events lost unnoticed, all rules"),
        pytest.param({"faults": False, "deletes": True}, id="removals"),
        pytest.param({"faults": True, "deletes": True, "silent": True}, id="removals, everything else too"),
        pytest.param({"faults": False, "feed": True}, id="the feed"),
        pytest.param({"faults": True, "feed": True, "sweep": False}, id="the feed, and faults that are noticed"),
        pytest.param({"faults": True, "feed": True, "silent": True, "deletes": True}, id="the feed, and all faults"),
        pytest.param({"faults": True, "deletes": True, "silent": True, "every_write": True}, id="each write"),
        pytest.param({"faults": False, "deletes": True, "notify": True}, id="no PSYNC at every other site"),
        pytest.param({"faults": True, "deletes": True, "silent": True, "notify": True}, id="no PSYNC, and all faults"),
    ],
)
def test_all_copies_end_equal_and_nothing_is_left_over(sites, circumstances):
    for seed in range(SCHEDULES):
        world = World(seed, sites=sites, **circumstances)

        assert world.run(), f"copies differ: World({seed}, sites={sites}, **{circumstances})"
        assert world.leftovers() == [], f"World({seed}, sites={sites}, **{circumstances})"
        if not circumstances["faults"] and "notify" not in circumstances:  # events cannot be waited for
            assert world.miscounted() == [], f"World({seed}, sites={sites}, **{circumstances})"


class WithoutConflictRule(Inbound):
    def changed_at_site(self, keys):
        for key in keys:
            if key in self._fetching:
                self._fetching[key] = True


class WithoutStaleFetchRule(Inbound):
    def _stale(self, _key):
        return False


class WithoutTaint(Inbound):
    """Looks only at what is pending now, not at what passed through while the fetch was out."""

    def changed_at_site(self, keys):
        for key in keys:
            if self._expected_local.holds(key):
                self.dirty.setdefault(key, False)


class WithoutVoiding(Outbound):
    def _void(self, keys):
        pass


@pytest.mark.parametrize("broken", [WithoutStaleFetchRule, WithoutTaint])
def test_each_rule_of_the_pull_is_needed(broken):
    seeds = range(2000)

    assert any(not World(seed, sites=2, faults=True, sweep=False, inbound=broken).run() for seed in seeds)


def test_the_conflict_rule_is_needed_where_applies_neither_wait_nor_watch():
    """Which is why they do: then a client's write is never overwritten unseen, and the rule is the second net."""
    blind = {"sites": 2, "faults": False, "sweep": False, "waits": False, "watches": False}

    assert any(not World(seed, inbound=WithoutConflictRule, **blind).run() for seed in range(2000))
    assert all(World(seed, inbound=Inbound, **blind).run() for seed in range(2000))


def test_no_guess_about_a_push_may_survive_a_lost_reply():
    seeds = range(3000)

    assert any(
        not world.run() or world.leftovers()
        for world in (World(seed, sites=2, faults=True, sweep=False, outbound=WithoutVoiding) for seed in seeds)
    )


def test_the_sweep_is_needed_where_events_are_lost_unnoticed():
    assert any(not World(seed, sites=2, faults=True, silent=True, sweep=False).run() for seed in range(2000))


def test_what_a_site_counts_is_lost_unless_its_stream_is_waited_for():
    """A computed write has no value in the stream: an apply that overwrites it, unseen, would be its end."""
    worlds = (World(seed, sites=3, faults=False, waits=False) for seed in range(20_000))

    assert any(world.run() and world.miscounted() for world in worlds)


class BelievesOldNews(Inbound):
    def _is_news(self, key, time, changes):
        self._fresh = Freshness(0)
        return super()._is_news(key, time, changes)


class ForgetsItsPushes(Inbound):
    def pushed(self, keys, time):
        pass


class PrefersNewsToWhatIsDirty(Inbound):
    def _is_news(self, key, time, changes):
        removal = self.dirty.pop(key, None)
        news = super()._is_news(key, time, changes)
        if removal is not None and not news:
            self.dirty[key] = removal
        return news


@pytest.mark.parametrize("credulous", [BelievesOldNews, ForgetsItsPushes, PrefersNewsToWhatIsDirty])
def test_what_the_feed_tells_is_believed_only_where_nothing_newer_can_be_known(credulous):
    seeds = range(1500)

    assert any(
        not World(seed, sites=3, faults=False, sweep=False, feed=True, inbound=credulous).run() for seed in seeds
    )
