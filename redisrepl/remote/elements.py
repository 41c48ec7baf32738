"""Elements of a large collection at the hub, some at a time.

In: which elements of which key. Out: sections of it. Left to others: the script
(`wire.elements`), what is done with them (`flow.elements`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from redisrepl.errors import CommandRefusedError, HubError
from redisrepl.remote.hub import Hub
from redisrepl.remote.refusals import is_passing, refuses_scripts
from redisrepl.scripts import Scripts
from redisrepl.wire.elements import ELEMENTS_SCRIPT, Elements, Question, parse_elements

__all__ = ["HubElements"]

_log = structlog.get_logger("redisrepl")
_OK = 200


class HubElements:
    """Reads elements.

    Args:
        hub: which is read.
        clock: seconds that never go backwards.

    Attributes:
        scripts: those that it runs.
    """

    def __init__(self, hub: Hub, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.scripts = Scripts(hub.eval, _is_refusal, clock=clock)

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
        try:
            items = await self.scripts.run(ELEMENTS_SCRIPT, question.words(token))
        except CommandRefusedError as error:
            if error.status != _OK:
                raise
            raise HubError(f"the hub is not ready to read elements: {error}", status=_OK) from None
        if items is None:
            self.scripts.refused()
            hint = "each write to a large collection brings all of it: allow HSCAN, SSCAN, ZSCAN and TIME at the hub"
            _log.warning("fetch.elements_refused", hint=hint)
            return None
        return parse_elements(items, token, question)


def _is_refusal(error: Exception) -> bool:
    """Whether it is about EVAL itself, or a command in the script: either way there is another way."""
    if isinstance(error, CommandRefusedError) and error.status == _OK:
        text = str(error)
        return not is_passing(text) and not text.startswith("NOSCRIPT")
    return refuses_scripts(error)
