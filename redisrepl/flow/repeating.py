"""A step of work, done again and again: at once after a success, after a pause once it has failed.

In: what to do, and how to wait. Out: nothing, ever. Left to others: what a failure means, which the step has told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import stamina

from redisrepl.errors import RedisreplError

__all__ = ["repeat"]


async def repeat(step: Callable[[], Awaitable[None]], retry: Mapping[str, Any]) -> None:
    """Do this for ever.

    Args:
        step: a failure of it that is one of ours is tried again.
        retry: how to wait between tries, as arguments of `stamina.retry_context`.
    """
    while True:
        async for attempt in stamina.retry_context(on=RedisreplError, **retry):
            with attempt:
                await step()
                while attempt.num == 1:  # nothing failed: a new context for each step would cost more than it
                    await step()
