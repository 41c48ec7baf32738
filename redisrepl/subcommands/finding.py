"""One line of `redisrepl check`, and what both sides are asked alike.

In: what was found. Out: a `Finding`. Left to others: asking (`check_site`, `check_hub`), printing (`check`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from redisrepl.errors import ExitCode, RedisreplError, exit_code
from redisrepl.wire.replies import CLOCK_TOLERANCE, Info

__all__ = ["Finding", "clock_finding", "eviction_findings", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line.

    Attributes:
        what: the precondition.
        said: what was found; where that is not good, followed by a colon and the remedy, as a command if there is one.
        code: OK, or how a daemon would end; None for something that works but could be better.
    """

    what: str
    said: str
    code: ExitCode | None = ExitCode.OK


def failed(what: str, error: RedisreplError) -> Finding:
    """A precondition that an error has answered."""
    return Finding(what, str(error), exit_code(error))


def clock_finding(what: str, there: float) -> Finding:
    """Whether a server's clock is ours, by the Unix time that it gave."""
    off = there - time.time()
    if abs(off) > CLOCK_TOLERANCE:
        remedy = "on the machine that is wrong: timedatectl set-ntp true"
        return Finding(what, f"{off:+.1f} s from ours, so expiries are converted: {remedy}", None)
    return Finding(what, f"{round(off, 1) + 0.0:+.1f} s from ours")


def eviction_findings(what: str, info: Info) -> Iterator[Finding]:
    """Whether the server throws keys away when its memory is full; nothing where it does not tell."""
    policy = info.text("maxmemory_policy")
    if policy is None:
        return
    limit = info.number("maxmemory") or 0
    if limit and policy != "noeviction":
        said = f"{policy} above {limit >> 20} MiB removes keys, which then differ between the sides"
        remedy = "CONFIG SET maxmemory-policy noeviction, then CONFIG REWRITE"
        yield Finding(what, f"{said}: {remedy}", None)
    else:
        yield Finding(what, f"maxmemory {limit >> 20} MiB, noeviction" if limit else "no maxmemory, nothing is evicted")
