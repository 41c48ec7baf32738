"""Whatever the order of things: no write is lost, no removal undone, no loss spreads, and nothing is left in any map.

Each run is one of a seed. A failure names what plays it again:

    from tests.model.runs import *; run(SEED, everybody, one_writer, fallen, sites=2, ..)

`REDISREPL_SCHEDULES` sets how many seeds each case plays, `REDISREPL_FIRST_SEED` with which it begins.
"""

import os

import pytest

from redisrepl.engine.continuity import Continuity, Event
from redisrepl.engine.core import Core
from redisrepl.engine.freshness import Freshness
from redisrepl.engine.inbound import Inbound
from redisrepl.engine.outbound import Outbound
from redisrepl.remote.fence import Fence
from tests.model.daemons import Made, PlayedJudging
from tests.model.mutants import GROUPS, MORE, SAMPLE, mutated, noticed_by
from tests.model.runs import (
    FALL,
    ONE,
    conflict,
    each_its_own,
    everybody,
    evicted,
    fallen,
    fallen_with_full_disks,
    filled_anew,
    hub_with_full_disks,
    merged,
    outlived,
    read_by_two,
    removed_and_changed,
    run,
)
from tests.model.world import WrongError, silence

SCHEDULES = int(os.environ.get("REDISREPL_SCHEDULES", "10"))
FIRST = int(os.environ.get("REDISREPL_FIRST_SEED", "0"))

LAST_WORDS = (*ONE, each_its_own)
ALL = (*LAST_WORDS, fallen, conflict, merged, removed_and_changed)


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    with silence():
        yield


def play(seed, phases, circumstances):
    try:
        return run(seed, *phases, **circumstances)
    except Exception as error:
        names = ", ".join(phase.__name__ for phase in phases)
        settings = ", ".join(f"{name}={value!r}" for name, value in circumstances.items())
        raise AssertionError(f"run({seed}, {names}, {settings}): {error}") from error


@pytest.mark.parametrize(
    ("phases", "circumstances"),
    [
        pytest.param(ALL, {"sites": 1}, id="one site"),
        pytest.param(ALL, {"sites": 2}, id="two sites"),
        pytest.param(ALL, {"sites": 3}, id="three sites"),
        pytest.param(ALL, {"sites": 2, "feed": True, "silent": True}, id="the feed, and events lost unnoticed"),
        pytest.param(ALL, {"sites": 2, "winner": "site"}, id="the site wins"),
        pytest.param(LAST_WORDS, {"sites": 2, "deletes": False}, id="no removals"),
        pytest.param((*LAST_WORDS, merged), {"sites": 2, "every_write": True}, id="each write"),
        pytest.param((*LAST_WORDS, merged), {"sites": 2, "restarts": True}, id="servers restart"),
        pytest.param((everybody, evicted), {"sites": 2, "notify": True}, id="evictions"),
        pytest.param((everybody, filled_anew), {"sites": 2}, id="evictions of what is filled anew"),
        pytest.param((everybody,), {"sites": 2, "flushes": True}, id="flushes"),
        pytest.param(LAST_WORDS, {"sites": 2, "made": Made(options={"max_keys": 2})}, id="more keys than fit"),
        pytest.param(ALL, {"sites": 3, "notify": True, "feed": True}, id="no PSYNC at every other site"),
        pytest.param((everybody,), {"sites": 2, "expires": True, "restarts": True, "feed": True}, id="expiries"),
        pytest.param((everybody, outlived), {"sites": 2, "expires": True}, id="expiries that are outlived"),
        pytest.param((everybody, fallen_with_full_disks), {"sites": 2, "fills": True}, id="full disks"),
        pytest.param(
            (hub_with_full_disks,) * 3, {"sites": 2, "fills": True}, id="full disks, and the hub alone writes"
        ),
        pytest.param((*ONE, fallen, read_by_two), {"sites": 2, **GROUPS}, id="consumer groups"),
        pytest.param(
            (*ONE, read_by_two),
            {"sites": 3, "notify": True, "feed": True, "restarts": True, **GROUPS},
            id="consumer groups, no PSYNC at every other site",
        ),
        pytest.param(
            (everybody, fallen_with_full_disks),
            {"sites": 2, "fills": True, "deletes": False, "restarts": True},
            id="full disks, no removals",
        ),
    ],
)
def test_no_write_is_lost_no_removal_undone_and_no_loss_spreads(phases, circumstances):
    for seed in range(FIRST, FIRST + SCHEDULES):
        play(seed, phases, circumstances)


@pytest.mark.parametrize("sites", [1, 3])
@pytest.mark.parametrize("feed", [False, True])
def test_what_clients_count_is_counted(sites, feed):
    """A computed write has no value in the stream: what overwrote it, unseen, would be its end."""
    for seed in range(FIRST, FIRST + SCHEDULES):
        world = play(seed, (everybody,), {"sites": sites, "feed": feed, "faults": False, "deletes": False})

        assert world.miscounted() == [], f"run({seed}, everybody, sites={sites}, feed={feed}, faults=False)"


class WithoutFence(Fence):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.allowed = False


class WithoutNumbers(Fence):
    def was_executed(self, _number):
        return False


class WithoutHistoryOfTheSite(PlayedJudging):
    async def _of_another(self, facts):
        judged = await super()._of_another(facts)
        return judged._replace(event=Event.RESTARTED) if judged.event is Event.WENT_BACK else judged


