"""A site's Redis in its three forms: at one address, likewise without PSYNC, or with a replica and a Sentinel.

In: nothing. Out: the master of now, the flags that lead a daemon there, faults of the site itself.
Left to others: daemons, writers, and when which fault comes.
"""

from __future__ import annotations

import contextlib
from typing import Self

from testbed import FaultProxy, RedisSentinel, RedisServer, eventually

__all__ = ["EventsSite", "SentinelSite", "Site"]


class Site:
    """One redis-server; its daemon reaches it by `link`, which can be faulty.

    Attributes:
        follower: type of the connection by which its daemon follows it.
        followed: what the daemon says once it does.
    """

    follower = "replica"
    followed = "stream.attached"

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.master = self._stack.enter_context(RedisServer(persistent=True))
        self.link = self._stack.enter_context(FaultProxy(self.master.port))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def flags(self) -> list[object]:
        return ["--raddr", f":{self.link.port}"]

    def is_followed(self) -> bool:
        """Whether a daemon is attached, as the master sees it: a replica of the site's own does not count."""
        with self.master.client() as master:
            replicas = [told for told in master.info("replication").values() if isinstance(told, dict)]
        return any(told.get("port") not in self._own_replicas() for told in replicas)

    def _own_replicas(self) -> set[int]:
        return set()


class EventsSite(Site):
    """Its daemon follows its keyspace events."""

    follower = "pubsub"
    followed = "notice.started"

    @property
    def flags(self) -> list[object]:
        return [*super().flags, "--source", "notify"]


class SentinelSite(Site):
    """A master and a replica. Only `fail_over` makes them change places: a restart is over before Sentinel minds."""

    def __enter__(self) -> Self:
        enter = self._stack.enter_context
        self.master = enter(RedisServer(persistent=True))
        self.replica = enter(RedisServer(persistent=True, replica_of=self.master))
        self._sentinel = enter(RedisSentinel(self.master, down_after=60))
        return self

    @property
    def flags(self) -> list[object]:
        return ["--sentinel", f"127.0.0.1:{self._sentinel.port}/{self._sentinel.service}"]

    def _own_replicas(self) -> set[int]:
        return {self.replica.port}

    def fail_over(self) -> None:
        """Make the replica master, once it has all that was written: what it has not would be Redis' own loss."""
        with self.master.client() as master, self.replica.client() as replica:

            def level() -> bool:
                """Of one history, since a master that restarted begins a new one, whose offsets may be lower."""
                has, of_master = replica.info("replication"), master.info("replication")
                follows = has["role"] == "slave" and has["master_link_status"] == "up"
                same = has["master_replid"] == of_master["master_replid"]
                return follows and same and has["slave_repl_offset"] >= of_master["master_repl_offset"]

            eventually(level, timeout=60)
        port = self._sentinel.fail_over(timeout=60)
        assert port == self.replica.port
        self.master, self.replica = self.replica, self.master
