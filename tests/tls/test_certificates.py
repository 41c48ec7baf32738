"""Renewed files are taken by themselves, what does not fit is refused until it is mended, and an end is told of."""

from __future__ import annotations

import datetime as dt
import os
import socket
import ssl
import subprocess
import threading

import pytest
import structlog
from structlog.testing import capture_logs

from redisrepl.errors import ConfigError
from redisrepl.settings.settings import Settings
from redisrepl.tls.certificates import CertificateWatch, hub_files, site_files
from redisrepl.tls.contexts import CertificateFiles, client_context, tls_reason
from testbed import Certificates
from testbed.certificates import KeyPair

LATER = 1e9


@pytest.fixture(autouse=True)
def _plain_logs():
    structlog.reset_defaults()


@pytest.fixture
def own():
    """Certificates that a test may replace."""
    with Certificates() as own:
        yield own


class Watched:
    def __init__(self, own):
        self.own = own
        self.files = CertificateFiles(own.ca, own.client, own.client_key)
        self.context = client_context(self.files)
        self.watch = CertificateWatch({"hub": (self.context, self.files)})
        self._now = LATER

    def tick(self):
        """Look again; what is logged."""
        self._now += 60
        with capture_logs() as logs:
            self.watch.tick(self._now)
        return [(line["event"], line) for line in logs]


@pytest.fixture
def watched(own):
    return Watched(own)