class WithoutHistoryOfTheHub(PlayedJudging):
    async def _judged_of_hub(self, facts):
        judged = await super()._judged_of_hub(facts)
        return judged._replace(event=Event.RESTARTED) if judged.event is Event.WENT_BACK else judged


class WithoutLookingAgain(PlayedJudging):
    async def same_hub(self):
        return True


class Unconditional(Outbound):
    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self._yields = False


class WithoutEpoch(Continuity):
    @property
    def epoch(self):
        return 0


class AsksSeldom(Core):
    def must_ask(self, _key, *, suspect):
        return suspect


class TellsTooEarly(Core):
    """What is of unknown outcome is given up as soon as nothing is in doubt."""

    @property
    def certain(self):
        return self.quiet


class WithoutStaleFetchRule(Inbound):
    def _stale(self, _key):
        return False


class WithoutTaint(Inbound):
    """Looks only at what is pending now, not at what passed through while the fetch was out."""

    def changed_at_site(self, keys, fields=None):  # noqa: ARG002 - it looks at none
        for key in keys:
            if self._expected_local.holds(key):
                self.dirty.setdefault(key, False)


class WithoutVoiding(Outbound):
    def _void(self, keys):
        pass


class BelievesOldNews(Inbound):
    def _is_news(self, key, time, changes):
        self._fresh = Freshness(0)
        return super()._is_news(key, time, changes)


class PrefersNewsToWhatIsDirty(Inbound):
    def _is_news(self, key, time, changes):
        suspect = self.dirty.pop(key, None)
        news = super()._is_news(key, time, changes)
        if suspect is not None and not news:
            self.dirty[key] = suspect
        return news


#: Noticed within few runs.
LEFT_OUT = [
    pytest.param(ONE, {"made": Made(store={"remembers": False})}, id="no ancestor"),
    pytest.param(ONE, {"made": Made(store={"journalled": False})}, id="what is sent is not written before"),
    pytest.param(FALL, {"made": Made(judging=WithoutHistoryOfTheSite)}, id="no evidence of the site's history"),
    pytest.param(FALL, {"made": Made(judging=WithoutHistoryOfTheHub)}, id="no evidence of the hub's history"),
    pytest.param(ONE, {"made": Made(core=TellsTooEarly)}, id="intents are dropped before anything was compared"),
]
#: Noticed within thousands: other parts are a second net under each.
SELDOM = [
    pytest.param(
        ONE,
        {"made": Made(core=AsksSeldom), "restarts": True},
        id="the ancestor is not asked while the site is in_progress",
    ),
    pytest.param(ONE, {"made": Made(store={"intends": False})}, id="what is applied is not written before"),
    pytest.param(ONE, {"made": Made(fence=WithoutFence)}, id="no fence"),
    pytest.param(ONE, {"made": Made(fence=WithoutNumbers)}, id="no numbers of executed batches"),
    pytest.param(FALL, {"made": Made(judging=WithoutLookingAgain)}, id="the hub is not looked at before a removal"),
    pytest.param(ONE, {"made": Made(outbound=Unconditional)}, id="what is in doubt is pushed without a condition"),
    pytest.param(ONE, {"made": Made(continuity=WithoutEpoch)}, id="no epoch"),
    pytest.param(ONE, {"made": Made(inbound=WithoutStaleFetchRule)}, id="no rule of the stale fetch"),
    pytest.param(ONE, {"made": Made(inbound=WithoutTaint), "counts": False}, id="a fetch is not tainted"),
    pytest.param(ONE, {"made": Made(outbound=WithoutVoiding)}, id="a guess survives a lost reply"),
    pytest.param(ONE, {"made": Made(inbound=BelievesOldNews), "feed": True}, id="old news is believed"),
    pytest.param(ONE, {"made": Made(inbound=PrefersNewsToWhatIsDirty), "feed": True}, id="news before what is dirty"),
]


def goes_wrong(seeds, phases, circumstances):
    """Whether any run of these ends as it must not, and as it does not with all parts."""
    for seed in seeds:
        try:
            run(seed, *phases, **circumstances)
        except WrongError:
            run(seed, *phases, **{name: value for name, value in circumstances.items() if name != "made"})
            return True
    return False


@pytest.mark.parametrize(("phases", "circumstances"), LEFT_OUT)
def test_each_part_is_needed(phases, circumstances):
    assert goes_wrong(range(450), phases, circumstances)


@pytest.mark.skipif(SCHEDULES < 1000, reason="played by hand: REDISREPL_SCHEDULES=3000")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("phases", "circumstances"), SELDOM)
def test_each_part_is_needed_if_seldom(phases, circumstances):
    assert goes_wrong(range(SCHEDULES), phases, circumstances)


def test_each_mutant_is_of_the_present_code():
    for mutant in [*SAMPLE, *MORE]:
        with mutated(mutant):
            pass


@pytest.mark.parametrize("mutant", SAMPLE, ids=[mutant.name for mutant in SAMPLE])
def test_each_line_is_needed(mutant):
    """A sample of `mutants`; `python -m tests.model.mutants` plays all of them."""
    seed = noticed_by(mutant, range(450))

    assert seed is not None, "nobody notices"
    run(seed, *mutant.phases, **{"sites": 2, **mutant.circumstances})
