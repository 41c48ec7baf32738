"""Watches certificates while the daemon runs: loads renewed files, and warns before a certificate expires.

In: the contexts of the links and their files. Out: contexts that use the current files, log lines, problems. Left to
others: whether a pair of files is valid (`tls.contexts`), when to look (`daemon`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import structlog

from redisrepl.errors import RedisreplError
from redisrepl.observe.failures import FailureLog
from redisrepl.settings.settings import Settings
from redisrepl.tls.contexts import CertificateFiles, RenewableContext, client_context, renew

__all__ = ["WARN_DAYS", "CertificateWatch", "client_context", "hub_files", "site_files"]

_log = structlog.get_logger("redisrepl")

#: Seconds between two looks at the files, within which renewed ones are in use.
_PERIOD = 10.0
#: Days before expiry at which we warn; with fewer days left than the second, it counts as a problem.
WARN_DAYS = (30, 7, 1)
_DAY = 86400.0
#: What messages call our certificate for each link.
_OURS = {
    "hub": "our certificate for the hub",
    "site": "our certificate for the site",
    "listener": "the certificate of --listen",
}
#: The name of each in `CertificateWatch.document`.
_FIELDS = {
    "certificate_expires_at": _OURS["hub"],
    "hub_certificate_expires_at": "the hub's own certificate",
    "site_client_certificate_expires_at": _OURS["site"],
    "site_certificate_expires_at": "the site's own certificate",
    "listen_certificate_expires_at": _OURS["listener"],
}

_Stamp = tuple[tuple[str, int, int, int] | None, ...]


def hub_files(settings: Settings) -> CertificateFiles:
    """The files for the hub."""
    return CertificateFiles(
        settings.ca,
        settings.cert,
        settings.key,
        password=settings.key_password_file,
        strict=settings.strict_certificates,
    )


def site_files(settings: Settings) -> CertificateFiles:
    """The files for `rediss://`."""
    return CertificateFiles(
        settings.site_ca,
        settings.site_cert,
        settings.site_key,
        ("--site-ca", "--site-cert", "--site-key"),
        password=settings.site_key_password_file,
        strict=settings.strict_certificates,
    )


@dataclass(slots=True)
class _Link:
    """A link's context with the files that it was made of.

    Attributes:
        stamp: of the files when they were last loaded or refused.
        failure_log: failures to load them.
        warned: for each certificate, the last warning given, in days before expiry.
    """

    name: str
    context: RenewableContext
    files: CertificateFiles
    stamp: _Stamp
    failure_log: FailureLog
    warned: dict[str, tuple[datetime, int]] = field(default_factory=dict)


class CertificateWatch:
    """Watches the certificates of all links.

    Args:
        links: by name ("hub", "site", "listener"), context and files of each.
        renewed: is called after a renewal with the link's name, and whether an authority was removed, so that
            connections made under it must end.
    """

    def __init__(
        self,
        links: dict[str, tuple[RenewableContext, CertificateFiles]],
        renewed: Callable[[str, bool], None] = lambda _link, _drop: None,
    ) -> None:
        self._renewed = renewed
        self._links: list[_Link] = []
        for name, (context, files) in links.items():
            self.add(name, context, files)
        self._looked_at = time.monotonic()

    def add(self, name: str, context: RenewableContext, files: CertificateFiles) -> None:
        """Watch another link too."""
        self._links.append(_Link(name, context, files, _stamp(files), FailureLog("certificate")))

    def begin(self) -> None:
        """Log warnings about the certificates at the start."""
        for link in self._links:
            self._say_complaints(link)
            self._say_ends(link, datetime.now(UTC))

    def tick(self, now: float) -> None:
        """Look at the files if that is due.

        Args:
            now: seconds that never go backwards.
        """
        if now - self._looked_at < _PERIOD:
            return
        self._looked_at = now
        for link in self._links:
            stamp = _stamp(link.files)
            if stamp != link.stamp or link.failure_log.last_error is not None:
                self._take(link, stamp)
            self._say_ends(link, datetime.now(UTC))

    def reload(self) -> None:
        """Read all files again, changed or not (SIGHUP)."""
        for link in self._links:
            self._take(link, _stamp(link.files), asked=True)

    def document(self) -> dict[str, object]:
        """The expiry dates, for `status`."""
        ends = {what: end for link in self._links for what, end in _ends(link)}
        return {name: ends[what].isoformat() if what in ends else None for name, what in _FIELDS.items()}

    @property
    def failure_logs(self) -> list[FailureLog]:
        """The failure logs of the links."""
        return [link.failure_log for link in self._links]

    def problems(self, now: datetime | None = None) -> Iterator[str]:
        """Problems of certificates, one sentence each."""
        now = now or datetime.now(UTC)
        for link in self._links:
            for what, end in _ends(link):
                days = (end - now).total_seconds() / _DAY
                if days < WARN_DAYS[1]:
                    yield f"certificate: {what} {_when(end, days)}: renew it"

    def _take(self, link: _Link, stamp: _Stamp, *, asked: bool = False) -> None:
        """Load the files; if they are invalid, keep the old certificates and report that until the files are fixed."""
        # Certificate and key are replaced one after the other. In between they do not match, so we look again even if
        # nothing seems to have changed: the second file may keep its old time stamp.
        link.stamp = stamp
        before = _authorities(link.context)
        try:
            renew(link.context, link.files)
        except RedisreplError as error:
            then = "the old certificates stay in use"
            if asked:
                _log.error("daemon.reload_failed", link=link.name, error=str(error), then=then)
            link.failure_log.failed(error, link=link.name, then=then)
            return
        link.failure_log.succeeded(link=link.name)
        end = link.context.current.ends_at
        _log.info(
            "daemon.reloaded",
            link=link.name,
            certificate=None if link.files.cert is None else str(link.files.cert),
            expires_at=None if end is None else end.isoformat(),
        )
        self._renewed(link.name, not before <= _authorities(link.context))
        self._say_complaints(link)
        self._say_ends(link, datetime.now(UTC))

    def _say_complaints(self, link: _Link) -> None:
        for complaint in link.context.current.complaints:
            _log.warning("certificate.not_strict", link=link.name, error=complaint, then="redisrepl accepts it anyway")

    def _say_ends(self, link: _Link, now: datetime) -> None:
        """Warn 30, 7 and 1 days before expiry, once each."""
        for what, end in _ends(link):
            days = (end - now).total_seconds() / _DAY
            passed = min((limit for limit in WARN_DAYS if days <= limit), default=None)
            if days <= 0:
                passed = 0
            if passed is None:
                link.warned.pop(what, None)
            elif (before := link.warned.get(what)) is None or before[0] != end or passed < before[1]:
                link.warned[what] = (end, passed)
                _log.warning(
                    "certificate.expires",
                    certificate=what,
                    expires_at=end.isoformat(),
                    days_left=max(0, int(days)),
                    hint="renew it: redisrepl loads new files by itself",
                )


def _authorities(context: RenewableContext) -> set[bytes]:
    return set(context.current.get_ca_certs(binary_form=True))


def _ends(link: _Link) -> Iterator[tuple[str, datetime]]:
    own, peer = link.context.current.ends_at, link.context.peer_ends_at
    if own is not None:
        yield _OURS[link.name], own
    if peer is not None:
        yield f"the {link.name}'s own certificate", peer


def _when(end: datetime, days: float) -> str:
    if days <= 0:
        return f"expired on {end:%Y-%m-%d %H:%M} UTC"
    return f"expires on {end:%Y-%m-%d}, in {int(days)} days"


def _stamp(files: CertificateFiles) -> _Stamp:
    """A fingerprint that changes when a file is replaced, or the directory behind a link (Kubernetes)."""
    return tuple(_file_stamp(path) for path in files.paths())


def _file_stamp(path: Path) -> tuple[str, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return str(path), found.st_ino, found.st_mtime_ns, found.st_size
