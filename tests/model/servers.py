"""As much of a Redis as the daemon can tell apart: keys, a replication stream, keyspace events, a history.

In: commands, and what befalls a server. Out: what a script would report of a command, and the events that it causes.
Left to others: who hears of the events (`world`), what the daemon makes of them (`daemons`).
"""

from __future__ import annotations

import collections
import random
from dataclasses import dataclass, field

from redisrepl.changes import HashState, State, StringState
from redisrepl.local.history import SiteFacts
from redisrepl.local.mark import Marked
from redisrepl.remote.history import HubFacts
from redisrepl.wire.digests import digest_of, element_of
from redisrepl.wire.writes import MOVED, UNCHANGED

Value = bytes | dict[bytes, bytes]
NO_MARK = Marked()

Events = list[tuple[bytes, bytes]]

_WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


@dataclass
class Snapshot:
    """What a server held at an offset of its stream, and may fall back to."""

    data: dict[bytes, Value]
    expiries: dict[bytes, int]
    fences: dict[bytes, dict[bytes, int]]
    offset: int
    mark: Marked = NO_MARK


@dataclass
class Server:
    """A Redis.

    Attributes:
        now_ms: the time, the same for all servers.
        data, expiries: what it holds.
        stream: what its replicas are told since `first`.
        past: what it held after each write, from the oldest on.
        writes: by key, what `WATCH` looks at.
        fences: the sites' fences, at the hub.
        mark: at a site, that of the daemon.
    """

    rng: random.Random
    now_ms: int = 0
    data: dict[bytes, Value] = field(default_factory=dict)
    expiries: dict[bytes, int] = field(default_factory=dict)
    fences: dict[bytes, dict[bytes, int]] = field(default_factory=dict)
    stream: list[list[bytes]] = field(default_factory=list)
    first: int = 1
    backlog: int = 1
    past: list[Snapshot] = field(default_factory=list)
    writes: collections.Counter[bytes] = field(default_factory=collections.Counter)
    mark: Marked = NO_MARK
    evicted: int = 0
    flushes: int = 0
    earlier: str = ""
    earlier_to: int = 0
    born: int = 0

    def __post_init__(self) -> None:
        self.replid = self.run_id = ""
        self.begin()

    # Its history.

    def begin(self) -> None:
        """A process begins, and with it a history."""
        self.born += 1
        self.run_id, self.replid = f"run {self.born}", f"history {self.born}"
        self.earlier, self.earlier_to = "", 0
        self.first = self.backlog = self.rng.randint(1, 1000)
        self.stream = []
        self.evicted = self.flushes = 0
        self.past = []
        self.written()

    @property
    def offset(self) -> int:
        """The end of its stream."""
        return self.first + len(self.stream)

    def written(self) -> None:
        """A command, or a transaction, is complete."""
        values = {key: dict(value) if isinstance(value, dict) else value for key, value in self.data.items()}
        fences = {key: dict(fence) for key, fence in self.fences.items()}
        self.past.append(Snapshot(values, dict(self.expiries), fences, self.offset, self.mark))

    def _restore(self, snapshot: Snapshot) -> None:
        self.data = {k: dict(value) if isinstance(value, dict) else value for k, value in snapshot.data.items()}
        self.expiries, self.fences = dict(snapshot.expiries), {k: dict(fence) for k, fence in snapshot.fences.items()}
        self.mark = snapshot.mark
        self.writes.update(self.data.keys())

    def restart(self) -> None:
        """In an orderly way: it holds what it held."""
        self.begin()

    def fall_back(self) -> None:
        """It restarts with something older, or empty; or a replica that lagged takes its place."""
        chosen = self.rng.choice([*self.past[-8:], self.past[0], Snapshot({}, {}, {}, self.first)])
        replaced, replid = self.rng.random() < 0.3 and chosen.offset > self.first, self.replid
        stream, first, backlog = self.stream[: chosen.offset - self.first], self.first, self.backlog
        self._restore(chosen)
        self.begin()
        if replaced:
            self.first, self.backlog, self.stream = first, backlog, stream
            self.earlier, self.earlier_to = replid, chosen.offset + 1
            self.past[-1].offset = self.offset
        self.expire(self.now_ms)

    def continues(self, replid: str, offset: int) -> bool:
        """Whether a replica that has read so far may go on."""
        known = replid == self.replid or (replid == self.earlier and offset < self.earlier_to)
        return known and self.backlog <= offset <= self.offset

    def overrun(self) -> None:
        """The backlog has forgotten what was."""
        self.backlog = self.offset

    def site_facts(self) -> SiteFacts:
        """As a site."""
        return SiteFacts(
            self.run_id, "master", self.replid, self.offset, self.earlier or "0" * 40, self.earlier_to, self.evicted
        )

    def hub_facts(self) -> HubFacts:
        """As a hub."""
        return HubFacts(self.run_id, self.flushes, self.evicted)

    # What it holds.

    def state(self, key: bytes) -> State:
        """What a key holds."""
        held = self.data.get(key)
        if held is None:
            return None
        expires = self.expiries.get(key)
        return StringState(held, expires) if isinstance(held, bytes) else HashState(dict(held), expires)

    def states(self) -> dict[bytes, State]:
        """Everything."""
        return {key: self.state(key) for key in self.data}

    # What happens to it by itself.

    def expire(self, now_ms: int) -> Events:
        """Time passes."""
        self.now_ms = now_ms
        due = [key for key, at in self.expiries.items() if at <= now_ms]
        return [(key, b"expired") for key in due if self._remove(key)]

    def evict(self) -> Events:
        """Memory is short."""
        key = self.rng.choice(sorted(self.data))
        self.evicted += 1
        self._remove(key)
        return [(key, b"evicted")]

    def flush(self) -> None:
        """`FLUSHALL`, of which no event tells."""
        self.flushes += 1
        self.writes.update(self.data.keys())
        self.data.clear()
        self.expiries.clear()
        self.fences.clear()
        self.mark = NO_MARK
        self.stream.append([b"FLUSHALL"])
        self.written()

    def _remove(self, key: bytes) -> bool:
        """Remove a key, and tell the replicas."""
        if self.data.pop(key, None) is None:
            return False
        self.expiries.pop(key, None)
        self.writes[key] += 1
        self.stream.append([b"DEL", key])
        self.written()
        return True

    # Commands.

    def run(self, argv: list[bytes]) -> tuple[str | None, Events]:
        """Execute a command; what a script would report of it, and the events that it causes."""
        outcome, events = getattr(self, "_" + argv[0].decode().lower())(*argv[1:])
        for key, _ in events:
            self.writes[key] += 1
        return outcome, events

    def _set(self, key: bytes, value: bytes, *options: bytes) -> tuple[str | None, Events]:
        held = self.data.get(key)
        if b"NX" in options and held is not None:
            return (UNCHANGED if held == value else MOVED), []
        self.data[key] = value
        self.expiries.pop(key, None)
        if b"PXAT" not in options:
            self.stream.append([b"SET", key, value])
            return None, [(key, b"set")]
        expires = options[options.index(b"PXAT") + 1]
        if int(expires) <= self.now_ms:
            del self.data[key]
            self.stream.append([b"DEL", key])
            return None, [(key, b"del")] if held is not None else []
        self.expiries[key] = int(expires)
        self.stream.append([b"SET", key, value, b"PXAT", expires])
        return None, [(key, b"set"), (key, b"expire")]

    def _mset(self, *pairs: bytes) -> tuple[str | None, Events]:
        events: Events = []
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            self.data[key] = value
            self.expiries.pop(key, None)
            events.append((key, b"set"))
        self.stream.append([b"MSET", *pairs])
        return None, events

    def _hset(self, key: bytes, *pairs: bytes) -> tuple[str | None, Events]:
        held = self.data.get(key, {})
        if not isinstance(held, dict):
            return _WRONGTYPE, []
        self.data[key] = {**held, **dict(zip(pairs[::2], pairs[1::2], strict=True))}
        self.stream.append([b"HSET", key, *pairs])
        return None, [(key, b"hset")]

    def _hincrby(self, key: bytes, name: bytes, by: bytes) -> tuple[str | None, Events]:
        held = self.data.get(key, {})
        if not isinstance(held, dict):
            return _WRONGTYPE, []
        self.data[key] = {**held, name: b"%d" % (int(held.get(name, b"0")) + int(by))}
        self.stream.append([b"HINCRBY", key, name, by])
        return None, [(key, b"hincrby")]

    def _hsetnx(self, key: bytes, *pairs: bytes) -> tuple[str | None, Events]:
        words = [w for name, value in zip(pairs[::2], pairs[1::2], strict=True) for w in (name, b"", value)]
        return self._hsetif(key, *words)

    def _hsetif(self, key: bytes, *words: bytes) -> tuple[str | None, Events]:
        held = self.data.get(key, {})
        if not isinstance(held, dict):
            return _WRONGTYPE, []
        pairs: list[bytes] = []
        moved = None
        for name, digests, value in zip(words[::3], words[1::3], words[2::3], strict=True):
            if held.get(name) == value:
                continue
            if self._field_holds(name, held.get(name), digests):
                pairs += name, value
            else:
                moved = MOVED
        if not pairs:
            return moved or UNCHANGED, []
        return moved, self._hset(key, *pairs)[1]

    @staticmethod
    def _field_holds(name: bytes, value: bytes | None, digests: bytes) -> bool:
        return (b"" if value is None else b"%024x" % element_of(name, value)) in digests.split(b",")

    def _holds(self, key: bytes, digests: tuple[bytes, ...]) -> bool:
        digest = digest_of(key, self.state(key))
        return (b"" if digest is None else b"%015x" % digest) in digests

    def _setif(self, key: bytes, value: bytes, expires: bytes, *digests: bytes) -> tuple[str | None, Events]:
        if self._holds(key, digests):
            return self._set(key, value, *([b"PXAT", expires] if expires else []))
        return (UNCHANGED if self.data.get(key) == value else MOVED), []

    def _delif(self, key: bytes, *digests: bytes) -> tuple[str | None, Events]:
        if key not in self.data:
            return UNCHANGED, []
        return self._del(key) if self._holds(key, digests) else (MOVED, [])

    def _del(self, key: bytes) -> tuple[str | None, Events]:
        if self.data.pop(key, None) is None:
            return UNCHANGED, []
        self.expiries.pop(key, None)
        self.stream.append([b"DEL", key])
        return None, [(key, b"del")]

    def _hdelif(self, key: bytes, name: bytes, digests: bytes) -> tuple[str | None, Events]:
        held = self.data.get(key, {})
        if not isinstance(held, dict):
            return _WRONGTYPE, []
        if name not in held:
            return UNCHANGED, []
        return self._hdel(key, name) if self._field_holds(name, held[name], digests) else (MOVED, [])

    def _hdel(self, key: bytes, *names: bytes) -> tuple[str | None, Events]:
        held = self.data.get(key, {})
        if not isinstance(held, dict):
            return _WRONGTYPE, []
        gone = [name for name in names if name in held]
        if not gone:
            return UNCHANGED, []
        self.data[key] = {name: value for name, value in held.items() if name not in gone}
        events = [(key, b"hdel")]
        if not self.data[key]:
            del self.data[key]
            self.expiries.pop(key, None)
            events.append((key, b"del"))
        self.stream.append([b"HDEL", key, *gone])
        return None, events

    def _pexpireat(self, key: bytes, expires: bytes) -> tuple[str | None, Events]:
        if key not in self.data:
            return UNCHANGED, []
        if int(expires) <= self.now_ms:
            return self._del(key)
        self.expiries[key] = int(expires)
        self.stream.append([b"PEXPIREAT", key, expires])
        return None, [(key, b"expire")]

    def _persist(self, key: bytes) -> tuple[str | None, Events]:
        if self.expiries.pop(key, None) is None:
            return UNCHANGED, []
        self.stream.append([b"PERSIST", key])
        return None, [(key, b"persist")]
