"""One daemon, made of the real parts; what they talk to is played.

In: a site, a hub, what the last daemon left. Out: tasks to be moved on. Left to others: the order of things (`world`).
What is wired here is wired as in `redisrepl.parts`.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

from redisrepl.changes import Change, FieldsDeleted, HashSet, HashState, SequenceState, State, StringState
from redisrepl.engine.continuity import Continuity, Event, Side
from redisrepl.engine.core import Core, CoreOptions
from redisrepl.engine.inbound import Inbound
from redisrepl.engine.losses import Losses
from redisrepl.engine.outbound import Outbound
from redisrepl.engine.places import MOST_PLACES
from redisrepl.engine.pushes import Batch
from redisrepl.engine.seen import HISTORY, Ring
from redisrepl.engine.streamedkeys import StreamedKeys
from redisrepl.errors import FencedError, LinkLostError, OutcomeUnknownError, PeerUnavailableError
from redisrepl.flow import clocks as clocks_module
from redisrepl.flow import saving as saving_module
from redisrepl.flow.applying import Applying
from redisrepl.flow.comparison import Comparison
from redisrepl.flow.judging import Judging
from redisrepl.flow.known import Known
from redisrepl.flow.pushing import Pushing
from redisrepl.flow.reach import StreamReach
from redisrepl.flow.saving import SavedState, Saving
from redisrepl.flow.sweep import Sweep
from redisrepl.local.apply import Applied, _commands
from redisrepl.local.history import SiteHistory
from redisrepl.local.mark import Marked
from redisrepl.local.notify import SiteKeyEvents, Subscribed
from redisrepl.namespaces import Namespaces
from redisrepl.remote import fence as fence_module
from redisrepl.remote.fence import NOT_LAST, Fence
from redisrepl.remote.fetch import Fetched
from redisrepl.remote.push import Pushed
from redisrepl.sources.keyspace import KeyspaceSource
from redisrepl.sources.stream import StreamOptions, StreamSource
from redisrepl.wire.commands import ORIGIN_CHANNEL
from redisrepl.wire.digests import Look, Page, Summed, add_sums, held_at, look_at
from redisrepl.wire.entries import FIRST_ID, LAST_ID, entry_words, plain_id
from redisrepl.wire.psync import Commands, Continued, FullSync, Position, SnapshotData, SnapshotEnd
from redisrepl.wire.rdb import Entry
from redisrepl.wire.rdb import Stream as RdbStream
from tests.model.ancestors import Ancestors
from tests.model.groups import rdb_groups, shown
from tests.model.servers import Value, entries_of
from tests.model.steps import Lock, Task, Until, Wire

if TYPE_CHECKING:
    from tests.model.world import Site, World

PREFIX = b"ns:"
LATER = 1e9  # seconds after which every event is overdue


class Clock:
    """In the place of `time` where a part asks it for the time of day."""

    now_ms = 0

    def time(self) -> float:
        return self.now_ms / 1000

    def monotonic(self) -> float:
        return 0.0


CLOCK = Clock()


@contextlib.contextmanager
def by_the_clock_of_the_model() -> Iterator[None]:
    """Within this, parts that ask for the time of day are told that of the model; not those of other tests."""
    with mock.patch.object(clocks_module, "time", CLOCK), mock.patch.object(saving_module, "_MARK_PERIOD", 0.0):
        yield


class PlayedPushing(Pushing):
    """Its batches leave when `world` says so."""

    most = 1

    async def _departure(self) -> Batch:
        return self.outbound.take(self.most, 1_000_000)


class PlayedApplying(Applying):
    """It waits without a loop."""


class PlayedReach(StreamReach):
    """Likewise, or not at all."""

    def __init__(self, core: Core, site: Site, *, waits: bool) -> None:
        super().__init__(
            core.following,
            core.continuity,
            core.streamed_keys,
        )
        self._played_at, self._waits = site, waits

    async def passed(self, offset: int) -> None:
        if not self._waits:
            return
        if self._played_at.by_events:
            await self._played_at.daemon.caught_up()
            return
        site, server = self._continuity.site, self._played_at.server
        await Until(lambda: not site.followed or not self._is_behind(offset) or server.offset < offset)
        if site.followed and self._is_behind(offset):
            raise LinkLostError("a replaced master has answered")


class PlayedJudging(Judging):
    """Likewise."""

    note: Callable[[str, Event], None]

    async def known_now(self) -> None:
        await Until(lambda: self._core.continuity.known)

    def _tell(self, side: Side, judged: Any, *what: Any, **about: Any) -> None:
        self.note(side, judged.event)
        super()._tell(side, judged, *what, **about)


class PlayedSweep(Sweep):
    """Likewise."""

    rng: random.Random

    async def _until(self, condition: Callable[[], bool], patience: float | None = None) -> None:
        if patience is None or self.rng.random() < 0.7:
            await Until(condition)

    async def once(self, *, timer: bool) -> None:
        """What `run` does once it is due."""
        await self._ready()
        await self._sweep(timer=timer)


class FenceHub:
    """Runs the fence's scripts at the hub."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def eval(self, script: bytes, words: Sequence[bytes], **_: int) -> list[bytes]:
        key, *arguments = words
        world, site = self._daemon.world, self._daemon.site
        found: list[bytes] = []

        def run() -> None:
            fences = world.hub.fences
            if script == fence_module._MARK:
                if key not in fences:
                    found.append(b"lost")
                elif fences[key]["epoch"] != int(arguments[3]):
                    found.append(b"late")
                elif fences[key].get(int(arguments[0]), 0) < int(arguments[4]):
                    found.append(b"lost")
                else:
                    fences[key][int(arguments[0])] = int(arguments[1])
                    found.append(b"kept")
                world.hub.written()
                return
            was = fences.get(key, {}).get("epoch", 0)
            if script == fence_module._RAISE:
                fences.setdefault(key, {})["epoch"] = max(was + 1, int(arguments[0]))
                world.hub.written()
            for name, number in fences.get(key, {}).items():
                found.extend((str(name).encode(), b"%d" % number))
            found.extend((b"was", b"%d" % was))

        await Wire(world.perhaps_late(site, run))
        run()
        await Wire(lambda: OutcomeUnknownError("the reply is lost"))
        return found

    async def text_or_none(self, *argv: bytes) -> bytes | None:
        await Wire(lambda: LinkLostError("the request is lost"))
        fence = self._daemon.world.hub.fences.get(argv[1])
        await Wire(lambda: LinkLostError("the reply is lost"))
        return None if fence is None else b"%d" % fence["epoch"]


