"""Elements of a large collection at the hub, some at a time.

In: which elements of which key. Out: sections of it. Left to others: the script
(`wire.elements`), what is done with them (`flow.elements`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from redisrepl.remote.hub import Hub
from redisrepl.remote.refusals import refuses_script, unready
from redisrepl.scripts import Scripts
from redisrepl.wire.elements import ELEMENTS_SCRIPT, Elements, Question, parse_elements

__all__ = ["HubElements"]

_log = structlog.get_logger("redisrepl")


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
        with unready("the hub is not ready to read elements"):
            items = await self.scripts.run(self._shift.fields.script(ELEMENTS_SCRIPT), question.words(token))
        if items is None:
            self.scripts.refused()
            hint = "each write to a large collection brings all of it: allow HSCAN, SSCAN, ZSCAN and TIME at the hub"
            _log.warning("fetch.elements_refused", hint=hint)
            return None
        elements = parse_elements(items, token, question)
        return self._shift.elements(elements)
