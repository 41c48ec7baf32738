"""The hub's interface for all other modules: commands, scripts, and a subscription, whatever protocol carries them.

In: commands and scripts as lists of bytes, a pattern of channels. Out: replies, lists of messages, failures as our
errors. Left to others: the protocol (`remote.session`: Webdis over HTTPS; `remote.direct`: Redis itself over TLS),
which commands to run and when to retry (`flow.pushing`, `flow.applying`).

To add another protocol, write another subclass of `Hub`; nothing else changes.
"""

from __future__ import annotations

import asyncio
import ssl
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Protocol

from redisrepl.errors import CommandRefusedError, LimitExceededError, LinkLostError, RedisreplError, SilentError
from redisrepl.remote.clock_shift import ClockShift
from redisrepl.remote.health import HubHealth
from redisrepl.wire.messages import Message, MessageReader
from redisrepl.wire.replies import as_bytes, as_clock, as_option, as_strings
from redisrepl.wire.resp import CommandError

__all__ = ["Hub"]

#: Bytes of messages that may come before the confirmation of a subscription. (Webdis sends bursts in reverse.)
_EARLY = 16 << 20


_UNKNOWN = "take its rename-command out of redis.conf"


def _allowed(pattern: bytes) -> str:
    """How the hub's administrator allows a subscription to this pattern."""
    return f"ACL SETUSER USER +psubscribe '&{pattern.decode('utf-8', 'backslashreplace')}', then ACL SAVE"


