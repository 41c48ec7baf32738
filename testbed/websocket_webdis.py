"""A stand-in for the WebSocket side of a Webdis from 0.1.12 on, which Debian 12 does not have.

In: WebSockets at the path /.raw, commands as RESP in text frames. Out: what a real redis-server answers, in frames;
`Service Unavailable` when that is lost. Left to others: TLS and client certificates (`nginx`), requests (`webdis`).
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Self

    from testbed.redis_server import RedisServer

__all__ = ["WebSocketWebdis"]


def _whole(data: bytes) -> Iterable[bytes]:
    return [data]


class WebSocketWebdis:
    """Give its `port` to nginx, and it the `redis` once that is there.

    `frames` makes frames of what Redis said: those of a test may split, lose or spoil it. `paths` and `credentials`
    hold the path and the Authorization of each WebSocket so far.
    """

    def __init__(self, frames: Callable[[bytes], Iterable[bytes]] = _whole) -> None:
        self.redis: RedisServer | None = None
        self.frames = frames
        self.paths: list[str] = []
        self.credentials: list[str | None] = []
        self._open: set[ServerConnection] = set()
        self._server = serve(self._serve, "127.0.0.1", 0, compression=None, max_size=None, close_timeout=1)
        self.port = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def open(self) -> int:
        """How many WebSockets there are now."""
        return len(self._open)

    def cut(self) -> None:
        """End every WebSocket, without a word."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)

    def farewell(self) -> None:
        """End every WebSocket in order."""
        for connection in list(self._open):
            connection.close()

    def _serve(self, connection: ServerConnection) -> None:
        if connection.request is None or self.redis is None:
            return
        self.paths.append(connection.request.path)
        self.credentials.append(connection.request.headers.get("Authorization"))
        self._open.add(connection)
        try:
            with socket.create_connection(("127.0.0.1", self.redis.port)) as redis:
                pump = threading.Thread(target=self._pump, args=(redis, connection), daemon=True)
                pump.start()
                with contextlib.suppress(ConnectionClosed):
                    while True:
                        redis.sendall(connection.recv(decode=False))
                redis.shutdown(socket.SHUT_RDWR)
                pump.join()
        except OSError:
            pass  # Redis went first
        finally:
            self._open.discard(connection)

    def _pump(self, redis: socket.socket, connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed, OSError):
            while data := redis.recv(65536):
                for frame in self.frames(data):
                    connection.send(frame)
            connection.send(b"Service Unavailable")

    def close(self) -> None:
        """Stop listening, and end every WebSocket."""
        self._server.shutdown()
        self.cut()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
