"""Commands to the hub, many in one request.

In: commands in order. Out: the error text of those refused for good. Left to others: which commands, and what to do
after a failure (`outbound`).

Where scripts are allowed, one `EVAL` carries hundreds of commands. Where they are not, plain `SET`s travel as `MSET`
and the rest one by one, those of different keys side by side.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from redisrepl.errors import BodyTooLargeError, CommandRefusedError, HubError, OutcomeUnknownError
from redisrepl.remote.session import HubSession
from redisrepl.wire.webdis import CommandError, batch_body, body, encode_batch_command, parse_batch_reply, parse_reply

__all__ = ["HubPusher", "is_passing", "scripts_refused"]

_log = structlog.get_logger("redisrepl")

_Command = Sequence[bytes]

_BODY_HEAD = len(batch_body([]))
_SMALLEST_BODY = 2 << 10

#: Errors of a server that will take the same command later.
_PASSING = ("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN")
#: Words with which scripts are refused: no permission, or a server that knows none.
_NO_SCRIPTS = ("NOPERM", "unknown command", "This Redis command is not allowed")


def is_passing(error: str) -> bool:
    """Whether Redis' error text stands for a state of the server, not for a fault of the command."""
    return error.removeprefix("ERR ").startswith(_PASSING) or (error.startswith("-") and is_passing(error[1:]))


def scripts_refused(error: str) -> bool:
    """Whether Redis' error text says that no script may run at all."""
    return error.removeprefix("ERR ").startswith(_NO_SCRIPTS)


class HubPusher:
    """Pushes commands.

    Args:
        session: HTTPS to the hub.
        max_body: largest request body in bytes; halved when the hub's proxy says that it was too large.

    Attributes:
        scripts: whether the hub allows `EVAL`; found out by trying.
        max_body: the limit in force.
    """

    def __init__(self, session: HubSession, max_body: int) -> None:
        self._session = session
        self.max_body = max_body
        self.scripts = True

    async def push(self, commands: Sequence[_Command]) -> dict[int, str]:
        """Run commands in order.

        Returns:
            Error text by index, of those that were refused for good. All others were executed.

        Raises:
            RedisreplError: the request failed as a whole; see `HubSession.post`. Executed commands may be repeated.
        """
        encoded = [encode_batch_command(command) for command in commands]
        errors: dict[int, str] = {}
        start = 0
        while start < len(commands):
            end = self._fitting(encoded, start)
            errors.update(await self._push_fitting(commands, encoded, start, end))
            start = end
        passing = next((error for error in errors.values() if is_passing(error)), None)
        if passing is not None:
            raise HubError(f"the hub is not ready for writes: {passing}", status=200)
        return errors

    def _fitting(self, encoded: Sequence[bytes], start: int) -> int:
        """The end of the longest run from `start` whose body is small enough; at least one command."""
        size = _BODY_HEAD
        for index in range(start, len(encoded)):
            size += len(encoded[index]) + 1
            if size > self.max_body and index > start:
                return index
        return len(encoded)

    async def _push_fitting(
        self, commands: Sequence[_Command], encoded: Sequence[bytes], start: int, end: int
    ) -> dict[int, str]:
        try:
            if self.scripts:
                found = await self._push_script(commands[start:end], encoded[start:end])
            else:
                found = await self._push_singly(commands[start:end])
        except BodyTooLargeError as error:
            if end - start == 1:
                return {start: str(error)}
            self.max_body = max(self.max_body // 2, _SMALLEST_BODY)
            _log.warning("push.body_too_large", max_body=self.max_body, error=str(error))
            middle = (start + end) // 2
            first = await self._push_fitting(commands, encoded, start, middle)
            return first | await self._push_fitting(commands, encoded, middle, end)
        return {start + index: error for index, error in found.items()}

    async def _push_script(self, commands: Sequence[_Command], encoded: Sequence[bytes]) -> dict[int, str]:
        try:
            return parse_batch_reply(await self._session.post(batch_body(encoded)), len(encoded))
        except CommandRefusedError as error:
            if error.status != 403:  # noqa: PLR2004 - Webdis' ACL
                raise
        except CommandError as error:
            if not scripts_refused(str(error)):
                raise HubError(f"the hub refused a batch: {error}", status=200) from None
        self.scripts = False
        _log.warning("push.scripts_refused", hint="each write is a request of its own now: allow EVAL at the hub")
        return await self._push_singly(commands)

    async def _push_singly(self, commands: Sequence[_Command]) -> dict[int, str]:
        """Without scripts: plain sets in one `MSET`, other keys side by side, commands of one key in order."""
        by_key: dict[bytes, list[int]] = {}
        for index, command in enumerate(commands):
            by_key.setdefault(command[1], []).append(index)
        plain = [
            indexes[0]
            for indexes in by_key.values()
            if len(indexes) == 1 and commands[indexes[0]][0] == b"SET" and len(commands[indexes[0]]) == 3  # noqa: PLR2004
        ]
        errors: dict[int, str] = {}
        if len(plain) > 1:
            words = [word for index in plain for word in commands[index][1:]]
            error = await self._push_one([b"MSET", *words])
            if error is None:
                for index in plain:
                    del by_key[commands[index][1]]

        async def push_key(indexes: list[int]) -> None:
            for index in indexes:
                error = await self._push_one(commands[index])
                if error is not None:
                    errors[index] = error

        # All of them are waited for: one that went on by itself could overtake what is sent for its key later.
        results = await asyncio.gather(*map(push_key, by_key.values()), return_exceptions=True)
        if failures := [failure for failure in results if failure is not None]:
            raise next((failure for failure in failures if isinstance(failure, OutcomeUnknownError)), failures[0])
        return errors

    async def _push_one(self, command: _Command) -> str | None:
        """Run one command; its error text, if it was refused."""
        try:
            parse_reply(await self._session.post(body(*command)))
        except (CommandError, CommandRefusedError) as error:
            return str(error)
        except BodyTooLargeError as error:
            return str(error)
        return None
