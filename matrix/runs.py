"""One program, tried by every case that is for it.

In: a program that can be started, a role. Out: the result of each case, and of a failure the place of its logs.
Left to others: the cases (`matrix.cases`), fetching (`fetching`), the table (`report`).

Each try is a run of pytest in a process of its own, whose environment names the programs; the seed decides the order of
the cases and all that is random in them.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from matrix.fetching import Fetched

__all__ = ["CASES", "ROLES", "Outcome", "Role", "choice_of", "roles_of", "try_program"]

CHECKOUT = Path(__file__).parents[1]
_TIMEOUT = 1800

#: Column of the table > which tests it stands for: files whose names begin so, and words in the test's name.
CASES = {
    "both ways": ("test_life", ("both_ways", "kinds")),
    "no writes": ("test_life", ("no_writes",)),
    "kill -9": ("test_life", ("kill_9",)),
    "outage": ("test_life", ("outage",)),
    "restarts": ("test_life", ("with its data",)),
    "empty restarts": ("test_life", ("[empty]",)),
    "hub's Redis": ("test_hub_redis", ()),
    "backlog lost": ("test_life", ("backlog",)),
    "second channel": ("test_life", ("dual_channel",)),
    "removals": ("test_life", ("removals",)),
    "every command": ("test_types", ()),
    "notify source": ("test_notify_source", ()),
    "fields expire": ("test_fields_expire", ()),
    "beside 1.2": ("test_against", ()),
    "check": ("test_commands", ("check",)),
    "verify": ("test_commands", ("verify",)),
    "tail": ("test_commands", ("tail",)),
    "rdb": ("test_commands", ("rdb",)),
    "suite": ("", ()),
}
#: Tests of every command that the server lists as a write, and of those that leave a key empty, or once did.
EVERY_COMMAND = (
    "tests/e2e/test_types.py::test_every_write_command_of_each_side_comes_to_all",
    "tests/e2e/test_types.py::test_what_a_command_leaves_empty_is_gone_everywhere",
    "tests/e2e/test_types.py::test_what_is_emptied_and_filled_anew_is_the_same_everywhere",
)
#: Tests of the suite that depend on what a server does.
SUITE = (
    "tests/local/test_replica.py",
    "tests/local/test_notify.py",
    "tests/local/test_apply.py",
    "tests/local/test_read.py",
    "tests/local/test_compare.py",
    "tests/wire/rdb/test_real_server.py",
    "tests/remote/test_compare.py",
    "tests/remote/test_fetch.py",
)


@dataclass(frozen=True, slots=True)
class Role:
    """What a program is tried as, and how the test bed is told.

    `variables` take the path of the program in place of {}.
    """

    name: str
    variables: dict[str, str]
    files: tuple[str, ...] = ("matrix/cases",)


_LIFE = ("matrix/cases/test_life.py",)
_HUB_ONLY = (
    "matrix/cases/test_life.py",
    "matrix/cases/test_commands.py",
    "matrix/cases/test_notify_source.py",
    *EVERY_COMMAND,
)
ROLES = {
    "server": (
        Role("both", {"TESTBED_REDIS": "{}"}, ("matrix/cases", *EVERY_COMMAND, *SUITE)),
        Role("site", {"TESTBED_REDIS": "{}", "TESTBED_HUB_REDIS": "redis-server"}, _LIFE),
        Role("hub", {"TESTBED_HUB_REDIS": "{}"}, _LIFE),
    ),
    "webdis": (Role("hub", {"TESTBED_WEBDIS": "{}"}, (*_HUB_ONLY, "matrix/cases/test_hub_redis.py")),),
    "nginx": (Role("front", {"TESTBED_FRONT": "nginx={}"}, _HUB_ONLY),),
    "haproxy": (Role("front", {"TESTBED_FRONT": "haproxy={}"}, _HUB_ONLY),),
    "stunnel": (Role("front", {"TESTBED_FRONT": "stunnel={}"}, _HUB_ONLY),),
    "proxy": (Role("proxy", {"TESTBED_CONNECT": "{}"}, _HUB_ONLY),),
    "python": (Role("daemon", {"TESTBED_PYTHON": "{}"}, ("matrix/cases",)),),
}


def roles_of(family: str) -> tuple[Role, ...]:
    """What programs of a family are tried as."""
    return ROLES["server" if family in {"redis", "valkey"} else family]


def choice_of(cases: Iterable[str]) -> str:
    """What chooses these columns of the table, as pytest's -k; some others may come with them."""
    chosen = []
    for file, words in map(CASES.__getitem__, cases):
        of_words = [word for word in words if word.isidentifier()]
        chosen.append(f"({file} and ({' or '.join(of_words)}))" if of_words == [*words] != [] else file)
    return " or ".join(chosen)


@dataclass
class Outcome:
    """What became of one program in one role.

    `cases` maps a column to how many of its tests passed, failed and were skipped; `failures` names the tests.
    """

    program: Fetched
    role: Role
    seed: int
    cases: dict[str, list[int]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    logs: Path | None = None


def try_program(
    program: Fetched,
    role: Role,
    logs: Path,
    *,
    seed: int | None = None,
    quick: bool = False,
    choice: str = "",
    against: Path | None = None,
) -> Outcome:
    """Run every case of this role; what failed leaves its logs below `logs`, with the seed.

    `quick` leaves out the tests of the suite; `choice` chooses cases, as pytest's -k. `against` is another
    program, with the flags of redisRepl 1.2, for a second site.
    """
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    place = logs / f"{program.program.name}-{role.name}-{seed}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    results = place / "results.xml"
    named = {name: value.format(program.path) for name, value in role.variables.items()}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TESTBED_", "REDISREPL_"))}
    environment |= named | {
        "TESTBED_KEEP": str(place / "servers"),
        "TESTBED_SEED": str(seed),
        "PYTHONPATH": str(CHECKOUT),
    }
    if against is not None:
        environment["TESTBED_AGAINST"] = str(against.absolute())
    words = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "randomly", "-p", "no:cacheprovider"]
    words += [
        f"--randomly-seed={seed}",
        f"--junitxml={results}",
        "--timeout=400",
        *(file for file in role.files if not quick or file not in SUITE),
    ]
    words += ["-k", choice] if choice else []
    with (place / "pytest.log").open("wb") as log:
        shown = " ".join(f"{name}={value}" for name, value in named.items())
        log.write(f"{shown} {' '.join(words[1:])}\n".encode())
        log.flush()
        try:
            subprocess.run(
                words,
                cwd=CHECKOUT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
                timeout=_TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            log.write(f"not done after {_TIMEOUT} s\n".encode())
    outcome = Outcome(program, role, seed)
    if results.exists():
        for test in ET.parse(results).getroot().iter("testcase"):
            _count(test, outcome)
    if not outcome.cases:
        outcome.failures.append("no test ran")
    if outcome.failures:
        outcome.logs = place
    else:
        shutil.rmtree(place)
    return outcome


def _count(test: ET.Element, outcome: Outcome) -> None:
    """Count a test for its column."""
    where, name = test.get("classname", ""), test.get("name", "")
    file = where.rpartition(".")[2]
    found = (
        column
        for column, (of, words) in CASES.items()
        if file.startswith(of) and (not words or any(w in name for w in words))
    )
    counts = outcome.cases.setdefault(next(found, "suite"), [0, 0, 0])
    if test.find("failure") is not None or test.find("error") is not None:
        counts[1] += 1
        outcome.failures.append(f"{where.replace('.', '/')}.py::{name}")
    elif test.find("skipped") is not None:
        counts[2] += 1
    else:
        counts[0] += 1
