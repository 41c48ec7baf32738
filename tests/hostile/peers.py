"""Peers that mean harm, and a switch that puts one in the place of the real one and back."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import threading
from pathlib import Path

import hiredis


class Listener:
    """A TCP server on loopback; `serve` has each connection, in a thread of its own."""

    def __init__(self):
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._open = set()
        self._ended = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self._open.add(connection)
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection):
        with contextlib.suppress(OSError, ValueError):
            self.serve(connection)
        self._open.discard(connection)
        _end(connection)

    def serve(self, connection):
        raise NotImplementedError

    def cut(self):
        for connection in list(self._open):
            _end(connection)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._ended = True
        _end(self._socket)
        self.cut()
        for thread in self._threads:
            thread.join(5)


def _end(connection):
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


class Switch(Listener):
    """Hands connections on to the port that it is turned to."""

    def __init__(self, port):
        self._target = port
        super().__init__()

    def turn(self, port):
        self._target = port
        self.cut()

    def serve(self, connection):
        with socket.create_connection(("127.0.0.1", self._target)) as there:
            self._open.add(there)
            back = threading.Thread(target=_copy, args=(there, connection), daemon=True)
            back.start()
            _copy(connection, there)
            back.join()
            self._open.discard(there)


def _copy(source, sink):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


class HangsUp(Listener):
    """Takes connections and ends each at once."""

    def __init__(self, _certificates=None):
        self.asked = 0
        super().__init__()

    def serve(self, connection):  # noqa: ARG002 - nothing is said on it
        self.asked += 1


class EndsAfterTheHandshake(HangsUp):
    """Speaks TLS, and then ends the connection."""

    def __init__(self, certificates):
        self._context = server_context(certificates)
        super().__init__()

    def serve(self, connection):
        self.asked += 1
        self._context.wrap_socket(connection, server_side=True).close()


class HostileHub(Listener):
    """Speaks TLS, takes a request, and answers with what `answer` yields of it."""

    def __init__(self, certificates, answer):
        self._context = server_context(certificates)
        self._answer = answer
        self.asked = 0
        super().__init__()

    def serve(self, connection):
        with self._context.wrap_socket(connection, server_side=True) as wrapped:
            while (request := _request(wrapped)) is not None:
                self.asked += 1
                for piece in self._answer(request):
                    wrapped.sendall(piece)


def server_context(certificates):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, certificates.server_key)
    return context


def _request(connection):
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := connection.recv(65536)):
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
    while lengths and len(body) < lengths[0]:
        body += connection.recv(65536)
    return body


class HostileSite(Listener):
    """Agrees to a handshake, and goes on with what `stream` yields; to clients it says what `reply` returns."""

    def __init__(self, stream, reply, psync=b"+CONTINUE\r\n"):
        self._stream, self._reply, self._psync = stream, reply, psync
        self.asked = 0
        super().__init__()

    def serve(self, connection):
        while data := connection.recv(65536):
            self.asked += 1
            if b"PSYNC" in data:
                connection.sendall(self._psync)
                for piece in self._stream():
                    connection.sendall(piece)
            elif b"REPLCONF" in data:
                connection.sendall(b"+OK\r\n" * data.count(b"REPLCONF"))
            else:
                connection.sendall(self._reply())


class HostileRedis(Listener):
    """A Redis, with TLS if certificates are given, that answers each command with what `answer` yields of its words."""

    def __init__(self, answer, certificates=None):
        self._context = None if certificates is None else server_context(certificates)
        self._answer = answer
        self.asked = 0
        super().__init__()

    def serve(self, connection):
        if self._context is None:
            self._converse(connection)
            return
        with self._context.wrap_socket(connection, server_side=True) as wrapped:
            self._converse(wrapped)

    def _converse(self, connection):
        commands = hiredis.Reader()
        while data := connection.recv(65536):
            commands.feed(data)
            while (words := commands.gets()) is not False:
                self.asked += 1
                for piece in self._answer(words):
                    connection.sendall(piece)


def head(status, length=None, *extra):
    lines = [b"HTTP/1.1 %d Said" % status, *extra]
    lines.append(b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def whole(body, status=200, *extra):
    return lambda _: [head(status, len(body), *extra) + body]


@contextlib.contextmanager
def turned(switch, peer, usual):
    """The switch leads to this peer, and afterwards to the usual one again, whatever comes: all tests share it."""
    switch.turn(peer.port)
    try:
        yield
    finally:
        switch.turn(usual.port)


def peak(daemon, of="VmHWM"):
    return int(re.search(rf"{of}:\s+(\d+) kB", Path(f"/proc/{daemon.pid}/status").read_text())[1]) << 10


def processor(daemon):
    """Seconds of the processor that it has taken."""
    words = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
