"""A hub, some sites and the daemon's own decisions, played in any order that the network allows.

In: a seed, and which faults may happen. Out: whether all copies end equal. What is real: `Outbound`, `Inbound`,
`Pending`, `ExpectedEvents`, `difference`, `Healing` and the commands they make. What is played: the servers, the links
between them, and time. A step is one thing that can happen next: a client writes, a chunk of a stream is read, a
request is executed, its answer arrives or is lost, an event overtakes another.
"""

from __future__ import annotations

import collections
import random
from dataclasses import dataclass, field

from redisrepl.changes import Change, FieldsDeleted, HashSet, HashState, State, StringState, Touch
from redisrepl.differences import difference
from redisrepl.echo import ExpectedEvents
from redisrepl.healing import Difference, Healing
from redisrepl.inbound import Inbound
from redisrepl.noticing import change_of, echoes_of
from redisrepl.outbound import Batch, Outbound, OutboundOptions, settle
from redisrepl.wire.batches import UNCHANGED
from redisrepl.wire.commands import ChangeDecoder
from redisrepl.wire.digests import digest
from redisrepl.wire.feed import Feed, feed_content, parse_feed
from redisrepl.wire.writes import commands_of, keys_of

PREFIX = b"ns:"
STRINGS = [b"ns:s1", b"ns:s2"]
HASHES = [b"ns:h1"]
FIELDS = [b"f1", b"f2"]
PATIENCE = 1000.0


class Redis:
    """As much of a server as the daemon can tell apart: keys, a replication stream, keyspace events."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes | dict[bytes, bytes]] = {}
        self.stream: list[list[bytes]] = []
        self.executed: collections.Counter[bytes] = collections.Counter()
        self.writes: collections.Counter[bytes] = collections.Counter()  # by key: what `WATCH` looks at

    def run(self, argv: list[bytes]) -> tuple[str | None, list[bytes]]:  # noqa: C901 - one case for each command
        """Execute a command; return what a script would report of it, and the events that it causes."""
        name, key = argv[0], argv[1]
        self.executed[name] += 1
        self.writes[key] += 1
        held = self.data.get(key)
        match name:
            case b"HINCRBY":
                fields = held if isinstance(held, dict) else {}
                self.data[key] = {**fields, argv[2]: b"%d" % (int(fields.get(argv[2], b"0")) + int(argv[3]))}
                self.stream.append(argv)
                return None, [b"hincrby"]
            case b"SET":
                if argv[-1] == b"NX" and held is not None:
                    return UNCHANGED, []
                self.data[key] = argv[2]
                self.stream.append([b"SET", key, argv[2]])
                return None, [b"set"]
            case b"MSET":
                self.data |= zip(argv[1::2], argv[2::2], strict=True)
                self.stream.append(argv)
                return None, [b"set"]
            case b"HSET":
                if isinstance(held, bytes):
                    return "WRONGTYPE", []
                self.data[key] = {**(held or {}), **dict(zip(argv[2::2], argv[3::2], strict=True))}
                self.stream.append(argv)
                return None, [b"hset"]
            case b"HSETNX":
                fields = dict(zip(argv[2::2], argv[3::2], strict=True))
                held = held or {}
                fresh = {f: v for f, v in fields.items() if f not in held}
                self.data[key] = {**fresh, **held}
                self.stream += [[b"HSETNX", key, f, v] for f, v in fresh.items()]
                return (None if len(fresh) == len(fields) else UNCHANGED), [b"hset"] * len(fresh)
            case b"DEL":
                if held is None:
                    return UNCHANGED, []
                del self.data[key]
                self.stream.append(argv)
                return None, [b"del"]
            case b"HDEL":
                gone = [f for f in argv[2:] if held and f in held]
                if not gone:
                    return UNCHANGED, []
                self.data[key] = {f: v for f, v in held.items() if f not in gone}
                events = [b"hdel"]
                if not self.data[key]:
                    del self.data[key]
                    events.append(b"del")
                self.stream.append(argv)
                return None, events
        raise AssertionError(argv)

    def state(self, key: bytes) -> State:
        held = self.data.get(key)
        if held is None:
            return None
        return StringState(held) if isinstance(held, bytes) else HashState(dict(held))


@dataclass
class Flight:
    """A batch on its way: sent, executed, answered."""

    batch: Batch
    commands: list[list[bytes]]
    errors: dict[bytes, str] = field(default_factory=dict)
    executed: bool = False
    at: int = 0  # when by the hub's clock


@dataclass
class Fetch:
    """Keys asked of the hub, then their states, then the site's, then the apply on its way."""

    taken: dict[bytes, bool]
    told: dict[bytes, list[Change]] | None = None  # by the feed, in the place of a fetch
    at: int = 0
    states: dict[bytes, State] | None = None
    site_states: dict[bytes, State] | None = None
    read_at: int = 0  # where the site's stream stood then
    watched: dict[bytes, int] = field(default_factory=dict)
    changes: list[Change] | None = None
    sent: set[bytes] = field(default_factory=set)
    offset: int | None = None


