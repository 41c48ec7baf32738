"""Clients of `--listen` that do their worst: few descriptors, little memory, and nothing waits for them."""

import contextlib
import resource
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest

from testbed import eventually, free_port
from tests.e2e.conftest import Daemons
from tests.e2e.support import SWIFT, all_replicated, wait_until_live
from tests.hostile.peers import peak, processor

#: Connections that one client of these makes: more than the daemon may have descriptors.
MANY = 3000
#: Descriptors that the listener may take: connections that it serves, and those that it is just about to end, which
#: come by as many at a time. And those that the daemon may have in all.
MOST_DESCRIPTORS = 260
DESCRIPTORS = 1024
#: Bytes above what it took before.
MOST = 60 << 20
#: Of a probe, as whoever runs containers makes them before it acts.
TRIES = 3
GET = b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@contextlib.contextmanager
def closed_on_error(connection):
    try:
        yield
    except OSError:
        connection.close()
        raise


class Place:
    """Where the daemon listens.

    Args:
        port: of it.
        context: of TLS; None: it speaks without.
    """

    def __init__(self, port, context):
        self._port = port
        self._context = context

    def reached(self, receives=None):
        """A connection of which the other side knows no more than that."""
        connection = socket.socket()
        if receives is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        connection.settimeout(5)
        with closed_on_error(connection):
            connection.connect(("127.0.0.1", self._port))
        return connection

    def connected(self, receives=None):
        """A connection on which a request can be sent."""
        connection = self.reached(receives)
        if self._context is None:
            return connection
        return self._context.wrap_socket(connection, server_hostname="localhost")


def says_nothing(place):
    yield place.reached()


def says_a_byte_a_second(place):
    with place.connected() as connection:
        for byte in GET % b"/":
            connection.sendall(bytes([byte]))
            yield
            time.sleep(1)


def never_ends_its_headers(place):
    with place.connected() as connection:
        connection.sendall(GET % b"/")
        while True:
            connection.sendall(b"X: y\r\n" * 1000)
            yield


def never_ends_its_body(place):
    with place.connected() as connection:
        connection.sendall(GET % b"/" + b"Content-Length: 9999999999\r\n\r\n")
        while True:
            connection.sendall(bytes(1 << 16))
            yield


def asks_many_at_once(place):
    with place.connected() as connection:
        connection.sendall((GET % b"/" + b"\r\n") * 1000)
        yield


def asks_for_another_host(place):
    with place.connected() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: evil\xff\x00.example:[]\r\n\r\n")
        yield


def never_reads(path):
    def client(place):
        connection = place.connected(receives=2048)
        with closed_on_error(connection):
            connection.sendall(GET % path + b"\r\n")
        yield connection

    return client


CLIENTS = {
    "says nothing": says_nothing,
    "a byte a second": says_a_byte_a_second,
    "headers without an end": never_ends_its_headers,
    "a body without an end": never_ends_its_body,
    "a thousand requests in one": asks_many_at_once,
    "another host": asks_for_another_host,
    "reads no page": never_reads(b"/"),
    "reads no metrics": never_reads(b"/metrics"),
    "reads no events": never_reads(b"/events"),
}


def plays(client, place, ended, kept):
    """One after another, as fast as they are let in; those that yield connections keep them."""
    while not ended.is_set():
        with contextlib.suppress(OSError):
            for connection in client(place):
                if connection is not None:
                    kept.append(connection)
                if ended.is_set():
                    break
        while len(kept) > MANY and not ended.is_set():
            time.sleep(0.1)


def answered(place, path):
    """The first line of the answer to a request for this; tries again if a flood from here took its place."""
    for _ in range(TRIES):
        with contextlib.suppress(ConnectionError, ssl.SSLEOFError), place.connected() as connection:
            connection.sendall(GET % path + b"\r\n")
            if line := connection.makefile("rb").readline():
                return line
    raise AssertionError(f"{path} is not answered")


def descriptors(daemon):
    return len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("kind", CLIENTS)
def test_a_hostile_client(certificates, scene, kind, tls):
    site, hub, _, _ = scene
    port, ended, kept = free_port(), threading.Event(), []
    place = Place(port, certificates.ssl_context() if tls else None)
    flags = ["--listen", f"127.0.0.1:{port}"]
    if tls:
        flags += ["--listen-cert", certificates.server, "--listen-key", certificates.server_key]
    with Daemons(certificates) as daemons:
        daemon = daemons.start(site, hub, *SWIFT, *flags)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        wait_until_live(daemon, pull=True)
        all_replicated(site.client(), hub.redis)
        before, had = peak(daemon), descriptors(daemon)
        clients = [threading.Thread(target=plays, args=(CLIENTS[kind], place, ended, kept)) for _ in range(20)]
        for client in clients:
            client.start()
        try:
            most, until = 0, time.monotonic() + 4
            while time.monotonic() < until:
                used = processor(daemon)
                assert daemon.state()
                assert processor(daemon) - used < 1
                assert answered(place, b"/livez") == b"HTTP/1.1 200 OK\r\n"
                assert answered(place, b"/readyz").startswith(b"HTTP/1.1 ")
                most = max(most, descriptors(daemon) - had)
                time.sleep(0.2)
            site.client().set("site1:meanwhile", kind)
            eventually(lambda: hub.redis.get("site1:meanwhile") == kind.encode(), 20, "it replicates meanwhile")
            all_replicated(site.client(), hub.redis)
        finally:
            ended.set()
            for client in clients:
                client.join(10)
            for connection in kept:
                connection.close()
        assert most < MOST_DESCRIPTORS
        assert peak(daemon) - before < MOST
        assert daemon.stop() == 0
