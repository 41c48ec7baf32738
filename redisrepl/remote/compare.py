"""What a comparison asks of the hub: its keys, and digests of what they hold.

In: a namespace, keys. Out: pages of keys, digests. Left to others: comparing (`sweep`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog

from redisrepl.errors import CommandRefusedError, HubError
from redisrepl.namespaces import glob_escape
from redisrepl.remote.fetch import HubReader
from redisrepl.remote.refusals import ScriptUser, is_passing
from redisrepl.remote.session import HubSession
from redisrepl.wire.digests import digest, digest_body, parse_digest_reply, parse_scan_reply, scan_body

__all__ = ["HubComparer"]

_log = structlog.get_logger("redisrepl")


class HubComparer(ScriptUser):
    """Reads the hub for a comparison; where scripts are refused, values cross instead of digests.

    Args:
        session: HTTPS to the hub.
        reader: reads values.
        expiries: whether expiries are compared.
        clock: seconds that never go backwards.
    """

    def __init__(
        self, session: HubSession, reader: HubReader, *, expiries: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(clock)
        self._session = session
        self._reader = reader
        self._expiries = expiries
        self._keys: list[bytes] = []  # of the namespace that is gone through, where scripts are refused

    async def page(self, prefix: bytes, cursor: bytes, count: int) -> tuple[bytes, list[bytes]]:
        """Keys of a namespace, from cursor `0` on, and the next cursor; `0` is the end. Some may come twice."""
        if self.tries_scripts() and not cursor.startswith(_LISTED):
            reply = await self._script(scan_body(cursor, glob_escape(prefix) + b"*", count))
            if reply is not None:
                return parse_scan_reply(reply)
        if not cursor.startswith(_LISTED):  # the beginning, or a cursor of a SCAN that is not allowed any more
            self._keys, cursor = await self._reader.keys(prefix), _LISTED + b"0"
        begin = int(cursor.removeprefix(_LISTED))
        end = begin + count
        page = self._keys[begin:end]
        if end < len(self._keys):
            return _LISTED + b"%d" % end, page
        self._keys = []
        return b"0", page

    async def digests(self, keys: Sequence[bytes]) -> list[bytes]:
        """The digests of what these keys hold."""
        digests: list[bytes] = []
        while self.tries_scripts() and len(digests) < len(keys):
            rest = keys[len(digests) :]
            reply = await self._script(digest_body(rest, expiries=self._expiries))
            if reply is not None:
                digests += parse_digest_reply(reply, len(rest))
        if len(digests) == len(keys):
            return digests
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
                self.scripts = True
                return reply
            text = reply[1:].decode("utf-8", "backslashreplace").strip()
            if is_passing(text):
                raise HubError(f"the hub is not ready for a comparison: {text}", status=_OK)
            # EVAL itself, or a command in it (SCAN, TYPE, HGETALL): either way there is another way.
            if self.scripts:
                _log.warning(
                    "sweep.scripts_refused", error=text, hint="values cross instead of digests: allow EVAL and SCAN"
                )
        self.no_scripts()
        return None


_OK = 200
#: Marks a cursor that is an index into the list of keys.
_LISTED = b"list:"
