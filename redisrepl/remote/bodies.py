"""Whether a request fails because of its size: some proxies do not say so.

In: requests to the hub, with the sizes of their bodies. Out: their replies; `BodyTooLargeError` where small requests
get through and large ones do not. Left to others: smaller bodies (`remote.push`), what a status means
(`remote.statuses`).

A 413 says that the body is too large, unless small requests get it too: then all are sent again later, and no key is
dropped. An error of the proxy itself (500, 507, ...) says enough. One that usually means something else (502: Webdis is
away; 400) has to come twice in a row, to requests of which the second began after the first had failed, while small
requests are answered. If it says that Webdis is away, it has to go on for some seconds: Webdis connects to its Redis
many times, and may have lost some of these connections only. A connection that is cut tells nothing: it may be the
network's.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redisrepl.errors import BodyTooLargeError, CommandRefusedError, HubError, RedisreplError
from redisrepl.remote.hub import Hub

__all__ = ["LargeBodies"]

_T = TypeVar("_T")

#: Bytes of a body that a proxy keeps in memory whatever its configuration (nginx: `client_body_buffer_size`).
_SMALL_BODY = 8 << 10
#: Statuses that say what it is: an answer of Redis, no access, no such path, too many requests.
_OTHERWISE = frozenset({200, 401, 403, 404, 429})
#: Statuses of a proxy whose server is away, most of the time.
_AWAY = frozenset({502, 503, 504})
_SERVER_ERRORS = range(500, 600)
#: Seconds after which Webdis has all its connections again.
_BACK = 3.0
#: Seconds after which an earlier failure has nothing to do with another one.
_FORGOTTEN = 300.0


class LargeBodies:
    """Makes requests.

    Args:
        hub: who answers small ones, or does not.
        clock: seconds that never go backwards.
    """

    def __init__(self, hub: Hub, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._hub = hub
        self._clock = clock
        # When one failed first, and its size; and the largest that was answered since.
        self._failed: tuple[float, int] | None = None
        self._answered = 0

    async def answered(self, request: Awaitable[_T], size: int) -> _T:
        """The reply to a request of this size.

        Raises:
            BodyTooLargeError: it is too large, as far as one can tell. And what else `Hub` raises.
        """
        began, away = self._clock(), self._hub.health.away
        try:
            reply = await request
        except BodyTooLargeError as error:
            if error.status in _OTHERWISE or await self._is_there():
                raise
            why = "and to small requests too, so it is not about the size of this one"
            raise HubError(f"{error}, {why}", status=error.status) from error
        except HubError as error:
            if size <= _SMALL_BODY or error.status in _OTHERWISE:
                raise
            if not await self._is_there():
                self._failed = None
                raise
            if self._failed is not None:
                when, large = self._failed
                if min(size, large) <= self._answered or began > when + _FORGOTTEN:
                    self._failed = None
            if not self._is_clear(error.status, began, away=away):
                if self._failed is None:
                    self._failed, self._answered = (self._clock(), size), 0
                raise
            why = "but not to small ones: its proxy has a limit, or no place for bodies (nginx: client_body_temp_path)"
            raise BodyTooLargeError(f"{error}, {why}", status=error.status) from error
        self._answered = max(self._answered, size)
        return reply

    def _is_clear(self, status: int, began: float, *, away: bool) -> bool:
        """Whether it is about the size; not if the hub answered so to everything, and has just come back."""
        if not away and status in _SERVER_ERRORS and status not in _AWAY:
            return True
        return self._failed is not None and began > self._failed[0] + (_BACK if status in _AWAY else 0.0)

    async def _is_there(self) -> bool:
        try:
            await self._hub.command(b"PING")
        except CommandRefusedError:
            return True
        except RedisreplError:
            return False
        return True
