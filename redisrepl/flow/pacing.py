"""When a batch may leave, and how many may be on their way.

In: what is ready, the time, how batches came back. Out: a delay. Left to others: waiting (`flow.pushing`).
"""

from __future__ import annotations

import math

from redisrepl.errors import (
    CertificateError,
    CommandRefusedError,
    HubError,
    ProtocolError,
    RedisreplError,
    RefusedError,
)
from redisrepl.pauses import Pauses

__all__ = ["Pacer", "is_an_answer"]

#: Events that may be outstanding while more is pushed: what is on its way and what leaves in the meantime.
_UNHEARD = 100_000
#: Seconds without an event after which they are not waited for: the subscription may be dead.
_SILENCE = 1.0
#: What Redis itself says comes with this status.
_OK = 200


def is_an_answer(error: RedisreplError) -> bool:
    """Whether a server has said no, or what makes no sense, rather than nothing at all.

    Then it is there, and its health makes nobody wait.
    """
    if isinstance(error, RefusedError):
        return not isinstance(error, CertificateError)
    return isinstance(error, ProtocolError | CommandRefusedError) or (
        isinstance(error, HubError) and error.status == _OK
    )


class Pacer:
    """A lone write leaves at once; small batches never eat the processor; the hub is left alone when it asks.

    While others are on their way, the next batch leaves when it is worth a request of its own, or when the last left
    `interval` seconds ago. And pushes do not outrun the hub's events of them: each of those is remembered until it
    comes, and Redis cuts off a subscriber who is too far behind.

    Args:
        most: batches on their way at a time.
        worthwhile: changes that are worth a request.
        interval: seconds between the departures of smaller batches.
        rate: changes that may leave in a second; 0: any number.
        longest_pause: seconds between two tries while the hub answers and refuses everything.

    Attributes:
        heard_at: when events of our own pushes came last.
        limit: batches that may be on their way now; halved when the hub is overloaded, grown one by one.
        out: batches on their way.
        held_until: when the next batch may leave at the earliest: the hub said so.
    """

    __slots__ = (
        "_interval",
        "_last",
        "_most",
        "_paid_until",
        "_pauses",
        "_rate",
        "_worthwhile",
        "heard_at",
        "held_until",
        "limit",
        "out",
    )

    def __init__(
        self, most: int, worthwhile: int, interval: float, rate: float = 0.0, longest_pause: float = 15.0
    ) -> None:
        self._most = most
        self._worthwhile = worthwhile
        self._interval = interval
        self._rate = rate
        self._pauses = Pauses(longest_pause)
        self._last = -math.inf
        self._paid_until = -math.inf  # what left until now, at the rate that is allowed, takes until then
        self.held_until = -math.inf
        self.heard_at = -math.inf
        self.limit = most
        self.out = 0

    def delay(self, ready: int, now: float, unheard: int = 0) -> float:
        """Seconds until a batch may leave; infinity: not before another one came back.

        Args:
            ready: changes that could leave.
            now: seconds that never go backwards.
            unheard: events of our own pushes that have not come yet.
        """
        if self.out >= self.limit:
            return math.inf
        at = max(self.held_until, self._paid_until)
        if self.out and ready < self._worthwhile:
            at = max(at, self._last + self._interval)
        if unheard > _UNHEARD:
            at = max(at, self.heard_at + _SILENCE)
        return max(0.0, at - now)

    def left(self, size: int, now: float) -> None:
        """A batch of so many changes is on its way."""
        self.out += 1
        self._last = now
        if self._rate:
            self._paid_until = max(self._paid_until, now) + size / self._rate

    def hold(self, until: float) -> None:
        """Nothing leaves before this time."""
        self.held_until = max(self.held_until, until)

    def refused(self, now: float) -> None:
        """The hub answers, but refuses whatever we send: all wait, then one tries."""
        if now < self.held_until:
            return  # another one has told already
        self.hold(now + self._pauses.next())

    def heard(self, now: float) -> None:
        """Events of our own pushes came."""
        self.heard_at = now

    def arrived(self) -> None:
        """A batch came back, executed."""
        self.out -= 1
        self._pauses.passed()
        self.limit = min(self._most, self.limit + 1)

    def failed(self) -> None:
        """A batch came back, not executed: the hub gets half as many side by side."""
        self.gave_up()
        self.limit = max(1, self.limit // 2)

    def gave_up(self) -> None:
        """A batch came back of which nothing was sent, or for which nobody waits any more."""
        self.out -= 1
