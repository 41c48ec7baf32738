"""Runs scripts at a server that may not allow them: in full, by hash once it knows them, not at all while it refuses.

In: scripts and their arguments. Out: replies, or word that the server refuses to run scripts. Left to others: sending
them (the hub, `local.client`), what is done in their place.

The same at the site and at the hub: each reader and writer has one of these, because a server may allow `EVAL` and
deny a command that one of the scripts runs.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any

from redisrepl.permission import Permission

__all__ = ["Scripts"]


class Scripts(Permission):
    """The scripts that one reader or writer runs at one server.

    Args:
        evaluate: has the server run a script; called with its text, its arguments and, as `by_hash`, whether to name it
            by its hash instead.
        is_refusal: whether an error that it raised means that the server runs no scripts for us, or not this one.
        hashes: whether to name a script by its hash once the server has run it, which takes 1,000 bytes off a request.
        clock: seconds that never go backwards.
    """

    def __init__(
        self,
        evaluate: Callable[..., Awaitable[list[bytes]]],
        is_refusal: Callable[[Exception], bool],
        *,
        hashes: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(clock)
        self._evaluate = evaluate
        self._is_refusal = is_refusal
        self._hashes = hashes
        self._known: set[bytes] = set()  # scripts that the server has run, and knows by their hashes
        self._name = secrets.token_hex(4).encode()
        self._numbers = count()

    def token(self) -> bytes:
        """What the answer to one request, and to no other of anybody's, repeats."""
        return b"%b-%d" % (self._name, next(self._numbers))

    async def run(self, script: bytes, words: Sequence[bytes], **more: Any) -> list[bytes] | None:
        """The reply to a script; None if it is refused: whoever then goes another way says so by `refused`.

        Args:
            script: which.
            words: its arguments.
            more: passed on to `evaluate`.

        Raises:
            Exception: what `evaluate` raises and is no refusal.
        """
        hash_refused = False
        if script in self._known:
            try:
                return await self._evaluate(script, words, by_hash=True, **more)
            except Exception as error:
                hash_refused = self._is_refusal(error)
                if not hash_refused and not str(error).startswith("NOSCRIPT"):
                    raise
            self._known.discard(script)  # the server was restarted, or its scripts flushed; or it denies EVALSHA
        try:
            reply = await self._evaluate(script, words, by_hash=False, **more)
        except Exception as error:
            if not self._is_refusal(error):
                raise
            return None
        self.granted()
        self._hashes = self._hashes and not hash_refused  # it was the hash that was refused, not the script
        if self._hashes:
            self._known.add(script)
        return reply
