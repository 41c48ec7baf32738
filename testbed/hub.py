"""A whole hub: Redis behind Webdis behind nginx with mutual TLS.

In: certificates, and options for each of the three. Out: an HTTPS address as the daemon expects it.
Left to others: each server's own module.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from testbed.certificates import Certificates
from testbed.fronts import front
from testbed.nginx import Nginx
from testbed.programs import hub_redis
from testbed.redis_server import RedisServer
from testbed.webdis import Webdis

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    import redis

__all__ = ["Hub"]


class Hub:
    """`server`, `webdis` and `nginx` together; `redis` is a client of the first, `url` the address of the last."""

    def __init__(
        self,
        certificates: Certificates | None = None,
        *,
        redis: Mapping[str, Any] | None = None,
        webdis: Mapping[str, Any] | None = None,
        nginx: Mapping[str, Any] | None = None,
    ) -> None:
        self._owns_certificates = certificates is None
        self.certificates = certificates or Certificates()
        self.server = RedisServer(**{"program": hub_redis(), **(redis or {})})
        self.webdis = Webdis(self.server, **(webdis or {}))
        # What a test wants of nginx only nginx can do.
        self.nginx = Nginx(self.webdis, self.certificates, **nginx) if nginx else front(self.webdis, self.certificates)
        self._inside_out = (self.server, self.webdis, self.nginx)

    @property
    def url(self) -> str:
        return self.nginx.url

    @property
    def port(self) -> int:
        return self.nginx.port

    @property
    def running(self) -> bool:
        return any(server.running for server in self._inside_out)

    @cached_property
    def redis(self) -> redis.Redis:
        return self.server.client()

    def url_at(self, port: int) -> str:
        """The address for a client that comes in by `port`, for example a fault proxy's."""
        return self.nginx.url_at(port)

    def start(self) -> Self:
        """Start the three from the inside out; each finds the port of the one before when it starts."""
        for server in self._inside_out:
            server.start()
        return self

    def stop(self) -> None:
        """Stop the three from the outside in; `start` brings them back at the same address."""
        for server in reversed(self._inside_out):
            server.stop()

    def kill(self) -> None:
        """SIGKILL all three."""
        for server in reversed(self._inside_out):
            server.kill()

    def restart(self) -> Self:
        """Stop, then start again on the same ports."""
        self.stop()
        return self.start()

    def close(self) -> None:
        """Stop everything and remove its directories."""
        for server in reversed(self._inside_out):
            server.close()
        if self._owns_certificates:
            self.certificates.close()

    def __enter__(self) -> Self:
        if self.running:
            return self
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
