"""A connection of redis-py over TLS that is set up by us (`tls`), as all other connections are.

In: a context. Out: a connection class. Left to others: the context, and what is said. redis-py's own takes file names:
it reads them for each connection, knows no way to accept what Python 3.11 accepts, and says less when a file is wrong.
"""

from __future__ import annotations

import ssl
from typing import Any

import redis.asyncio

__all__ = ["TlsConnection"]


class TlsConnection(redis.asyncio.Connection):
    """A connection to a `rediss://` address.

    Args:
        tls: the context.
        options: those of redis-py's `Connection`.
    """

    def __init__(self, *, tls: ssl.SSLContext, **options: Any) -> None:
        self._tls = tls
        super().__init__(**options)

    def _connection_arguments(self) -> dict[str, Any]:
        return {**super()._connection_arguments(), "ssl": self._tls}
