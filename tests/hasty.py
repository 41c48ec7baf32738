"""A TLS server that ends its first connections after the handshake, and does not say why.

In: certificates, how many connections it ends so. Out: its address, how often it was called. Left to others: what is
made of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct

from redisrepl.errors import CertificateError

__all__ = ["HastyServer", "early_ends"]


class HastyServer:
    """Ends its first connections after the handshake, its reason unsaid; to those that follow it gives it, if any.

    Args:
        certificates: its own, and whom it trusts.
        silent: how many connections it ends without a reason.
        resets: whether it resets them, or ends them in order.

    Attributes:
        connections: how many there were.
    """

    def __init__(self, certificates, silent, *, resets):
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificates.server, certificates.server_key)
        self._context.load_verify_locations(certificates.ca)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._silent = silent
        self._resets = resets
        self._serving = set()
        self.connections = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "localhost", family=socket.AF_INET)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"rediss://localhost:{self.port}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        if self._serving:
            await asyncio.wait(self._serving)

    async def _serve(self, reader, writer):
        self._serving.add(asyncio.current_task())
        self.connections += 1
        with contextlib.suppress(OSError):
            await self._answer(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def _answer(self, reader, writer):
        is_silent = self.connections <= self._silent
        taken, said = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(taken, said, server_side=True)
        accepted = None
        while accepted is None:
            try:
                tls.do_handshake()
                accepted = True
            except ssl.SSLWantReadError:
                writer.write(said.read())
                taken.write(await reader.read(65536))
            except ssl.SSLError:
                accepted = False
        if not is_silent:
            writer.write(said.read())
            if accepted:
                await reader.read()
        elif self._resets:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()


def early_ends(lost):
    """Whose certificate we show, to a server that ends so many connections without a word; the error, and its words.

    Args:
        lost: the kind of error for a link that ends without a reason.
    """
    return [
        ("foreign", 1, CertificateError, "does not trust the CA of our certificate"),
        ("none", 1, CertificateError, "asks for a client certificate and got none"),
        ("foreign", 2, lost, "our client certificate may be missing or refused"),
        ("good", 1, lost, "our client certificate may be missing or refused"),
    ]