@pytest.fixture
def serve():
    """A TLS server on a free port that shows `pair`, and takes clients of `ca` only if one is given."""
    listening = []

    def serve(pair, ca=None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.cert, pair.key)
        if ca is not None:
            context.load_verify_locations(ca)
            context.verify_mode = ssl.CERT_REQUIRED
        server = socket.create_server(("127.0.0.1", 0))
        listening.append(server)

        def answer():
            while True:
                try:
                    plain, _ = server.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(plain, server_side=True) as connection:
                        connection.sendall(b"ok")
                except OSError:
                    plain.close()

        threading.Thread(target=answer, daemon=True).start()
        return server.getsockname()[1]

    yield serve
    for server in listening:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def handshake(context, port, name="localhost"):
    """As asyncio makes it: with memory between TLS and the socket."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)

    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:

        def patiently(step):
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    plain.sendall(outgoing.read())
                    incoming.write(plain.recv(65536))
                finally:
                    if outgoing.pending:
                        plain.sendall(outgoing.read())

        patiently(tls.do_handshake)
        return patiently(lambda: tls.read(2))


def test_renewed_files_are_taken_by_themselves(watched, own):
    assert watched.tick() == []
    renewed = own.issue("client", "site1.example", common_name="site1", valid_for=dt.timedelta(days=99))
    assert renewed.cert == own.client
    ((event, told),) = watched.tick()
    assert event == "daemon.reloaded"
    assert told["link"] == "hub"
    assert dt.datetime.fromisoformat(told["expires_at"]) - dt.datetime.now(dt.UTC) > dt.timedelta(days=98)
    assert watched.tick() == []


def test_they_are_not_looked_at_all_the_time(own):
    watched = Watched(own)
    watched.tick()
    own.issue("client", "site1.example", common_name="site1")
    with capture_logs() as logs:
        watched.watch.tick(watched._now + 9)
    assert logs == []
    assert watched.tick()


def test_a_pair_that_does_not_fit_is_refused_and_said_until_it_is_mended(watched, own, serve):
    port = serve(own.server_pair, own.ca)
    whole = own.client_key.read_bytes()
    own.client_key.write_bytes(own.issue("other", "other.example").key.read_bytes())
    ((event, told),) = watched.tick()
    assert (event, told["log_level"], told["then"]) == (
        "certificate.failed",
        "warning",
        "the old certificates stay in use",
    )
    assert "is not the key of" in told["error"]
    (trouble,) = watched.watch.failure_logs
    assert trouble.last_error == told["error"]
    assert handshake(watched.context, port) == b"ok"
    watched.tick()
    assert trouble.failures == 2  # nothing has changed, and it is still said
    stamp = own.client_key.stat()
    own.client_key.write_bytes(whole)
    os.utime(own.client_key, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as if it had not changed
    assert [event for event, _ in watched.tick()] == ["certificate.recovered", "daemon.reloaded"]
    assert trouble.last_error is None


def test_an_authority_that_was_removed_is_trusted_no_more(watched, own, serve):
    port = serve(own.server_pair, own.ca)
    assert handshake(watched.context, port) == b"ok"
    ca = own.ca.read_bytes()
    own.ca.write_bytes(own.foreign_ca().read_bytes())
    assert [event for event, _ in watched.tick()] == ["daemon.reloaded"]
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(watched.context, port)
    own.ca.write_bytes(ca)
    watched.tick()
    assert handshake(watched.context, port) == b"ok"


def test_a_directory_that_a_link_leads_to_may_be_exchanged(own, tmp_path):
    """As Kubernetes renews a mounted secret: the files are links through `..data`."""

    def secret(name):
        directory = tmp_path / name
        directory.mkdir()
        for file in (own.ca, own.client, own.client_key):
            (directory / file.name).write_bytes(file.read_bytes())
        return directory

    data = tmp_path / "..data"
    data.symlink_to(secret("first"))
    for file in (own.ca, own.client, own.client_key):
        (tmp_path / file.name).symlink_to(f"..data/{file.name}")
    paths = (tmp_path / file.name for file in (own.ca, own.client, own.client_key))
    files = CertificateFiles(*paths)
    watch = CertificateWatch({"hub": (client_context(files), files)})
    own.issue("client", "site1.example", common_name="site1")
    (tmp_path / "..new").symlink_to(secret("second"))
    (tmp_path / "..new").rename(data)
    with capture_logs() as logs:
        watch.tick(LATER)
    assert [line["event"] for line in logs] == ["daemon.reloaded"]


def test_who_asks_is_told_even_if_nothing_changed(watched, own):
    with capture_logs() as logs:
        watched.watch.reload()
    assert [line["event"] for line in logs] == ["daemon.reloaded"]
    own.client.write_text("nothing\n")
    with capture_logs() as logs:
        watched.watch.reload()
    assert [line["event"] for line in logs] == ["daemon.reload_failed", "certificate.failed"]
    assert logs[0]["log_level"] == "error"


@pytest.mark.parametrize(("days", "told", "wrong"), [(31, [], 0), (29, [29], 0), (6, [6], 1), (0.5, [0], 1)], ids=str)
def test_an_end_that_comes_near_is_told(own, days, told, wrong):
    own.issue("client", "site1.example", common_name="site1", valid_for=dt.timedelta(days=days, minutes=1))
    watched = Watched(own)
    with capture_logs() as logs:
        watched.watch.begin()
        watched.tick()
    assert [line["days_left"] for line in logs if line["event"] == "certificate.expires"] == told
    problems = list(watched.watch.problems())
    assert len(problems) == wrong
    assert all(problem.startswith("certificate: our certificate for the hub expires on ") for problem in problems)


def test_each_of_the_three_days_is_told_of_once(own):
    pair = own.issue("client", "site1.example", common_name="site1", valid_for=dt.timedelta(days=40))
    files = CertificateFiles(own.ca, pair.cert, pair.key)
    context = client_context(files)
    watch = CertificateWatch({"hub": (context, files)})
    (link,) = watch._links
    end = context.ends_at
    with capture_logs() as logs:
        for days in (40, 31, 30, 29, 8, 7, 6.5, 2, 1, 0.5, 0.4, -1, -2):
            watch._say_ends(link, end - dt.timedelta(days=days))
    assert [line["days_left"] for line in logs] == [30, 7, 1, 0]


def test_the_end_of_the_hub_s_own_certificate_is_known(own, serve):
    pair = own.issue("short", "localhost", "127.0.0.1", valid_for=dt.timedelta(days=5))
    watched = Watched(own)
    assert watched.watch.document()["hub_certificate_expires_at"] is None
    assert handshake(watched.context, serve(pair, own.ca)) == b"ok"
    end = dt.datetime.fromisoformat(watched.watch.document()["hub_certificate_expires_at"])
    assert dt.timedelta(days=4) < end - dt.datetime.now(dt.UTC) <= dt.timedelta(days=5)
    assert [line["certificate"] for _, line in watched.tick()] == ["the hub's own certificate"]
    assert [problem.split(" expires")[0] for problem in watched.watch.problems()] == [
        "certificate: the hub's own certificate"
    ]
    own.issue("client", "site1.example", common_name="site1")
    watched.tick()
    assert watched.watch.document()["hub_certificate_expires_at"] == end.isoformat()  # until it is seen anew


# Authorities as `openssl req -x509` once made them.


def old_authority(tmp_path, *extensions):
    """An authority with these extensions only; with what it signed for localhost."""
    config = tmp_path / "openssl.cnf"
    config.write_text("[req]\ndistinguished_name = dn\n[dn]\n[ca]\n" + "\n".join(extensions) + "\n")
    ca, key = tmp_path / "ca.pem", tmp_path / "ca-key.pem"
    run = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=old authority"]
    subprocess.run([*run, "-config", config, "-extensions", "ca", "-keyout", key, "-out", ca], check=True, stderr=-3)
    request, server, server_key = (tmp_path / name for name in ("server.csr", "server.pem", "server-key.pem"))
    subprocess.run(
        ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-keyout", server_key, "-out", request],
        check=True,
        stderr=-3,
    )
    names = tmp_path / "names"
    names.write_text("subjectAltName = DNS:localhost\n")
    sign = ["openssl", "x509", "-req", "-in", request, "-CA", ca, "-CAkey", key, "-days", "30", "-extfile", names]
    subprocess.run([*sign, "-out", server], check=True, stderr=-3)
    return ca, server, server_key


def test_an_old_authority_is_accepted_with_a_warning_that_names_what_it_lacks(tmp_path, serve):
    ca, server, key = old_authority(tmp_path, "basicConstraints = CA:TRUE", "subjectKeyIdentifier = hash")
    files = CertificateFiles(ca, None, None)
    context = client_context(files)
    with capture_logs() as logs:
        CertificateWatch({"hub": (context, files)}).begin()
    said = [line["error"] for line in logs if line["event"] == "certificate.not_strict"]
    assert [len(said), "basicConstraints without marking it critical" in said[0], "keyUsage" in said[1]] == [2, 1, 1]
    assert handshake(context, serve(KeyPair(server, key))) == b"ok"


@pytest.mark.parametrize(
    ("extensions", "lacks"),
    [
        (("basicConstraints = critical,CA:TRUE", "subjectKeyIdentifier = hash"), "keyUsage"),
        (("basicConstraints = critical,CA:TRUE", "keyUsage = critical,keyCertSign"), "subjectKeyIdentifier"),
        (
            ("basicConstraints = CA:TRUE", "subjectKeyIdentifier = hash", "keyUsage = critical,keyCertSign"),
            "basicConstraints",
        ),
    ],
)
def test_strictly_it_is_refused(tmp_path, extensions, lacks):
    if lacks == "subjectKeyIdentifier":
        extensions = (*extensions, "subjectKeyIdentifier = none")
    ca, _, _ = old_authority(tmp_path, *extensions)
    with pytest.raises(ConfigError, match=rf"^--ca {ca}: .*{lacks}.*, or do without --strict-certificates"):
        client_context(CertificateFiles(ca, None, None, strict=True))


def reason(context, port, name="localhost"):
    """What a handshake that fails means."""
    with pytest.raises(ssl.SSLError) as failed:
        handshake(context, port, name)
    return tls_reason(failed.value)


def test_what_openssl_says_of_real_certificates_is_put_into_words(tmp_path, own, serve):
    context = client_context(CertificateFiles(own.ca, None, None))
    port = serve(own.server_pair)
    assert "is for another host name" in reason(context, port, "elsewhere.example")
    assert "the server's certificate has expired" in reason(context, serve(own.expired_server()))
    stranger = client_context(CertificateFiles(own.foreign_ca(), None, None))
    assert "is not signed by the given CA" in reason(stranger, port)
    (tmp_path / "old").mkdir()
    ca, server, key = old_authority(
        tmp_path / "old", "basicConstraints = critical,CA:TRUE", "subjectKeyIdentifier = hash"
    )
    strict = client_context(CertificateFiles(ca, None, None))
    strict.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python 3.13 does by default
    assert "the CA lacks the extension keyUsage, which --strict-" in reason(strict, serve(KeyPair(server, key)))
    itself = old_authority(tmp_path, "subjectAltName = DNS:localhost")[0]
    alone = KeyPair(itself, tmp_path / "ca-key.pem")
    assert "is self-signed and not the given CA" in reason(context, serve(alone))


def test_a_sound_authority_is_accepted_strictly(certificates):
    files = CertificateFiles(certificates.ca, certificates.client, certificates.client_key, strict=True)
    context = client_context(files)
    assert context.complaints == []
    assert context.verify_flags & ssl.VERIFY_X509_STRICT


def test_the_settings_name_the_files():
    settings = Settings(
        ca="/a", cert="/b", key="/c", key_password_file="/d", site_ca="/e", site_key_password_file="/f",
        strict_certificates=True,
    )  # fmt: skip
    assert [str(path) for path in hub_files(settings).paths()] == ["/a", "/b", "/c", "/d"]
    assert hub_files(settings).strict
    assert hub_files(settings).password_flag == "--key-password-file"
    assert [str(path) for path in site_files(settings).paths()] == ["/e", "/f"]
    assert site_files(settings).password_flag == "--site-key-password-file"
