"""What is played in one run, and what must be true in the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from redisrepl.changes import HashState, SequenceState, State, StringState
from redisrepl.engine.continuity import Event
from redisrepl.wire.collections import COLLECTIONS, name_here
from redisrepl.wire.entries import LAST_ID, greater_id
from redisrepl.wire.groups import is_of_group, is_place, pending_name, place_name
from tests.model.daemons import PREFIX, by_the_clock_of_the_model, elements_held
from tests.model.world import LIST, MIXED, STRINGS, TYPES, Site, World, WrongError, unlike


def everybody(world: World) -> None:
    """Everybody writes; in the end all copies are equal."""
    world.play(world.rng.randint(10, 200), [None, *world.sites])
    world.settle()
    world.check()


def one_writer(world: World) -> None:
    """One party alone writes; what it said last is what everybody holds, or is kept where a server went back."""
    world.judgements.clear()
    world.kept.clear()
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
    differing = missing(world, wanted)
    if not world.deletes:  # nor is a key that has become another one
        differing = {key: (said, found) for key, (said, found) in differing.items() if taken(said, found)}
    if differing:
        raise WrongError(f"the last word of {'the hub' if writer is None else writer.name} is lost: {differing}")
    world.check()


def missing(world: World, wanted: dict[bytes, State]) -> dict[bytes, tuple[Any, Any]]:
    """Keys that do not hold what they should, with both; where a server went back, only what was not kept."""
    differing = unlike(world.alive(wanted), with_last_ids(world.hub.states(), wanted))
    if not any(event is Event.WENT_BACK for _, event in world.judgements):
        return differing
    # What was removed may be there again, and what gave way was kept.
    return {key: (said, found) for key, (said, found) in differing.items() if not is_kept(world, key, said, found)}


def with_last_ids(found: dict[bytes, State], wanted: dict[bytes, State]) -> dict[bytes, State]:
    """What was found, where streams may have greater last ids than wanted: of two the greater stands."""
    for key, state in found.items():
        want = wanted.get(key)
        if not (isinstance(want, HashState) and isinstance(state, HashState) and want.type == state.type == "stream"):
            continue
        ours, theirs = want.fields[LAST_ID], state.fields[LAST_ID]
        if greater_id(ours, theirs) == theirs:
            found[key] = replace(state, fields={**state.fields, LAST_ID: ours})
    return found


def is_kept(world: World, key: bytes, wanted: State, found: State) -> bool:
    """Whether all that is gone of this was kept as what lost a conflict, or was there before and may be older."""
    losers = [loss.value for _, loss in world.kept if loss.key == key]
    if isinstance(wanted, StringState):
        return wanted in losers or world.said[key, wanted.value] > 1
    if not isinstance(wanted, HashState):
        return wanted is None or wanted in losers
    there = found.fields if isinstance(found, HashState) and found.type == wanted.type else {}
    kept = [loser.fields for loser in losers if isinstance(loser, HashState) and loser.type == wanted.type]
    return all(
        name == LAST_ID
        or is_place(name)  # of two ids the greater stands
        or there.get(name) == value
        or any(fields.get(name) == value for fields in kept)
        or world.said[key, name + value if is_of_group(name) else value] > 1
        for name, value in wanted.fields.items()
    )


def taken(wanted: State, found: State) -> bool:
    """Whether something of this is gone; that what was removed is there again is no loss."""
    if not (isinstance(wanted, HashState) and isinstance(found, HashState) and wanted.type == found.type):
        return wanted != found
    fields = dict(wanted.fields)
    if wanted.type == "stream":
        ids = [name for name in fields.keys() & found.fields.keys() if name == LAST_ID or is_place(name)]
        for name in [name for name in ids if greater_id(fields[name], found.fields[name]) == found.fields[name]]:
            del fields[name]
    return not fields.items() <= found.fields.items()


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


def fallen_with_full_disks(world: World) -> None:
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


def hub_with_full_disks(world: World) -> None:
    """Clients of the hub alone write while what is agreed on cannot be written: all copies hold what they put last.

    Where a daemon was killed then, or had to forget it, a removal of theirs may be undone.
    """
    world.judgements.clear()
    world.kept.clear()
    world.forgot = False
    for _ in range(world.rng.randint(1, 4)):
        world.write(None)
        for site in world.sites:
            if not site.daemon.store.full and world.rng.random() < 0.5:
                world.fill_or_free(site)
        world.play(world.rng.randint(0, 60), [])
    world.write(None)
    wanted = world.hub.states()
    world.play(world.rng.randint(0, 120), [])
    world.settle()
    for key, (said, found) in missing(world, wanted).items():
        if not (said is None and world.forgot) and taken(said, found):
            raise WrongError(f"the hub's last word on {key!r} is lost: {said}, {found}")
    world.check()


#: A key, the command and the words before the value that put a value there, and what it holds then.
_WHOLE: Sequence[tuple[bytes, bytes, Sequence[bytes], Callable[[bytes], State]]] = (
    (STRINGS[0], b"SET", (), StringState),
    (LIST, b"RPUSH", (), lambda value: SequenceState((value,))),
    (b"ns:h1", b"HSET", (b"f1",), lambda value: HashState({b"f1": value})),
)


def conflict(world: World) -> None:
    """A site and the hub change the same value while nobody looks: the policy decides, and what loses is kept."""
    site, key, put, whole = _apart(world)
    told = [(None, b"of the hub"), (site, b"of the site")]
    for party, value in world.rng.sample(told, 2):
        put(party, value)
    killed = _killed_while_it_decides(world, site)
    world.settle()
    won, lost = (b"of the site", b"of the hub") if world.winner == "site" else (b"of the hub", b"of the site")
    if world.hub.data.get(key) != whole(won):
        raise WrongError(f"of a conflict {world.hub.data.get(key)!r} is left, and not {won!r}")
    kept = [(name, loss.key, loss.value) for name, loss in world.kept]
    if not killed and (site.name, key, whole(lost)) not in kept:  # a daemon that is killed may not come to keep it
        raise WrongError(f"what lost a conflict was not kept: {world.kept}")
    world.check()


def removed_and_changed(world: World) -> None:
    """One side removes a key and the other changes it, while no daemon runs: the value wins."""
    site, key, put, whole = _apart(world)
    remover, changer = world.rng.sample([None, site], 2)
    changes = [lambda: world.write(remover, [[b"DEL", key]]), lambda: put(changer, b"changed")]
    for change in world.rng.sample(changes, 2):
        change()
    _killed_while_it_decides(world, site)
    world.settle()
    if world.hub.data.get(key) != whole(b"changed"):
        raise WrongError(f"what somebody removed is gone though it was changed: {world.hub.data.get(key)}")
    world.check()


def _apart(world: World) -> tuple[Site, bytes, Callable[[Site | None, bytes], None], Callable[[bytes], State]]:
    """A site whose stream is not read any more, a key that was agreed on, what sets it, and what it holds by that."""
    site, (key, verb, names, whole) = world.rng.choice(world.sites), world.rng.choice(_WHOLE)

    def put(party: Site | None, value: bytes) -> None:
        world.write(party, [[b"DEL", key], [verb, key, *names, value]])

    put(None, b"agreed")
    world.settle()
    world.kill(site)
    site.server.overrun()
    world.kept.clear()
    return site, key, put, whole


def _killed_while_it_decides(world: World, site: Site) -> int:
    """The daemon goes on, and is killed and starts again so many times; at any moment of its work."""
    times = world.rng.choice([0, 0, 1, 2])
    for _ in range(times):
        for _ in range(world.rng.randint(0, 40)):
            if moves := list(world.moves(site)):
                world.rng.choice(moves)(site)
        world.kill(site)
    return times


def merged(world: World) -> None:
    """Two parties change a collection, each other elements: what either adds is there, and what either removes is gone.

    One of them may remove it as a whole: then no more is left than what the other has added.
    """
    rng = world.rng
    of_runs = world.keys if any(TYPES.get(key) in COLLECTIONS for key in world.keys) else TYPES
    key = rng.choice([key for key in of_runs if TYPES.get(key) in COLLECTIONS])
    type_ = TYPES[key]
    *gone, kept, mine, theirs = world.names(type_, 5)
    world.write(None, [[b"DEL", key], *world.putting(type_, key, [*gone, kept])])
    world.settle()
    world.judgements.clear()
    for site in world.sites:
        rng.choice([world.kill_and_overrun, world.cut, world.unsubscribe, lambda _: None])(site)
    emptied = type_ != "stream" and rng.random() < 0.3
    for party, name, new in zip(rng.sample([None, *world.sites], 2), gone, (mine, theirs), strict=True):
        if emptied and new is theirs:
            world.write(party, [[b"DEL", key]])
            break
        world.write(party, [world.removing(party, type_, key, name)])
        world.play(rng.randint(0, 30), [])
        world.write(party, world.putting(type_, key, [new]))
        world.play(rng.randint(0, 30), [])
    world.settle()
    found = elements_held(world.hub.data.get(key), type_)
    here, unproved = found.keys() - {LAST_ID}, any(event is Event.WENT_BACK for _, event in world.judgements)
    least, most = ((), [mine]) if emptied else ([kept, mine, theirs], [kept, mine, theirs])
    if not {name_here(type_, name) for name in least} <= here:
        raise WrongError(f"two parties changed {key!r}: of {least} only {here} is left")
    if not unproved and not here <= {name_here(type_, name) for name in most}:
        raise WrongError(f"two parties changed {key!r}: {here} is left, and not only {most}")
    if type_ == "stream" and found[LAST_ID] != theirs:
        raise WrongError(f"the last id of {key!r} is {found[LAST_ID]!r}, and not the greatest, {theirs!r}")
    world.check()


def read_by_two(world: World) -> None:
    """Two parties work on one group, each on other entries: what either acknowledged is gone, what it took is its."""
    rng, key, group = world.rng, PREFIX + b"str", b"g"
    *read, following = world.names("stream", 5)
    start = [*world.putting("stream", key, [*read, following]), [b"XGROUP", b"CREATE", key, group, b"0-0"]]
    world.write(None, [[b"DEL", key], *start, [b"XREADGROUP", key, group, b"a", b"4"]])
    world.settle()
    world.judgements.clear()
    for site in world.sites:
        rng.choice([world.kill_and_overrun, world.cut, world.unsubscribe, lambda _: None])(site)
    one, other = rng.sample([None, *world.sites], 2)
    for party, argv in [
        (one, [b"XACK", key, group, read[0]]),
        (other, [b"XACK", key, group, read[1]]),
        (one, [b"XCLAIM", key, group, b"b", read[2]]),
        (other, [b"XREADGROUP", key, group, b"b", b"1"]),
    ]:
        world.write(party, [argv])
        world.play(rng.randint(0, 30), [])
    world.settle()
    if not any(event is Event.WENT_BACK for _, event in world.judgements):
        found = {name: value for name, value in world.hub.state(key).fields.items() if is_of_group(name)}
        pending = {read[2]: b"2 b", read[3]: b"1 a", following: b"1 b"}
        wanted = {pending_name(group, id_): value for id_, value in pending.items()} | {place_name(group): following}
        if found != wanted:
            raise WrongError(f"two parties read {key!r}: {found} is left, and not {wanted}")
    world.check()


def each_its_own(world: World) -> None:
    """All write, each to an element of one collection and a string of its own: of each the last word is there."""
    rng = world.rng
    shared = rng.choice([key for key in TYPES if TYPES[key] in ("hash", "set", "zset")])
    type_, parties = TYPES[shared], [None, *world.sites]
    names = world.names(type_, len(parties))
    world.write(None, [[b"DEL", shared], *world.putting(type_, shared, names)])
    world.settle()
    world.judgements.clear()
    elements: dict[bytes, bytes | None] = dict.fromkeys((name_here(type_, name) for name in names), b"1")
    strings: dict[bytes, bytes | None] = {b"ns:of " + name: None for name in names}
    for _ in range(rng.randint(5, 30)):
        party, name = rng.choice(list(zip(parties, names, strict=True)))
        value, gone = b"%d" % rng.randint(2, 1000), world.deletes and rng.random() < 0.3
        if rng.random() < 0.6:
            words = [world.removing(party, type_, shared, name)] if gone else []
            world.write(party, words or world.putting(type_, shared, [name], value))
            elements[name_here(type_, name)] = None if gone else value
        else:
            key = b"ns:of " + name
            world.write(party, [[b"DEL", key] if gone else [b"SET", key, value]])
            strings[key] = None if gone else value
        world.play(rng.randint(0, 6), [])
    world.settle()
    if not any(event is Event.WENT_BACK for _, event in world.judgements):
        held = elements_held(world.hub.data.get(shared), type_)
        if type_ == "set":  # whose members have no value
            held = {name: elements[name] for name in held if name in elements}
        found = {name: held.get(name) for name in elements}
        found |= {key: getattr(world.hub.data.get(key), "value", None) for key in strings}
        if found != elements | strings:
            raise WrongError(f"of {elements | strings}, of which nobody changed another's, {found} is left")
    world.check()


def evicted(world: World) -> None:
    """A server evicts a key: no other loses it."""
    party = world.rng.choice([None, *world.sites])
    servers = [world.hub if one is None else one.server for one in (None, *world.sites) if one is not party]
    wanted = [server.states() for server in servers]
    world.evict(party)
    world.play(world.rng.randint(0, 100), [])
    world.settle()
    for server, before in zip(servers, wanted, strict=True):
        if lost := unlike(before, server.states()):
            raise WrongError(f"what one server evicted, another has lost: {lost}")


def filled_anew(world: World) -> None:
    """A server evicts a collection, and a client adds to what is left of it, nothing: others lose no element."""
    rng = world.rng
    key = rng.choice([key for key, type_ in TYPES.items() if type_ in COLLECTIONS and type_ != "stream"])
    *names, new = world.names(TYPES[key], 4)
    world.write(None, [[b"DEL", key], *world.putting(TYPES[key], key, names)])
    world.settle()
    world.judgements.clear()
    party = rng.choice([None, *world.sites])
    server = world.hub if party is None else party.server
    if key not in server.data:
        return
    for site in world.sites:
        rng.choice([world.kill, world.kill_and_overrun, world.cut, world.unsubscribe, lambda _: None])(site)
    world.evict(party, key)
    world.play(rng.choice([0, 0, 30]), [])
    world.write(party, world.putting(TYPES[key], key, [new]))
    world.settle()
    for other in [world.hub, *(site.server for site in world.sites)]:
        found = elements_held(other.data.get(key), TYPES[key]).keys()
        if other is not server and not {name_here(TYPES[key], name) for name in (*names, new)} <= found:
            raise WrongError(f"of {key!r}, which a server evicted, another has only {found} left")


def filling(world: World, key: bytes, names: Sequence[bytes]) -> list[list[bytes]]:
    """Commands that put these elements into a collection; a string or a list gets the names as its value."""
    match TYPES.get(key, "string"):
        case "string":
            return [[b"SET", key, *names]]
        case "list":
            return [[b"RPUSH", key, *names]]
        case type_:
            return world.putting(type_, key, names)


def outlived(world: World) -> None:
    """Where keys are given a later expiry, or written anew, while others let them expire: all have them in the end."""
    rng = world.rng
    writer = rng.choice([None, *world.sites])
    server = world.hub if writer is None else writer.server
    names = {key: world.names(TYPES.get(key, ""), 2) for key in world.keys if key != MIXED}
    soon, late = (b"%d" % (world.now_ms + after) for after in (1, 10**9))
    for key in names:
        world.write(writer, [[b"DEL", key], *filling(world, key, names[key][:1]), [b"PEXPIREAT", key, soon]])
    world.settle()
    world.judgements.clear()
    for site in world.sites:
        rng.choice([world.kill, world.kill_and_overrun, world.cut, world.unsubscribe])(site)
    for key in names:
        if key not in server.data:
            continue
        later, more = [b"PEXPIREAT", key, late], filling(world, key, names[key][1:])
        match rng.choice(["later", "never", "more", "anew"]):
            case "later":
                world.write(writer, [later])
            case "never":
                world.write(writer, [[b"PERSIST", key]])
            case "more":
                world.write(
                    writer,
                    [*more, later] if TYPES.get(key, "string") == "string" or rng.random() < 0.5 else [later, *more],
                )
    world.play(rng.choice([0, 0, 5]), [])
    world.pass_time(world.sites[0])
    for key in names:
        if key not in server.data:
            world.write(writer, filling(world, key, names[key][:1]))
    wanted = server.states()
    world.play(rng.randint(0, 100), [])
    world.settle()
    if differing := missing(world, wanted):
        raise WrongError(f"of {'the hub' if writer is None else writer.name} was lost what outlived it: {differing}")
    world.check()


#: Phases that tell most on their own.
ONE, FALL = (everybody, one_writer), (everybody, fallen)


def run(seed: int, *phases: Any, trace: bool = False, **circumstances: Any) -> World:
    with by_the_clock_of_the_model():
        world = World(seed, **circumstances)
        if trace:
            world.trace = []
        for phase in phases or (everybody, one_writer, fallen):
            phase(world)
        return world
