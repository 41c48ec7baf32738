"""Whether a key that a server denies us is denied alone, or all are, while somebody edits an ACL.

In: keys that were denied, and keys that were not. Out: which of them are denied alone; or an error: then nothing is the
matter with them, and it is waited until the server lets us in again. Left to others: asking, and what becomes of a key.

An ACL may be edited between two commands, so that one key was denied and the next one is not. So a key counts as denied
alone only if it is denied twice, and others pass in between.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping

from redisrepl.changes import DENIED, State
from redisrepl.errors import RefusedError

__all__ = ["Denials"]

#: Keys that are remembered as denied once.
_MOST = 1 << 17


class Denials:
    """What one server denies.

    Args:
        server: for messages.
        denied: whether a key is denied now.
    """

    def __init__(self, server: str, denied: Callable[[bytes], Awaitable[bool]]) -> None:
        self._server = server
        self._denied = denied
        self._passed: bytes | None = None
        self._once: dict[bytes, None] = {}  # denied once, while others passed

    def passed(self, keys: Collection[bytes]) -> None:
        """The server let us have these keys."""
        self._passed = next(iter(keys), self._passed)
        for key in self._once.keys() & keys:
            del self._once[key]

    async def look(self, states: Mapping[bytes, State]) -> set[bytes]:
        """Of keys that were read together, those that are to be read again; what else is denied, is denied alone.

        Raises:
            RefusedError: as `alone`.
        """
        denied = [key for key, state in states.items() if state is DENIED]
        if len(denied) < len(states):
            self.passed([key for key, state in states.items() if state is not DENIED])
        elif denied:
            await self._others_pass("")
        return {key for key in denied if not self._twice(key)}

    async def alone(self, key: bytes, error: str) -> bool:
        """Whether a key that was denied is denied alone; if not, it is to be asked for again.

        Raises:
            RefusedError: a key is denied too that was not before, or none has passed yet. Others: it cannot be asked.
        """
        await self._others_pass(error)
        return self._twice(key)

    def _twice(self, key: bytes) -> bool:
        if key in self._once:
            del self._once[key]
            return True
        self._once[key] = None
        if len(self._once) > _MOST:
            del self._once[next(iter(self._once))]
        return False

    async def _others_pass(self, error: str) -> None:
        if self._passed is None or await self._denied(self._passed):
            said = f": {error}" if error else ""
            raise RefusedError(
                f"{self._server} denies us every key: allow this user the keys of the namespaces (ACL ~){said}"
            )
