"""Other programs than nginx that can end TLS at the hub: HAProxy and stunnel.

In: a Webdis, certificates. Out: HTTPS on a loopback port that lets in holders of a client certificate only.
Left to others: which of them a hub has (`programs`, `hub`).
"""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING, ClassVar

from testbed.nginx import Nginx
from testbed.programs import front_program
from testbed.server import Server

if TYPE_CHECKING:
    from testbed.certificates import Certificates
    from testbed.webdis import Webdis

__all__ = ["HAProxy", "Stunnel", "front"]


class _Front(Server):
    """What both have in common; `path` is where Webdis is at the hub's address."""

    path: ClassVar[str]

    def __init__(self, program: str, webdis: Webdis, certificates: Certificates) -> None:
        super().__init__()
        self.program = program
        self.webdis = webdis
        self.certificates = certificates

    @property
    def url(self) -> str:
        return self.url_at(self.port)

    @classmethod
    def url_at(cls, port: int) -> str:
        """The hub's address for a client that comes in by `port`, for example a fault proxy's."""
        return f"https://localhost:{port}{cls.path}"

    def check_ready(self) -> None:
        connection = http.client.HTTPSConnection(
            "localhost", self.port, timeout=2, context=self.certificates.ssl_context()
        )
        try:
            connection.request("GET", "/")
            connection.getresponse()
        finally:
            connection.close()


class HAProxy(_Front):
    """haproxy in the foreground; it takes /redis away, byte for byte."""

    name: ClassVar[str] = "haproxy"
    path: ClassVar[str] = "/redis"

    def configure(self) -> None:
        both = self.directory / "server-and-key.pem"
        both.write_bytes(self.certificates.server.read_bytes() + self.certificates.server_key.read_bytes())
        both.chmod(0o600)
        (self.directory / "haproxy.cfg").write_text(
            f"""
global
    log stderr format raw local0 notice
    maxconn 1000

defaults
    mode http
    log global
    timeout connect 5s
    timeout client 75s
    timeout server 75s
    timeout tunnel 75s

frontend hub
    bind 127.0.0.1:{self.port} ssl crt {both} ca-file {self.certificates.ca} verify required alpn http/1.1
    http-request return status 404 unless {{ path_beg /redis/ }}
    http-request set-path %[path,regsub(^/redis/,/)]
    default_backend webdis

backend webdis
    server webdis 127.0.0.1:{self.webdis.port}
"""
        )

    def command(self) -> list[str]:
        return [self.program, "-db", "-f", str(self.directory / "haproxy.cfg")]


class Stunnel(_Front):
    """stunnel in the foreground; it knows no HTTP, so Webdis is at the root of the address."""

    name: ClassVar[str] = "stunnel"
    path: ClassVar[str] = ""

    def configure(self) -> None:
        (self.directory / "stunnel.conf").write_text(
            f"""
foreground = yes
pid =
syslog = no
debug = notice

[hub]
accept = 127.0.0.1:{self.port}
connect = 127.0.0.1:{self.webdis.port}
cert = {self.certificates.server}
key = {self.certificates.server_key}
CAfile = {self.certificates.ca}
verifyChain = yes
requireCert = yes
TIMEOUTclose = 0
"""
        )

    def command(self) -> list[str]:
        return [self.program, str(self.directory / "stunnel.conf")]


def front(webdis: Webdis, certificates: Certificates) -> Nginx | HAProxy | Stunnel:
    """The one that `TESTBED_FRONT` names, nginx otherwise."""
    kind, program = front_program()
    match kind:
        case "nginx":
            return Nginx(webdis, certificates)
        case "haproxy":
            return HAProxy(program, webdis, certificates)
        case "stunnel":
            return Stunnel(program, webdis, certificates)
        case other:
            raise RuntimeError(f"TESTBED_FRONT={other}: one of nginx, haproxy, stunnel is known")
