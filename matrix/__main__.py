"""`make matrix`: tries every program of the table, and writes docs/compatibility.md.

In: which programs, which roles. Out: a line for each, the table; exit code 1 if a case failed. Left to others: the
rest.
"""

from __future__ import annotations

import argparse
import datetime as dt
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from matrix.fetching import Cache, Fetched, UnavailableError
from matrix.places import cache_directory, logs_directory
from matrix.programs import PROGRAMS, Program
from matrix.report import document, read, rows_of, updated
from matrix.runs import CASES, CHECKOUT, Outcome, choice_of, roles_of, try_program

__all__ = ["main"]

DOCUMENT = CHECKOUT / "docs" / "compatibility.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Try them, and say what became of each."""
    parser = argparse.ArgumentParser(prog="make matrix", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="names or beginnings of names, separated by commas: redis-8,webdis")
    parser.add_argument("--role", default="", help="of servers: both, site or hub; all by default")
    parser.add_argument("--case", default="", help="columns of the table, separated by commas: 'every command'")
    parser.add_argument("--quick", action="store_true", help="without the tests of the suite")
    parser.add_argument("--against", type=_runnable, help="a redisRepl 1.2, which follows another site of the hub")
    parser.add_argument("--seed", type=int, help="order of the cases, and chance in them")
    parser.add_argument("--list", action="store_true", help="only say what there is, fetch nothing")
    parser.add_argument("--fetch", action="store_true", help="only fetch")
    parser.add_argument("--report", type=Path, default=DOCUMENT, help="where the table goes")
    given = parser.parse_args(argv)
    programs = _chosen(parser, given.only)
    cases = _cases(parser, given.case)
    if given.list:
        for program in programs:
            print(f"{program.name:18} {program.source}")
        return 0
    cache, outcomes, absent = Cache(cache_directory()), [], {}
    for program in programs:
        fetched = _fetched(cache, program, absent)
        if fetched is None or given.fetch:
            continue
        for role in roles_of(program.family):
            if not given.role or given.role == role.name or len(roles_of(program.family)) == 1:
                chosen = {"seed": given.seed, "quick": given.quick, "against": given.against}
                outcome = try_program(fetched, role, logs_directory(), choice=choice_of(cases), **chosen)
                if cases and not outcome.cases:
                    continue  # they are not for this role
                _say(outcome)
                outcomes.append(outcome)
                _write(given.report, outcomes, absent, whole=not cases)
    failed = sum(bool(outcome.failures) for outcome in outcomes)
    print(f"{len(outcomes)} tried, {failed} with failures, {len(absent)} not to be had")
    return 1 if failed else 0


def _runnable(text: str) -> Path:
    found = shutil.which(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text} cannot be run: give the path of an executable file")
    return Path(found)


def _chosen(parser: argparse.ArgumentParser, only: str) -> list[Program]:
    names = [name for name in only.replace(" ", ",").split(",") if name]
    unknown = [name for name in names if not any(program.name.startswith(name) for program in PROGRAMS)]
    if unknown:
        parser.error(f"no program is called {', '.join(unknown)}; `make matrix LIST=1` lists them")
    return [each for each in PROGRAMS if not names or any(each.name.startswith(name) for name in names)]


def _cases(parser: argparse.ArgumentParser, case: str) -> list[str]:
    cases = [name.strip() for name in case.split(",") if name.strip()]
    choosable = [name for name, (file, _) in CASES.items() if file]
    if unknown := [name for name in cases if name not in choosable]:
        parser.error(f"no case is called {', '.join(unknown)}: give some of {', '.join(choosable)}")
    return cases


def _fetched(cache: Cache, program: Program, absent: dict[str, str]) -> Fetched | None:
    try:
        fetched = cache.get(program)
    except UnavailableError as error:
        absent[f"{program.name} ({program.source})"] = str(error)
        print(f"{program.name}: left out, {error}", flush=True)
        return None
    print(f"{program.name}: version {fetched.version} from {program.source}", flush=True)
    return fetched


def _say(outcome: Outcome) -> None:
    counts = [sum(each) for each in zip(*outcome.cases.values(), strict=True)] or [0, 0, 0]
    said = f"  as {outcome.role.name}: {counts[0]} passed, {counts[1]} failed, {counts[2]} skipped"
    if outcome.failures:
        said += f"; seed {outcome.seed}, logs in {outcome.logs}: {', '.join(outcome.failures)}"
    print(said, flush=True)


def _write(path: Path, outcomes: list[Outcome], absent: dict[str, str], *, whole: bool) -> None:
    """Write the table after each try: a run that is broken off has told what it found. Rows of others stay."""
    rows = read(path.read_text()) if path.exists() else {}
    news = rows_of(outcomes, dt.datetime.now(dt.UTC).date().isoformat())
    path.write_text(document(updated(rows, news, whole=whole), absent))


if __name__ == "__main__":
    sys.exit(main())
