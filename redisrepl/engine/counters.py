"""What went each way since the start, in numbers for people.

In: what `engine.inbound` and `engine.outbound` count. Out: `observe.state`, as metrics and `status` show it.
"""

from __future__ import annotations

__all__ = ["InboundCounters", "OutboundCounters"]


class InboundCounters:
    """What went from hub to site since the start."""

    __slots__ = ("applied", "conflicts", "echoes", "equal", "events", "failed", "fed", "fetched", "stale")

    def __init__(self) -> None:
        self.events = 0  # keyspace events of the namespaces
        self.echoes = 0  # of those, caused by our own pushes
        self.fed = 0  # changes that other sites' pushes told, taken without a fetch
        self.fetched = 0  # keys read from the hub
        self.stale = 0  # of those, thrown away because the site changed meanwhile (rule 2)
        self.equal = 0  # of those, equal at the site already
        self.applied = 0  # changes written to the site
        self.failed = 0  # changes the site refused
        self.conflicts = 0  # keys written by a client while our apply was on its way (rule 1)


class OutboundCounters:
    """What went from site to hub since the start."""

    __slots__ = ("answered", "echoes", "failed", "pushed", "read", "requests")

    def __init__(self) -> None:
        self.read = 0  # changes of the namespaces seen in the stream
        self.echoes = 0  # of those, our own applies coming back
        self.pushed = 0  # changes acknowledged by the hub
        self.failed = 0  # changes refused by the hub
        self.requests = 0  # batches sent
        self.answered = 0  # changes that the hub has taken, refused or had already
