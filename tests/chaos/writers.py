"""Clients that write without pause, and remember what they wrote.

In: a server, which may change. Out: writes; afterwards, which values the keys that only they write may hold.
Left to others: what all copies hold.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import redis

from redisrepl.wire.groups import is_place
from testbed import RedisServer
from tests.chaos.collections import TYPES, write_own, write_shared
from tests.chaos.groups import GroupError

__all__ = ["HOT", "NAMESPACE", "OWN", "Contents", "Miss", "Writer"]

NAMESPACE = b"lab:"
#: Keys that everybody writes: few that are hot, and many that are cold.
HOT = 5
COLD = 3000
#: Keys of each kind that only one client writes.
OWN = 25
#: Keys of each of `TYPES` that everybody writes, and that only one client writes.
FEW = 2

#: A key, a place in it, what it holds, what was accepted, and how many seconds ago.
Miss = tuple[bytes, bytes | None, object, object, float]
#: What a server holds: strings, lists as tuples, and collections as dicts.
Contents = Mapping[bytes, object]


@dataclass(slots=True)
class History:
    """The values of one place that only one client writes, from the one that all copies last agreed on.

    Attributes:
        values: that were sent, oldest first; None: it was removed.
        accepted: index of the last one that the server acknowledged; -1: none. A later one may have happened or not.
        at: when that was, in seconds of the monotonic clock.
    """

    values: list[object] = field(default_factory=list)
    accepted: int = -1
    at: float = 0.0


class Writer(threading.Thread):
    """A client that writes keys of some types, to few hot keys and many cold ones, until told to stop.

    Args:
        name: goes into its values.
        master: gives the server to write to now.
        seed: of its choices.
        pause: seconds between its bursts of about seven writes.
        all_types: it writes keys of `TYPES` beside strings and hashes, and removes elements of them.
        reads: it also reads streams by consumer groups.
    """

    def __init__(
        self,
        name: str,
        master: Callable[[], RedisServer],
        seed: float,
        pause: float,
        *,
        all_types: bool = False,
        reads: bool = False,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._master = master
        self._rng = random.Random(seed)
        self._pause = pause
        self._all_types = all_types
        self._reads = reads
        self._number = 0  # of its writes to keys of its own
        self._ended = threading.Event()
        self._writing = threading.Lock()
        self._server: RedisServer | None = None
        self.accepted = 0
        self.refused = 0
        self.own: dict[bytes, dict[bytes | None, History]] = {}
        self.surprises: list[str] = []  # what groups of its own delivered though it was not next

    @property
    def key_outside(self) -> bytes:
        """A key that is in no namespace."""
        return b"elsewhere:%b" % self.name.encode()

    def run(self) -> None:
        while not self._ended.wait(self._pause):
            with self._writing:
                if self._server is not self._master():
                    self._server = self._master()
                    client = self._server.client()
                try:
                    self._write(client)
                except GroupError as error:
                    self.surprises.append(str(error))
                except redis.exceptions.RedisError:
                    self.refused += 1

    def _write(self, client: redis.Redis) -> None:
        rng = self._rng
        for _ in range(rng.randint(1, 10)):
            number = rng.randrange(HOT) if rng.random() < 0.5 else HOT + rng.randrange(COLD)
            value = b"%b %d " % (self.name.encode(), self.accepted) + rng.randbytes(rng.randrange(20))
            if rng.random() < 0.5:
                client.set(NAMESPACE + b"s%d" % number, value)
            else:
                client.hset(NAMESPACE + b"h%d" % number, b"f%d" % rng.randrange(8), value)
            self.accepted += 1
        self._write_own(client)
        if self._all_types:
            type_ = rng.choice(TYPES)
            key = NAMESPACE + b"c:%b:%d" % (type_, rng.randrange(FEW))
            write_shared(client, rng, key, type_, b"%b %d" % (self.name.encode(), self.accepted), reads=self._reads)
            self.accepted += 1
            self._write_own_collection(client)
        client.set(self.key_outside, b"%d" % self.accepted)

    def _write_own(self, client: redis.Redis) -> None:
        """A string, or a field of a hash that others write too, that only this client writes."""
        number, in_hash = self._rng.randrange(OWN), self._rng.random() < 0.5
        if in_hash:
            key, place = NAMESPACE + b"hown:%d" % (number // 5), b"%b f%d" % (self.name.encode(), number % 5)
        else:
            key, place = NAMESPACE + b"own:%b:%d" % (self.name.encode(), number), None
        value = b"%b %d" % (self.name.encode(), self.accepted)
        with self._saying(key, {place: value}):
            client.set(key, value) if place is None else client.hset(key, place, value)

    def _write_own_collection(self, client: redis.Redis) -> None:
        """An element of a collection, or a list, that only this client writes."""
        type_ = self._rng.choice(TYPES)
        key = NAMESPACE + b"c:%b:%b:%d" % (type_, self.name.encode(), self._rng.randrange(FEW))
        self._number += 1
        histories = self.own.get(key, {})
        held = {place: history.values[-1] for place, history in histories.items() if history.values[-1] is not None}
        doubtful = [place for place, history in histories.items() if history.accepted < len(history.values) - 1]
        write_own(
            client, self._rng, key, type_, self._number, held, doubtful, partial(self._saying, key), reads=self._reads
        )

    @contextlib.contextmanager
    def _saying(self, key: bytes, values: Mapping[bytes | None, object]) -> Iterator[None]:
        """Remember what is sent for these places of a key, and at the end that it was accepted."""
        histories = self.own.setdefault(key, {})
        for place, value in values.items():
            history = histories.setdefault(place, History())
            if history.values[-1:] != [value]:  # else nothing was accepted since: it is being said again
                history.values.append(value)
        yield
        for place in values:
            histories[place].accepted, histories[place].at = len(histories[place].values) - 1, time.monotonic()
        self.accepted += 1

    def pause(self) -> None:
        """Return when it does not write any more."""
        self._writing.acquire()

    def resume(self) -> None:
        self._writing.release()

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def misses(self, contents: Contents, *, forgot: bool, undoes: bool) -> list[Miss]:
        """Places that only this client writes and that do not hold what they should.

        That is the last value that was accepted, or one whose answer was lost. Where its daemon forgot what was agreed
        on, an older one of this client may stand, but none older than what all had already. Where any did, or a server
        may have gone back for all that is known, a removal may be undone (`undoes`), and of two last delivered ids the
        greater stands.
        """
        found: list[Miss] = []
        for key, place, history in self._histories():
            value = _held(contents, key, place)
            back = history.values[history.accepted] is None or is_place(place or b"")
            undone = forgot or (undoes and back)
            allowed = history.values if undone else history.values[history.accepted :]
            if history.accepted >= 0 and value not in allowed:
                ago = round(time.monotonic() - history.at, 2)
                found.append((key, place, value, history.values[history.accepted], ago))
        return found

    def _histories(self) -> list[tuple[bytes, bytes | None, History]]:
        return [(key, place, history) for key, places in self.own.items() for place, history in places.items()]

    def settled(self, contents: Contents) -> None:
        """All copies hold this now: what came before need not be remembered."""
        self.surprises = []
        for key, place, history in self._histories():
            value = _held(contents, key, place)
            history.values = [value]
            history.accepted = 0
            if value is None and place is not None:
                del self.own[key][place]


def _held(contents: Contents, key: bytes, place: bytes | None) -> object:
    holder = contents.get(key)
    return holder.get(place) if isinstance(holder, dict) else holder
