"""The site's fence at the hub: it keeps a request that timed out from being executed later.

In: reports that the outcome of a request is unknown. Out: a new epoch at the hub, and which batches it has executed.
Left to others: refusing requests of an earlier epoch (the script of `wire.batches`), what follows from the numbers
(`engine.continuity`, `flow.pushing`).

A proxy or Webdis may execute a request seconds after its sender stopped waiting, and overwrite a newer value with an
old one. So each batch carries the site's epoch, and the hub refuses an epoch that is not the latest. The epoch is
raised after a restart and after each unknown outcome, in a separate request, before anything else is sent or compared:
a request sent before that either was executed by then, or never will be.

The fence is one hash outside of the namespaces, expiring after 30 days: field `epoch`, and for each slot the number of
the last batch that was executed. Its key is `redisrepl:fence:`, the first namespace, and the origin, so that an ACL can
give each site its own. If the hub loses data, it loses the fence's latest numbers too: so the fence also tells how far
back a hub has gone.
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
from redisrepl.wire.sizes import SMALL

__all__ = ["NOT_LAST", "Fence", "NoFence"]

_log = structlog.get_logger("redisrepl")

_PREFIX = b"redisrepl:fence:"
_LIFETIME = b"2592000"  # 30 days
#: Raises the epoch to at least ARGV[2], and above the present one; returns all fields as they are then, and the former
#: epoch. If ARGV[4] names a former fence, its fields are copied, and its epoch is raised too.
_RAISE = b"""\
local old = ARGV[4] and redis.pcall('HGETALL', ARGV[4]) or {}
if old.err then old = {} end
if #old > 0 and not redis.call('HGET', ARGV[1], 'epoch') then redis.call('HSET', ARGV[1], unpack(old)) end
local epoch = redis.call('HGET', ARGV[1], 'epoch') or '0'
local new = tonumber(ARGV[2])
if tonumber(epoch) >= new then new = tonumber(epoch) + 1 end
redis.call('HSET', ARGV[1], 'epoch', new)
if #old > 0 then redis.pcall('HSET', ARGV[4], 'epoch', new) end
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
#: Sets the number of a slot and renews the expiry: `kept`. `lost`: there is no fence, or the slot has an earlier number
#: than ARGV[6], so that the hub went back; `late`: it has another epoch.
_MARK = b"""\
local epoch = redis.call('HGET', ARGV[1], 'epoch')
if not epoch then return {'lost'} end
if epoch ~= ARGV[5] then return {'late'} end
if tonumber(redis.call('HGET', ARGV[1], ARGV[2]) or 0) < tonumber(ARGV[6]) then return {'lost'} end
redis.call('HSET', ARGV[1], ARGV[2], ARGV[3])
redis.call('EXPIRE', ARGV[1], ARGV[4])
return {'kept'}
"""
#: The slot of numbers that `mark` sets; no batch uses it.
_MARKED = b"9998"
#: Added to the slot of a request that carries a part of a batch, but not its last: the batch is not executed yet.
NOT_LAST = 10_000
#: Appended to a slot: the number of its last batch with a write that was refused, or whose condition did not hold.
_FLAWED = b"!"


