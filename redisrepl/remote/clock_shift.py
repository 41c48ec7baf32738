"""Expiries on their way between site and hub: each server lets a key expire by its own clock.

In: by how much the hub's clock is ahead of the site's. Out: what is read of the hub, by the site's clock, and what is
sent to it, by the hub's. Left to others: measuring the clocks, and what follows when one was set (`flow.clocks`).

A key is replicated with the time that it has left, so it lives as long at the hub as at the site. Everywhere but
in this package expiries are points in time by the site's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from redisrepl.changes import (
    Change,
    ExpirySet,
    HashSet,
    HashState,
    LargeState,
    SequenceState,
    State,
    StringSet,
    StringState,
    expiry_ms,
)
from redisrepl.wire.digests import Look
from redisrepl.wire.elements import Elements
from redisrepl.wire.fieldtimes import FieldTimes, expiring_fields, moved_by, without_times
from redisrepl.wire.writes import later

__all__ = ["ClockShift"]


class ClockShift:
    """Between the clocks of one site and one hub.

    Attributes:
        ms: by how much the hub's is ahead, in milliseconds, as far as expiries are concerned.
        fields: whether expiries of fields are replicated; who reads or writes the site shares this too.
    """

    def __init__(self) -> None:
        self.ms = 0
        self.fields = FieldTimes()

    def digesting(self, script: bytes) -> bytes:
        """A script for the hub, that digests expiries of fields by the site's clock."""
        return self.fields.script(script, self.ms)

    def expiry(self, expires_at_ms: int | None) -> int | None:
        """An expiry at the hub, by the site's clock."""
        if expires_at_ms is None:
            return None
        return type(expires_at_ms)(expiry_ms(expires_at_ms - self.ms))  # a `ReckonedExpiry` remains one

    def state(self, state: State) -> State:
        """What a key of the hub holds, by the site's clock."""
        if not self.ms:
            return state
        match state:
            case HashState(fields, expires_at_ms):
                return replace(state, fields=moved_by(fields, -self.ms), expires_at_ms=self.expiry(expires_at_ms))
            case StringState() | SequenceState():
                return replace(state, expires_at_ms=self.expiry(state.expires_at_ms))
            case _:
                return state

    def large(self, state: LargeState) -> LargeState:
        """Likewise a large collection."""
        return replace(state, expires_at_ms=self.expiry(state.expires_at_ms)) if self.ms else state

    def elements(self, elements: Elements) -> Elements:
        """Likewise some elements of one."""
        if not self.ms:
            return elements
        sections = [section._replace(found=moved_by(section.found, -self.ms)) for section in elements.sections]
        return elements._replace(expires_at_ms=self.expiry(elements.expires_at_ms), sections=sections)

    def looks(self, looks: dict[bytes, Look]) -> dict[bytes, Look]:
        """Likewise digests of keys."""
        if not self.ms:
            return looks
        return {key: look._replace(expires_at_ms=self.expiry(look.expires_at_ms)) for key, look in looks.items()}

    def changes(self, changes: Iterable[Change]) -> list[Change]:
        """Changes of the hub, by the site's clock; of fields without expiries, unless these are replicated now."""
        sent = changes if self.fields.on else map(without_times, changes)
        return list(map(self._change, sent) if self.ms else sent)

    def commands(self, commands: Sequence[Sequence[bytes]]) -> Sequence[Sequence[bytes]]:
        """Commands for the hub, by its own clock."""
        return [later(command, self.ms) for command in commands] if self.ms else commands

    def _change(self, change: Change) -> Change:
        match change:
            case StringSet() | ExpirySet():
                return replace(change, expires_at_ms=self.expiry(change.expires_at_ms))
            case HashSet(_, fields) if timed := expiring_fields(fields):
                return replace(change, fields={**fields, **moved_by(timed, -self.ms)})
            case _:
                return change
