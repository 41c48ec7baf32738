"""One link after another: made again at once after one that worked, after pauses that grow otherwise.

In: word that a link was made, and why it was lost. Out: when to make the next. Left to others: making links, and what
follows from their loss (`sources`, `local.replica`, `remote.subscribe`).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Self

import stamina

from redisrepl.errors import RedisreplError, RefusedError, without_frames

__all__ = ["Links"]

#: A link that lived this many seconds worked. One that is lost at once would be made again without a pause for ever.
_WORKS_AFTER = 5.0


class Links:
    """The links of one kind to one server; to be gone through by `async for`, a link each time.

    Args:
        retry: how to wait between tries, as arguments of `stamina.retry_context`.
        works_after: seconds for which a link must have lived to count as one that worked.
        is_final: whether no further try is worth while after an error; by default if the server refuses us, and has
            never taken us.
        clock: seconds that never go backwards.

    Attributes:
        accepted_once: the server has taken us at least once.

    Raises:
        RedisreplError: the error with which `lost` was called, if no further try is worth while.
    """

    def __init__(
        self,
        retry: Mapping[str, Any],
        *,
        works_after: float = _WORKS_AFTER,
        is_final: Callable[[Exception], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._retry = retry
        self._works_after = works_after
        self._clock = clock
        self.is_final = is_final or self._is_refusal_at_start
        self._attempts: AsyncIterator[stamina.Attempt] | None = None
        self._attempt: stamina.Attempt | None = None
        self._made_at: float | None = None
        self._lost: RedisreplError | None = None
        self.accepted_once = False

    def accepted(self) -> None:
        """The server has taken us; the link is not there yet."""
        self.accepted_once = True

    def made(self) -> None:
        """The link is there."""
        self._made_at = self._clock()
        self.accepted_once = True

    @property
    def is_made(self) -> bool:
        """Whether the link is there, or was there when it ended."""
        return self._made_at is not None

    def lost(self, error: RedisreplError) -> None:
        """The link has ended, or could not be made."""
        without_frames(error)  # it is kept until the next link was made
        self._lost = error

    @property
    def worked(self) -> bool:
        """Whether the link that there is, or was last, has lived long enough."""
        return self._made_at is not None and self._clock() - self._made_at >= self._works_after

    def _is_refusal_at_start(self, error: Exception) -> bool:
        return isinstance(error, RefusedError) and not self.accepted_once

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> None:
        lost, worked = self._lost, self.worked
        self._lost = None
        if self._attempts is None or self._attempt is None or lost is None or worked:
            context = stamina.retry_context(on=lambda error: not self.is_final(error), **self._retry)
            self._attempts = aiter(context)  # whose pauses start small again
        else:
            try:
                with self._attempt:
                    raise lost
            finally:
                del lost  # or this call and the error would hold each other
        self._made_at = None
        self._attempt = await anext(self._attempts)