class Fence:
    """The fence of one site.

    Args:
        hub: where it is.
        name: of this site alone; an ACL can allow keys by its beginning.
        epoch: the last one in force, from the store.
        known: by slot, the last number that the hub is known to have had, from the store.
        before: the key of the last process' fence, if it was another.

    Attributes:
        key: of the fence.
        epoch: the epoch in force, once `ready` has returned.
        executed: by slot, the number of the last batch that the hub had executed at the last look, or when the epoch
            was raised.
        found: whether the fence was there then, as we had left it; None: nobody has looked, or the hub does not let us
            have one.
        highest: the highest number in `executed`.
        allowed: whether the hub lets us have a fence, as far as we know.
        raised: counts the raises that were asked for and are done.
        known: by slot, the last number that the hub is known to have had.
    """

    def __init__(
        self,
        hub: Hub,
        name: bytes,
        epoch: int = 0,
        known: Mapping[int, int] | None = None,
        *,
        before: bytes = b"",
    ) -> None:
        self._hub = hub
        self.key = _PREFIX + name
        self._before = (before,) if before and before != self.key else ()
        self._raise = asyncio.Lock()
        self._wanted = 1  # raises that were asked for; the first is due at the start
        self.epoch = epoch
        self.executed: Mapping[int, int] = {}
        self._flawed: Mapping[int, int] = {}
        self.found: bool | None = None
        self.allowed = True
        self.raised = 0
        self.known = dict(known or {})
        self._known_then: Mapping[int, int] = {}  # `known` as it was when we last asked the hub
        self._found: dict[int, int] = {}  # by slot, its number when the epoch was raised, if we have set none since
        self._forgotten = False  # whether the fence was lost and not raised since

    def noted(self, fencing: Fencing) -> None:
        """Record that the hub has executed a request with this fencing, and noted it in the fence.

        A reply that arrives after the fence was lost or raised says nothing about the present one, so it is ignored.
        """
        if fencing.slot < NOT_LAST and fencing.epoch == self.epoch:
            self.known[fencing.slot] = fencing.number
            self._found.pop(fencing.slot, None)

    @property
    def newest(self) -> int:
        """The highest number that the hub is known to have had."""
        return max(self.known.values(), default=0)

    def holds_up_to(self) -> float:
        """The number up to which the hub still has what it is known to have had, as of the last look; infinity: all.

        A restored hub has a prefix of its history: if it lacks a number, it lacks all that came later too.
        """
        if self.found is None:
            return math.inf
        if not self.found:
            return 0
        behind = [slot for slot, number in self._known_then.items() if self.executed.get(slot, 0) < number]
        return min((self.executed.get(slot, 0) for slot in behind), default=math.inf)

    async def ready(self) -> None:
        """Raise the epoch if that is due: requests that timed out cannot take effect after this returns.

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
        if await self._take(_RAISE, b"%d" % (self.epoch + 1), *self._before):
            self._before = ()
            self.raised, self._forgotten = wanted, False
            self._found = dict(self.executed)

    async def look(self) -> None:
        """Find out whether the fence is as we left it, and what was executed; raise the epoch if that is due.

        Raises:
            RedisreplError: the hub cannot be asked.
        """
        if self._is_due():
            await self.ready()
        elif self.allowed:
            async with self._raise:
                await self._take(_READ, b"0")
        else:
            await self.ask_again()

    async def ask_again(self) -> None:
        """Have a fence after all, if the hub had not let us, and lets us now.

        Raises:
            RedisreplError: the hub cannot be asked.
        """
        if self.allowed:
            return
        async with self._raise:
            self.forget()  # it says nothing of what was sent without one
            self.doubt()
            await self._raise_epoch()
            if self.raised == self._wanted:
                self.allowed = True
                _log.info("hub.fence_allowed", key=self.key.decode("ascii", "backslashreplace"))

    async def _take(self, script: bytes, epoch: bytes, *before: bytes) -> bool:
        """Run a script that returns all fields, and read them; returns whether the hub allows it."""
        known = dict(self.known)  # batches acknowledged from now on may have been executed after the script
        try:
            flat = await self._hub.eval(script, (self.key, epoch, _LIFETIME, *before), most=SMALL)
        except CommandRefusedError as error:
            self.denied(str(error))
            return False
        pairs = as_pairs(flat, "the fence's script at the hub")
        try:
            was, now = _number(pairs.pop(b"was")), _number(pairs.pop(b"epoch", b"0"))
            fields = {slot: _number(text) for slot, text in pairs.items()}
            self.executed = {_number(slot): last for slot, last in fields.items() if not slot.endswith(_FLAWED)}
            flawed = {
                _number(slot.removesuffix(_FLAWED)): last for slot, last in fields.items() if slot.endswith(_FLAWED)
            }
        except KeyError:
            raise ProtocolError("the hub's reply about the fence is not what the script returns") from None
        self._flawed, self._known_then = flawed, known
        self.found = was >= self.epoch or self._forgotten
        self.epoch = max(self.epoch, now)
        self.highest = max(self.executed.values(), default=0)
        return True

    async def mark(self, number: int) -> bool:
        """Set a number in the fence, as batches do; returns whether it was as we left it, as far as the hub tells.

        Raises:
            RedisreplError: the hub cannot be asked.
        """
        if not self.allowed or not self.raised:
            return True
        try:
            known = b"%d" % self.known.get(int(_MARKED), 0)
            words = (self.key, _MARKED, b"%d" % number, _LIFETIME, b"%d" % self.epoch, known)
            outcome = await self._hub.eval(_MARK, words, most=SMALL)
        except CommandRefusedError as error:
            self.denied(str(error))
            return True
        if outcome == [b"kept"]:
            self.known[int(_MARKED)] = number
        elif outcome == [b"late"]:
            self.doubt()
        return outcome != [b"lost"]

    async def is_there(self) -> bool:
        """Whether the hub still has the fence, as far as it tells.

        Raises:
            RedisreplError: the hub cannot be asked.
        """
        if not self.allowed or not self.raised:
            return True
        try:
            return await self._hub.text_or_none(b"HGET", self.key, b"epoch") is not None
        except CommandRefusedError as error:
            self.denied(str(error))
            return True

    def forget(self) -> None:
        """The fence was lost: the numbers that the hub was known to have had no longer mean anything."""
        self.known.clear()
        self._found.clear()
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
        """The outcome of a request is unknown: the epoch has to be raised."""
        self._wanted = self.raised + 1

    def denied(self, error: str = "an ACL denies the key") -> None:
        """The hub does not let us have a fence; logged once."""
        if self.allowed:
            self.allowed, self.found = False, None
            _log.warning(
                "hub.no_fence",
                key=self.key.decode("ascii", "backslashreplace"),
                error=error,
                cost="a request that timed out may be executed late, over a newer value",
                hint="let this client EVAL, HGET, HSET and EXPIRE keys that begin with redisrepl:fence: at the hub",
            )

    def fencing(self, slot: int, number: int) -> Fencing:
        """The fencing that a request carries."""
        if not self.allowed:
            return NO_FENCE
        of = slot % NOT_LAST
        return Fencing(self.key, self.epoch, slot, number, max(self.known.get(of, 0), self._found.get(of, 0)))


class NoFence:
    """Stands in for a fence where a pusher needs none: for `verify --repair`, which pushes once and stops at a failure.

    It has what a pusher asks of a `Fence`, and nothing else.
    """

    allowed = False

    async def ready(self) -> None:
        """Do nothing: there is no epoch to raise."""

    def fencing(self, slot: int, number: int) -> Fencing:  # noqa: ARG002 - as `Fence` has it
        """`NO_FENCE`."""
        return NO_FENCE

    def noted(self, fencing: Fencing) -> None:
        """Do nothing."""

    def denied(self) -> None:
        """Do nothing."""

    def doubt(self) -> None:
        """Do nothing."""

    def was_executed(self, number: int) -> bool:  # noqa: ARG002 - as `Fence` has it
        """False: that is unknown."""
        return False


def _number(text: bytes) -> int:
    """A number in the fence's fields."""
    value = number(text)
    if value is None or value < 0:
        raise ProtocolError("the hub's reply about the fence holds no number where one belongs")
    return value
