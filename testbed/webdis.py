"""A real Webdis in front of a redis-server.

In: the redis-server and the options that a test cares about. Out: HTTP on a loopback port.
Left to others: TLS and client certificates (`nginx`).
"""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any, ClassVar

from testbed.programs import webdis_program
from testbed.server import Server

if TYPE_CHECKING:
    from testbed.redis_server import RedisServer

__all__ = ["Webdis"]


class Webdis(Server):
    """webdis; `settings` are members of its JSON configuration: threads, pool_size, websockets, database, acl, ...

    `user` needs a Webdis that knows Redis users; the 0.1.9 of Debian 12 knows a password only.
    `redis_port` leads elsewhere when a fault proxy stands in between.
    """

    name: ClassVar[str] = "webdis"

    def __init__(
        self,
        redis: RedisServer,
        *,
        binary: str | None = None,
        user: str | None = None,
        password: str | None = None,
        redis_port: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.redis = redis
        self.binary = binary or webdis_program()
        self.redis_port = redis_port
        self.threads = settings.setdefault("threads", 2)
        password = password or redis.password
        self.settings = {"redis_auth": [user, password] if user else password, **settings}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def configure(self) -> None:
        settings = {
            "redis_host": "127.0.0.1",
            "redis_port": self.redis_port or self.redis.port,
            "http_host": "127.0.0.1",
            "http_port": self.port,
            "daemonize": False,
            "verbosity": 3,
            "logfile": str(self.log),
        } | self.settings
        (self.directory / "webdis.json").write_text(json.dumps(settings, indent=4))

    def command(self) -> list[str]:
        return [self.binary, str(self.directory / "webdis.json")]

    def check_ready(self) -> None:
        """Each worker thread has its own pool of connections: ask as often as it takes to meet them all."""
        for _ in range(2 * self.threads):
            status = self._ping()
            if status == http.HTTPStatus.SERVICE_UNAVAILABLE and self.redis.running:
                raise ConnectionError("Webdis has no connection to Redis yet")

    def _ping(self) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/PING")
            return connection.getresponse().status
        finally:
            connection.close()
