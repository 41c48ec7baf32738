"""Reads what keys hold at the site.

In: keys. Out: states. Left to others: which keys, and what to do with the states (`flow.pushing`, `flow.applying`).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, cast

import redis.asyncio
import redis.exceptions
import structlog

from redisrepl.changes import (
    DENIED,
    HashState,
    LargeState,
    ReckonedExpiry,
    SequenceState,
    State,
    StringState,
    expiry_ms,
    value_size,
)
from redisrepl.errors import PeerUnavailableError, ProtocolError, RefusedError, denies_key
from redisrepl.local.address import SiteAddress
from redisrepl.local.client import INFO, ask, ask_all, ask_within, is_refused, scripts_at, stream_offset, translated
from redisrepl.namespaces import glob_escape, printable
from redisrepl.wire.collections import COLLECTIONS, READABLE_SINGLY, elements_in, extra_types, score_text
from redisrepl.wire.entries import FIRST_ID, LAST_ID, entries_in, is_entry, plain_id, stream_facts
from redisrepl.wire.entrypages import ENTRIES_SCRIPT, parse_entries, words_of
from redisrepl.wire.fieldtimes import FieldTimes, question_of_times, times_of, with_times
from redisrepl.wire.groups import is_of_group, questions_of_groups, values_of_groups
from redisrepl.wire.replies import as_bytes, as_clock, as_integer, as_page, as_pairs, as_strings, wrong
from redisrepl.wire.scan import Scan
from redisrepl.wire.states import STATES_SCRIPT, TOO_LARGE, parse_states
from redisrepl.wire.unwanted import MAX_VALUE

__all__ = ["SiteReader"]

_log = structlog.get_logger("redisrepl")

#: Bytes of values in one reply, after which another request reads the remaining keys.
_MAX_REPLY = 8 << 20
#: A collection of more elements is read in pages of so many: the server does nothing else while it reads one.
_MOST_ELEMENTS = 5000
_PAGE = 1000
#: Bytes of entries of a stream after which a page ends.
_PAGE_BYTES = 1 << 20
#: Elements of one that are held at a time, where not all of it is needed at once.
_MOST_TOGETHER = 20_000
#: Keys read at a time without scripts, where nothing bounds the size of their replies.
_FEW = 20
#: How many keys with too large values are logged; if there are more, their names do not help.
_MAX_NAMED = 10_000
#: Bytes that replies may take beside the values.
_BESIDE = 1 << 20
#: What a server says of a stream or a group that is not there any more.
_NOT_THERE = ("WRONGTYPE", "NOGROUP", "no such key")
_Nothing = type(None)


class SiteReader:
    """Reads the site's Redis.

    Args:
        client: nobody else may use its connection.
        address: for messages.
        max_value: larger values are not read: their state is `wire.states.TOO_LARGE`.
        types: the types of collection to read beside hashes.
        times: whether expiries of fields are read.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        address: SiteAddress,
        max_value: int = MAX_VALUE,
        types: Collection[str] = (),
        times: FieldTimes | None = None,
    ) -> None:
        self._times = times or FieldTimes()
        self._client = client
        self._address = address
        self._max_value = max_value
        self._types = sorted(set(types) & READABLE_SINGLY.keys() - {"hash"})
        self._others = extra_types(types)
        self._named: set[bytes] = set()  # keys that were logged as too large
        self._scripts = scripts_at(client, address)
        self._paged = True  # as far as is known, the server lets us read a collection in pages

    def request(self, keys: Sequence[bytes], large: frozenset[bytes] = frozenset()) -> list[list[bytes]]:
        """The commands whose replies `states` parses, for callers that send more in the same round trip.

        Where scripts are refused, there are none for most keys: `states` then reads those itself.

        Args:
            keys: any.
            large: those of them that hold a large hash. They are read without a script, in which Redis would take five
                times as long to read them, and serve nobody else meanwhile.
        """
        small, alone = _apart(keys, self._without_times(large))
        commands = [command for key in alone for command in ([b"PEXPIRETIME", key], [b"HGETALL", key])]
        if small and self._scripts.worth_trying:
            commands.append([b"EVAL", self._times.script(STATES_SCRIPT), b"0", *self._words(small, _MAX_REPLY)])
        return commands

    async def states(
        self, keys: Sequence[bytes], replies: Sequence[object] = (), large: frozenset[bytes] = frozenset()
    ) -> list[State]:
        """What these keys hold, in their order.

        Args:
            keys: any.
            replies: to the commands of `request` for these keys, if they were sent; keys without a reply are read here.
            large: as in `request`.
        """
        small, alone = _apart(keys, self._without_times(large))
        found = _large_states(alone, replies)
        states: list[State] = []
        for reply in replies[2 * len(alone) :]:
            if isinstance(reply, list):
                strings = as_strings(reply, self._asked("a reading script"))
                states += cast("list[State]", await self._states_of(small, strings, _MAX_REPLY))
        left = [*small, *(key for key in alone if key not in found)] if alone else small
        while len(states) < len(left):
            states += await self.first_states(left[len(states) :], _MAX_REPLY)
        if not alone:
            return states
        found.update(zip(left, states, strict=True))
        return [found[key] for key in keys]

    async def first_states(self, keys: Sequence[bytes], max_bytes: int) -> list[State]:
        """What the first of these keys hold: at least one, and no more after `max_bytes` are read."""
        return cast("list[State]", await self._first(keys, max_bytes, whole=True))

    async def first_or_large(self, keys: Sequence[bytes], max_bytes: int) -> list[State | LargeState]:
        """Likewise, but the first large collection is not read, and the last of these."""
        return await self._first(keys, max_bytes, whole=False)

    async def _first(self, keys: Sequence[bytes], max_bytes: int, *, whole: bool) -> list[State | LargeState]:
        if self._scripts.worth_trying:
            reply = await self._scripts.run(self._times.script(STATES_SCRIPT), self._words(keys, max_bytes))
            if reply is not None:
                states = await self._states_of(keys, reply, max_bytes, whole=whole)
                if not 0 < len(states) <= len(keys):
                    raise ProtocolError(f"{self._asked('a reading script')} told of {len(states)} of {len(keys)} keys")
                return states
            self._scripts.refused()
        return [*await self._one_by_one(keys[:_FEW])]

    def _without_times(self, large: frozenset[bytes]) -> frozenset[bytes]:
        """Of large hashes, those that a command reads by itself: expiries of fields take a script."""
        return frozenset() if self._times.on else large

    def _words(self, keys: Sequence[bytes], max_bytes: int) -> list[bytes]:
        """Arguments of the script that reads these keys until it has `max_bytes`."""
        large = b":%d" % _MOST_ELEMENTS if self._paged else b""
        return [b"%d %d%b%b" % (max_bytes, self._max_value, large, self._others), b"", *keys]

    async def _states_of(
        self, keys: Sequence[bytes], reply: Sequence[bytes], max_bytes: int, *, whole: bool = True
    ) -> list[State | LargeState]:
        """The states in the script's reply, and no more than `max_bytes` of collections that are read in pages.

        A key with too large a value is logged, once.
        """
        states: list[State | LargeState] = []
        for key, state in zip(keys, parse_states(reply), strict=False):
            if not isinstance(state, LargeState):
                states.append(state)
            elif not whole:
                states.append(state)
                break
            elif max_bytes > 0:
                states.append(paged := await self._in_pages(key, state))
                max_bytes -= value_size(paged)
            else:
                break
        self._name_large(keys, states)
        return states

    async def _in_pages(self, key: bytes, large: LargeState) -> State:
        """A large collection; if it changes meanwhile, the stream will tell, or whoever watches it."""
        found: dict[bytes, bytes] = {}
        size, scan, done = 0, Scan(self._asked((COLLECTIONS[large.type].scan or b"XRANGE").decode())), False
        while not done:
            page = await self._step(key, large.type, scan)
            if page is None:
                return (await self.first_states([key], _MAX_REPLY))[0]
            fields, done = page
            found |= fields
            size += value_size(HashState(fields))
            state = HashState(found, large.expires_at_ms, large.type)
            if (done and value_size(state) > self._max_value) or size > 2 * self._max_value:  # some may come twice
                return TOO_LARGE
        return state if found else None

    async def _step(self, key: bytes, kind: str, scan: Scan) -> tuple[Mapping[bytes, bytes], bool] | None:
        """Some more elements of a collection, and whether they are the last; None: it is another type by now."""
        if kind == "stream":
            return await self._entry_page(key, scan)
        command = COLLECTIONS[kind].scan
        with translated(self._address):
            try:
                reply = await ask(self._client, command, key, scan.cursor, b"COUNT", b"%d" % _PAGE)
            except redis.exceptions.ResponseError as error:
                denied = isinstance(error, redis.exceptions.NoPermissionError)
                if not denied and not str(error).startswith(("WRONGTYPE", "unknown command")):
                    raise
                self._paged = str(error).startswith("WRONGTYPE")
                return None
        cursor, flat = as_page(reply, self._asked(command.decode()))
        return await self._timed(key, kind, self._elements(kind, list(flat))), scan.ends(cursor)

    async def _entry_page(self, key: bytes, scan: Scan) -> tuple[Mapping[bytes, bytes], bool] | None:
        """Likewise of a stream, which takes a script: its last id is part of the last page."""
        reply = await self._scripts.run(ENTRIES_SCRIPT, words_of(b"", key, scan.cursor, _PAGE, _PAGE_BYTES))
        if reply is None:
            self._scripts.refused()
            return None
        page = parse_entries(reply, b"", scan.cursor)
        return (page.found, scan.ends(page.following)) if page.facts is not None else None

    async def page_of(self, key: bytes, kind: str, scan: Scan, max_bytes: int) -> tuple[Mapping[bytes, bytes], bool]:
        """The next elements of a large collection of this type, and whether they are the last.

        Some may come twice. One of another type by now has none: the stream tells what became of it.
        """
        found: dict[bytes, bytes] = {}
        size, done = 0, False
        while not done and len(found) < _MOST_TOGETHER and size < max_bytes:
            page = await self._step(key, kind, scan)
            if page is None:
                return {}, True
            fields, done = page
            found |= fields
            size += value_size(HashState(fields))
        return found, done

    async def _timed(self, key: bytes, kind: str, fields: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
        """Fields of a hash with their expiries, where these are read."""
        if kind != "hash" or not fields or not self._times.on:
            return fields
        with translated(self._address):
            (reply,) = await ask_all(self._client, [question_of_times(key, [*fields])])
        return with_times(fields, reply)

    def _name_large(self, keys: Sequence[bytes], states: Sequence[State | LargeState]) -> None:
        if TOO_LARGE in states:
            for key, state in zip(keys, states, strict=False):
                if state == TOO_LARGE and key not in self._named and len(self._named) < _MAX_NAMED:
                    self._named.add(key)
                    _log.error(
                        "site.value_too_large",
                        key=printable(key),
                        max_value=self._max_value,
                        hint="it is not replicated; raise --max-value and what the hub's proxy takes, or split it",
                    )

    def part_request(self, key: bytes, kind: str, names: Sequence[bytes]) -> list[list[bytes]]:
        """What asks for `part`, for who has more to ask in one go."""
        about = [[b"TYPE", key], [b"PEXPIRETIME", key], [b"PTTL", key], [b"TIME"]]
        if kind == "stream":
            return [*about, [b"XINFO", b"STREAM", key], *_ranges(key, names)]
        values = [[COLLECTIONS[kind].read_some, key, *names]] if names else []
        times = [question_of_times(key, names)] if names and kind == "hash" and self._times.on else []
        return [*about, *values, *times]

    def part(self, kind: str, names: Sequence[bytes], replies: Sequence[object]) -> HashState | None:
        """These elements of a collection, from the replies to that; None: it is of another type, or not told."""
        type_, at, left, clock, *values = replies
        if type_ != kind.encode() or not (isinstance(at, int) or isinstance(left, int)):
            return None
        expires_at_ms = self._expiry(at, left, clock)
        if kind == "stream":
            return self._part_of_stream(names, values, expires_at_ms)
        found = values[0] if values else []
        if not isinstance(found, list) or len(found) != len(names):
            return None
        held = self._values(kind, found)
        timed = zip(names, times_of(held, values[1]) if len(values) > 1 else held, strict=True)
        return HashState({name: value for name, value in timed if value is not None}, expires_at_ms, kind)

    def _expiry(self, at: object, left: object, clock: object) -> int | None:
        """From the replies to PEXPIRETIME, which Redis has since 7.0 and an ACL may deny, to PTTL and to TIME."""
        if isinstance(at, int):
            return expiry_ms(at) if at >= 0 else None
        left = as_integer(left, self._asked("PTTL"))
        return ReckonedExpiry(self._now_ms(clock) + left) if left >= 0 else None

    def end_of(self, replies: Sequence[object]) -> tuple[bytes, int] | None:
        """The last id of a stream and how many entries it has, from the replies to `part_request`; None: it is none."""
        if replies[0] != b"stream":
            return None
        about = replies[4]
        length = dict(zip(about[::2], about[1::2], strict=False)).get(b"length") if isinstance(about, list) else None
        return stream_facts(about, self._asked("XINFO STREAM"))[0], length if isinstance(length, int) else 0

    def _part_of_stream(self, names: Sequence[bytes], replies: Sequence[object], expiry: int | None) -> HashState:
        about, *ranges = replies
        found: dict[bytes, bytes] = {LAST_ID: stream_facts(about, self._asked("XINFO STREAM"))[0]}
        for reply in ranges:
            if not isinstance(reply, list):
                raise wrong(self._asked("XRANGE"), "entries", reply)
            found |= entries_in(reply)
        return HashState({name: found[name] for name in names if name in found}, expiry, "stream")

    def _values(self, kind: str, reply: list[object]) -> list[bytes | None]:
        """What the command that reads some elements said of each; None: it is not there."""
        if kind == "set" and set(reply) <= {0, 1}:
            return [b"" if is_member else None for is_member in reply]
        if set(map(type, reply)) <= {bytes, _Nothing}:
            values = cast("list[bytes | None]", reply)
            return values if kind == "hash" else [None if score is None else score_text(score) for score in values]
        raise wrong(self._asked(COLLECTIONS[kind].read_some.decode()), f"{len(reply)} elements", reply)

    async def _one_by_one(self, keys: Sequence[bytes]) -> list[State]:
        """Read keys without scripts, by the commands of all types at once."""
        types = ["hash", *self._types]
        reads = [[[READABLE_SINGLY[t].read, key, *READABLE_SINGLY[t].range] for t in types] for key in keys]
        questions = [
            [[b"TYPE", key], [b"PTTL", key], [b"GET", key], *of_key] for key, of_key in zip(keys, reads, strict=True)
        ]
        alone = len(keys) == 1
        most = 2 * self._max_value + _BESIDE if alone else _MAX_REPLY  # twice, for the lengths between small elements
        with translated(self._address):
            replies = await ask_within(self._client, most, [[b"TIME"], *chain.from_iterable(questions)])
        if replies is None:
            return self._bounded(keys, [TOO_LARGE]) if alone else await self._one_by_one(keys[: len(keys) // 2])
        now, each = self._now_ms(replies.pop(0)), 3 + len(types)
        found = [replies[start : start + each] for start in range(0, len(replies), each)]
        states = [
            self._state(now, kind, left, string, dict(zip(types, collections, strict=True)))
            for kind, left, string, *collections in found
        ]
        for index, state in enumerate(states if self._times.on else ()):
            if isinstance(state, HashState) and state.type == "hash":
                states[index] = replace(state, fields=await self._timed(keys[index], "hash", state.fields))
        return self._bounded(keys, states)

    def _now_ms(self, clock: object) -> int:
        """The time in milliseconds, by the site's clock; by ours where TIME is refused."""
        if isinstance(clock, redis.exceptions.ResponseError):
            return int(time.time() * 1000)
        return as_clock(clock, self._asked("TIME")) // 1000

    def _bounded(self, keys: Sequence[bytes], states: Sequence[State]) -> list[State]:
        """The states of keys, `TOO_LARGE` in place of values that are too large."""
        kept = [TOO_LARGE if value_size(state) > self._max_value else state for state in states]
        self._name_large(keys, kept)
        return kept

    def _asked(self, what: str) -> str:
        return f"{what} at the site's Redis {self._address}"

    def _state(self, now: int, kind: Any, left: Any, string: Any, collections: Mapping[str, Any]) -> State:
        if isinstance(kind, Exception) and denies_key(str(kind)):
            return DENIED
        if isinstance(kind, Exception) or isinstance(left, Exception):
            raise PeerUnavailableError(f"the site's Redis {self._address} answered: {kind} {left}")
        left = as_integer(left, self._asked("PTTL"))
        expires_at_ms = ReckonedExpiry(now + left) if left >= 0 else None
        type_ = as_bytes(kind, self._asked("TYPE")).decode("ascii", "backslashreplace")
        read = string if type_ == "string" else collections.get(type_)
        if isinstance(read, Exception) and not str(read).startswith("WRONGTYPE"):  # that is another key by now
            # It is there: to take what we may not read for nothing would remove it at the hub.
            raise RefusedError(f"the site's Redis {self._address} refuses us to read a {type_}: {read}")
        match type_:
            case "string":
                return StringState(string, expires_at_ms) if isinstance(string, bytes) else None
            case _ if type_ in collections:
                flat = collections[type_]
                if not isinstance(flat, list) or not flat:
                    return None  # the key was removed between two commands
                if type_ in COLLECTIONS:
                    return HashState(self._elements(type_, flat), expires_at_ms, type_)
                return SequenceState(tuple(as_strings(flat, self._asked("LRANGE"))), expires_at_ms, type_)
            case "none":
                return None
            case _:
                return type_

    def _elements(self, type_: str, flat: list[object]) -> Mapping[bytes, bytes]:
        what = self._asked(COLLECTIONS[type_].read.decode())
        if type_ == "hash":
            return dict(as_pairs(flat, what))
        try:
            return elements_in(type_, as_strings(flat, what))
        except ValueError:
            raise wrong(what, "members, with their scores where they have some", flat) from None

    async def page(self, prefix: bytes, cursor: bytes, count: int) -> tuple[bytes, list[bytes]]:
        """Keys of a namespace, from cursor `0` on, and the next cursor; `0` is the end. A key may come twice."""
        with translated(self._address):
            pattern = glob_escape(prefix) + b"*"
            reply = await ask(self._client, b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % count)
        return as_page(reply, self._asked("SCAN"))

    async def offset(self) -> int:
        """Where the replication stream is now: what was read before, it shows by then; 0 where INFO is refused."""
        with translated(self._address):
            try:
                return stream_offset(await ask(self._client, *INFO))
            except redis.exceptions.ResponseError as error:
                if is_refused(error):
                    return 0
                raise

    async def fields(self, key: bytes, fields: Sequence[bytes], kind: str = "hash") -> list[bytes | None]:
        """What these elements hold; None for an absent one, and for all if the key is not of this type.

        Raises:
            KeyDeniedError: the server denies us reading the key.
        """
        if kind == "stream":
            return await self._entries(key, fields)
        if kind == "hash" and self._times.on:
            return await self._timed_values(key, fields)
        command = COLLECTIONS[kind].read_some
        with translated(self._address):
            try:
                reply = await ask(self._client, command, key, *fields)
            except redis.exceptions.ResponseError as error:
                if str(error).startswith("WRONGTYPE"):
                    return [None] * len(fields)
                raise
        if isinstance(reply, list) and len(reply) == len(fields):
            return self._values(kind, reply)
        raise wrong(self._asked(command.decode()), f"a list of {len(fields)}", reply)

    async def lasting(self, keys: Sequence[bytes]) -> list[bytes]:
        """Which of these keys are there and do not expire, as far as the server tells."""
        with translated(self._address):
            replies = await ask_all(self._client, [[b"PTTL", key] for key in keys])
        return [key for key, left in zip(keys, replies, strict=True) if left == -1]

    async def _timed_values(self, key: bytes, names: Sequence[bytes]) -> list[bytes | None]:
        """As `fields`, for a hash, with expiries."""
        questions = [[b"HMGET", key, *names], question_of_times(key, names)]
        with translated(self._address):
            values, times = await ask_all(self._client, questions)
            if isinstance(values, Exception):
                if str(values).startswith("WRONGTYPE"):
                    return [None] * len(names)
                raise values
        if isinstance(values, list) and len(values) == len(names):
            return times_of(self._values("hash", values), times)
        raise wrong(self._asked("HMGET"), f"a list of {len(names)}", values)

    async def _entries(self, key: bytes, names: Sequence[bytes]) -> list[bytes | None]:
        """As `fields`, for a stream: its entries, its last id, and the name of its first entry."""
        ids = [plain_id(name) for name in names if is_entry(name)]
        questions = [[b"XINFO", b"STREAM", key], *([b"XRANGE", key, id_, id_] for id_ in ids)]
        of_groups = [name for name in names if is_of_group(name)]
        with translated(self._address):
            about, *replies = await ask_all(self._client, [*questions, *questions_of_groups(key, of_groups)])
            if isinstance(about, redis.exceptions.ResponseError):
                if str(about).startswith(("WRONGTYPE", "no such key")):
                    return [None] * len(names)
                raise about
            for reply in replies[len(ids) + 1 :]:  # what we may not read must not be taken for removed
                if isinstance(reply, redis.exceptions.ResponseError) and not str(reply).startswith(_NOT_THERE):
                    raise reply
        last_id, first = stream_facts(about, self._asked("XINFO STREAM"))
        found: dict[bytes, bytes] = {}
        for reply in replies[: len(ids)]:
            if isinstance(reply, list):  # not an error, because the key has become another type
                found |= entries_in(reply)
        found |= {LAST_ID: last_id, **({FIRST_ID: first} if first is not None else {})}
        found |= values_of_groups(of_groups, replies[len(ids) :])
        return list(map(found.get, names))


def _ranges(key: bytes, names: Iterable[bytes]) -> list[list[bytes]]:
    """The questions after these entries of a stream; more than some are of one page, with little between them."""
    ids = [plain_id(name) for name in sorted(filter(is_entry, names))]
    ends = [(ids[0], ids[-1])] if len(ids) > _MOST_ELEMENTS else zip(ids, ids, strict=True)
    return [[b"XRANGE", key, first, last] for first, last in ends]


def _apart(keys: Sequence[bytes], large: frozenset[bytes]) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """The keys for a script to read, and the large ones, of which there are mostly none."""
    if not large:
        return keys, ()
    return [key for key in keys if key not in large], [key for key in keys if key in large]


def _large_states(keys: Sequence[bytes], replies: Sequence[object]) -> dict[bytes, State]:
    """The states of keys from the replies to `PEXPIRETIME` and `HGETALL`; keys with an error reply are missing."""
    found: dict[bytes, State] = {}
    for key, at, flat in zip(keys, replies[::2], replies[1::2], strict=False):
        if isinstance(at, int) and isinstance(flat, list):  # Redis 7.0 or later, and a hash, or nothing
            fields = as_pairs(flat, "HGETALL at the site")
            found[key] = HashState(dict(fields), at if at >= 0 else None) if fields else None
    return found
