"""Whether a key that a server denies us is denied alone, or all are, while somebody edits an ACL.

In: keys that were denied, and keys that were not. Out: nothing, or an error: then nothing is the matter with the key,
and it is waited until the server lets us in again. Left to others: asking, and what becomes of a key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from redisrepl.changes import DENIED, State
from redisrepl.errors import RefusedError

__all__ = ["Denials"]


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

    def passed(self, key: bytes) -> None:
        """The server let us have this key."""
        self._passed = key

    async def look(self, states: Mapping[bytes, State]) -> None:
        """See that of keys that were read together not all are denied.

        Raises:
            RefusedError: as `alone`.
        """
        passed = next((key for key, state in states.items() if state is not DENIED), None)
        if passed is not None:
            self._passed = passed
        elif states:
            await self.alone("")

    async def alone(self, error: str) -> None:
        """Return if others pass where one key was denied.

        Raises:
            RefusedError: a key is denied too that was not before, or none has passed yet. Others: it cannot be asked.
        """
        if self._passed is None or await self._denied(self._passed):
            said = f": {error}" if error else ""
            raise RefusedError(
                f"{self._server} denies us every key: allow this user the keys of the namespaces (ACL ~){said}"
            )
