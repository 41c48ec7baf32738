"""What a comparison asks of the hub: its keys, and digests of what they hold.

In: a namespace, keys. Out: pages of keys, digests. Left to others: comparing (`sweep`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import structlog

from redisrepl.errors import CommandRefusedError, HubError
from redisrepl.namespaces import glob_escape
from redisrepl.remote.fetch import HubReader
from redisrepl.remote.refusals import is_passing
from redisrepl.remote.session import HubSession
from redisrepl.wire.digests import digest, digest_body, parse_digest_reply, parse_scan_reply, scan_body

__all__ = ["HubComparer"]

_log = structlog.get_logger("redisrepl")


class HubComparer:
    """Reads the hub for a comparison; where scripts are refused, values cross instead of digests.

    Args:
        session: HTTPS to the hub.
        reader: reads values.
        expiries: whether the expiry of hashes is compared.
        page: keys in one request.
    """

    def __init__(self, session: HubSession, reader: HubReader, *, expiries: bool, page: int = 500) -> None:
        self._session = session
        self._reader = reader
        self._expiries = expiries
        self._page = page
        self.scripts = True

    async def pages(self, prefix: bytes) -> AsyncIterator[list[bytes]]:
        """The keys of a namespace, page by page; some may come twice."""
        pattern = glob_escape(prefix) + b"*"
        cursor = b"0"
        while self.scripts:
            reply = await self._script(scan_body(cursor, pattern, self._page))
            if reply is None:
                break
            cursor, keys = parse_scan_reply(reply)
            if keys:
                yield keys
            if cursor == b"0":
                return
        keys = await self._reader.keys(prefix)
        for start in range(0, len(keys), self._page):
            yield keys[start : start + self._page]

    async def digests(self, keys: Sequence[bytes]) -> list[bytes]:
        """The digests of what these keys hold."""
        if self.scripts:
            reply = await self._script(digest_body(keys, expiries=self._expiries))
            if reply is not None:
                return parse_digest_reply(reply, len(keys))
        found: dict[bytes, bytes] = {}
        while missing := [key for key in keys if key not in found]:
            states = (await self._reader.states(missing)).states
            found |= {key: digest(state, expiries=self._expiries) for key, state in states.items()}
        return [found[key] for key in keys]

    async def _script(self, content: bytes) -> bytes | None:
        """The reply to a script; None if the hub allows none."""
        try:
            reply = await self._session.post(content)
        except CommandRefusedError as error:
            if error.status == _OK:
                raise
        else:
            if not reply.startswith(b"-"):
                return reply
            text = reply[1:].decode("utf-8", "backslashreplace").strip()
            if is_passing(text):
                raise HubError(f"the hub is not ready for a comparison: {text}", status=_OK)
            # EVAL itself, or a command in it (SCAN, TYPE, HGETALL): either way there is another way.
            _log.warning(
                "sweep.scripts_refused", error=text, hint="values cross instead of digests: allow EVAL and SCAN"
            )
        self.scripts = False
        return None


_OK = 200
