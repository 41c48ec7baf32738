"""Elements of a large collection at the hub, some at a time.

In: which elements of which key. Out: sections of it. Left to others: the script
(`wire.elements`, `wire.entrypages`), what is done with them (`flow.elements`, `flow.streams`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog

from redisrepl.remote.hub import Hub
from redisrepl.remote.refusals import refuses_script, unready
from redisrepl.scripts import Scripts
from redisrepl.wire.elements import ELEMENTS_SCRIPT, Elements, Question, parse_elements
from redisrepl.wire.entrypages import ENTRIES_SCRIPT, EntryPage, parse_entries, words_of

__all__ = ["HubElements"]

_log = structlog.get_logger("redisrepl")

#: Bytes of entries after which an answer ends: what the server does not serve others for, and a link carries at once.
_PAGE_BYTES = 400_000


class HubElements:
    """Reads elements.

    Args:
        hub: which is read.
        clock: seconds that never go backwards.

    Attributes:
        scripts: those that it runs.
    """

    def __init__(self, hub: Hub, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.scripts = Scripts(hub.eval, refuses_script, clock=clock)
        self._shift = hub.clock_shift

    @property
    def readable(self) -> bool:
        """Whether the hub runs the script, as far as is known."""
        return self.scripts.worth_trying

    async def ask(self, question: Question) -> Elements | None:
        """What one run of the script says; None: the hub refuses it.

        Raises:
            HubError: the hub is not ready.
        """
        token = self.scripts.token()
        items = await self._run(self._shift.fields.script(ELEMENTS_SCRIPT), question.words(token))
        return None if items is None else self._shift.elements(parse_elements(items, token, question))

    async def entries(self, key: bytes, begin: bytes, enough: int) -> EntryPage | None:
        """Entries of a stream.

        Args:
            key: of it.
            begin: the id to begin with.
            enough: entries after which no more are read; 0: none are.

        Returns:
            None: the hub refuses it.

        Raises:
            HubError: the hub is not ready.
        """
        token = self.scripts.token()
        items = await self._run(ENTRIES_SCRIPT, words_of(token, key, begin, enough, _PAGE_BYTES))
        if items is None:
            return None
        page = parse_entries(items, token, begin)
        return page._replace(expires_at_ms=self._shift.expiry(page.expires_at_ms))

    async def _run(self, script: bytes, words: Sequence[bytes]) -> list[bytes] | None:
        with unready("the hub is not ready to read elements"):
            items = await self.scripts.run(script, words)
        if items is None:
            self.scripts.refused()
            hint = (
                "each write to a large collection brings all of it: allow HSCAN, SSCAN, ZSCAN, XRANGE, XINFO and TIME"
            )
            _log.warning("fetch.elements_refused", hint=hint)
        return items
