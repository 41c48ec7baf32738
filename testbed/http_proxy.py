"""A real forward proxy (tinyproxy), as sites have that let nothing out directly.

In: nothing, or a user name and password. Out: CONNECT to any port, and a log of who was connected to what.
Left to others: life cycle (`server`).
"""

from __future__ import annotations

import re
import socket
from typing import ClassVar

from testbed.programs import connect_proxy
from testbed.server import Server

__all__ = ["HttpProxy"]

_CONNECT = re.compile(r"Request \(file descriptor \d+\): CONNECT (\S+) HTTP")


class HttpProxy(Server):
    """tinyproxy; `url` is what goes into HTTPS_PROXY."""

    name: ClassVar[str] = "tinyproxy"

    def __init__(self, *, user: str | None = None, password: str | None = None) -> None:
        super().__init__()
        self.user = user
        self.password = password

    @property
    def url(self) -> str:
        credentials = f"{self.user}:{self.password}@" if self.user else ""
        return f"http://{credentials}127.0.0.1:{self.port}"

    @property
    def connects(self) -> list[str]:
        """The "host:port" of each CONNECT so far."""
        return _CONNECT.findall(self.log.read_text(errors="replace")) if self.log.exists() else []

    def configure(self) -> None:
        lines = [
            f"Port {self.port}",
            "Listen 127.0.0.1",
            "Allow 127.0.0.1",
            "Timeout 600",
            "MaxClients 100",
            "LogLevel Info",
            f'LogFile "{self.log}"',
            f'PidFile "{self.directory / "tinyproxy.pid"}"',
        ]
        if self.user:
            lines.append(f"BasicAuth {self.user} {self.password}")
        (self.directory / "tinyproxy.conf").write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        return [connect_proxy(), "-d", "-c", str(self.directory / "tinyproxy.conf")]

    def check_ready(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=1):
            pass