def elements_held(held: Value | None, type_: str) -> dict[bytes, bytes]:
    """The elements of a collection of this type; none, if it is another."""
    if not isinstance(held, HashState) or held.type != type_:
        return {}
    return shown(held.fields) if type_ == "stream" else dict(held.fields)


class HubDouble:
    """`remote.push`, `remote.fetch`, `remote.compare` and `remote.history`."""

    clock_ahead, clock_within, lacks_times = None, 0.0, ""
    may_evict = property(lambda self: self._world.hub.may_evict)

    max_body = 1_000_000

    def __init__(self, daemon: Daemon) -> None:
        self._daemon, self._world = daemon, daemon.world
        self.fence: Fence = daemon.fence

    async def push(self, commands: Sequence[list[bytes]], *, slot: int, number: int) -> Pushed:
        commands = list(commands)
        most = len(commands)
        if most > 1 and self._world.rng.random() < 0.2:  # too much for one request
            most = self._world.rng.randint(1, most - 1)
        errors, at = {}, 0.0
        for start in range(0, len(commands), most):
            last = start + most >= len(commands)
            fencing = self.fence.fencing(slot if last else slot + NOT_LAST, number)
            piece = commands[start : start + most]
            answers: list[Any] = []

            def run(piece: list[list[bytes]] = piece, fencing: Any = fencing, answers: list[Any] = answers) -> None:
                answers.append(self._world.execute(self._daemon, piece, fencing))

            await Wire(self._world.perhaps_late(self._daemon.site, run, unsent=not start))
            run()
            await Wire(lambda: OutcomeUnknownError("the reply is lost"))
            if answers[-1] is None:
                raise FencedError("the hub knows a later epoch")
            found, at, lost = answers[-1]
            for key, error in found:
                known = errors.get(key)
                if known is None or known == "UNCHANGED" or (known == "MOVED" and error not in ("UNCHANGED", "MOVED")):
                    errors[key] = error
            if lost:
                self._daemon.fence_lost()
            else:
                self.fence.noted(fencing)
        return Pushed(errors, at)

    async def _asked(self) -> None:
        await Wire(lambda: LinkLostError("the request is lost"))

    async def _answered(self) -> None:
        await Wire(lambda: LinkLostError("the reply is lost"))

    async def states(self, keys: Sequence[bytes], *, large: int = 0) -> Fetched:  # noqa: ARG002 - none is here
        await self._asked()
        fetched = Fetched({key: self._world.hub.state(key) for key in keys}, self._world.tick())
        await self._answered()
        return fetched

    async def held(self, places: Iterable[Any]) -> dict[Any, Any]:
        async def read(keys: Sequence[bytes]) -> dict[bytes, State]:
            return (await self.states(keys)).states

        return await held_at(places, read)

    async def ask(self) -> Any:
        await self._asked()
        facts = self._world.hub.hub_facts()
        await self._answered()
        return facts

    @property
    def server(self) -> Any:
        return self._world.hub


