"""Throw-away certificates: one authority, a server, a client, and the broken ones that must be refused.

In: a directory. Out: PEM files in it, keys readable by their owner alone.
Left to others: who asks for which certificate (nginx, redis-server, the daemon).
"""

from __future__ import annotations

import datetime as dt
import shutil
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trustme

from testbed.directories import new_directory
from testbed.processes import at_exit, forget_at_exit

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

__all__ = ["Certificates", "KeyPair"]

_HOSTS = ("localhost", "127.0.0.1")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate file and the file of its private key."""

    cert: Path
    key: Path


class Certificates:
    """A certificate authority and what it issued: ca.pem, server.pem, server-key.pem, client.pem, client-key.pem."""

    def __init__(self, directory: Path | None = None, *, client_name: str = "site1") -> None:
        self._owns_directory = directory is None
        self.directory = directory or new_directory("certificates")
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.ca = self.directory / "ca.pem"
        self._client_name = client_name
        self.replace_authority()
        at_exit(self, self.close)

    @property
    def server(self) -> Path:
        return self.server_pair.cert

    @property
    def server_key(self) -> Path:
        return self.server_pair.key

    @property
    def client(self) -> Path:
        return self.client_pair.cert

    @property
    def client_key(self) -> Path:
        return self.client_pair.key

    def replace_authority(self) -> None:
        """Begin anew with another authority: ca.pem, and the server's and the client's certificates by it."""
        self._authority = trustme.CA(organization_name="redisrepl test bed")
        self._authority.cert_pem.write_to_path(self.ca)
        self.server_pair = self.issue("server", *_HOSTS)
        self.client_pair = self.issue("client", f"{self._client_name}.example", common_name=self._client_name)

    def issue(
        self,
        stem: str,
        *identities: str,
        common_name: str | None = None,
        valid_for: dt.timedelta | None = None,
        authority: trustme.CA | None = None,
    ) -> KeyPair:
        """Issue a certificate as `stem`.pem and `stem`-key.pem, replacing earlier files of that name (rotation).

        A negative `valid_for` ended that long ago.
        """
        now = dt.datetime.now(dt.UTC)
        until = now + valid_for if valid_for is not None else None
        since = until - dt.timedelta(days=30) if until is not None and until < now else None
        leaf = (authority or self._authority).issue_cert(
            *identities, common_name=common_name, not_before=since, not_after=until
        )
        pair = KeyPair(self.directory / f"{stem}.pem", self.directory / f"{stem}-key.pem")
        _write(pair.cert, b"".join(blob.bytes() for blob in leaf.cert_chain_pems), mode=0o644)
        _write(pair.key, leaf.private_key_pem.bytes(), mode=0o600)
        return pair

    def expired_client(self) -> KeyPair:
        """A client certificate of the right authority that ended an hour ago."""
        return self.issue("expired-client", "site1.example", common_name="site1", valid_for=dt.timedelta(hours=-1))

    def expiring_client(self, valid_for: dt.timedelta) -> KeyPair:
        """A client certificate that is good for `valid_for` from now."""
        return self.issue("expiring-client", "site1.example", common_name="site1", valid_for=valid_for)

    def foreign_client(self) -> KeyPair:
        """A client certificate of the right name from an authority nobody here trusts."""
        stranger = trustme.CA(organization_name="another authority")
        return self.issue("foreign-client", "site1.example", common_name="site1", authority=stranger)

    def mismatched_client(self) -> KeyPair:
        """The good client certificate with the key of another one."""
        other = self.issue("other-client", "other.example", common_name="other")
        return KeyPair(self.client, other.key)

    def foreign_ca(self) -> Path:
        """The file of an authority that did not issue the server's certificate."""
        path = self.directory / "foreign-ca.pem"
        trustme.CA(organization_name="another authority").cert_pem.write_to_path(path)
        return path

    def expired_server(self) -> KeyPair:
        """A server certificate that ended an hour ago."""
        return self.issue("expired-server", *_HOSTS, valid_for=dt.timedelta(hours=-1))

    def misnamed_server(self) -> KeyPair:
        """A server certificate for another host name."""
        return self.issue("misnamed-server", "elsewhere.example")

    def ssl_context(self, pair: KeyPair | None = None, *, anonymous: bool = False) -> ssl.SSLContext:
        """A verifying client context that shows the good client certificate, `pair`, or none at all."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if not anonymous:
            shown = pair or self.client_pair
            context.load_cert_chain(shown.cert, shown.key)
        return context

    def close(self) -> None:
        """Remove the directory, unless the caller brought it."""
        forget_at_exit(self)
        if self._owns_directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _write(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file that has its final mode from the first byte on, even where an older one stood."""
    path.unlink(missing_ok=True)
    path.touch(mode=mode)
    path.write_bytes(content)
