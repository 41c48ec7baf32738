"""A real redis-server.

In: the options that a test cares about. Out: a server that answers PING, clients for it, its command counts.
Left to others: life cycle (`server`), fail-over (`redis_sentinel`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from testbed.ports import free_port, release_port
from testbed.programs import site_redis, version_of
from testbed.server import Server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from testbed.certificates import Certificates, KeyPair

__all__ = ["RedisServer"]

#: From here on DEBUG is refused unless it is asked for, and a replica is waited for at the end, for 10 s unless told
#: otherwise; an older server does not know the directives.
_KNOWS_BOTH = (7, 0)


class RedisServer(Server):
    """redis-server on loopback, without persistence and with fast full resynchronisation unless told otherwise.

    `users` are lines of an ACL file without the leading word `user`; a `password` then belongs to `default`, which
    keeps all rights. `config` overrides any directive; a list value repeats the directive. `program` is another server
    than the one that `programs` names.
    """

    name: ClassVar[str] = "redis"
    not_ready: ClassVar[tuple[type[Exception], ...]] = (OSError, redis.RedisError)

    def __init__(  # noqa: PLR0913 - each is named where it is used
        self,
        *,
        password: str | None = None,
        users: Sequence[str] = (),
        unix_socket: bool = False,
        tls: Certificates | None = None,
        tls_auth_clients: bool = True,
        replica_of: RedisServer | None = None,
        persistent: bool = False,
        config: Mapping[str, object] | None = None,
        program: str | None = None,
    ) -> None:
        super().__init__()
        self.program = program or site_redis()
        self.password = password
        self.users = tuple(users)
        self.certificates = tls
        self.tls_auth_clients = tls_auth_clients
        self.tls_port = free_port() if tls else None
        self.replica_of = replica_of
        self.persistent = persistent
        self.config = dict(config or {})
        self.socket_path: Path | None = self.directory / "redis.sock" if unix_socket else None
        self._clients: list[redis.Redis] = []

    @property
    def url(self) -> str:
        return f"redis://{self._credentials}127.0.0.1:{self.port}/0"

    @property
    def tls_url(self) -> str:
        return f"rediss://{self._credentials}localhost:{self.tls_port}/0"

    @property
    def unix_url(self) -> str:
        return f"unix://{self._credentials}{self.socket_path}?db=0"

    def client(
        self, *, db: int = 0, username: str | None = None, password: str | None = None, **options: Any
    ) -> redis.Redis:
        """A client that speaks bytes; it is closed with the server."""
        client = redis.Redis(
            host="127.0.0.1",
            port=self.port,
            db=db,
            username=username,
            password=password if password is not None else self.password,
            retry=Retry(NoBackoff(), 1),  # once: a pooled connection from before a restart is not an error
            protocol=2,
            **options,
        )
        self._clients.append(client)
        return client

    def tls_client(self, pair: KeyPair | None = None) -> redis.Redis:
        """A client for the TLS port that shows the good client certificate, or `pair`."""
        if self.certificates is None:
            raise RuntimeError("this redis-server has no TLS port")
        shown = pair or self.certificates.client_pair
        client = redis.Redis(
            host="localhost",
            port=self.tls_port,
            password=self.password,
            ssl=True,
            ssl_ca_certs=str(self.certificates.ca),
            ssl_certfile=str(shown.cert),
            ssl_keyfile=str(shown.key),
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._clients.append(client)
        return client

    def commandstats(self) -> dict[str, int]:
        """How often each command ran since the start or `reset_commandstats`: {"set": 3, "config|get": 1}."""
        with self.client() as client:
            stats = client.info("commandstats")
        return {name.removeprefix("cmdstat_"): values["calls"] for name, values in stats.items()}

    def reset_commandstats(self) -> None:
        """Start counting anew."""
        with self.client() as client:
            client.config_resetstat()

    def configure(self) -> None:
        settings: dict[str, object] = {
            "bind": "127.0.0.1",
            "port": self.port,
            "protected-mode": "yes",
            "dir": self.directory,
            "save": '""',
            "repl-diskless-sync": "yes",
            "repl-diskless-sync-delay": 0,
        }
        if version_of(self.program) >= _KNOWS_BOTH:
            settings["enable-debug-command"] = "local"  # DEBUG SLEEP, SET-ACTIVE-EXPIRE and the like are a test's tools
            settings["shutdown-timeout"] = 1
        if self.persistent:
            settings |= {"appendonly": "yes", "appendfsync": "always"}
        if self.socket_path:
            settings |= {"unixsocket": self.socket_path, "unixsocketperm": 700}
        if self.certificates:
            settings |= {
                "tls-port": self.tls_port,
                "tls-ca-cert-file": self.certificates.ca,
                "tls-cert-file": self.certificates.server,
                "tls-key-file": self.certificates.server_key,
                "tls-auth-clients": "yes" if self.tls_auth_clients else "no",
            }
        if self.replica_of:
            settings["replicaof"] = f"127.0.0.1 {self.replica_of.port}"
            if self.replica_of.password:
                settings["masterauth"] = self.replica_of.password
        settings |= self._access_settings() | self.config
        lines = [f"{name} {item}" for name, value in settings.items() for item in _items(value)]
        # A file that exists may have been changed by CONFIG REWRITE or a Sentinel: restarting must not undo that.
        path = self.directory / "redis.conf"
        if not path.exists() or not self._port_is_known:
            path.write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        return [self.program, str(self.directory / "redis.conf")]

    def check_ready(self) -> None:
        once = Retry(NoBackoff(), 0)
        with redis.Redis(host="127.0.0.1", port=self.port, protocol=2, retry=once, socket_timeout=1) as client:
            try:
                client.ping()
            except (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError):
                return  # it answers; that it asks for a password is what the test wanted

    def close(self) -> None:
        for client in self._clients:
            client.close()
        super().close()
        if self.tls_port:
            release_port(self.tls_port)

    @property
    def _credentials(self) -> str:
        return f":{self.password}@" if self.password else ""

    def _access_settings(self) -> dict[str, object]:
        if not self.users:
            return {"requirepass": self.password} if self.password else {}
        # redis-server ignores requirepass once there is an ACL file, so the default user moves into it.
        default = (
            f"user default on >{self.password} ~* &* +@all" if self.password else "user default on nopass ~* &* +@all"
        )
        named = [f"user {line.removeprefix('user ')}" for line in self.users]
        if any(line.startswith("user default ") for line in named):
            default = ""
        path = self.directory / "users.acl"
        if not path.exists():
            path.write_text("\n".join(filter(None, [default, *named])) + "\n")
        return {"aclfile": path}

    def _change_ports(self) -> None:
        super()._change_ports()
        if self.tls_port:
            release_port(self.tls_port)
            self.tls_port = free_port()


def _items(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]
