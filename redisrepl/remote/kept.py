"""Connections to one server that are kept between requests.

In: connections, used and unused. Out: one for the next request, if there is one. Left to others: making connections and
speaking over them (`remote.transport`, `remote.direct`).
"""

from __future__ import annotations

import asyncio
from typing import Generic, Protocol, TypeVar

__all__ = ["Connections"]

#: Seconds for which an unused connection is kept. Longer than the time between canaries (10, unless set otherwise), so
#: that a single write finds one open; shorter than nginx' keepalive_timeout (75, and 90 in deploy/hub), and than a NAT
#: remembers it.
_KEPT = 15.0


class _Connection(Protocol):
    @property
    def usable(self) -> bool:
        """Whether it is open, as far as we know."""

    def abort(self) -> None:
        """Close it at once."""


_C = TypeVar("_C", bound=_Connection)


class Connections(Generic[_C]):
    """All connections to one server.

    Attributes:
        open: used or not.
    """

    def __init__(self) -> None:
        self.open: set[_C] = set()
        self._unused: dict[_C, float] = {}  # and until when they are kept; the last used comes last
        self._expiry: asyncio.TimerHandle | None = None

    def take(self) -> _C | None:
        """One that was used last among those that are not; None: there is none."""
        now = asyncio.get_running_loop().time()
        while self._unused:
            connection, until = self._unused.popitem()
            if connection.usable and now <= until:
                return connection
            self.discard(connection)
        return None

    def keep(self, connection: _C) -> None:
        """Keep it for the next request, unless it was dropped while it was used."""
        if connection not in self.open:
            return
        loop = asyncio.get_running_loop()
        self._unused[connection] = until = loop.time() + _KEPT
        if self._expiry is None:
            self._expiry = loop.call_at(until, self._expire)

    def discard(self, connection: _C) -> None:
        """Close it at once."""
        self.forget(connection)
        connection.abort()

    def forget(self, connection: _C) -> None:
        """It is closed."""
        self.open.discard(connection)
        self._unused.pop(connection, None)

    def drop(self, *, used: bool) -> None:
        """Close those that are not used; with `used`, all: their server may not be trusted any more."""
        for connection in list(self.open if used else self._unused):
            self.discard(connection)

    def close(self) -> list[_C]:
        """Close all at once; returns them, to be waited for."""
        connections = list(self.open)
        self.drop(used=True)
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        return connections

    def _expire(self) -> None:
        """Close what was unused for long. One timer serves all; one for each request would cost more."""
        loop, self._expiry = asyncio.get_running_loop(), None
        for connection, until in list(self._unused.items()):
            if until > loop.time():
                self._expiry = loop.call_at(until, self._expire)
                break
            self.discard(connection)
