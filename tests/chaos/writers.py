"""Clients that write without pause, and remember what they wrote.

In: a server, which may change. Out: writes; afterwards, which values the keys that only they write may hold.
Left to others: what all copies hold.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import redis

from testbed import RedisServer

__all__ = ["HOT", "NAMESPACE", "OWN", "Contents", "Writer"]

NAMESPACE = b"lab:"
#: Keys that everybody writes: few that are hot, and many that are cold.
HOT = 5
COLD = 3000
#: Keys of each kind that only one client writes.
OWN = 25

#: What a server holds: strings, and hashes as dicts.
Contents = Mapping[bytes, object]


@dataclass(slots=True)
class History:
    """The values of one place that only one client writes, from the one that all copies last agreed on.

    Attributes:
        values: that were sent, oldest first; each is different.
        accepted: index of the last one that the server acknowledged; -1: none. A later one may have happened or not.
    """

    values: list[bytes] = field(default_factory=list)
    accepted: int = -1


class Writer(threading.Thread):
    """A client that writes strings and hashes, to few hot keys and many cold ones, until told to stop.

    Args:
        name: goes into its values.
        master: gives the server to write to now.
        seed: of its choices.
        pause: seconds between its bursts of about seven writes.
    """

    def __init__(self, name: str, master: Callable[[], RedisServer], seed: float, pause: float) -> None:
        super().__init__(name=name, daemon=True)
        self._master = master
        self._rng = random.Random(seed)
        self._pause = pause
        self._ended = threading.Event()
        self._writing = threading.Lock()
        self._server: RedisServer | None = None
        self.accepted = 0
        self.refused = 0
        self.own: dict[tuple[bytes, bytes | None], History] = {}

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
        client.set(self.key_outside, b"%d" % self.accepted)

    def _write_own(self, client: redis.Redis) -> None:
        """A string, or a field of a hash, that only this client writes."""
        number, in_hash = self._rng.randrange(OWN), self._rng.random() < 0.5
        kind, place = (b"hown", b"f%d" % (number % 5)) if in_hash else (b"own", None)
        key = NAMESPACE + b"%b:%b:%d" % (kind, self.name.encode(), number // 5 if in_hash else number)
        history = self.own.setdefault((key, place), History())
        value = b"%b %d" % (self.name.encode(), self.accepted)
        if history.values[-1:] != [value]:  # nothing was accepted since: it is being said again
            history.values.append(value)
        attempt = len(history.values) - 1
        client.set(key, value) if place is None else client.hset(key, place, value)
        history.accepted = attempt
        self.accepted += 1

    def pause(self) -> None:
        """Return when it does not write any more."""
        self._writing.acquire()

    def resume(self) -> None:
        self._writing.release()

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def misses(self, contents: Contents, *, forgot: bool) -> list[object]:
        """Places that only this client writes and that do not hold what they should.

        That is the last value that was accepted, or one whose answer was lost. Where a daemon forgot what was agreed
        on, an older one of this client may stand, but none older than what all had already.
        """
        found = []
        for (key, place), history in self.own.items():
            value = _held(contents, key, place)
            allowed = history.values if forgot else history.values[history.accepted :]
            if history.accepted >= 0 and value not in allowed:
                found.append((key, place, value, history.values[history.accepted]))
        return found

    def settled(self, contents: Contents) -> None:
        """All copies hold this now: what came before need not be remembered."""
        for (key, place), history in self.own.items():
            value = _held(contents, key, place)
            if value in history.values:
                history.values = [value]
                history.accepted = 0


def _held(contents: Contents, key: bytes, place: bytes | None) -> object:
    holder = contents.get(key)
    return holder.get(place) if isinstance(holder, dict) else holder
