"""A hub, some sites and their daemons, played in any order that the network allows.

In: a seed, and which faults may happen. Out: what went wrong, if anything. What is real: `engine.core` and all that it
owns, and what is around it (`pushing`, `applying`, `judging`, `sweep`, `comparison`, `saving`, `sources`,
`remote.fence`). What is played: the servers, the disk, the links between them, and time. A step is one thing that can
happen next: a client writes, a chunk of a stream is read, a request is executed, its answer arrives or is lost, an
event overtakes another, a daemon dies.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import structlog

from redisrepl.changes import KIND_OF_TYPE, HashState, State
from redisrepl.changes import KINDS as ALL_KINDS
from redisrepl.engine.continuity import Event
from redisrepl.engine.losers import ConflictLoss
from redisrepl.errors import OutcomeUnknownError, PeerUnavailableError, RedisreplError
from redisrepl.remote.fence import NOT_LAST
from redisrepl.wire.collections import COLLECTIONS, put_words
from redisrepl.wire.digests import digest_of
from redisrepl.wire.entries import entry_name, greater_id, plain_id
from redisrepl.wire.feed import Feed, feed_content, parse_feed
from redisrepl.wire.groups import is_of_group
from redisrepl.wire.writes import UNCHANGED
from tests.model.ancestors import Disk, Memory
from tests.model.daemons import CLOCK, LATER, PREFIX, Daemon, Made, elements_held
from tests.model.groups import groups_of, pending_of
from tests.model.servers import Server, entries_of, last_id, type_of
from tests.model.steps import Task

STRINGS = [PREFIX + b"s%d" % number for number in range(1, 5)]
HASHES = [PREFIX + b"h1", PREFIX + b"h2"]
MIXED = PREFIX + b"m"  # of one type now, of another then
TYPES = {
    **dict.fromkeys(STRINGS, "string"),
    **dict.fromkeys(HASHES, "hash"),
    **{PREFIX + type_[:3].encode(): type_ for type_ in ("set", "zset", "list", "stream")},
}
LIST = PREFIX + b"lis"
KEYS = [*TYPES, MIXED]
KEYS_OF_A_RUN = (2, 4, 7)
FIELDS = [b"f1", b"f2", b"f3"]
_HOUR = 3_600_000


class Site:
    """A site's Redis, and the daemon beside it.

    Attributes:
        disk: its state directory.
        by_events: there is no PSYNC.
        marks: the daemon may mark there how far it agrees.
        counter: a field that only its own clients count, and how far they did.
    """

    def __init__(self, name: str, rng: random.Random, *, by_events: bool) -> None:
        self.name = name
        self.server = Server(rng)
        self.disk = Disk()
        self.by_events = by_events
        self.marks = rng.random() < 0.5
        self.counter = b"counter of " + name.encode()
        self.counted = 0
        self.daemon: Daemon


class WrongError(AssertionError):
    """Something ended as it must not."""


class World:
    """One run; see the module.

    Args:
        seed: of everything that happens by chance.
        sites: how many.
        faults: links break, daemons die, requests are executed late.
        silent: events are lost that nobody misses.
        deletes, expires: these kinds of change are replicated too.
        feed: what is pushed is told to the others.
        notify: every other site has no PSYNC.
        restarts: servers restart, with everything that they held.
        fills: the disks of daemons are full now and then.
        winner: of conflicts.
        every_write: see `CoreOptions`.
        groups: consumer groups are replicated, and clients read by them.
        waits, watches: an apply waits for the stream, and watches its keys.
        writes: the part of all steps that are writes of clients.
        only: keys of these types are written, None: of any; otherwise some keys of all.
        made: of what the daemons are made.
    """

    def __init__(  # noqa: PLR0913 - the circumstances of a run
        self,
        seed: int,
        *,
        sites: int = 2,
        faults: bool = True,
        silent: bool = False,
        deletes: bool = True,
        expires: bool = False,
        feed: bool = False,
        notify: bool = False,
        restarts: bool = False,
        flushes: bool = False,
        fills: bool = False,
        winner: str = "hub",
        every_write: bool = False,
        groups: bool = False,
        waits: bool = True,
        watches: bool = True,
        counts: bool = True,
        writes: float = 0.1,
        only: Collection[str | None] = (),
        made: Made | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.made = made or Made()
        left_out = {"fields-expire", *(() if deletes else ("del",)), *(() if expires else ("expire",))}
        self.kinds = ALL_KINDS - left_out | ({"streams-groups"} if groups else set())
        self.keys = [key for key in KEYS if TYPES.get(key) in only]
        if not only:
            self.keys = self.rng.sample(KEYS, self.rng.choice(KEYS_OF_A_RUN))
        self.faults, self.silent, self.deletes, self.expires = faults, silent, deletes, expires
        self.feed, self.restarts, self.flushes = feed, restarts, flushes
        self.winner, self.every_write, self.waits, self.watches = winner, every_write, waits, watches
        self.counts, self.fills, self.writes, self.groups = counts, fills, writes, groups
        self.now_ms = CLOCK.now_ms = 1_000_000_000
        self.hub = Server(self.rng, self.now_ms)
        self.time = self.counter = 0
        self.kept: list[tuple[str, ConflictLoss]] = []
        self.forgot = False  # a daemon does not know what was agreed on
        # How often clients have named a word with a key.
        self.said: collections.Counter[tuple[bytes, bytes]] = collections.Counter()
        self.late: list[tuple[Site, Callable[[], object]]] = []
        self.trace: list[str] | None = None
        self.judgements: collections.Counter[tuple[str, Event]] = collections.Counter()
        self.quiet = False
        self.sites = [Site(f"site{n}", self.rng, by_events=notify and n % 2 == 0) for n in range(sites)]
        for site in self.sites:
            site.server.now_ms = self.now_ms
            site.daemon = Daemon(self, site)

    def tick(self) -> int:
        """The hub's clock."""
        self.time += 1
        return self.time

    def judged(self, side: str, event: Event) -> None:
        """A daemon has judged a server."""
        self.judgements[side, event] += 1

    def note(self, text: str) -> None:
        """For who follows a run."""
        if self.trace is not None:
            self.trace.append(text)

    # What happens at the servers.

    def hub_run(self, argv: list[bytes]) -> str | None:
        """A command at the hub; its events go to all who hear."""
        error, events = self.hub.run(argv)
        self._tell(events)
        return error

    def _tell(self, events: list[tuple[bytes, bytes]]) -> None:
        for site in self.sites:
            if site.daemon.subscribed:
                site.daemon.heard += events

    def site_run(self, site: Site, argv: list[bytes]) -> str | None:
        """A command at a site."""
        error, events = site.server.run(argv)
        self._notice(site, events)
        return error

    def _notice(self, site: Site, events: list[tuple[bytes, bytes]]) -> None:
        if site.daemon.events is not None and site.daemon.linked:
            site.daemon.events += events

    def execute(self, daemon: Daemon, commands: list[list[bytes]], fencing: Any) -> Any:
        """What the script of a batch does: errors by key, the time, whether the fence is lost; None: it was fenced."""
        fence = self.hub.fences.get(fencing.key)
        if fencing.key and fence is not None and fence["epoch"] > fencing.epoch:
            self.note(f"{daemon.site.name}: FENCED {commands}")
            return None
        noted = (fence or {}).get(fencing.slot % NOT_LAST, 0)
        if fence is not None and fencing.number <= noted > fencing.known:
            raise WrongError(f"{daemon.site.name}: refused as repeated: {fencing} {fence}")
        if noted < fencing.known:
            fence = None  # the hub went back
        errors = []
        for command in commands:
            error = self.hub_run(command)
            if error is not None:
                if error.startswith("ERR"):
                    raise WrongError(f"the hub refuses what {daemon.site.name} pushes: {command}: {error}")
                errors.append((command[1], error))
        self.note(f"{daemon.site.name}: executed {commands} {errors}")
        at = self.tick()
        if self.feed and not errors and (content := feed_content(commands)):
            for site in self.sites:
                if site.daemon is not daemon and site.daemon.subscribed:
                    site.daemon.heard.append(parse_feed(b"%d origin %b" % (at, content)))
        if fence is not None:
            fence[fencing.slot] = fencing.number
            if any(error != UNCHANGED for _, error in errors):
                fence[f"{fencing.slot}!"] = fencing.number
        self.hub.written()
        return errors, at, bool(fencing.key) and fence is None

    def perhaps_late(
        self, site: Site, run: Callable[[], object], *, unsent: bool = False
    ) -> Callable[[], RedisreplError]:
        """What the loss of a request does: it was not sent, or it was, and may be executed yet."""

        def lose() -> RedisreplError:
            if unsent and self.rng.random() < 0.3:
                return PeerUnavailableError("the hub is away")
            if self.rng.random() < 0.6:
                self.late.append((site, run))
            return OutcomeUnknownError("the request is lost")

        return lose

    # Who writes.

    def value(self) -> bytes:
        """One that was not written before, mostly."""
        self.counter += 1
        return b"%d" % (self.counter if self.rng.random() < 0.85 else self.rng.randint(1, self.counter))

    def command(self, party: Server) -> list[list[bytes]]:
        """What a client runs at a server."""
        key, dice, rng = self.rng.choice(self.keys), self.rng.random(), self.rng
        held = party.data.get(key)
        if self.deletes and dice < 0.12:
            return [[b"DEL", key]]
        if self.deletes and dice < 0.15:
            return [[b"DEL", key] if held is None or key == MIXED else [b"RENAME", key, MIXED]]
        if self.expires and held is not None and 0.5 <= dice < 0.6:
            return [rng.choice([[b"PERSIST", key], [b"PEXPIREAT", key, b"%d" % (self.now_ms + 50 * _HOUR)]])]
        type_ = TYPES.get(key) or rng.choice(list(KIND_OF_TYPE)[:-1])
        if not self.deletes and isinstance(held, HashState):
            type_ = held.type  # of another one, what was removed with it would come back with the next comparison
        if type_ == "string":
            expires = self.expires and dice < 0.5
            options = [b"PXAT", b"%d" % (self.now_ms + rng.choice([1, 2, 50]) * _HOUR)] if expires else []
            return [[b"SET", key, self.value(), *options]]
        if self.groups and held is not None and type_of(held) == "stream" and rng.random() < 0.5:
            return [self.reading(key, elements_held(held, "stream"))]
        another = held is not None and type_of(held) != type_
        before = [[b"DEL", key]] if another else []
        elements = {} if another or held is None or type_ == "list" else held.fields
        if self.deletes and dice < 0.3:
            return [*before, self.removal(type_, key, elements)]
        return [*before, self.addition(type_, key, elements)]

    def removal(self, type_: str, key: bytes, elements: Mapping[bytes, bytes]) -> list[bytes]:
        """What removes an element of this collection, or an item of a list."""
        rng = self.rng
        match type_:
            case "list":
                return [b"LPOP", key]
            case "zset" if rng.random() < 0.5:
                return [b"ZREMRANGEBYRANK", key, b"0", b"0"]
            case "stream" if (names := entries_of(elements)) and rng.random() < 0.6:
                return [b"XDEL", key, plain_id(rng.choice([*names, names[-1]]))]
            case "stream":
                return [b"XTRIM", key, b"MAXLEN", b"=", b"%d" % rng.randint(0, 2)]
        return [COLLECTIONS[type_].remove, key, rng.choice(FIELDS)]

    def addition(self, type_: str, key: bytes, elements: Mapping[bytes, bytes]) -> list[bytes]:
        """What adds elements or changes them, or adds an item to a list."""
        rng, value = self.rng, self.value
        match type_:
            case "list":
                return [b"RPUSH", key, *(value() for _ in range(rng.randint(1, 2)))]
            case "zset" if rng.random() < 0.2:
                return [b"ZINCRBY", key, value(), rng.choice(FIELDS)]
            case "stream":
                id_, dice = value() + b"-1", rng.random()
                if elements and dice < 0.1:
                    return [b"XSETID", key, greater_id(id_, last_id(elements))]
                trims = [b"MAXLEN", b"=", b"2"] if self.deletes and dice < 0.2 else []
                return [b"XADD", key, *trims, id_, b"f", value()]
        names = rng.sample(FIELDS, rng.randint(1, len(FIELDS)))
        its = COLLECTIONS[type_]
        return [its.put, key, *its.options, *put_words(type_, [(name, value()) for name in names])]

    def reading(self, key: bytes, elements: Mapping[bytes, bytes]) -> list[bytes]:
        """What a client does with a consumer group of a stream."""
        rng, group, consumer = self.rng, b"g", self.rng.choice([b"a", b"b"])
        at = plain_id(rng.choice(entries_of(elements) or [b"0-0"]))
        if group not in groups_of(elements):
            return [b"XGROUP", b"CREATE", key, group, at]
        pending = [*pending_of(elements, group)]
        match rng.choice(["read", "read", "read", "ack", "ack", "claim", "set", "leave", "destroy"]):
            case "ack" if pending:
                return [b"XACK", key, group, *rng.sample(pending, rng.randint(1, len(pending)))]
            case "claim" if pending:
                return [b"XCLAIM", key, group, consumer, rng.choice(pending)]
            case "set":
                return [b"XGROUP", b"SETID", key, group, at]
            case "leave":
                return [b"XGROUP", b"DELCONSUMER", key, group, consumer]
            case "destroy":
                return [b"XGROUP", b"DESTROY", key, group]
        return [b"XREADGROUP", key, group, consumer, b"%d" % rng.randint(1, 2)]

    def names(self, type_: str, count: int) -> list[bytes]:
        """Names of so many elements that no collection of this type has; of a stream's entries, in their order."""
        self.counter += count
        return [(b"%d-1" if type_ == "stream" else b"e%d") % (self.counter + n) for n in range(count)]

    def removing(self, party: Site | None, type_: str, key: bytes, name: bytes) -> list[bytes]:
        """A command that removes an element, by name or, where it is the first entry of a stream, by trimming that."""
        held = elements_held((self.hub if party is None else party.server).data.get(key), type_)
        if type_ == "stream" and (names := entries_of(held))[:1] == [entry_name(name)] and self.rng.random() < 0.5:
            return [b"XTRIM", key, b"MAXLEN", b"=", b"%d" % (len(names) - 1)]
        return [COLLECTIONS[type_].remove, key, name]

    def putting(self, type_: str, key: bytes, names: Sequence[bytes], value: bytes = b"1") -> list[list[bytes]]:
        """Commands that add these elements, or change them."""
        if type_ == "stream":
            return [[b"XADD", key, name, b"f", b"v"] for name in names]
        its = COLLECTIONS[type_]
        return [[its.put, key, *its.options, *put_words(type_, [(name, value) for name in names])]]

    def write(self, party: Site | None, commands: list[list[bytes]] | None = None) -> list[bytes]:
        """A client writes; which keys."""
        server = self.hub if party is None else party.server
        commands = commands or self.command(server)
        self.note(f"client at {'hub' if party is None else party.name}: {commands}")
        keys = [argv[2 if argv[0] == b"XGROUP" else 1] for argv in commands]
        for key, argv in zip(keys, commands, strict=True):
            self.said.update((key, word) for word in argv[2:])
            before = elements_held(server.data.get(key), "stream").items()
            if party is None:
                self.hub_run(argv)
            else:
                self.site_run(party, argv)
            changed = elements_held(server.data.get(key), "stream").items() - before
            self.said.update((key, name + value) for name, value in changed if is_of_group(name))
        server.written()
        return keys

    def announce(self) -> None:
        """Of reading and acknowledging no event tells, so others hear of it with the next change of the stream."""
        for party in [None, *(site for site in self.sites if site.by_events)]:
            server = self.hub if party is None else party.server
            for key in [key for key, held in server.data.items() if type_of(held) == "stream"]:
                group = [key, b"nobody"]
                self.write(party, [[b"XGROUP", b"CREATE", *group, b"0-0"], [b"XGROUP", b"DESTROY", *group]])

    def count(self, site: Site) -> None:
        """A client counts."""
        self.write(site, [[b"HINCRBY", HASHES[0], site.counter, b"1"]])
        site.counted += 1

    # What a daemon does.

    def moves(self, site: Site) -> Iterator[Callable[[Site], None]]:  # noqa: C901, PLR0912 - a list of what can happen
        """What can happen next at a site, if nothing goes wrong."""
        daemon = site.daemon
        kinds = [task.kind for task in daemon.tasks]
        for task in daemon.tasks:
            if task.movable:
                yield self.step
        if not daemon.linked and "attach" not in kinds:
            yield self.attach
        if daemon.linked and daemon.events is None and daemon.unread:
            yield self.read
            yield self.read
        if daemon.linked and daemon.events:
            yield self.notice
            yield self.notice
        if daemon.outbound.ready and kinds.count("push") < 3:
            yield self.push
        if daemon.core.continuity.known and daemon.inbound.waiting and kinds.count("fetch") < 2:
            yield self.fetch
        side = daemon.core.continuity
        if "judge site" not in kinds and side.site.followed and not side.site.judged:
            yield self.judge_site
        if "judge hub" not in kinds and side.hub.followed and not side.hub.judged:
            yield self.judge_hub
        if "sweep" not in kinds and daemon.sweep.owed is not None:
            yield self.sweep
        if not daemon.subscribed:
            yield self.subscribe
        if daemon.heard:
            yield self.hear
            yield self.hear
        if self.late:
            yield self.execute_late
        if not self.quiet:
            yield self.rarely

    def rarely(self, site: Site) -> None:
        """What happens now and then, and need not."""
        daemon, dice = site.daemon, self.rng.random()
        if dice < 0.4:
            self.save(site)
        elif dice < 0.7:
            self.daemon_tick(site)
        elif dice < 0.9:
            self.look_at_hub(site)
        elif self.silent and "sweep" not in [task.kind for task in daemon.tasks]:
            self.begin(site, "sweep", daemon.sweep.once(timer=True))

    def save(self, site: Site) -> None:
        """What `Saving.run` does at its times."""
        if "save" not in [task.kind for task in site.daemon.tasks]:
            self.begin(site, "save", site.daemon.saving.once())

    def begin(self, site: Site, kind: str, coroutine: Any) -> None:
        """Something is begun."""
        task = Task(kind, coroutine)
        if not task.over:
            site.daemon.tasks.append(task)

    def step(self, site: Site) -> None:
        daemon = site.daemon
        task = self.rng.choice([task for task in daemon.tasks if task.movable])
        task.step()
        if task.over and task in daemon.tasks:
            daemon.tasks.remove(task)

    def attach(self, site: Site) -> None:
        self.begin(site, "attach", site.daemon.attach())

    def read(self, site: Site) -> None:
        site.daemon.read(self.rng.randint(1, 4))

    def notice(self, site: Site) -> None:
        events = site.daemon.events
        site.daemon.take_noticed([events.pop(0) for _ in range(self.rng.randint(1, len(events)))])

    def push(self, site: Site) -> None:
        site.daemon.pushing.most = self.rng.randint(1, 3)
        self.begin(site, "push", site.daemon.pushing._push_batch())

    def fetch(self, site: Site) -> None:
        site.daemon.applying._max_keys = self.rng.randint(1, 3)
        if (work := site.daemon.applying._take()) is not None:
            self.begin(site, "fetch", work)
        elif self.groups:  # it waits for an echo that never comes: what was applied needed an entry that is gone
            site.server.stream.append([b"PING"])

    def judge_site(self, site: Site) -> None:
        self.begin(site, "judge site", site.daemon.judging.judge_site())

    def judge_hub(self, site: Site) -> None:
        self.begin(site, "judge hub", site.daemon.judging.judge_hub())

    def sweep(self, site: Site) -> None:
        self.begin(site, "sweep", site.daemon.sweep.once(timer=False))

    def look_at_hub(self, site: Site) -> None:
        if "look" not in [task.kind for task in site.daemon.tasks]:
            judging = site.daemon.judging
            self.begin(site, "look", judging.mark() if self.rng.random() < 0.7 else judging.look_at_hub())

    def subscribe(self, site: Site) -> None:
        site.daemon.subscribed = True
        site.daemon.judging.hub_heard()

    def hear(self, site: Site) -> None:
        heard = site.daemon.heard
        happened = heard.pop(self.rng.randrange(len(heard)))
        if isinstance(happened, Feed):
            site.daemon.inbound.feed(happened.time, happened.changes(), 0.0)
        else:
            site.daemon.inbound.events([happened])

    def execute_late(self, _: Site) -> None:
        owner, run = self.late.pop(self.rng.randrange(len(self.late)))
        self.note(f"late, of {owner.name}:")
        run()

    def daemon_tick(self, site: Site, now: float = 0.0) -> None:
        daemon = site.daemon
        daemon.core.overdue(now)
        if daemon.store.take_forgot():
            daemon.core.continuity.is_behind()
        if daemon.store.behind and not daemon.core.continuity.behind:
            daemon.store.caught_up()
        if daemon.core.certain:
            daemon.pushing.nothing_in_doubt()

    # What goes wrong.

    def wrongs(self, site: Site) -> Iterator[Callable[[Site], None]]:
        """What can go wrong next at a site."""
        daemon = site.daemon
        yield self.kill
        yield self.kill_and_overrun
        yield self.cut
        yield self.cut
        if any(task.losable for task in daemon.tasks):
            yield self.lose
            yield self.lose
            yield self.lose
        if daemon.subscribed:
            yield self.unsubscribe
        if self.silent and daemon.heard:
            yield self.lose_event
        if self.restarts:
            yield self.restart_site
            yield self.restart_hub
        if self.flushes and self.rng.random() < 0.1:
            yield self.flush
        if self.expires:
            yield self.pass_time
        if self.fills:
            yield self.fill_or_free
            yield self.fill_or_free
            if daemon.store.full:
                yield self.outgrow

    def fill_or_free(self, site: Site) -> None:
        """The disk of the daemon is full from now on, or is not any more."""
        store = site.daemon.store
        self.note(f"{site.name}: the disk {'is free' if store.full else 'is full'}")
        if store.full:
            store.free()
        else:
            store.full = True

    def outgrow(self, site: Site) -> None:
        """What the daemon could not write is more than it keeps."""
        self.note(f"{site.name}: all is forgotten")
        site.daemon.store.outgrow()
        self.forgot = True

    def kill(self, site: Site) -> None:
        """Kill -9 of the daemon."""
        self.note(f"{site.name}: killed")
        daemon = site.daemon
        daemon.store.die()
        for task in daemon.tasks:
            task.kill()
        site.daemon = Daemon(self, site)

    def kill_and_overrun(self, site: Site) -> None:
        self.kill(site)
        site.server.overrun()

    def cut(self, site: Site) -> None:
        """The link to the site, sometimes for longer than the backlog reaches."""
        self.note(f"{site.name}: cut")
        daemon = site.daemon
        for task in [task for task in daemon.tasks if task.kind == "attach"]:
            task.kill()
            daemon.tasks.remove(task)
        daemon.detached()
        if self.rng.random() < 0.5:
            site.server.overrun()

    def lose(self, site: Site) -> None:
        daemon = site.daemon
        task = self.rng.choice([task for task in daemon.tasks if task.losable])
        self.note(f"{site.name}: lost {task.kind}")
        task.lose()
        if task.over:
            daemon.tasks.remove(task)

    def unsubscribe(self, site: Site) -> None:
        site.daemon.subscribed = False
        site.daemon.heard.clear()

    def lose_event(self, site: Site) -> None:
        heard = site.daemon.heard
        heard.pop(self.rng.randrange(len(heard)))

    def restart_site(self, site: Site) -> None:
        self.note(f"{site.name}: its server restarts")
        site.server.restart()
        self.disconnect(site)

    def disconnect(self, site: Site) -> None:
        """Every connection to the site's server breaks."""
        self.cut(site)

    def restart_hub(self, _: Site) -> None:
        self.note("the hub restarts")
        self.hub.restart()
        for site in self.sites:
            self.unsubscribe(site)

    def flush(self, site: Site) -> None:
        if self.rng.random() < 0.5:
            self.hub.flush()
        else:
            site.server.flush()

    def evict(self, party: Site | None, key: bytes | None = None) -> None:
        """The memory of a server is full, and it takes this key, or any."""
        server = self.hub if party is None else party.server
        if not server.data:
            return
        events = server.evict(key)
        self.note(f"{'hub' if party is None else party.name} evicted {events}")
        if party is None:
            self._tell(events)
        else:
            self._notice(party, events)

    def pass_time(self, _: Site) -> None:
        self.now_ms += _HOUR // 2
        CLOCK.now_ms = self.now_ms
        self._tell(self.hub.expire(self.now_ms))
        for site in self.sites:
            self._notice(site, site.server.expire(self.now_ms))

    def fall_back(self, party: Site | None) -> None:
        """A server goes on with something older than it held."""
        server = self.hub if party is None else party.server
        server.fall_back()
        self.note(f"{'hub' if party is None else party.name} fell back to {server.data} {server.fences}")
        for site in self.sites if party is None else ():
            self.unsubscribe(site)
        if party is not None:
            self.disconnect(party)

    # A run.

    def play(self, steps: int, writers: list[Site | None]) -> None:
        """So many steps, with these clients."""
        self.quiet = False
        for _ in range(steps):
            dice = self.rng.random()
            site = self.rng.choice(self.sites)
            if writers and dice < self.writes:
                party = self.rng.choice(writers)
                if party is not None and self.counts and self.rng.random() < 0.2:
                    self.count(party)
                else:
                    self.write(party)
            elif self.faults and dice < self.writes + 0.04:
                self.rng.choice(list(self.wrongs(site)))(site)
            else:
                self.rng.choice(list(self.moves(site)))(site)

    def settle(self, *, full: bool = False) -> None:
        """Nothing goes wrong any more, but that disks may stay full, and everything is waited for."""
        self.quiet = True
        if self.groups:
            self.announce()
        for site in self.sites if not full else ():
            site.daemon.store.free()
        left = 2
        for _ in range(100):
            self._settle_once()
            if not self._timers():
                left -= 1
                if not left:
                    self._settle_once()
                    return
        raise WrongError(f"it does not come to rest: {self.leftovers()}")

    def _settle_once(self) -> None:
        for _ in range(20_000):
            for site in self.rng.sample(self.sites, len(self.sites)):
                if moves := list(self.moves(site)):
                    self.rng.choice(moves)(site)
                    break
            else:
                return
        raise WrongError(
            f"it does not come to rest: {[(s.name, [t.kind for t in s.daemon.tasks]) for s in self.sites]}"
        )

    def _timers(self) -> bool:
        """What fires once nothing else moves; whether anything did."""
        fired = False
        for site in self.sites:
            daemon = site.daemon
            site.server.stream.append([b"PING"])
            self.daemon_tick(site, LATER)
            fired = fired or daemon.inbound.waiting or daemon.outbound.ready or daemon.sweep.owed is not None
        if not fired:
            for site in self.sites:
                self.look_at_hub(site)
                # Else every fault is noticed, and nothing is left to a sweep that nobody asked for. But where an entry
                # comes back, what was pending of it is pending again, of which no side tells the other.
                if self.silent or self.groups:
                    self.begin(site, "sweep", site.daemon.sweep.once(timer=True))
        for site in self.sites:
            self.save(site)
        return bool(fired)

    # What must hold at rest.

    def check(self) -> None:
        """All copies are equal, and nothing is left over."""
        for site in self.sites:
            if differing := unlike(site.server.states(), self.hub.states()):
                raise WrongError(f"copies differ: {site.name} and the hub: {differing}")
        if left := self.leftovers():
            raise WrongError(f"left over: {left}")

    def alive(self, states: Mapping[bytes, State]) -> dict[bytes, State]:
        """Without what has expired by now."""
        return {
            key: state
            for key, state in states.items()
            if state.expires_at_ms is None or state.expires_at_ms > self.now_ms
        }

    def leftovers(self) -> list[str]:
        """What should be empty at rest and is not."""
        found = []
        for site in self.sites:
            daemon, core = site.daemon, site.daemon.core
            outbound, inbound, continuity = core.outbound, core.inbound, core.continuity
            agreed = daemon.store.memory
            wrong = [
                key
                for key in {*agreed.keys, *self.hub.data}
                if agreed.digest(key) != digest_of(key, self.hub.state(key)) and not self._let_expire(key, agreed)
            ]
            parts = {
                "expected local": len(core.expected_local),
                "expected remote": len(core.expected_remote),
                "waiting": outbound.waiting,
                "expected of the hub": len(outbound.doubts._expected) + len(outbound.doubts._in_flight),
                "in_progress": inbound.in_progress,
                "suspect": len(inbound._suspect),
                "told": len(inbound._taken_fed),
                "tasks": len(daemon.tasks),
                "unswept": outbound._unswept,
                "not acknowledged": daemon.events is None and daemon.core.following.read_to - outbound.acknowledged,
                "read again": outbound.read_again_to,
                "events": len(daemon.events or ()),
                "open batches": len(agreed.open),
                "unknown batches": len(daemon.pushing._intents),
                "not as agreed": wrong,
                **{
                    f"{name} of the {side}": value
                    for side, state in (("site", continuity.site), ("hub", continuity.hub))
                    for name, value in {
                        "owed": state.owed,
                        "unsettled": not state.settled,
                        "missed": state.missed,
                        "proved": state.proved != float("inf") and state.proved,
                        "flushed": state.flushed,
                        "evicts": state.evicts,
                    }.items()
                },
            }
            found += [f"{site.name}: {name} {value}" for name, value in parts.items() if value]
        return found

    def _let_expire(self, key: bytes, agreed: Memory) -> bool:
        """Whether both sides let a key expire as they had agreed; a comparison will forget it."""
        held = agreed.keys.get(key)
        return key not in self.hub.data and held is not None and (held[2] or self.now_ms + 1) <= self.now_ms

    def miscounted(self) -> list[tuple[bytes, int, bytes | None]]:
        """Counters that do not say how far their site's clients have counted."""
        fields = elements_held(self.hub.data.get(HASHES[0]), "hash")
        found = [(site.counter, site.counted, fields.get(site.counter)) for site in self.sites]
        return [(name, counted, value) for name, counted, value in found if int(value or b"0") != counted]


def unlike(wanted: Mapping[bytes, Any], found: Mapping[bytes, Any]) -> dict[bytes, tuple[Any, Any]]:
    """By key what is wanted and what was found, where they differ."""
    keys = sorted({*wanted, *found})
    return {key: (wanted.get(key), found.get(key)) for key in keys if wanted.get(key) != found.get(key)}


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Thousands of runs are not to be logged."""
    before = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=False
    )
    try:
        yield
    finally:
        structlog.configure(**before)
