"""What the hub will announce because of our own pushes.

In: commands about to be sent, and how they ended. Out: expectations; keys to look at again. Left to others: matching
what the hub announces (`engine.inbound`), the map (`engine.echo`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

from redisrepl.engine.echo import ExpectedEvents
from redisrepl.engine.pushes import Pulling
from redisrepl.wire.writes import events_of, written_keys

__all__ = ["PushEchoes"]


class PushEchoes:
    """Events that our own pushes will make the hub send; what it sends beside those that it is asked for is not heard.

    Args:
        expected: remembers them; None: nobody listens.
        pulling: told of keys of which an event may have been taken for one of these; None: likewise.
        announced: names of the events that the hub is asked to send.
        patience: seconds after which an event that did not come is overdue.
    """

    def __init__(
        self, expected: ExpectedEvents | None, pulling: Pulling | None, announced: Collection[bytes], patience: float
    ) -> None:
        self._expected = expected
        self._pulling = pulling
        self._announced = announced
        self._patience = patience

    def __len__(self) -> int:
        """How many have yet to come."""
        return 0 if self._expected is None else len(self._expected)

    def expect(self, commands: Iterable[Sequence[bytes]], now: float) -> None:
        """These commands are about to be sent."""
        if self._expected is None:
            return
        deadline = now + self._patience
        for command in commands:
            for event in self._caused(command):
                self._expected.expect_each(written_keys(command), event, deadline)

    def void(self, keys: Iterable[bytes]) -> None:
        """The events of these keys may have come, may come later, or never: what the hub holds is looked at again."""
        if self._expected is not None:
            self._expected.void(keys)
        if self._pulling is not None:
            self._pulling.mark_dirty(keys)

    def not_caused(self, keys: Collection[bytes], commands: Iterable[Sequence[bytes]]) -> list[bytes]:
        """Of these keys, the hub has not executed these commands: they cause no event.

        Returns:
            Keys of which one did come: it was that of somebody else, and was taken for ours.
        """
        if self._expected is None or not keys:
            return []
        left = self._expected.void(keys)
        caused = Counter(key for command in commands for _ in self._caused(command) for key in written_keys(command))
        return [key for key in keys if caused[key] > left.get(key, 0)]

    def _caused(self, command: Sequence[bytes]) -> Iterator[bytes]:
        return (event for event in events_of(command) if event in self._announced)
