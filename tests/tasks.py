"""Coroutines that run beside a test, as long as it needs them."""

from __future__ import annotations

import asyncio
import contextlib


@contextlib.asynccontextmanager
async def beside(*work):
    """Run these meanwhile; the tasks, which are cancelled and awaited at the end."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
