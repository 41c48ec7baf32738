"""Whatever the order of things: in the end every copy is equal, and nothing is left in any map.

The seeds of a failing run are in its message; `World(seed, sites=.., ..).run()` plays it again.
`REDISREPL_SCHEDULES` sets how many schedules each case plays.
"""

import os

import pytest

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


class WithoutConflictRule(Inbound):
    def changed_at_site(self, key):
        if key in self._fetching:
            self._fetching[key] = True


class WithoutStaleFetchRule(Inbound):
    def _stale(self, _key, _removal):
        return False


class WithoutTaint(Inbound):
    """Looks only at what is pending now, not at what passed through while the fetch was out."""

    def changed_at_site(self, key):
        if self._expected_local.holds(key):
            self.dirty.setdefault(key, False)


class WithoutVoiding(Outbound):
    def _void(self, keys):
        pass


@pytest.mark.parametrize("broken", [WithoutConflictRule, WithoutStaleFetchRule, WithoutTaint])
def test_each_rule_of_the_pull_is_needed(broken):
    seeds = range(2000)

    assert any(not World(seed, sites=2, faults=True, sweep=False, inbound=broken).run() for seed in seeds)


def test_no_guess_about_a_push_may_survive_a_lost_reply():
    seeds = range(3000)

    assert any(
        not world.run() or world.leftovers()
        for world in (World(seed, sites=2, faults=True, sweep=False, outbound=WithoutVoiding) for seed in seeds)
    )


def test_the_sweep_is_needed_where_events_are_lost_unnoticed():
    assert any(not World(seed, sites=2, faults=True, silent=True, sweep=False).run() for seed in range(2000))
