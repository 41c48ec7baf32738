"""As much of a Redis as the daemon can tell apart: keys, a replication stream, keyspace events, a history.

In: commands, and what befalls a server. Out: what a script would report of a command, and the events that it causes.
Left to others: who hears of the events (`world`), what the daemon makes of them (`daemons`).
"""

from __future__ import annotations

import collections
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from redisrepl.changes import HashState, SequenceState, State, StringState
from redisrepl.local.history import SiteFacts
from redisrepl.local.mark import Marked
from redisrepl.remote.history import HubFacts
from redisrepl.wire.collections import COLLECTIONS, name_here
from redisrepl.wire.digests import digest_of, element_of
from redisrepl.wire.entries import LAST_ID, entry_name, entry_value, entry_words, greater_id, is_entry, plain_id
from redisrepl.wire.groups import is_of_group, value_here
from redisrepl.wire.writes import MAX_FIELDS_PER_COMMAND, MOVED, UNCHANGED
from tests.model.groups import UNSEEN, GroupsMixin, shown

#: What a key holds, but for its expiry. Nobody changes one: a write puts another in its place.
Value = StringState | HashState | SequenceState
NO_MARK = Marked()

Events = list[tuple[bytes, bytes]]
Outcome = tuple[str | None, Events]

_WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
#: By the names of commands, the type of collection whose elements they name.
_PUT = {its.put: type_ for type_, its in COLLECTIONS.items()}
_PUT_NEW = {its.put_new: type_ for type_, its in COLLECTIONS.items() if its.put_new != its.put}
_PUT_IF = {its.put_if: type_ for type_, its in COLLECTIONS.items()}
_REMOVE = {its.remove: type_ for type_, its in COLLECTIONS.items()}
_REMOVE_IF = {its.remove_if: type_ for type_, its in COLLECTIONS.items()}


def elements_of_words(type_: str, words: Sequence[bytes]) -> dict[bytes, bytes]:
    """The elements that the command names which adds some, behind its key and options."""
    if type_ == "set":
        return dict.fromkeys(words, b"")
    names, values = (words[1::2], words[::2]) if type_ == "zset" else (words[::2], words[1::2])
    return {name_here(type_, name): _value(name, value) for name, value in zip(names, values, strict=True)}


def _value(name: bytes, told: bytes) -> bytes:
    """The value of an element, as a command tells it: a time of delivery, which no two servers have alike, is none."""
    return value_here(name, told) if is_of_group(name) else told


def type_of(held: Value) -> str:
    """The type of what a key holds."""
    return "string" if isinstance(held, StringState) else held.type


def entries_of(elements: Mapping[bytes, bytes]) -> list[bytes]:
    """Names of the entries of a stream, in their order."""
    return sorted(filter(is_entry, elements))


def last_id(elements: Mapping[bytes, bytes]) -> bytes:
    """The last id of a stream, or of none."""
    return elements.get(LAST_ID, b"0-1")


@dataclass
class Snapshot:
    """What a server held at an offset of its stream, and may fall back to."""

    data: dict[bytes, Value]
    expiries: dict[bytes, int]
    fences: dict[bytes, dict[bytes, int]]
    offset: int
    mark: Marked = NO_MARK


