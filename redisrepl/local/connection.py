"""Connections to the site's Redis, and its refusals as our errors.

In: a `SiteAddress`. Out: a raw connection for the replication stream, a client for reads and writes. Left to others:
what is said on them.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis.asyncio
import redis.asyncio.connection
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from redisrepl.errors import CertificateError, LinkLostError, PeerUnavailableError, RefusedError
from redisrepl.local.address import SiteAddress
from redisrepl.tls import tls_reason

__all__ = ["open_client", "open_connection", "translated"]

#: asyncio stops reading a socket at twice this many unread bytes.
_READ_LIMIT = 1 << 20


async def open_connection(address: SiteAddress, wait: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which nothing was said yet.

    Args:
        address: of the server.
        wait: seconds for TCP and TLS.

    Raises:
        PeerUnavailableError: nothing answers. CertificateError: TLS was refused.
    """
    try:
        async with asyncio.timeout(wait):
            if address.path is not None:
                return await asyncio.open_unix_connection(address.path, limit=_READ_LIMIT)
            return await asyncio.open_connection(address.host, address.port, ssl=address.context, limit=_READ_LIMIT)
    except TimeoutError:
        raise PeerUnavailableError(f"the site's Redis {address} did not answer in {wait:g} s") from None
    except ssl.SSLError as error:
        raise CertificateError(f"the site's Redis {address}: {tls_reason(error)}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise PeerUnavailableError(f"the site's Redis {address} cannot be reached: {reason}") from error


def open_client(address: SiteAddress, wait: float, connections: int) -> redis.asyncio.Redis:
    """A client that connects when first used and never sends anything twice by itself.

    Args:
        address: of the server.
        wait: seconds for a connection, and for an answer.
        connections: how many it may keep; who wants one more waits for one.
    """
    options: dict[str, Any] = {
        "db": address.database,
        "username": address.username,
        "password": address.password,
        "protocol": 2,
        "socket_timeout": wait,
        "socket_connect_timeout": wait,
        "retry": Retry(NoBackoff(), 0),
    }
    connection_class: type[redis.asyncio.connection.AbstractConnection] = redis.asyncio.Connection
    if address.path is not None:
        connection_class = redis.asyncio.UnixDomainSocketConnection
        options["path"] = address.path
    else:
        options |= {"host": address.host, "port": address.port}
    if address.files is not None:
        files = address.files
        connection_class = redis.asyncio.SSLConnection
        options |= {
            "ssl_check_hostname": True,
            "ssl_ca_certs": str(files.ca) if files.ca else None,
            "ssl_certfile": str(files.cert) if files.cert else None,
            "ssl_keyfile": str(files.key) if files.key else None,
        }
    pool = redis.asyncio.BlockingConnectionPool(
        max_connections=connections, timeout=None, connection_class=connection_class, **options
    )
    return redis.asyncio.Redis.from_pool(pool)


@contextmanager
def translated(address: SiteAddress) -> Iterator[None]:
    """redis-py's exceptions as ours, the cause kept."""
    try:
        yield
    except (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise RefusedError(f"the site's Redis {address} refuses us: {error}") from error
    except (redis.exceptions.BusyLoadingError, redis.exceptions.ReadOnlyError) as error:
        raise PeerUnavailableError(f"the site's Redis {address} is not ready: {error}") from error
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError) as error:
        raise LinkLostError(f"the connection to the site's Redis {address} failed: {error}") from error
    except redis.exceptions.ResponseError as error:
        if str(error).startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
            raise RefusedError(f"the site's Redis {address} refuses us: {error}") from error
        raise PeerUnavailableError(f"the site's Redis {address} answered: {error}") from error
