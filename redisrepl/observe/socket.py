"""A unix socket in the state directory that serves the daemon's state: one JSON document per connection.

In: connections. Out: documents. Left to others: their content (`observe.state`), showing it (`subcommands.status`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from redisrepl.paths import identity, short_path

__all__ = ["SocketFile", "serve_state"]

_log = structlog.get_logger("redisrepl")

#: Seconds within which a client must read the document.
_PATIENCE = 5.0


async def serve_state(path: Path, document: Callable[[], Awaitable[dict[str, object]]]) -> None:
    """Serve until cancelled, then remove the socket. If it cannot be created we only warn; replication goes on.

    Args:
        path: of the socket. The caller holds the lock of the state, so no other daemon serves it.
        document: called for each connection.
    """

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                writer.write(json.dumps(await document()).encode() + b"\n")
                await writer.drain()
        writer.close()

    try:
        served = SocketFile(path)
    except OSError as error:
        hint = "redisrepl status cannot ask this daemon: give a --state-dir in which it may make a socket"
        _log.warning("daemon.no_socket", file=str(path), error=error.strerror or str(error), hint=hint)
        return
    try:
        server = await asyncio.start_unix_server(answer, sock=served.listening)
        async with server:
            await server.serve_forever()
    finally:
        served.listening.close()
        served.remove()


class SocketFile:
    """A listening socket, and the file by which it is reached.

    Args:
        path: of the file. A socket there that nobody serves any more is replaced.
        mode: the most permissions that the file ever has, even for a moment.

    Attributes:
        listening: the socket.

    Raises:
        OSError: it cannot be made; for example, somebody serves the socket there, or the file there is no socket.
    """

    def __init__(self, path: Path, mode: int = 0o600) -> None:
        _remove_dead(path)
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o777 & ~mode)
        try:
            with short_path(path) as short:
                self.listening.bind(short)
            self.listening.listen()  # at once: a socket without a listener looks dead to others
        except OSError:
            self.listening.close()
            raise
        finally:
            os.umask(before)
        self._path = path
        self._file = identity(path)

    def remove(self) -> None:
        """Remove the file, unless it is another's by now."""
        _remove(self._path, self._file)


def _remove_dead(path: Path) -> None:
    """Remove a socket that nobody serves any more; what else is there stays, and nobody can bind there."""
    found = identity(path)
    if path.is_socket():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking, short_path(path) as short:
            asking.setblocking(False)
            reason = asking.connect_ex(short)
        if reason == errno.ECONNREFUSED:
            _remove(path, found)


def _remove(path: Path, file: tuple[int, int] | None) -> None:
    """Remove this file, if it is the one that is there."""
    if identity(path) == file:
        with contextlib.suppress(OSError):  # the directory was removed
            path.unlink()
