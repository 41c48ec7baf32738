"""Which servers redisrepl was tried with, and which of them is nearest to another.

In: the name and version of a server. Out: a sentence, if nothing like it was tried. Left to others: trying
(`make matrix`, whose results are in docs/compatibility.md), asking servers (`subcommands.check_site`,
`subcommands.check_hub`).
"""

from __future__ import annotations

import re

from redisrepl.wire.replies import Info

__all__ = ["TESTED", "not_tried"]

#: What passed every case; a test compares it with docs/compatibility.md.
TESTED: dict[str, tuple[str, ...]] = {
    "Redis": ("6.2.5", "6.2.14", "7.0.15", "7.2.4", "7.4.1", "8.0.2", "8.0.6", "8.2.3", "8.6.2", "8.6.3"),
    "Valkey": ("8.0.1", "8.1.1", "9.1.2"),
}


#: Who is older has no `SET key value PXAT`.
_OLDEST = (6, 2)


def not_tried(info: Info) -> str | None:
    """What to know of a server whose minor version was not tried; None if it was, or if INFO names no version."""
    family = "Valkey" if info.text("valkey_version") else "Redis"
    version = info.text("valkey_version") or info.text("redis_version") or ""
    numbers = _numbers(version)
    tried = sorted(map(_numbers, TESTED[family]))
    if not numbers or any(numbers[:2] == each[:2] for each in tried):
        return None
    if numbers < _OLDEST:
        return (
            f"{family} {version} is too old: values with an expiry time cannot be written to it, since SET has PXAT "
            "from 6.2 on: upgrade it to 6.2 or later"
        )
    nearest = max((each for each in tried if each <= numbers), default=tried[0])
    name = ".".join(map(str, nearest))
    return (
        f"{family} {version} was not tried with this version of redisrepl; {name}, the nearest that was, works: "
        "run `redisrepl verify` some time after the start, which says whether both sides are equal"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))
