"""The site's fence at the hub: what keeps a request that was given up from being executed later.

In: word that the outcome of a request is not known. Out: a new epoch at the hub, and which batches it has executed.
Left to others: refusing requests of an earlier epoch (the script of `wire.batches`), what follows from the numbers
(`engine.continuity`, `flow.pushing`).

A proxy, Webdis or a queue in between may execute a request seconds after its sender has given up on it, and put an old
value over a newer one. So each batch carries the site's epoch, and the hub refuses an epoch that is not the latest. The
epoch is raised after a restart and after each unknown outcome, in a request of its own, before anything else is sent
or compared: from then on what was on its way either was executed or never will be.

The fence is one hash outside of the namespaces, `redisrepl:fence:ORIGIN`, with an expiry of 30 days: field `epoch`, and
for each slot the number of the last batch that was executed. It is lost with what the hub loses, so it also tells how
far back a hub has gone.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

import structlog

from redisrepl.errors import CommandRefusedError, ProtocolError
from redisrepl.remote.hub import Hub
from redisrepl.wire.batches import NO_FENCE, Fencing
from redisrepl.wire.replies import as_pairs, number

__all__ = ["NOT_LAST", "Fence", "NoFence"]

_log = structlog.get_logger("redisrepl")

_PREFIX = b"redisrepl:fence:"
_LIFETIME = b"2592000"  # 30 days
#: Raises the epoch to at least ARGV[2] and above the one that is there; returns all fields as they are then, and what
#: the epoch was.
_RAISE = b"""\
local epoch = redis.call('HGET', ARGV[1], 'epoch') or '0'
local new = tonumber(ARGV[2])
if tonumber(epoch) >= new then new = tonumber(epoch) + 1 end
redis.call('HSET', ARGV[1], 'epoch', new)
redis.call('EXPIRE', ARGV[1], ARGV[3])
local out = redis.call('HGETALL', ARGV[1])
out[#out + 1] = 'was'
out[#out + 1] = epoch
return out
"""
#: Returns the same without raising it.
_READ = b"""\
local out = redis.call('HGETALL', ARGV[1])
out[#out + 1] = 'was'
out[#out + 1] = redis.call('HGET', ARGV[1], 'epoch') or '0'
return out
"""
#: Notes a number and puts off the expiry, if the fence is there; whether it is.
_MARK = b"""\
local epoch = redis.call('HGET', ARGV[1], 'epoch')
if not epoch then return {'lost'} end
if epoch ~= ARGV[5] then return {'late'} end
redis.call('HSET', ARGV[1], ARGV[2], ARGV[3])
redis.call('EXPIRE', ARGV[1], ARGV[4])
return {'kept'}
"""
#: In the place of a slot, for what no batch has noted.
_MARKED = b"9998"
#: Added to the slot of parts of a batch that others follow.
NOT_LAST = 10_000
#: Follows a slot of whose last batch a write was refused, or found its condition not to hold.
_FLAWED = b"!"


class NoFence:
    """For who pushes once and does not go on after a failure (`verify --repair`)."""

    found: bool | None = None
    highest = 0

    def noted(self, fencing: Fencing) -> None:
        """Nothing is remembered."""

    def forget(self) -> None:
        """Likewise."""

    def holds_up_to(self) -> float:
        """Nothing is known to be lost."""
        return math.inf

    async def ready(self) -> None:
        """There is nothing to raise."""

    async def look(self) -> None:
        """There is nothing to look at."""

    async def mark(self, number: int) -> bool:  # noqa: ARG002 - as `Fence` has it
        """Nothing is noted, and nothing can be lost."""
        return True

    async def is_there(self) -> bool:
        """Nothing can be lost."""
        return True

    def was_executed(self, number: int) -> bool:  # noqa: ARG002 - as `Fence` has it
        """Nobody knows."""
        return False

    def doubt(self) -> None:
        """Nothing is sent again."""

    def denied(self) -> None:
        """None was asked for."""

    def fencing(self, slot: int, number: int) -> Fencing:  # noqa: ARG002 - as `Fence` has it
        """No fence."""
        return NO_FENCE


class Fence(NoFence):
    """The fence of one site.

    Args:
        hub: where it is.
        origin: who we are.
        epoch: the last one that was in force, from the store.
        known: the last numbers that the hub is known to have had, by slot, from the store.

    Attributes:
        epoch: in force, once `ready` has returned.
        executed: number of the last batch that the hub has executed, by slot, as of when the epoch was raised.
        found: the fence was there, as we had left it, when the epoch was raised; None: nobody has looked, or it cannot
            be had.
        highest: of the numbers in `executed`.
        allowed: the hub lets us have a fence, as far as is known.
        raised: how often the epoch was raised.
        known: the last numbers that the hub is known to have had, by slot.
    """

    def __init__(self, hub: Hub, origin: bytes, epoch: int = 0, known: Mapping[int, int] | None = None) -> None:
        self._hub = hub
        self._key = _PREFIX + origin
        self._raise = asyncio.Lock()
        self._wanted = 1  # raises that were asked for
        self.epoch = epoch
        self.executed: Mapping[int, int] = {}
        self._flawed: Mapping[int, int] = {}
        self.found: bool | None = None
        self.allowed = True
        self.raised = 0
        self.known = dict(known or {})
        self._known_then: Mapping[int, int] = {}  # when the hub was asked last
        self._forgotten = False  # the fence was lost, and has not been raised since

    def noted(self, fencing: Fencing) -> None:
        """The hub has executed what carried this, and noted it in the fence.

        A reply that comes after the fence was lost, or raised, says nothing about the one that is there now.
        """
        if fencing.slot < NOT_LAST and fencing.epoch == self.epoch:
            self.known[fencing.slot] = fencing.number

    @property
    def newest(self) -> int:
        """The highest number that the hub is known to have had."""
        return max(self.known.values(), default=0)

    def holds_up_to(self) -> float:
        """Up to which number the hub has what it is known to have had, as of the last look; infinity: it has all.

        Its history is a prefix: what a slot lacks, it lacks with all that came later.
        """
        if self.found is None:
            return math.inf
        if not self.found:
            return 0
        behind = [slot for slot, number in self._known_then.items() if self.executed.get(slot, 0) < number]
        return min((self.executed.get(slot, 0) for slot in behind), default=math.inf)

    async def ready(self) -> None:
        """Raise the epoch if that is due; what is sent or read after this cannot be overtaken by what was given up.

        Raises:
            RedisreplError: the hub cannot be asked.
        """
        while self._is_due():
            async with self._raise:
                if self._is_due():
                    await self._raise_epoch()

    def _is_due(self) -> bool:
        return self.allowed and self.raised < self._wanted

    async def _raise_epoch(self) -> None:
        wanted = self._wanted
        if await self._take(_RAISE, b"%d" % (self.epoch + 1)):
            self.raised, self._forgotten = wanted, False

    async def look(self) -> None:
        """Find out whether the fence is as we left it, and what has been executed; raise the epoch if that is due.

        Raises:
            RedisreplError: the hub cannot be asked.
        """
        if self.raised < self._wanted:
            await self.ready()
        elif self.allowed:
            async with self._raise:
                await self._take(_READ, b"0")

    async def _take(self, script: bytes, epoch: bytes) -> bool:
        """Run a script that returns all fields; whether the hub lets us."""
        known = dict(self.known)  # what is acknowledged meanwhile may have been executed after this
        try:
            flat = await self._hub.eval(script, (self._key, epoch, _LIFETIME))
        except CommandRefusedError as error:
            self.denied(str(error))
            return False
        pairs = as_pairs(flat, "the fence's script at the hub")
        try:
            was, now = _number(pairs.pop(b"was")), _number(pairs.pop(b"epoch", b"0"))
            fields = {slot: _number(told) for slot, told in pairs.items()}
            self.executed = {_number(slot): told for slot, told in fields.items() if not slot.endswith(_FLAWED)}
            flawed = {
                _number(slot.removesuffix(_FLAWED)): told for slot, told in fields.items() if slot.endswith(_FLAWED)
            }
        except KeyError:
            raise ProtocolError("the hub's reply about the fence is not what the script returns") from None
        self._flawed, self._known_then = flawed, known
        self.found = was >= self.epoch or self._forgotten
        self.epoch = max(self.epoch, now)
        self.highest = max(self.executed.values(), default=0)
        return True

    async def mark(self, number: int) -> bool:
        """Note a number, as batches do; whether the fence was there, as far as the hub lets us know.

        Raises:
            RedisreplError: the hub cannot be asked.
        """
        if not self.allowed or not self.raised:
            return True
        try:
            words = (self._key, _MARKED, b"%d" % number, _LIFETIME, b"%d" % self.epoch)
            outcome = await self._hub.eval(_MARK, words)
        except CommandRefusedError as error:
            self.denied(str(error))
            return True
        if outcome == [b"kept"]:
            self.known[int(_MARKED)] = number
        elif outcome == [b"late"]:
            self.doubt()
        return outcome != [b"lost"]

    async def is_there(self) -> bool:
        """Whether the hub still has the fence, as far as it lets us know.

        Raises:
            RedisreplError: the hub cannot be asked.
        """
        if not self.allowed or not self.raised:
            return True
        try:
            return await self._hub.text_or_none(b"HGET", self._key, b"epoch") is not None
        except CommandRefusedError as error:
            self.denied(str(error))
            return True

    def forget(self) -> None:
        """The fence was lost: what the hub was known to have had is nothing to go by any more."""
        self.known.clear()
        self.epoch += 1
        self._forgotten = True

    def was_executed(self, number: int) -> bool:
        """Whether the hub had executed all of a batch when the epoch was raised, and refused nothing of it."""
        flaws, marked = self._flawed, int(_MARKED)
        return any(
            last == number and number not in (flaws.get(slot), flaws.get(slot + NOT_LAST))
            for slot, last in self.executed.items()
            if slot < marked
        )

    def doubt(self) -> None:
        """The outcome of a request is not known."""
        self._wanted = self.raised + 1

    def denied(self, error: str = "an ACL denies the key") -> None:
        """The hub does not let us have a fence; said once."""
        if self.allowed:
            self.allowed, self.found = False, None
            _log.warning(
                "hub.no_fence",
                key=self._key.decode("ascii", "backslashreplace"),
                error=error,
                cost="a request that timed out may be executed late, over a newer value",
                hint="let this client EVAL, HGET, HSET and EXPIRE keys that begin with redisrepl:fence: at the hub",
            )

    def fencing(self, slot: int, number: int) -> Fencing:
        """What a request carries."""
        return Fencing(self._key, self.epoch, slot, number) if self.allowed else NO_FENCE


def _number(text: bytes) -> int:
    """A number that batches may have; no later one would fit into what the script compares."""
    value = number(text)
    if value is None or value < 0:
        raise ProtocolError("the hub's reply about the fence holds no number where one belongs")
    return value