class Hub(Protocol):
    """A hub.

    Every method raises:
        PeerUnavailableError: the request was not sent. OutcomeUnknownError: it was sent, and may or may not have been
            executed. CertificateError, RefusedError: one side refuses the other.
        CommandRefusedError: Redis refused the command or script; the text is its own.
        HubError: Redis is not ready for it (`LOADING`, `OOM`, ...), or a proxy or Webdis answered with an error.
            BodyTooLargeError: because the request is too large.
        ProtocolError: the answer makes no sense, or is too large.

    Attributes:
        url: its address without credentials.
        health: whether it answers; all requests share this.
        clock_shift: between its clock and the site's; whatever reads or writes expiries shares this.
        database: number of the database that is used there.
        listening: how many subscriptions are confirmed and not over.
        user: as whom its Redis knows us; None: Webdis logs in.
        login_hint: what to do when its Redis refuses the login.
    """

    url: str
    health: HubHealth
    clock_shift: ClockShift
    database: int
    listening: int
    user: str | None
    login_hint: str

    @property
    @abstractmethod
    def event_channel(self) -> str | None:
        """By which protocol its events arrive; None if that is not decided yet."""

    @abstractmethod
    def spell(self, words: Sequence[bytes]) -> bytes:
        """Encode arguments of a script for `eval`, for callers that must know their size in the request."""

    @abstractmethod
    async def eval(
        self,
        script: bytes,
        words: Sequence[bytes],
        *,
        by_hash: bool = False,
        spelled: Sequence[bytes] = (),
        count: int = 0,
        most: int | None = None,
    ) -> list[bytes]:
        """Run a script that returns a flat list of strings, and names no keys.

        Args:
            script: its text.
            words: its first arguments.
            by_hash: whether to send only its hash, because the hub has run it before.
            spelled: the arguments that follow, encoded by `spell`.
            count: how many words these are.
            most: bytes that the reply may have; None: as many as any reply with values.
        """

    @abstractmethod
    async def command(self, *argv: bytes) -> object:
        """Run one command and return its reply: bytes, int, None or a flat list of bytes."""

    @abstractmethod
    async def integer(self, *argv: bytes) -> int:
        """Run one command whose reply is an integer of any size."""

    @abstractmethod
    async def integers(self, *argv: bytes) -> list[int]:
        """Run one command whose reply is a list of integers of any size, a thousand at most."""

    @abstractmethod
    def listen(self, pattern: bytes, *, silence: float) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bytes of a subscription, as they are read; see `psubscribe`."""

    @abstractmethod
    async def distrust(self, why: RedisreplError) -> None:
        """A subscription brought nothing: use another channel if there is one. Raises if the hub is away altogether."""

    @abstractmethod
    def renew(self, context: ssl.SSLContext, *, drop: bool) -> None:
        """Use this context from now on; `drop`: end connections that were made with the former one."""

    @abstractmethod
    async def close(self) -> None:
        """Close every connection."""

    @asynccontextmanager
    async def psubscribe(self, pattern: bytes, *, silence: float) -> AsyncIterator[AsyncIterator[list[Message]]]:
        """Subscribe to a pattern, on a separate connection.

        Args:
            pattern: of channels.
            silence: seconds without a byte after which the subscription counts as dead.

        Yields:
            For each read the list of its messages. The first list, which may be empty, comes when the hub has confirmed
            the subscription.
        """
        confirmed = asyncio.Event()
        try:
            async with (
                self.listen(pattern, silence=silence) as reads,
                aclosing(self._messages(reads, confirmed)) as lists,
            ):
                yield lists
        except LinkLostError as error:
            if not isinstance(error, SilentError):
                self.health.doubted()
                raise
            if confirmed.is_set():
                raise
            # Over HTTP, Webdis passes no refusal on: it can only be told by the silence.
            raise SilentError(
                f"{error} and did not confirm PSUBSCRIBE: its Redis may deny it ({_allowed(pattern)}) or not know it"
                f" ({_UNKNOWN}), or a proxy keeps the answer back (nginx: proxy_buffering off;)"
            ) from error
        except CommandError as error:
            remedy = f"{_allowed(pattern)}, or {_UNKNOWN}"
            raise CommandRefusedError(f"the hub refuses PSUBSCRIBE: {error}: {remedy}", status=200) from None

    async def _messages(self, reads: AsyncIterator[bytes], confirmed: asyncio.Event) -> AsyncGenerator[list[Message]]:
        """The messages that each read completed, from the confirmation on; earlier ones are in the first list."""
        reader = MessageReader()
        early: list[Message] = []
        before = 0
        try:
            async for data in reads:
                messages = reader.feed(data)
                if not reader.subscribed:
                    early += messages
                    before += len(data)
                    if before > _EARLY:
                        raise LimitExceededError("what came before the confirmation of a subscription", before, _EARLY)
                    continue
                if not confirmed.is_set():
                    confirmed.set()
                    self.listening += 1
                    messages = early + messages
                yield messages
        finally:
            self.listening -= confirmed.is_set()

    # Commands with a reply of a known type; each raises what `command` raises.

    def asked(self, *argv: bytes) -> str:
        """A command in the words of an error message, without keys."""
        words = argv[:2] if argv[0] in (b"CONFIG", b"INFO") else argv[:1]
        return f"{b' '.join(words).decode('ascii', 'backslashreplace')} at the hub {self.url}"

    async def strings(self, *argv: bytes) -> list[bytes]:
        """Run one command whose reply is a list of strings."""
        return as_strings(await self.command(*argv), self.asked(*argv))

    async def text(self, *argv: bytes) -> bytes:
        """Run one command whose reply is a string."""
        return as_bytes(await self.command(*argv), self.asked(*argv))

    async def text_or_none(self, *argv: bytes) -> bytes | None:
        """Run one command whose reply is a string or nothing."""
        reply = await self.command(*argv)
        return None if reply is None else as_bytes(reply, self.asked(*argv))

    async def option(self, name: bytes) -> str:
        """The value of an option of the hub's Redis; empty if there is no such option."""
        argv = (b"CONFIG", b"GET", name)
        return as_option(await self.command(*argv), self.asked(*argv))

    async def clock(self) -> int:
        """The hub's time, in microseconds."""
        return as_clock(await self.command(b"TIME"), self.asked(b"TIME"))
