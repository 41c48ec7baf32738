"""A real nginx with the configuration that operators get.

In: a Webdis, certificates. Out: HTTPS on a loopback port that lets in holders of a client certificate only.
Left to others: the configuration itself, which is deploy/hub/nginx.conf with other ports and paths.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import pwd
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from testbed.programs import front_program
from testbed.server import Server
from testbed.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping

    from testbed.certificates import Certificates, KeyPair
    from testbed.webdis import Webdis

__all__ = ["HUB_FILES", "Nginx"]

HUB_FILES = Path(__file__).parents[1] / "deploy" / "hub"


class Nginx(Server):
    """nginx as an unprivileged foreground process.

    `websocket_port` is that of a stand-in for the WebSocket side of Webdis (`websocket_webdis`).
    `replacements` maps further text of the shipped configuration to what a test wants to see there instead.
    """

    name: ClassVar[str] = "nginx"
    death_signal: ClassVar[str] = "TERM"  # a killed master leaves its workers behind, a terminated one does not

    def __init__(
        self,
        webdis: Webdis,
        certificates: Certificates,
        *,
        client_max_body_size: str | None = None,
        proxy_read_timeout: str | None = None,
        server_pair: KeyPair | None = None,
        upstream_port: int | None = None,
        websocket_port: int | None = None,
        replacements: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.webdis = webdis
        self.certificates = certificates
        self.client_max_body_size = client_max_body_size
        self.proxy_read_timeout = proxy_read_timeout
        self.server_pair = server_pair or certificates.server_pair
        self.upstream_port = upstream_port
        self.websocket_port = websocket_port
        self.replacements = dict(replacements or {})

    @property
    def url(self) -> str:
        return self.url_at(self.port)

    @staticmethod
    def url_at(port: int) -> str:
        """The hub's address for a client that comes in by `port`, for example a fault proxy's."""
        return f"https://localhost:{port}/redis"

    def configure(self) -> None:
        text = (HUB_FILES / "nginx.conf").read_text()
        for old, new in (self._places() | self._limits() | self.replacements).items():
            if old not in text:
                raise RuntimeError(f"deploy/hub/nginx.conf no longer says {old!r}")
            text = text.replace(old, new)
        (self.directory / "nginx.conf").write_text(text)

    def command(self) -> list[str]:
        return [*self._nginx(), "-g", "daemon off;"]

    def check_configuration(self) -> str:
        """What `nginx -t` says; raises if it refuses the file."""
        self.configure()
        tested = subprocess.run([*self._nginx(), "-t"], capture_output=True, text=True, check=False)
        if tested.returncode:
            raise RuntimeError(tested.stderr)
        return tested.stderr

    def check_ready(self) -> None:
        context = self.certificates.ssl_context()
        context.check_hostname = False  # a wrong or expired server certificate is some tests' wish
        context.verify_mode = 0
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=2, context=context)
        try:
            connection.request("GET", "/")
            connection.getresponse()
        finally:
            connection.close()

    def reload(self) -> None:
        """Read the configuration and the certificates again (SIGHUP); wait until only new workers take connections."""
        before = self._accepting_workers()
        os.kill(self.pid, signal.SIGHUP)

        def replaced() -> bool:
            now = self._accepting_workers()
            return bool(now) and not now & before

        eventually(replaced, description="only new nginx workers")

    def _accepting_workers(self) -> set[int]:
        """Workers without those that only finish what they have begun, as their process titles tell."""
        workers = set()
        for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                title = Path(f"/proc/{pid}/cmdline").read_bytes()
                if title and b"shutting down" not in title:
                    workers.add(int(pid))
        return workers

    def _nginx(self) -> list[str]:
        kind, program = front_program()
        named = program if kind == "nginx" else "nginx"
        return [named, "-e", str(self.log), "-p", str(self.directory), "-c", str(self.directory / "nginx.conf")]

    def _places(self) -> dict[str, str]:
        temporary = self.directory / "temp"
        temporary.mkdir(exist_ok=True)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")  # all are made at start, used or not
        return {
            "user www-data;": f"user {pwd.getpwuid(os.geteuid()).pw_name};",
            "worker_processes auto;": "worker_processes 2;",
            "pid /run/nginx.pid;": f"pid {self.directory / 'nginx.pid'};",
            "/var/log/nginx/error.log": str(self.log),
            "/var/log/nginx/hub.log": str(self.directory / "access.log"),
            "client_body_temp_path /var/lib/nginx/body;": "\n".join(
                f"{kind}_temp_path {temporary / kind};" for kind in kinds
            ),
            "listen 443 ssl;": f"listen 127.0.0.1:{self.port} ssl;",
            "webdis_websocket {\n        server 127.0.0.1:7379;": "webdis_websocket {\n"
            f"        server 127.0.0.1:{self.websocket_port or self.upstream_port or self.webdis.port};",
            "server 127.0.0.1:7379;": f"server 127.0.0.1:{self.upstream_port or self.webdis.port};",
            "/etc/redisrepl-hub/ca.pem": str(self.certificates.ca),
            "/etc/redisrepl-hub/server.pem": str(self.server_pair.cert),
            "/etc/redisrepl-hub/server-key.pem": str(self.server_pair.key),
        }

    def _limits(self) -> dict[str, str]:
        limits = {}
        if self.client_max_body_size:
            limits["client_max_body_size 64m;"] = f"client_max_body_size {self.client_max_body_size};"
        if self.proxy_read_timeout:
            limits["proxy_read_timeout 75s;"] = f"proxy_read_timeout {self.proxy_read_timeout};"
        return limits
