"""What is played in one run, and what must be true in the end."""

from __future__ import annotations

from typing import Any

from redisrepl.changes import HashState, State, StringState
from redisrepl.engine.continuity import Event
from tests.model.daemons import by_the_clock_of_the_model
from tests.model.world import STRINGS, World, WrongError, unlike


def everybody(world: World) -> None:
    """Everybody writes; in the end all copies are equal."""
    world.play(world.rng.randint(10, 200), [None, *world.sites])
    world.settle()
    world.check()


def one_writer(world: World) -> None:
    """One party alone writes; what it said last is what everybody holds."""
    world.judgements.clear()
    writer = world.rng.choice([None, *world.sites])
    server = world.hub if writer is None else writer.server
    for _ in range(world.rng.randint(1, 4)):
        world.write(writer)
        if world.faults:
            world.play(world.rng.randint(0, 60), [])
    world.write(writer)
    wanted = server.states()
    world.play(world.rng.randint(0, 120), [])
    world.settle()
    unproved = any(event is Event.WENT_BACK for _, event in world.judgements)
    if not unproved and (differing := unlike(world.alive(wanted), world.hub.states())):
        raise WrongError(f"the last word of {'the hub' if writer is None else writer.name} is lost: {differing}")
    world.check()


def taken(wanted: State, found: State) -> bool:
    """Whether something of this is gone; that what was removed is there again is no loss."""
    if isinstance(wanted, HashState) and isinstance(found, HashState):
        return not wanted.fields.items() <= found.fields.items()
    return wanted != found


def fallen(world: World) -> None:
    """A server falls back; nobody loses anything."""
    wanted = world.hub.states()
    world.fall_back(world.rng.choice([None, *world.sites]))
    world.play(world.rng.randint(0, 150), [])
    world.settle()
    found = world.hub.states()
    lost = {key: (state, found.get(key)) for key, state in world.alive(wanted).items() if taken(state, found.get(key))}
    if lost:
        raise WrongError(f"a server that fell back took from others: {lost}")
    world.check()


def fallen_unremembered(world: World) -> None:
    """A server falls back while what is agreed on cannot be written; in the end all copies are equal."""
    for _ in range(3):
        world.play(world.rng.randint(10, 60), [None, *world.sites])
        for site in world.sites:
            if not site.daemon.store.full:
                world.fill_or_free(site)
        world.play(world.rng.randint(0, 40), [None, *world.sites])
        world.fall_back(world.rng.choice([None, *world.sites]))
        world.play(world.rng.randint(0, 150), [])
        world.settle(full=world.rng.random() < 0.5)  # what was compared meanwhile counts later
        world.settle()
        world.check()


def conflict(world: World) -> None:
    """A site and the hub change the same key while nobody looks: the policy decides, and what loses is kept."""
    site, key = world.rng.choice(world.sites), STRINGS[0]
    world.write(None, [[b"SET", key, b"agreed"]])
    world.settle()
    world.kill(site)
    site.server.overrun()
    world.kept.clear()
    told = [(None, b"of the hub"), (site, b"of the site")]
    for party, value in world.rng.sample(told, 2):
        world.write(party, [[b"SET", key, value]])
    world.settle()
    won, lost = (b"of the site", b"of the hub") if world.winner == "site" else (b"of the hub", b"of the site")
    if world.hub.data.get(key) != won:
        raise WrongError(f"of a conflict {world.hub.data.get(key)!r} is left, and not {won!r}")
    if (site.name, key, StringState(lost)) not in [(name, loss.key, loss.value) for name, loss in world.kept]:
        raise WrongError(f"what lost a conflict was not kept: {world.kept}")
    world.check()


def run(seed: int, *phases: Any, trace: bool = False, **circumstances: Any) -> World:
    with by_the_clock_of_the_model():
        world = World(seed, **circumstances)
        if trace:
            world.trace = []
        for phase in phases or (everybody, one_writer, fallen):
            phase(world)
        return world