class SiteDouble:
    """`local.read`, `local.apply` and `local.compare`."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.server = daemon.site.server

    async def _asked(self) -> None:
        await Wire(lambda: LinkLostError("the request is lost"))

    async def _answered(self) -> None:
        await Wire(lambda: LinkLostError("the reply is lost"))

    def request(self, keys: Sequence[bytes], large: frozenset[bytes]) -> list[list[bytes]]:  # noqa: ARG002
        return [[b"states", *keys]]

    async def states(self, keys: Sequence[bytes], replies: Sequence[object], large: frozenset[bytes]) -> list[State]:  # noqa: ARG002
        return replies[0]

    async def first_states(self, keys: Sequence[bytes], max_bytes: int) -> list[State]:  # noqa: ARG002
        await self._asked()
        states = [self.server.state(key) for key in keys]
        await self._answered()
        return states

    async def lasting(self, keys: Sequence[bytes]) -> list[bytes]:
        await self._asked()
        found = [key for key in keys if key in self.server.data and key not in self.server.expiries]
        await self._answered()
        return found

    async def offset(self) -> int:
        await self._asked()
        offset = self.server.offset
        await self._answered()
        return offset

    async def fields(self, key: bytes, names: Sequence[bytes], kind: str) -> list[bytes | None]:
        await self._asked()
        held = elements_held(self.server.data.get(key), kind)
        if kind == "stream" and (entries := entries_of(held)):
            held[FIRST_ID] = entries[0]
        await self._answered()
        return [held.get(name) for name in names]

    async def is_denied(self, key: bytes) -> bool:  # noqa: ARG002 - there is no ACL
        return False

    @asynccontextmanager
    async def turn(self, keys: Sequence[bytes], reads: Sequence[Sequence[bytes]] = ()) -> AsyncIterator[Turn]:
        await self._asked()
        server = self.server
        states = [server.state(key) for key in keys]
        watched = {key: server.writes[key] for key in keys}
        turn = Turn(self._daemon, server.run_id, watched, server.offset, [states] if reads else [])
        await self._answered()
        yield turn


@dataclass
class Turn:
    """`local.apply.Turn`."""

    daemon: Daemon
    run_id: str
    watched: dict[bytes, int]
    offset: int
    replies: list[object]

    async def apply(self, changes: Sequence[Change]) -> Applied | None:
        def unchanged() -> bool:
            writes = self.daemon.site.server.writes
            return not self.daemon.world.watches or all(writes[key] == seen for key, seen in self.watched.items())

        return await self._apply(changes, unchanged)

    async def compare_and_set(self, changes: Sequence[HashSet | FieldsDeleted], held: HashState) -> Applied | None:
        def unchanged() -> bool:
            now = elements_held(self.daemon.site.server.data.get(changes[0].key), held.type)
            fields = {name for change in changes for name in change.fields}
            return all(now.get(name) == held.fields.get(name) for name in fields)

        return await self._apply(changes, unchanged)

    async def _apply(self, changes: Sequence[Change], unchanged: Callable[[], bool]) -> Applied | None:
        site = self.daemon.site
        server = site.server
        commands, owners = _commands(changes)
        errors: dict[int, str] = {}

        def run() -> bool:
            """Whether what is written is as it was."""
            if not unchanged():
                return False
            server.stream += [[b"MULTI"], [b"PUBLISH", ORIGIN_CHANNEL, self.daemon.origin]]
            for command, indexes in zip(commands, owners, strict=True):
                error = self.daemon.world.site_run(site, command)
                if error is not None and error.startswith("ERR"):
                    raise AssertionError(f"{site.name} refuses what is applied: {command}: {error}")
                if error is not None and error.startswith("WRONGTYPE"):
                    errors.update(dict.fromkeys(indexes, error))
            server.stream.append([b"EXEC"])
            server.written()
            return True

        def lose() -> LinkLostError:
            if server.run_id == self.run_id and self.daemon.world.rng.random() < 0.5:
                run()
            return LinkLostError("the request is lost")

        await Wire(lose)
        if server.run_id != self.run_id:
            raise LinkLostError("the connection is closed")
        if not run():
            return None
        applied = Applied(errors, server.offset)
        await Wire(lambda: LinkLostError("the reply is lost"))
        return applied


class MarkDouble:
    """`local.mark.SiteMark`."""

    def __init__(self, site: SiteDouble) -> None:
        self._double = site

    async def write(self, agreed: int, durable: int) -> None:
        await self._double._asked()
        server, daemon = self._double.server, self._double._daemon
        if server.run_id != daemon.followed:  # as connections refuse another server than the one that is followed
            raise LinkLostError("another server answers there")
        server.mark = Marked(agreed, server.replid, server.offset, durable)
        server.written()
        await self._double._answered()

    async def read(self) -> Marked:
        await self._double._asked()
        marked = self._double.server.mark
        await self._double._answered()
        return marked


class PlayedHistory(SiteHistory):
    """Its INFO is played."""

    def __init__(self, site: SiteDouble) -> None:
        super().__init__(None, None, site)
        self._double = site

    async def ask(self) -> Any:
        await self._double._asked()
        facts = self._double.server.site_facts()
        await self._double._answered()
        return facts


class HolderDouble:
    """`local.compare.SiteComparer` and `remote.compare.HubComparer`."""

    def __init__(self, double: HubDouble | SiteDouble, world: World) -> None:
        self._double, self._world = double, world
        self.where = "a server of the model"

    def _step(self, prefix: bytes, cursor: bytes) -> tuple[bytes, dict[bytes, Look]]:
        """Keys by halves: those that are there all the time come."""
        server = self._double.server
        keys = sorted(key for key in server.data if key.startswith(prefix))
        half = prefix + b"n"  # hashes and lists before, strings and sets behind
        part = [key for key in keys if (key < half) == (cursor == b"0")]
        return b"0" if cursor != b"0" else b"1", {key: look_at(key, server.state(key)) for key in part}

    async def sums(self, prefix: bytes, cursor: bytes, count: int, sums: list[int]) -> Summed:  # noqa: ARG002
        await self._double._asked()
        following, looks = self._step(prefix, cursor)
        add_sums(sums, looks)
        await self._double._answered()
        return Summed(following, len(looks))

    async def page(self, prefix: bytes, cursor: bytes, count: int, buckets: Collection[int] | None) -> Page:  # noqa: ARG002
        await self._double._asked()
        page = Page(*self._step(prefix, cursor))
        await self._double._answered()
        return page

    async def looks(self, keys: Sequence[bytes]) -> list[Look]:
        await self._double._asked()
        looks = [look_at(key, self._double.server.state(key)) for key in keys]
        await self._double._answered()
        return looks


@dataclass(frozen=True)
class Made:
    """Of what a daemon is made."""

    core: type[Core] = Core
    outbound: type[Outbound] = Outbound
    inbound: type[Inbound] = Inbound
    fence: type[Fence] = Fence
    judging: type[PlayedJudging] = PlayedJudging
    pushing: type[PlayedPushing] = PlayedPushing
    applying: type[PlayedApplying] = PlayedApplying
    sweep: type[PlayedSweep] = PlayedSweep
    continuity: type[Continuity] = Continuity
    store: Mapping[str, bool] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


class Daemon:
    """Beside one site.

    Attributes:
        tasks: what is under way.
        linked: it reads the site's stream, or hears its events.
        subscribed: it hears the hub's.
        heard: events of the hub that are on their way.
        events: events of the site; None: it reads the stream.
    """

    def __init__(self, world: World, site: Site) -> None:
        self.world, self.site = world, site
        made = world.made
        self.store = store = Ancestors(site.disk, **made.store)
        saved = SavedState.load(store.saved)
        who = saved.origin or f"{site.name}.{world.rng.randrange(1 << 30)}"
        self.origin = who.encode() + b" hub"
        kinds = world.kinds
        namespaces = Namespaces((PREFIX,))
        self.core = core = made.core(
            namespaces.covers,
            kinds,
            0,
            CoreOptions(origin=self.origin, winner=world.winner, every_write=world.every_write, **made.options),
            continuity=made.continuity.load(store.saved.get("continuity")),
            ring=Ring.load(store.saved),
            losses=Losses.load(store.saved.get("losses")),
            hub_losses=Losses.load(store.saved.get("hub losses"), "hub"),
            streamed_keys=StreamedKeys.load(store.saved),
            refused=store.saved.get("refused"),
            keep=lambda loss: world.kept.append((site.name, loss)),
            outbound=made.outbound,
            inbound=made.inbound,
        )
        if store.behind:
            core.continuity.is_behind()
            world.forgot = True
        core.differs("site", store.open_applies)
        self.outbound, self.inbound = core.outbound, core.inbound
        self.fence = made.fence(FenceHub(self), who.encode(), saved.epoch, saved.executed)
        self.fence._raise = Lock()
        if saved.position is not None:
            self.outbound.resume_at(saved.position.offset, saved.database)
        hub, of_site, known = HubDouble(self), SiteDouble(self), Known(store.saved)
        pacer = SimpleNamespace(**dict.fromkeys(("left", "arrived", "failed", "gave_up", "hold"), lambda *_: None))
        reach = PlayedReach(core, site, waits=world.waits)
        self.pushing = made.pushing(
            self.outbound,
            store,
            hub,
            of_site,
            pacer,
            reach,
            took=core.pushed,
            site_evicted=lambda: self.judging.site_evicted(),  # noqa: PLW0108 - there is none yet
            max_keys=1,
            retry={},
            clocks=known.clocks,
        )
        self.stream = StreamSource(
            None,
            self.outbound,
            (PREFIX,),
            saved.position,
            SimpleNamespace(begin=lambda _: None),
            options=StreamOptions(1, 1, {}),
            listener=self,
        )
        history, mark = PlayedHistory(of_site), MarkDouble(of_site)
        self.judging = made.judging(
            core,
            known,
            history,
            hub,
            self.fence,
            lambda: store.number,
            partial(store.agreed_since, most=MOST_PLACES),
            unanswered=store.unanswered,
            history=partial(store.history, most=HISTORY),
            marked=mark.read,
            first=not store.saved,
            retry={},
        )
        self.judging.note = world.judged
        self.saving = Saving(
            store, core, self.stream, known, self.fence, history.held, who, mark if site.marks else None
        )
        self.judging.save = self.saving.save
        self.applying = made.applying(
            core,
            store,
            hub,
            of_site,
            of_site,
            same_hub=self.judging.same_hub,
            site_evicted=self.judging.site_evicted,
            outcomes=self.pushing.outcomes,
            reach=reach,
            max_keys=3,
            retry={},
            clocks=known.clocks,
        )
        self.applying._site_turn = Lock()
        holders = {"site": HolderDouble(of_site, world), "hub": HolderDouble(hub, world)}
        self.sweep = made.sweep(
            core,
            Comparison(store, expiries="expire" in kinds, rate=float("inf")),
            holders,
            store,
            namespaces,
            ready=self._ready_to_compare,
            period=0,
            max_removals=0.5,
            wake=lambda: None,
            retry={},
        )
        self.sweep.rng = world.rng
        self.keyspace = KeyspaceSource(None, self.outbound, covers=namespaces.covers, retry={}, listener=self)
        self.events: list[tuple[bytes, bytes]] | None = None
        if site.by_events:
            self.events = []
            self.keyspace.begin()
            self.stream.begin_anew()
        self.links = self.noticed = 0  # of all links, and of the present one the events that were taken
        self.linked = self.subscribed = False
        self.followed = ""  # process of the site that is followed, or was last
        self.heard: list[Any] = []
        self.tasks: list[Task] = []

    async def _ready_to_compare(self) -> None:
        await self.judging.known_now()
        await self.fence.ready()
        await self.judging.mark(always=True)

    def fence_lost(self) -> None:
        if self.core.continuity.hub.judged:
            self.judging.hub_heard()

    # What `sources.stream` and `sources.keyspace` tell.

    def begins(self, position: Position) -> None:
        self.judging.site_begins(position)

    def attached(self, *, resumed: bool, history: str) -> None:
        self.linked, self.followed = True, self.site.server.run_id
        self.links += 1
        self.judging.site_attached(resumed=resumed, history=history)

    def detached(self) -> None:
        self.linked = False
        if self.core.continuity.site.judged:
            self.core.record.saw(self.store.number)
            self.judging.known.seen = self.stream.seen or self.judging.known.seen
        self.core.site_lost(self.store.number)

    def wake(self) -> None:
        """Everything is looked at all the time."""

    # Its link to the site.

    async def attach(self) -> None:
        """Make the link; it is there when this has ended."""
        server, following = self.site.server, self.stream
        await Wire(lambda: PeerUnavailableError("the site is away"))
        if self.events is not None:
            self.events.clear()
            self.noticed = 0
            self.keyspace._take(Subscribed())
            return
        position = following.position
        if position is not None and server.continues(*position):
            self._take(Continued(Position(server.replid, position.offset)))
            return
        start = Position(server.replid, server.offset)
        self._take(FullSync(start))
        entries = [self._entry(key) for key in sorted(server.data)]
        for at in range(0, len(entries), 2):
            await Wire(self._lost)
            self._take(SnapshotData(1, None, entries[at : at + 2]))
        await Wire(self._lost)
        self._take(SnapshotEnd(start))

    def _lost(self) -> LinkLostError:
        return LinkLostError("the link is lost")

    def _entry(self, key: bytes) -> Entry:
        server = self.site.server
        expires = server.expiries.get(key)
        match server.data[key]:
            case StringState(value):
                return Entry(0, key, "string", value, expires)
            case SequenceState(items):
                return Entry(0, key, "list", list(items), expires)
            case HashState(fields, _, "stream"):
                entries = [(name, entry_words(fields[name])) for name in entries_of(fields)]
                told = [(plain_id(name).decode(), list(zip(w[::2], w[1::2], strict=True))) for name, w in entries]
                return Entry(
                    0, key, "stream", RdbStream(told, fields[LAST_ID].decode(), groups=rdb_groups(fields)), expires
                )
            case HashState(fields, _, type_):
                scores = {name: float(value) for name, value in fields.items()} if type_ == "zset" else fields
                return Entry(0, key, type_, list(fields) if type_ == "set" else list(scores.items()), expires)

    def _take(self, event: Any) -> None:
        self.stream._take(event, SimpleNamespace(position=getattr(event, "position", None)))

    def read(self, most: int) -> None:
        """Read commands of the stream."""
        server, following = self.site.server, self.stream
        begin = self.core.following.read_to
        commands = server.stream[begin - server.first : begin - server.first + most]
        ends = list(range(begin + 1, begin + 1 + len(commands)))
        link = SimpleNamespace(position=Position(following.position.replid, ends[-1]))
        following._take(Commands(commands, ends, wants_ack=False), link)

    def take_noticed(self, events: list[tuple[bytes, bytes]]) -> None:
        """Events of the site have come."""
        self.keyspace._take(SiteKeyEvents(events))
        self.noticed += len(events)

    async def caught_up(self) -> None:
        """The events were taken of all that happened at the site before this was called."""
        link, last = self.links, self.noticed + len(self.events or ())
        await Until(lambda: not self.linked or self.links != link or self.noticed >= last)
        if not self.linked or self.links != link:
            raise LinkLostError("the subscription is lost")

    @property
    def unread(self) -> int:
        """Commands of the stream that were not read."""
        return self.site.server.offset - self.core.following.read_to