class Site:
    """A site's Redis and its daemon."""

    def __init__(
        self,
        name: int,
        kinds: frozenset[str],
        outbound: type[Outbound],
        inbound: type[Inbound],
        *,
        every_write: bool,
    ) -> None:
        self.redis = Redis()
        self.counter = b"counter of %d" % name
        self.counted = 0
        self.read_to = 0
        self.expected_local = ExpectedEvents(100_000)
        self.expected_remote = ExpectedEvents(100_000)
        self.inbound = inbound(
            covers=lambda key: key.startswith(PREFIX),
            kinds=kinds,
            expected_local=self.expected_local,
            expected_remote=self.expected_remote,
            busy=lambda key: self.outbound.busy(key),  # noqa: PLW0108 - there is none yet
        )
        self.outbound = outbound(
            ChangeDecoder(lambda key: key.startswith(PREFIX), kinds),
            self.expected_local,
            self.expected_remote,
            self.inbound,
            OutboundOptions(site_wins=False, event_patience=PATIENCE, every_write=every_write),
        )
        self.flights: list[Flight] = []
        self.late: list[list[list[bytes]]] = []
        self.fetches: list[Fetch] = []
        self.events: list[tuple[bytes, bytes] | Feed] = []
        self.noticed: list[tuple[bytes, bytes]] | None = None  # events of the site itself, if it is followed by them
        self.subscribed = True
        self.healing = Healing(self.outbound, self.inbound, "hub", "both")
        self.swept = False


