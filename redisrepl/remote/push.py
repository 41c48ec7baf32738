"""Sends commands to the hub, many in one request.

In: commands in order. Out: by key, the error of each write that was refused for good. Left to others: which commands,
and what to do after a failure (`engine.outbound`).

Where scripts are allowed, one `EVAL` carries a whole batch. Where they are refused, each command is a request, and
those of different keys are sent in parallel.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import structlog

from redisrepl.errors import (
    BodyTooLargeError,
    CommandRefusedError,
    HubError,
    RedisreplError,
    ValueTooLargeError,
    denies_key,
)
from redisrepl.remote.bodies import LargeBodies
from redisrepl.remote.fence import NOT_LAST, Fence, NoFence
from redisrepl.remote.fetch import HubReader
from redisrepl.remote.hub import Hub
from redisrepl.remote.patience import LARGE
from redisrepl.remote.refusals import (
    is_denial,
    is_passing,
    is_unauthenticated,
    may_concern_all,
    refuses_scripts,
    unready,
)
from redisrepl.scripts import Scripts
from redisrepl.wire.batches import (
    MOVED,
    UNCHANGED,
    Answer,
    Fencing,
    batch_words,
    changed_nothing,
    command_words,
    parse_batch_reply,
    push_script,
)
from redisrepl.wire.collections import COLLECTIONS
from redisrepl.wire.writes import CONDITIONAL, NO_FIELD, halves_of, plain_command, simple_commands, written_keys

__all__ = ["HubPusher", "Pushed", "Teller"]

_log = structlog.get_logger("redisrepl")


#: Bytes of a body before and behind its words.
_AROUND = len(b"EVAL//0/.raw")
_SMALLEST_BODY = 2 << 10


class _Part(NamedTuple):
    """A command, and its encoding in a batch."""

    command: Sequence[bytes]
    encoded: bytes


class Pushed(NamedTuple):
    """The outcome of commands.

    Attributes:
        errors: by key, the error of each write that was refused for good, or `UNCHANGED` or `MOVED` (`wire.batches`).
            All else was executed.
        time: the hub's time when it executed the last of them, in microseconds; infinity if it does not tell.
    """

    errors: dict[bytes, str]
    time: float


#: Commands > a channel and the message to publish there (`wire.feed`); both empty to publish nothing.
Teller = Callable[[Sequence[Sequence[bytes]]], tuple[bytes, bytes]]


class HubPusher:
    """Pushes commands.

    Args:
        hub: where they go.
        max_body: largest request body in bytes; halved when the hub's proxy says that a body was too large.
        side_by_side: how many single commands may be under way where scripts are refused.
        teller: makes the message to other sites from the commands of a request; None to publish nothing.
        fence: keeps requests that timed out from being executed later; None: nothing does.
        on_fence_lost: called when the hub has lost our fence: it may have lost more.
        types: the types of collection that are replicated beside hashes.
        clock: seconds, for when refused scripts are tried again.

    Attributes:
        scripts: runs the script, and knows whether the hub allows it.
        max_body: the limit in force.
    """

    def __init__(
        self,
        hub: Hub,
        max_body: int,
        *,
        side_by_side: int = 32,
        teller: Teller | None = None,
        fence: Fence | None = None,
        on_fence_lost: Callable[[], None] = lambda: None,
        types: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hub = hub
        self.scripts = Scripts(hub.eval, refuses_scripts, clock=clock)
        self._script = push_script(frozenset(types))
        self._head = len(hub.spell([self._script, *batch_words(bytes(24))])) + _AROUND  # a body without commands
        self._reader = HubReader(hub, types=types)
        self.fence: Fence | NoFence = fence or NoFence()
        self._on_fence_lost = on_fence_lost
        self._teller = teller
        self._single = asyncio.Semaphore(side_by_side)
        self._passed: bytes | None = None  # a key that the hub let us write, to tell a denied key from a denied client
        self.max_body = max_body
        self._large = LargeBodies(hub)

    async def push(self, commands: Sequence[Sequence[bytes]], *, slot: int = 0, number: int = 0) -> Pushed:
        """Run commands in order.

        Args:
            commands: of one batch, with expiries by the site's clock.
            slot: which of the parallel batches this is.
            number: of the batch.

        Raises:
            RedisreplError: a request failed as a whole; see `Hub`. Executed commands may be repeated.
        """
        times: list[float] = []
        commands = self._hub.clock_shift.commands(commands)
        errors = await self._push_all(commands, times, slot, number)
        if refused := {key: error for key, error in errors.items() if _may_concern_all(error)}:
            # Is it these keys, or this client? Only a key that is refused alone may be dropped; a client has to wait.
            if self._passed is None or await self._is_refused(self._passed):
                written = {key for command in commands for key in written_keys(command)}
                raise _refuses_us(next(iter(refused.values())), others=len(errors) < len(written))
            again = [part for command in commands for part in _only(command, refused)]
            with _executed_before(times):  # an administrator may have just edited the ACL
                second = await self._push_all(again, times, slot, number)
            errors = {key: error for key, error in errors.items() if key not in refused} | second
        return Pushed(errors, max(times, default=math.inf))

    async def _push_all(
        self, commands: Sequence[Sequence[bytes]], times: list[float], slot: int, number: int
    ) -> dict[bytes, str]:
        """Run commands in order; returns the errors by key, and adds the hub's times to `times`."""
        errors: dict[bytes, str] = {}
        runs = list(self._fitting(commands))
        with _executed_before(times):
            for parts in runs[:-1]:
                _note(errors, await self._push_parts(parts, times, (slot + NOT_LAST, number)))
            if runs:  # only the last run records the batch as executed
                _note(errors, await self._push_parts(runs[-1], times, (slot, number)))
        self._passed = next(
            (key for command in commands for key in written_keys(command) if not _may_concern_all(errors.get(key, ""))),
            self._passed,
        )
        return errors

    async def _is_refused(self, key: bytes) -> bool:
        """Whether the hub now refuses a key that it let us write before: then it refuses this client, not a key."""
        try:
            await self._hub.command(b"TYPE", key)
        except CommandRefusedError as error:
            return may_concern_all(str(error))
        try:
            await self._hub.command(b"HDEL", key, NO_FIELD)
        except CommandRefusedError as error:  # HDEL alone may be denied: of denials, only that of a key counts
            return denies_key(str(error)) or (may_concern_all(str(error)) and not is_denial(str(error)))
        return False

    def _fitting(self, commands: Iterable[Sequence[bytes]]) -> Iterator[list[_Part]]:
        """Runs of commands that fit into one body each; a run has at least one command."""
        run: list[_Part] = []
        size = self._head
        for command in commands:
            for part in self._parts(command):
                size += len(part.encoded) + 1
                if size > self.max_body and run:
                    yield run
                    run, size = [], self._head + len(part.encoded) + 1
                run.append(part)
        if run:
            yield run

    def _part(self, command: Sequence[bytes]) -> _Part:
        return _Part(command, self._hub.spell(command_words(command)))

    def _parts(self, command: Sequence[bytes]) -> Iterator[_Part]:
        """A command, split until each part fits into a body."""
        part = self._part(command)
        if self._head + len(part.encoded) < self.max_body or len(written_keys(command)) == 1:
            yield part
        else:
            for half in halves_of(command):
                yield from self._parts(half)

    async def _push_parts(
        self, parts: Sequence[_Part], times: list[float], noted: tuple[int, int]
    ) -> list[tuple[bytes, str]]:
        """Run commands that fit into one body; returns what was refused.

        Args:
            parts: of a batch.
            times: receives the hub's time of execution.
            noted: slot and number for the hub to note in the fence.
        """
        try:
            if self.scripts.worth_trying:
                return await self._push_script(parts, times, noted)
            return await self._push_each(parts, times)
        except BodyTooLargeError as error:
            if len(parts) == 1:
                command = parts[0].command
                if len(written_keys(command)) == 1:
                    return [(command[1], str(error))]
                parts = list(map(self._part, halves_of(command)))
            if not isinstance(error, ValueTooLargeError):  # that is about one key, not about later requests
                self.max_body = max(self.max_body // 2, _SMALLEST_BODY)
                _log.warning("push.body_too_large", max_body=self.max_body, error=str(error))
            middle = len(parts) // 2
            first = await self._push_parts(parts[:middle], times, (noted[0] % NOT_LAST + NOT_LAST, noted[1]))
            return first + await self._push_parts(parts[middle:], times, noted)

    async def _push_script(
        self, parts: Sequence[_Part], times: list[float], noted: tuple[int, int]
    ) -> list[tuple[bytes, str]]:
        keys = [key for part in parts for key in written_keys(part.command)]
        feed = self._teller([part.command for part in parts]) if self._teller is not None else (b"", b"")
        if sum(map(len, feed)) + sum(len(part.encoded) for part in parts) + self._head > self.max_body:
            feed = (b"", b"")
        were_allowed = self.scripts.allowed
        fencing = self.fence.fencing(*noted)
        with unready("the hub refused a batch"):
            answer = await self._run_script(parts, feed, len(keys), fencing)
        if answer is not None:
            passing = next(filter(is_passing, answer.errors.values()), None)
            if passing is not None:  # such as LOADING or OOM: not the fault of a key, so the batch is sent again
                error = HubError(f"the hub is not ready for writes: {passing}", status=200)
                error.may_be_executed = len(answer.errors) < len(keys)
                raise error
            if not were_allowed:
                _log.info("push.scripts_allowed")
            times.append(answer.time)
            if answer.fence == "-":
                self.fence.denied()
            elif answer.fence:
                self._on_fence_lost()
            else:
                self.fence.noted(fencing)
            return [(keys[index], error) for index, error in answer.errors.items()]
        errors = await self._push_each(parts, times)
        if set(keys) <= {key for key, error in errors if is_denial(error)}:
            return errors  # single commands are denied too: the refusal did not concern scripts
        if self.scripts.allowed:
            _log.warning("push.scripts_refused", hint="each write is a request of its own now: allow EVAL at the hub")
        self.scripts.refused()
        return errors

    async def _run_script(
        self, parts: Sequence[_Part], feed: tuple[bytes, bytes], writes: int, fencing: Fencing
    ) -> Answer | None:
        """Run the script over commands that make this many writes; None if scripts are refused."""
        token = self.scripts.token()
        spelled = [part.encoded for part in parts]
        request = self.scripts.run(
            self._hub.clock_shift.digesting(self._script),
            batch_words(token, feed, fencing),
            spelled=spelled,
            count=sum(len(part.command) + 1 for part in parts),
            most=LARGE,
        )
        reply = await self._large.answered(request, sum(map(len, spelled)))
        return None if reply is None else parse_batch_reply(reply, writes, token)

    async def _push_each(self, parts: Iterable[_Part], times: list[float]) -> list[tuple[bytes, str]]:
        errors = await self._push_singly([part.command for part in parts])
        times.append(math.inf)
        return errors

    async def _push_singly(self, commands: Iterable[Sequence[bytes]]) -> list[tuple[bytes, str]]:
        """Without scripts: run the commands of one key in order, those of different keys in parallel."""
        by_key: dict[bytes, list[Sequence[bytes]]] = {}
        for command in commands:
            by_key.setdefault(command[1], []).extend(_singly(command))  # the keys of an MSET are in no other command
        together = _Together()

        async def push_in_turn(commands: Iterable[Sequence[bytes]]) -> list[tuple[bytes, str]]:
            return [error for command in commands for error in await self._push_one(command, together)]

        # Wait for all of them, even after a failure: one that went on could overtake a later write of its key.
        turns = list(by_key.values())
        if self._passed is None:
            random.shuffle(turns)  # if only the first keys are refused, another try finds one that passes
        results = await asyncio.gather(*map(push_in_turn, turns), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            try:
                with _executed_before(together.executed):
                    raise next((failure for failure in failures if _may_be_executed(failure)), failures[0])
            finally:
                del failures, results  # or this call and the errors would hold each other
        return [error for result in results if not isinstance(result, BaseException) for error in result]

    async def _push_one(self, command: Sequence[bytes], together: _Together) -> list[tuple[bytes, str]]:
        """Run one command; returns what was refused of it."""
        try:
            async with self._single:
                if together.failure is not None:
                    raise together.failure
                if command[0] in CONDITIONAL:
                    plain, outcome = plain_command(command, await self._reader.state(command[1]))
                    if plain is None:
                        return [(command[1], outcome)]
                    command = plain
                reply: object = 1  # there may be nothing to send: groups take scripts
                for simple in simple_commands(command):
                    reply = await self._large.answered(self._hub.command(*simple), sum(map(len, simple)))
                    together.executed = True
            unchanged = changed_nothing(command, reply)
        except (CommandRefusedError, BodyTooLargeError) as error:
            text, alone = str(error), len(written_keys(command)) == 1
            if is_unauthenticated(text) or (alone and may_concern_all(text) and await self._refuses_all(together)):
                together.failure = _refuses_us(text)
                raise together.failure from None
            if alone:
                return [(command[1], text)]
        except HubError as error:
            together.failure = error
            raise
        else:
            together.refused = -math.inf
            return [(command[1], unchanged)] if unchanged else []
        # One key of an MSET may be the reason: halving finds it in few steps.
        first, second = halves_of(command)
        return await self._push_one(first, together) + await self._push_one(second, together)

    async def _refuses_all(self, together: _Together) -> bool:
        """Whether the hub, which has refused a key, refuses this client."""
        if self._passed is not None:
            return await self._is_refused(self._passed)
        together.refused += 1
        return together.refused >= _MANY


#: Keys that a hub refuses which never let us write one: then it is not about them.
_MANY = 16


class _Together:
    """Single commands that are under way together.

    Attributes:
        failure: the hub's; commands that were not sent yet fail with it.
        refused: keys, as long as none has passed.
        executed: whether one was.
    """

    def __init__(self) -> None:
        self.failure: HubError | None = None
        self.refused = 0.0
        self.executed = False


def _may_concern_all(outcome: str) -> bool:
    """Whether a key was refused, and others may be likewise."""
    return outcome not in ("", *_MILDEST) and may_concern_all(outcome)


def _refuses_us(error: str, *, others: bool = False) -> HubError:
    """The hub refuses keys, though not because of them; `others`: it may have taken others of the same batch."""
    refusal = HubError(f"the hub refuses this client, whatever the key: {error}", status=200)
    refusal.may_be_executed = others
    return refusal


def _may_be_executed(failure: BaseException) -> bool:
    return isinstance(failure, RedisreplError) and failure.may_be_executed


@contextmanager
def _executed_before(executed: object) -> Iterator[None]:
    """Requests of the same batch; if true when one fails, another was executed before, and so a part of the batch."""
    try:
        yield
    except RedisreplError as error:
        error.may_be_executed |= bool(executed)
        raise


def _only(command: Sequence[bytes], keys: Collection[bytes]) -> Iterator[Sequence[bytes]]:
    """The part of a command that concerns these keys."""
    if command[0] != b"MSET":
        if command[1] in keys:
            yield command
    elif left := [(key, value) for key, value in zip(command[1::2], command[2::2], strict=True) if key in keys]:
        yield [b"MSET", *(word for pair in left for word in pair)]


def _singly(command: Sequence[bytes]) -> list[Sequence[bytes]]:
    """A command that sets elements on a condition, as one command for each element; any other as it is."""
    step = _WORDS_OF_ELEMENT.get(command[0])
    if step is None:
        return [command]
    return [[*command[:2], *command[at : at + step]] for at in range(2, len(command), step)]


_WORDS_OF_ELEMENT = {b"HSETNX": 2, b"ZADDNX": 2, b"STREAMNEW": 2, **{kind.put_if: 3 for kind in COLLECTIONS.values()}}

#: The worst outcome of a key is kept: an error before `MOVED`, and that before `UNCHANGED`.
_MILDEST = (UNCHANGED, MOVED)


def _note(errors: dict[bytes, str], found: Iterable[tuple[bytes, str]]) -> None:
    for key, error in found:
        known = errors.get(key)
        if known is None or known == UNCHANGED or (known == MOVED and error not in _MILDEST):
            errors[key] = error