@dataclass
class Server(GroupsMixin):
    """A Redis.

    Attributes:
        now_ms: the time, the same for all servers.
        data, expiries: what it holds.
        stream: what its replicas are told since `first`.
        past: what it held after each write, from the oldest on.
        writes: by key, what `WATCH` looks at.
        fences: the sites' fences, at the hub.
        mark: at a site, that of the daemon.
        may_evict: as its settings say; they stay when it restarts.
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
    may_evict: bool = False
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
        fences = {key: dict(fence) for key, fence in self.fences.items()}
        self.past.append(Snapshot(dict(self.data), dict(self.expiries), fences, self.offset, self.mark))

    def _restore(self, snapshot: Snapshot) -> None:
        self.data = dict(snapshot.data)
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
            *(self.run_id, "master", self.replid, self.offset, self.earlier or "0" * 40, self.earlier_to),
            evicted=self.evicted,
            may_evict=self.may_evict,
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
        if type_of(held) == "stream":
            held = replace(held, fields=shown(held.fields))
        expires = self.expiries.get(key)
        return held if expires is None else replace(held, expires_at_ms=expires)

    def states(self) -> dict[bytes, State]:
        """Everything."""
        return {key: self.state(key) for key in self.data}

    # What happens to it by itself.

    def expire(self, now_ms: int) -> Events:
        """Time passes."""
        self.now_ms = now_ms
        due = [key for key, at in self.expiries.items() if at <= now_ms]
        return [(key, b"expired") for key in due if self._remove(key)]

    def evict(self, key: bytes | None = None) -> Events:
        """Memory is short; it takes this key, or any."""
        key = key or self.rng.choice(sorted(self.data))
        self.evicted += 1
        self.may_evict = True
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
        if self._del(key)[0] is not None:
            return False
        self.writes[key] += 1
        self.written()
        return True

    # Commands.

    def run(self, argv: list[bytes]) -> Outcome:
        """Execute a command; what a script would report of it, and the events that it causes."""
        if argv[0] == b"XGROUP":
            outcome, events = self._xgroup(*argv[1:])
        else:
            outcome, events = self._run(*argv)
        for key, _ in events if argv[0] not in UNSEEN else ():
            self.writes[key] += 1
        return outcome, events

    def _run(self, name: bytes, key: bytes, *words: bytes) -> Outcome:
        if (handler := getattr(self, "_" + name.decode().lower(), None)) is not None:
            return handler(key, *words)
        if type_ := _PUT.get(name):
            its = words[len(COLLECTIONS[type_].options) :]
            return self._put(type_, key, elements_of_words(type_, its), [name, key, *words])
        if type_ := _PUT_NEW.get(name):
            return self._put_if(type_, key, [(name, b"", value) for name, value in _pairs(words)])
        if type_ := _PUT_IF.get(name):
            return self._put_if(type_, key, list(zip(words[::3], words[1::3], words[2::3], strict=True)))
        if type_ := _REMOVE.get(name):
            return self._remove_elements(type_, key, words)
        return self._remove_if(_REMOVE_IF[name], key, *words)

    def _elements(self, type_: str, key: bytes) -> Mapping[bytes, bytes] | None:
        """The elements of a collection, or of none yet; None: the key is of another type."""
        held = self.data.get(key)
        if held is None:
            return {}
        return held.fields if isinstance(held, HashState) and held.type == type_ else None

    def _replicate(self, *argv: bytes) -> None:
        self.stream.append(list(argv))

    # Strings.

    def _set(self, key: bytes, value: bytes, *options: bytes) -> Outcome:
        held = self.data.get(key)
        if b"NX" in options and held is not None:
            return (UNCHANGED if held == StringState(value) else MOVED), []
        self.data[key] = StringState(value)
        self.expiries.pop(key, None)
        if b"PXAT" not in options:
            self._replicate(b"SET", key, value)
            return None, [(key, b"set")]
        expires = options[options.index(b"PXAT") + 1]
        if int(expires) <= self.now_ms:
            del self.data[key]
            self._replicate(b"DEL", key)
            return None, [(key, b"del")] if held is not None else []
        self.expiries[key] = int(expires)
        self._replicate(b"SET", key, value, b"PXAT", expires)
        return None, [(key, b"set"), (key, b"expire")]

    def _mset(self, *pairs: bytes) -> Outcome:
        events: Events = []
        for key, value in _pairs(pairs):
            self.data[key] = StringState(value)
            self.expiries.pop(key, None)
            events.append((key, b"set"))
        self._replicate(b"MSET", *pairs)
        return None, events

    def _setif(self, key: bytes, value: bytes, expires: bytes, *digests: bytes) -> Outcome:
        if self._holds(key, digests):
            return self._set(key, value, *([b"PXAT", expires] if expires else []))
        return (UNCHANGED if self.data.get(key) == StringState(value) else MOVED), []

    # Collections.

    def _put(self, type_: str, key: bytes, elements: Mapping[bytes, bytes], argv: list[bytes]) -> Outcome:
        if type_ == "stream":
            return self._put_entries(key, elements)
        held = self._elements(type_, key)
        if held is None:
            return _WRONGTYPE, []
        if type_ != "hash" and elements.items() <= held.items():
            return UNCHANGED, []
        self.data[key] = HashState({**held, **elements}, None, type_)
        self._replicate(*argv)
        return None, [(key, COLLECTIONS[type_].put_event)]

    def _put_if(self, type_: str, key: bytes, named: list[tuple[bytes, bytes, bytes]]) -> Outcome:
        held = self._elements(type_, key)
        if held is None:
            return _WRONGTYPE, []
        wanted: dict[bytes, bytes] = {}
        moved = None
        there = shown(held) if type_ == "stream" else held
        for at_server, digests, told in named:
            name = name_here(type_, at_server)
            value = _value(name, told)
            if there.get(name) == value:
                continue
            if _element_holds(type_, name, there.get(name), digests):
                wanted[name] = value
            else:
                moved = MOVED
        if not wanted:
            return moved or UNCHANGED, []
        its = COLLECTIONS[type_]
        words = [word for name, value in wanted.items() for word in (name, value)]
        words = list(wanted) if type_ == "set" else words[::-1] if type_ == "zset" else words
        outcome, events = self._put(type_, key, wanted, [its.put, key, *its.options, *words])
        return moved or outcome, events

    def _remove_elements(self, type_: str, key: bytes, names: Sequence[bytes]) -> Outcome:
        held, its = self._elements(type_, key), COLLECTIONS[type_]
        if held is None:
            return _WRONGTYPE, []
        if type_ == "stream" and LAST_ID in names:
            return "ERR Invalid stream ID specified as stream command argument", []
        if not (gone := [name for name in names if name_here(type_, name) in held]):
            return UNCHANGED, []
        without = {name_here(type_, name) for name in gone}
        self._replicate(its.remove, key, *gone)
        return None, self._left(type_, key, held, without, its.remove_event)

    def _left(self, type_: str, key: bytes, held: Mapping[bytes, bytes], without: set[bytes], event: bytes) -> Events:
        """These elements are gone, and with the last of them the key; a stream stays."""
        self.data[key] = HashState({n: v for n, v in held.items() if n not in without}, None, type_)
        if self.data[key].fields:
            return [(key, event)]
        del self.data[key]
        self.expiries.pop(key, None)
        return [(key, event), (key, b"del")]

    def _remove_if(self, type_: str, key: bytes, at_server: bytes, digests: bytes) -> Outcome:
        held, name = self._elements(type_, key), name_here(type_, at_server)
        if held is None:
            return _WRONGTYPE, []
        if name not in (shown(held) if type_ == "stream" else held):
            return UNCHANGED, []
        if not _element_holds(type_, name, held[name], digests):
            return MOVED, []
        if is_of_group(name):
            return self._groupdel(key, name)
        return self._remove_elements(type_, key, [at_server])

    def _hincrby(self, key: bytes, name: bytes, by: bytes) -> Outcome:
        return self._add_to("hash", key, name, by, [b"HINCRBY", key, name, by], b"hincrby")

    def _zincrby(self, key: bytes, by: bytes, name: bytes) -> Outcome:
        return self._add_to("zset", key, name, by, [b"ZINCRBY", key, by, name], b"zincr")

    def _add_to(self, type_: str, key: bytes, name: bytes, by: bytes, argv: list[bytes], event: bytes) -> Outcome:
        held = self._elements(type_, key)
        if held is None:
            return _WRONGTYPE, []
        self.data[key] = HashState({**held, name: b"%d" % (int(held.get(name, b"0")) + int(by))}, None, type_)
        self._replicate(*argv)
        return None, [(key, event)]

    def _zremrangebyrank(self, key: bytes, first: bytes, last: bytes) -> Outcome:
        held = self._elements("zset", key)
        if held is None:
            return _WRONGTYPE, []
        ranked = sorted(held, key=lambda name: (int(held[name]), name))
        if not (gone := ranked[int(first) : int(last) + 1]):
            return UNCHANGED, []
        self._replicate(b"ZREMRANGEBYRANK", key, first, last)
        return None, self._left("zset", key, held, set(gone), b"zremrangebyrank")

    # Streams. What a script does to one shows as the commands that it runs.

    def _xadd(self, key: bytes, *words: bytes) -> Outcome:
        """`XADD key [MAXLEN = n] id field value ..`, with an id that is no wildcard."""
        held = self._elements("stream", key)
        if held is None:
            return _WRONGTYPE, []
        keep = int(words[2]) if words[0] == b"MAXLEN" else None  # `MAXLEN = n`
        id_, *pairs = words if keep is None else words[3:]
        if entry_name(id_) <= entry_name(last_id(held)):
            return "ERR The ID specified in XADD is equal or smaller", []
        elements = {**held, entry_name(id_): entry_value(pairs), LAST_ID: id_}
        self.data[key] = HashState(elements, None, "stream")
        self._replicate(b"XADD", key, *words)
        events = [(key, b"xadd")]
        if keep is not None and (gone := entries_of(elements)[:-keep]):
            events += self._left("stream", key, elements, set(gone), b"xtrim")
        return None, events

    def _xtrim(self, key: bytes, *words: bytes) -> Outcome:
        """`XTRIM key MAXLEN = n`."""
        held = self._elements("stream", key)
        if held is None:
            return _WRONGTYPE, []
        names = entries_of(held)
        if not (gone := names[: max(0, len(names) - int(words[-1]))]):
            return UNCHANGED, []
        self._replicate(b"XTRIM", key, *words)
        return None, self._left("stream", key, held, set(gone), b"xtrim")

    def _xsetid(self, key: bytes, id_: bytes) -> Outcome:
        held = self._elements("stream", key)
        if not held:
            return "ERR no such key" if held is not None else _WRONGTYPE, []
        if (names := entries_of(held)) and entry_name(id_) < names[-1]:
            return "ERR The ID specified in XSETID is smaller than the target stream top item", []
        self.data[key] = HashState({**held, LAST_ID: id_}, None, "stream")
        self._replicate(b"XSETID", key, id_)
        return None, [(key, b"xsetid")]

    def _put_entries(self, key: bytes, elements: Mapping[bytes, bytes]) -> Outcome:
        """What `wire.entries.STREAMS` does to add elements."""
        if self._elements("stream", key) is None:
            return _WRONGTYPE, []
        events: Events = []
        low: dict[bytes, bytes] = {}
        for name in entries_of(elements):
            refused, of_entry = self._xadd(key, plain_id(name), *entry_words(elements[name]))
            events += of_entry
            if refused:
                low[name] = elements[name]
        if low:
            events += self._insert(key, low)
        outcome = UNCHANGED if low or not elements else None
        if last := elements.get(LAST_ID):
            if key not in self.data:
                events += self._xadd(key, last, b"", b"")[1] + self._xtrim(key, b"MAXLEN", b"0")[1]
            above, of_last = self._xsetid(key, last)
            events += of_last
            outcome = MOVED if above else outcome
        if ours := {name: value for name, value in elements.items() if is_of_group(name)}:
            of_groups, missing = self._put_groups(key, ours)
            events += of_groups
            outcome = MOVED if missing else outcome
        return outcome, events

    def _insert(self, key: bytes, low: Mapping[bytes, bytes]) -> Events:
        """Entries below the last id: those above are removed, and added again behind them."""
        held = self._elements("stream", key)
        wanted = {name: value for name, value in low.items() if held.get(name) != value}
        if not wanted:
            return []
        above = [name for name in entries_of(held) if name >= min(wanted)]
        wanted = {name: held[name] for name in above} | wanted
        events: Events = []
        if above:
            events += self._remove_elements("stream", key, [plain_id(name) for name in above])[1]
        below = entries_of(self._elements("stream", key))
        events += self._xsetid(key, plain_id(below[-1]) if below else b"0-1")[1]
        for name in sorted(wanted):
            events += self._xadd(key, plain_id(name), *entry_words(wanted[name]))[1]
        return events + self._xsetid(key, greater_id(last_id(held), plain_id(max(wanted))))[1]

    # Lists.

    def _rpush(self, key: bytes, *items: bytes) -> Outcome:
        held = self.data.get(key, SequenceState(()))
        if not isinstance(held, SequenceState):
            return _WRONGTYPE, []
        self.data[key] = SequenceState((*held.items, *items))
        self._replicate(b"RPUSH", key, *items)
        return None, [(key, b"rpush")]

    def _lpop(self, key: bytes) -> Outcome:
        held = self.data.get(key, SequenceState(()))
        if not isinstance(held, SequenceState):
            return _WRONGTYPE, []
        if not held.items:
            return UNCHANGED, []
        self._replicate(b"LPOP", key)
        self.data[key] = SequenceState(held.items[1:])
        if held.items[1:]:
            return None, [(key, b"lpop")]
        del self.data[key]
        self.expiries.pop(key, None)
        return None, [(key, b"lpop"), (key, b"del")]

    def _listset(self, key: bytes, *items: bytes) -> Outcome:
        held = self.data.get(key)
        events = [] if held is None or isinstance(held, SequenceState) else self._del(key)[1]
        self.data[key] = SequenceState(items)
        return None, [*events, *[(key, b"rpush")] * -(-len(items) // MAX_FIELDS_PER_COMMAND), (key, b"ltrim")]

    def _listif(self, key: bytes, digests: bytes, *items: bytes) -> Outcome:
        if self._holds(key, digests.split(b",")):
            return self._listset(key, *items)
        return (UNCHANGED if self.data.get(key) == SequenceState(items) else MOVED), []

    # Keys.

    def _holds(self, key: bytes, digests: Sequence[bytes]) -> bool:
        digest = digest_of(key, self.state(key))
        return (b"" if digest is None else b"%015x" % digest) in digests

    def _delif(self, key: bytes, *digests: bytes) -> Outcome:
        if key not in self.data:
            return UNCHANGED, []
        return self._del(key) if self._holds(key, digests) else (MOVED, [])

    def _del(self, key: bytes) -> Outcome:
        if self.data.pop(key, None) is None:
            return UNCHANGED, []
        self.expiries.pop(key, None)
        self._replicate(b"DEL", key)
        return None, [(key, b"del")]

    def _rename(self, key: bytes, other: bytes) -> Outcome:
        if key not in self.data:
            return "ERR no such key", []
        self.data[other] = self.data.pop(key)
        self.expiries.pop(other, None)
        if (expires := self.expiries.pop(key, None)) is not None:
            self.expiries[other] = expires
        self._replicate(b"RENAME", key, other)
        return None, [(key, b"rename_from"), (other, b"rename_to")]

    def _pexpireat(self, key: bytes, expires: bytes) -> Outcome:
        if key not in self.data:
            return UNCHANGED, []
        if int(expires) <= self.now_ms:
            return self._del(key)
        self.expiries[key] = int(expires)
        self._replicate(b"PEXPIREAT", key, expires)
        return None, [(key, b"expire")]

    def _persist(self, key: bytes) -> Outcome:
        if self.expiries.pop(key, None) is None:
            return UNCHANGED, []
        self._replicate(b"PERSIST", key)
        return None, [(key, b"persist")]


def _pairs(words: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(words[::2], words[1::2], strict=True))


def _element_holds(type_: str, name: bytes, value: bytes | None, digests: bytes) -> bool:
    return (b"" if value is None else b"%024x" % element_of(name, value, type_)) in digests.split(b",")
