"""Asks a Redis why TLS with it has failed: it refuses our certificate, or it speaks no TLS.

In: where it is, and the context that was used. Out: the error with which it refuses the certificate, whether it answers
without TLS. Left to others: when to ask, and what the error means (`tls.reasons`).

In TLS 1.3 a server checks our certificate after our side of the handshake is complete. If we have already sent a
command by then, which it has not read, its closing resets the connection, and the reset can overtake the alert with the
reason. So we connect again, send nothing, and wait for the alert.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

from redisrepl.tls.reasons import tls_reason

__all__ = ["SPEAKS_PLAINLY", "UNSAID", "VERDICT_WAIT", "certificate_refusal", "speaks_plainly"]

#: Of a server that `speaks_plainly`.
SPEAKS_PLAINLY = "it speaks without TLS on this port: write redis:// instead of rediss://, or give its TLS port"
#: Seconds within which a server reports that it refuses our certificate, or answers a PING.
VERDICT_WAIT = 2.0
_NEXT_ADDRESS = 0.25  # seconds; RFC 8305
UNSAID = "it ended the connection before its first reply: our client certificate may be missing or refused"
"""What to say of a server that has ended a new connection, and does not say why."""


async def certificate_refusal(host: str, port: int, context: ssl.SSLContext, wait: float) -> OSError | None:
    """The error with which a server refuses our certificate; None if it does not, or does not say so.

    Args:
        host: of the server.
        port: likewise.
        context: TLS, with the certificate.
        wait: seconds for TCP and TLS.
    """
    try:
        async with asyncio.timeout(wait):
            options: dict[str, Any] = {"ssl": context, "happy_eyeballs_delay": _NEXT_ADDRESS}
            reader, writer = await asyncio.open_connection(host, port, **options)
        try:
            async with asyncio.timeout(min(wait, VERDICT_WAIT)):
                await reader.read(1)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    except OSError as error:  # a TimeoutError too: the server accepts us, and waits for a command
        return None if tls_reason(error) is None else error
    return None


async def speaks_plainly(host: str, port: int) -> bool:
    """Whether a Redis without TLS listens there."""
    try:
        async with asyncio.timeout(VERDICT_WAIT):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(b"PING\r\n")
                return (await reader.read(1)) in {b"+", b"-"}
            finally:
                writer.transport.abort()
    except OSError:  # TimeoutError is one
        return False
