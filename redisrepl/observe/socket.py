"""A unix socket in the state directory that serves the daemon's state: one JSON document per connection.

In: connections. Out: documents. Left to others: their content (`observe.state`), showing it (`subcommands.status`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from redisrepl.places import short_path

__all__ = ["bound_socket", "remove_socket", "serve_state"]

_log = structlog.get_logger("redisrepl")

#: Seconds within which a client must read the document.
_PATIENCE = 5.0


async def serve_state(path: Path, document: Callable[[], Awaitable[dict[str, object]]]) -> None:
    """Serve until cancelled, then remove the socket. If it cannot be created we only warn; replication goes on.

    Args:
        path: of the socket. The caller holds the lock of the state, so an existing socket is that of a dead daemon.
        document: called for each connection.
    """

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                writer.write(json.dumps(await document()).encode() + b"\n")
                await writer.drain()
        writer.close()

    try:
        listening = bound_socket(path)
    except OSError as error:
        hint = "redisrepl status cannot ask this daemon: give a --state-dir in which it may make a socket"
        _log.warning("daemon.no_socket", file=str(path), error=error.strerror or str(error), hint=hint)
        return
    try:
        server = await asyncio.start_unix_server(answer, sock=listening)
        async with server:
            await server.serve_forever()
    finally:
        listening.close()
        remove_socket(path)


def remove_socket(path: Path) -> None:
    """Remove a socket."""
    with contextlib.suppress(OSError):  # the directory was removed
        path.unlink()


def bound_socket(path: Path, mode: int = 0o600) -> socket.socket:
    """A listening socket whose file never has more permissions than `mode`, not even for a moment.

    Raises:
        OSError: it cannot be created; for example, a file that is no socket is there.
    """
    if path.is_socket():
        path.unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~mode)
    try:
        with short_path(path) as short:
            listening.bind(short)
    except OSError:
        listening.close()
        raise
    finally:
        os.umask(before)
    return listening