class World:
    """One run; see the module."""

    def __init__(  # noqa: PLR0913 - the circumstances of a run
        self,
        seed: int,
        *,
        sites: int,
        faults: bool,
        silent: bool = False,
        deletes: bool = False,
        outbound: type[Outbound] = Outbound,
        inbound: type[Inbound] = Inbound,
        sweep: bool = True,
        notify: bool = False,
        waits: bool = True,
        watches: bool = True,
        feed: bool = False,
        every_write: bool = False,
    ) -> None:
        self.feed, self.time = feed, 0
        self.waits, self.watches = waits, watches
        self.rng = random.Random(seed)
        self.kinds = frozenset({"set", "hset"} | ({"del"} if deletes else set()))
        self.faults, self.silent, self.deletes, self.sweep = faults, silent, deletes, sweep
        self.hub = Redis()
        self.sites = [Site(name, self.kinds, outbound, inbound, every_write=every_write) for name in range(sites)]
        if notify:
            for site in self.sites[::2]:  # the others follow the stream
                site.noticed = []
                site.inbound.expect_events(lambda change: echoes_of(change, self.kinds), PATIENCE)
        self.now = 0.0
        self.counter = 0
        self.quiet = False

    # What can happen.

    def write(self) -> list[bytes]:
        """A client's command, sometimes with a value that was written before."""
        self.counter += 1
        number = self.counter if self.rng.random() < 0.8 else self.rng.randint(1, self.counter)
        value = b"%d" % number
        if self.deletes and self.rng.random() < 0.2:
            return [b"DEL", self.rng.choice(STRINGS)]
        if self.rng.random() < 0.5:
            return [b"SET", self.rng.choice(STRINGS), value]
        fields = self.rng.sample(FIELDS, self.rng.randint(1, len(FIELDS)))
        return [b"HSET", self.rng.choice(HASHES), *(word for f in fields for word in (f, value))]

    def hub_run(self, argv: list[bytes]) -> str | None:
        error, events = self.hub.run(argv)
        for site in self.sites:
            if site.subscribed:
                site.events += [(key, event) for key in keys_of(argv) for event in events]
        return error

    def site_run(self, site: Site, argv: list[bytes]) -> None:
        _, events = site.redis.run(argv)
        if site.noticed is not None:
            site.noticed += [(argv[1], event) for event in events]

    def moves(self, site: Site):  # noqa: C901, PLR0912 - one line for each thing that can happen
        bad = self.faults and not self.quiet
        if not self.quiet:
            yield self.client
            yield self.client
        if site.noticed is None and site.read_to < len(site.redis.stream):
            yield self.read
            yield self.read
        if site.noticed:
            yield self.notice
            yield self.notice
        if site.noticed is not None and bad:
            yield self.lose_noticed
        if site.outbound.ready and len(site.flights) < 3:
            yield self.send
        for flight in site.flights:
            yield self.acknowledge if flight.executed else self.execute
        if site.flights and bad:
            yield self.lose_reply
        if site.late:
            yield self.execute_late
        if site.events:
            yield self.event
            yield self.event
            if bad and self.silent:
                yield self.lose_event
        if site.inbound.waiting and len(site.fetches) < 2:
            yield self.send_fetch
        if site.fetches:
            yield self.step_fetch
            yield self.step_fetch
            if bad:
                yield self.lose_fetch
        if bad and site.subscribed:
            yield self.unsubscribe
        if not site.subscribed:
            yield self.resubscribe

    def client(self, site: Site) -> None:
        if self.rng.random() < 0.2:  # a field that only this site's clients count up
            site.counted += 1
            self.site_run(site, [b"HINCRBY", HASHES[0], site.counter, b"1"])
        else:
            self.site_run(site, self.write())

    def notice(self, site: Site) -> None:
        for key, event in [site.noticed.pop(0) for _ in range(self.rng.randint(1, len(site.noticed)))]:
            if (change := change_of(key, event, self.kinds)) is not None:
                site.outbound.noticed(key, event, change)

    def lose_noticed(self, site: Site) -> None:
        """The subscription at the site broke and was made again."""
        site.noticed.clear()
        site.inbound.distrust_fetched()
        site.outbound.start_over()
        site.swept = False

    def read(self, site: Site) -> None:
        end = self.rng.randint(site.read_to + 1, len(site.redis.stream))
        site.outbound.read(site.redis.stream[site.read_to : end], end)
        site.read_to = end

    def send(self, site: Site) -> None:
        batch = site.outbound.take(self.rng.randint(1, 3), 1_000_000)
        changes: list[Change] = []
        for change in batch.changes:
            changes += self.resolve(site, change)
        site.flights.append(Flight(batch, site.outbound.prepare(batch, changes, self.now)))

    def resolve(self, site: Site, change: Change) -> list[Change]:
        """What `pushing` does: read the values that the batch only names."""
        match change:
            case Touch():
                return settle(change, site.redis.state(change.key), self.kinds)
            case HashSet(key, fields) if None in fields.values():
                held = site.redis.data.get(key)
                held = held if isinstance(held, dict) else {}
                known = {f: held.get(f) if v is None else v for f, v in fields.items()}
                gone = tuple(f for f, v in known.items() if v is None)
                return [HashSet(key, known), *([FieldsDeleted(key, gone)] if gone and self.deletes else [])]
            case _:
                return [change]

    def execute(self, site: Site) -> None:
        flight = self.rng.choice([f for f in site.flights if not f.executed])
        for command in flight.commands:
            error = self.hub_run(command)
            if error is not None:
                flight.errors[command[1]] = error
        flight.executed, flight.at = True, self.tell(site, [] if flight.errors else flight.commands)

    def tell(self, site: Site, commands: list[list[bytes]]) -> int:
        """The feed: every other site hears what was executed; when, by the hub's clock."""
        at = self.clock()
        if self.feed and (content := feed_content(commands)):
            for other in self.sites:
                if other is not site and other.subscribed:
                    other.events.append(parse_feed(b"%d origin %b" % (at, content)))
        return at

    def clock(self) -> int:
        self.time += 1
        return self.time

    def acknowledge(self, site: Site) -> None:
        flight = self.rng.choice([f for f in site.flights if f.executed])
        site.flights.remove(flight)
        site.outbound.succeeded(flight.batch, flight.errors, flight.at)

    def lose_reply(self, site: Site) -> None:
        flight = self.rng.choice(site.flights)
        site.flights.remove(flight)
        if not flight.executed and self.rng.random() < 0.5:
            site.late.append(flight.commands)
        site.outbound.failed(flight.batch, unknown=True)

    def execute_late(self, site: Site) -> None:
        commands = site.late.pop()
        for command in commands:
            self.hub_run(command)
        self.tell(site, commands)

    def event(self, site: Site) -> None:
        happened = site.events.pop(self.rng.randrange(len(site.events)))
        if isinstance(happened, Feed):
            site.inbound.told(happened.time, happened.changes(), self.now)
        else:
            site.inbound.events([happened])

    def lose_event(self, site: Site) -> None:
        site.events.pop(self.rng.randrange(len(site.events)))

    def send_fetch(self, site: Site) -> None:
        if told := site.inbound.take_told(self.rng.randint(1, 3)):
            site.fetches.append(Fetch(dict.fromkeys(told, False), told, states=dict.fromkeys(told)))
        elif taken := site.inbound.take(self.rng.randint(1, 3)):
            site.fetches.append(Fetch(taken))

    def step_fetch(self, site: Site) -> None:
        # Comparing and applying is one step at a time, as `applying` has it; reading the hub is not.
        fetch = next((f for f in site.fetches if f.site_states is not None), None) or self.rng.choice(site.fetches)
        inbound = site.inbound
        if fetch.states is None:
            fetch.states = {key: self.hub.state(key) for key in fetch.taken}
            fetch.at = self.clock()
        elif fetch.site_states is None:
            if fetch.told is None:
                fetch.states = inbound.fetched(fetch.states, fetch.at)
            fetch.site_states = {key: site.redis.state(key) for key in fetch.states}
            fetch.read_at = len(site.redis.stream)
            fetch.watched = {key: site.redis.writes[key] for key in fetch.states}
        elif fetch.changes is None:
            if site.noticed is None and site.read_to < fetch.read_at and self.waits:
                return
            fetch.changes = []
            for key, state in fetch.states.items():
                removal = fetch.taken[key]
                differing = difference(key, state, fetch.site_states[key], self.kinds, may_delete=removal)
                differing = differing if fetch.told is None else fetch.told[key]
                if inbound.about_to_apply(key, differing):
                    fetch.changes += differing
                    fetch.sent.add(key)
        elif fetch.offset is None:
            if any(site.redis.writes[key] != count for key, count in fetch.watched.items()) and self.watches:
                inbound.not_applied(fetch.sent)
                site.fetches.remove(fetch)
                return
            for change in fetch.changes:
                for command in commands_of(change):
                    self.site_run(site, command)
            fetch.offset = len(site.redis.stream)
        else:
            inbound.applied(fetch.sent, fetch.offset if site.noticed is None else self.now + PATIENCE)
            site.fetches.remove(fetch)

    def lose_fetch(self, site: Site) -> None:
        fetch = self.rng.choice(site.fetches)
        site.fetches.remove(fetch)
        if fetch.changes is None:
            keys = fetch.taken if fetch.site_states is None else fetch.states
            site.inbound.untaken(keys)
        else:
            if fetch.offset is None and self.rng.random() < 0.5:
                for change in fetch.changes:
                    for command in commands_of(change):
                        self.site_run(site, command)
            site.inbound.not_applied(fetch.sent)

    def unsubscribe(self, site: Site) -> None:
        site.subscribed = False
        site.events.clear()

    def resubscribe(self, site: Site) -> None:
        site.subscribed = True
        site.inbound.resubscribed()
        site.swept = False
        site.inbound.mark_dirty(self.hub.data)

    def timers(self) -> bool:
        """What fires once nothing else moves: overdue events, and the sweep."""
        fired = False
        self.now += 2 * PATIENCE
        for site in self.sites:
            site.inbound.tick(self.now)
            # The master's ping moves the stream on, past every place where an echo must have been.
            site.redis.stream.append([b"PING"])
            fired = fired or bool(site.inbound.dirty)
            if not fired and self.sweep and not site.swept:
                site.swept = fired = True
                for key in STRINGS + HASHES:
                    look = Difference(
                        key, digest(site.redis.state(key), expiries=False), digest(self.hub.state(key), expiries=False)
                    )
                    if look.site != look.hub:
                        site.healing.heal(look)
        return fired

    # A run.

    def run(self) -> bool:
        """Play until nothing moves; return whether all copies are equal."""
        quiet_from = self.rng.randint(3, 40)
        idle = 0
        for step in range(20_000):
            self.quiet = step >= quiet_from
            if not self.quiet and self.rng.random() < 0.1:
                self.hub_run(self.write())
                continue
            moves = [(move, site) for site in self.sites for move in self.moves(site)]
            if moves:
                move, site = self.rng.choice(moves)
                move(site)
            elif not self.timers():
                idle += 1
                if idle > 2:
                    return all(site.redis.data == self.hub.data for site in self.sites)
            else:
                idle = 0
        raise AssertionError("the model did not come to rest")

    def miscounted(self) -> list[tuple[bytes, int, bytes | None]]:
        """Counters that do not stand where their site's clients have counted them to."""
        held = self.hub.data.get(HASHES[0])
        fields = held if isinstance(held, dict) else {}
        found = [(site.counter, site.counted, fields.get(site.counter)) for site in self.sites]
        return [(name, counted, value) for name, counted, value in found if int(value or b"0") != counted]

    def leftovers(self) -> list[str]:
        """What should be empty at rest and is not."""
        found = []
        for index, site in enumerate(self.sites):
            parts = {
                "expected local": len(site.expected_local),
                "expected remote": len(site.expected_remote),
                "pending": site.outbound.waiting,
                "dirty": len(site.inbound.dirty),
                "acknowledged": site.read_to - site.outbound.acknowledged if site.noticed is None else 0,
                "seen": len(site.noticed or ()),
            }
            found += [f"site {index}: {name} {count}" for name, count in parts.items() if count]
        return found
