"""A real Redis Sentinel that watches one master.

In: a master. Out: the address it gives to clients, and a fail-over on demand.
Left to others: the replicas, which it finds by asking the master.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import redis

from testbed.server import Server
from testbed.waiting import eventually

if TYPE_CHECKING:
    from testbed.redis_server import RedisServer

__all__ = ["RedisSentinel"]


class RedisSentinel(Server):
    """redis-server --sentinel with short delays; `service` is the name under which clients ask."""

    name: ClassVar[str] = "sentinel"
    not_ready: ClassVar[tuple[type[Exception], ...]] = (OSError, redis.RedisError)

    def __init__(self, master: RedisServer, quorum: int = 1, *, service: str = "site", down_after: float = 0.5) -> None:
        super().__init__()
        self.master = master
        self.quorum = quorum
        self.service = service
        self.down_after = down_after

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def master_port(self) -> int:
        """The port of the master that clients are sent to now."""
        with self.client() as client:
            _, port = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        return int(port)

    def replica_ports(self) -> list[int]:
        """The ports of the replicas it knows; 0 for one that announces none."""
        with self.client() as client:
            replicas = client.execute_command("SENTINEL", "REPLICAS", self.service)
        return [int(dict(zip(flat[::2], flat[1::2], strict=True))[b"port"]) for flat in replicas]

    def fail_over(self, timeout: float = 20.0) -> int:
        """Have a replica promoted, and return the new master's port."""
        before = self.master_port
        self.begin_fail_over(timeout)
        eventually(lambda: self.master_port != before, timeout, "a new master")
        return self.master_port

    def begin_fail_over(self, timeout: float = 20.0) -> None:
        """Have it begin to promote a replica."""
        eventually(lambda: any(self.replica_ports()), timeout, "a replica that Sentinel can promote")
        with self.client() as client:
            eventually(lambda: self._accepts_failover(client), timeout, "Sentinel ready for a fail-over")

    def configure(self) -> None:
        path = self.directory / "sentinel.conf"
        if path.exists() and self._port_is_known:
            return  # Sentinel keeps its knowledge in this file
        name, milliseconds = self.service, int(self.down_after * 1000)
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self.directory}",
            f"sentinel monitor {name} 127.0.0.1 {self.master.port} {self.quorum}",
            f"sentinel down-after-milliseconds {name} {milliseconds}",
            f"sentinel failover-timeout {name} 3000",
        ]
        if self.master.password:
            lines.append(f"sentinel auth-pass {name} {self.master.password}")
        path.write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        return [self.master.program, str(self.directory / "sentinel.conf"), "--sentinel"]

    def check_ready(self) -> None:
        with self.client() as client:
            client.ping()
            if not client.execute_command("SENTINEL", "CKQUORUM", self.service):
                raise ConnectionError("no quorum")

    def client(self) -> redis.Redis:
        """A client that speaks bytes."""
        return redis.Redis(host="127.0.0.1", port=self.port, protocol=2)

    def _accepts_failover(self, client: redis.Redis) -> bool:
        try:
            client.execute_command("SENTINEL", "FAILOVER", self.service)
        except redis.ResponseError as error:
            if "INPROG" in str(error) or "NOGOODSLAVE" in str(error):
                return "INPROG" in str(error)
            raise
        return True
