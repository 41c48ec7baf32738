"""The table of what was tried, as docs/compatibility.md.

In: outcomes, programs that could not be had. Out: the document; `read` gives its rows back, so that a run of a few
programs keeps the rows of the others. Left to others: trying (`runs`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from matrix.runs import CASES, Outcome

__all__ = ["Row", "document", "passed", "read", "rows_of", "updated"]

#: A row of the table, without its key: family, version, source, role.
Row = tuple[str, str, str, str]
_FAMILIES = {
    "redis": "Redis",
    "valkey": "Valkey",
    "webdis": "Webdis",
    "nginx": "nginx",
    "haproxy": "HAProxy",
    "stunnel": "stunnel",
    "proxy": "CONNECT proxy",
    "python": "Python",
}
_HEAD = """# What it was tried with

`make matrix` writes this file: it tries each of these programs by the same cases, in the roles named. `ok` means that
every test of the case passed, `2/3` that two of three did, and `-` that the case does not concern the program or was
not run. `on` is when cases of the row were run last. Beside the program that is tried stand those that are installed on
the machine.

Redis 6.0 is too old: it has no `SET` with `PXAT`, so values with an expiry time cannot be written to it.

Valkey 9.0.0 gives no answer to some `HPERSIST`, also where redisrepl is not near it; that is why "every command" fails
there. Later versions answer.

Once, with Redis 7.2.6 as hub and 7.0.15 as site, four `kill -9` of the daemon amid writes on both sides did not agree
after 90 seconds. `make kill9` repeats that scene. Both sides agreed in all of 1,020 runs in November 2026, with Redis
7.2.4 as hub, the nearest that can be had, and 7.0.15 as site. The daemon that failed once did not remember what both
sides had agreed on.

| case | what happens |
|---|---|
| both ways | writes of all kinds on both sides, all bytes, values of 1 MB, wide hashes, transactions, scripts |
| no writes | either side takes none for a while: memory is full, a replica is missing, it is a replica |
| kill -9 | the daemon is killed amid writes on both sides |
| outage | the hub cannot be reached while both sides write |
| restarts, empty restarts | the site's Redis, and all of the hub, come back with their data, or without any |
| hub's Redis | it restarts ten times while Webdis goes on, under a long poll and, where Webdis has it, a WebSocket |
| backlog lost | the site wrote more than its backlog holds: a full resynchronisation |
| second channel | the same, where the server is told to send snapshots by a connection of their own |
| removals | of keys and fields, while the daemon runs and while it does not |
| every command | each write command that the server lists, also in transactions and scripts, at two sites and the hub |
| notify source | the site is followed by its keyspace events |
| fields expire | expiries of hash fields, with all that may be in the way; only servers that have them, on both sides |
| beside 1.2 | another site of the hub is followed by redisRepl 1.2, if `make matrix AGAINST=PATH` names one |
| check, verify, tail, rdb | the commands; `rdb` reads a snapshot with a key of every type that the server knows |
| suite | this project's tests that depend on what a server does |

## Results

"""
_ABSENT = (
    "\n## Not to be had\n\nWhat `make matrix` could not get on the machine where it ran last, and did not try:\n\n"
)
_FIRST = ["program", "version", "from", "as", "on"]
_RESULT = re.compile(r"ok|-|\d+/\d+")


def rows_of(outcomes: Iterable[Outcome], date: str) -> dict[Row, tuple[str, ...]]:
    """A row for each outcome: its cells, from the date on."""
    found = {}
    for outcome in outcomes:
        program = outcome.program.program
        row = (_FAMILIES[program.family], outcome.program.version, str(program.source), outcome.role.name)
        found[row] = (date, *(_cell(outcome.cases.get(case)) for case in CASES))
    return found


def updated(
    rows: Mapping[Row, tuple[str, ...]], news: Mapping[Row, tuple[str, ...]], *, whole: bool
) -> dict[Row, tuple[str, ...]]:
    """The rows with the news: `whole` rows, or only those cells that were tried."""
    if whole:
        return {**rows, **news}
    return {
        **rows,
        **{
            row: tuple(old if new == "-" else new for old, new in zip(rows.get(row, cells), cells, strict=True))
            for row, cells in news.items()
        },
    }


def _cell(counts: Sequence[int] | None) -> str:
    if counts is None or not counts[0] + counts[1]:
        return "-"
    return f"{counts[0]}/{counts[0] + counts[1]}" if counts[1] else "ok"


def read(text: str) -> dict[Row, tuple[str, ...]]:
    """The rows of a document as `document` wrote it, with the columns of today: what a new one says, is not known."""
    found: dict[Row, tuple[str, ...]] = {}
    columns: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[:5] == _FIRST:
            columns = cells[5:]
        elif columns and len(cells) == len(columns) + 5 and all(_RESULT.fullmatch(cell) for cell in cells[5:]):
            known = dict(zip(columns, cells[5:], strict=True))
            found[tuple(cells[:4])] = (cells[4], *(known.get(case, "-") for case in CASES))
    return found


def document(rows: Mapping[Row, tuple[str, ...]], absent: Mapping[str, str]) -> str:
    """All of docs/compatibility.md; `absent` says of each program that cannot be had why."""
    lines = [
        "| " + " | ".join((*_FIRST, *CASES)) + " |",
        "|---" * (len(CASES) + 5) + "|",
    ]
    lines += [f"| {' | '.join((*row, *rows[row]))} |" for row in sorted(rows, key=_order)]
    text = _HEAD + "\n".join(lines) + "\n"
    if absent:
        text += _ABSENT + "".join(f"- {name}: {reason}\n" for name, reason in absent.items())
    return text


def _order(row: Row) -> tuple[object, ...]:
    family, version, source, role = row
    numbers = tuple(int(number) for number in re.findall(r"\d+", version))
    return list(_FAMILIES.values()).index(family), numbers, source, role


def passed(rows: Mapping[Row, tuple[str, ...]]) -> list[tuple[str, str]]:
    """Programs, as family and version, that no case failed with in any role."""
    programs = dict.fromkeys(row[:2] for row in rows)
    return [
        each for each in programs if not any("/" in cell for row in rows if row[:2] == each for cell in rows[row][1:])
    ]
