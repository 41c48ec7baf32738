"""The command line of `make bench`.

In: arguments. Out: tables on the terminal, docs/performance.md and its plot, an exit code.
Left to others: the scenarios.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks.replication.bench import Bench
from benchmarks.replication.costs import cost, growth, hot, idle
from benchmarks.replication.delays import hash_field, large_value, lone_writes
from benchmarks.replication.everyday import everyday, starts
from benchmarks.replication.machine import machine
from benchmarks.replication.outcome import Goal, Outcome
from benchmarks.replication.plot import draw
from benchmarks.replication.rates import distance, push_and_pull
from benchmarks.replication.report import markdown, show, write_between_markers
from benchmarks.replication.scene import Contender, find_profiler
from testbed import Certificates

__all__ = ["main"]

SCENARIOS: dict[str, Callable[[Bench], Outcome]] = {
    "rates": push_and_pull,
    "distance": distance,
    "hot": hot,
    "lone": lone_writes,
    "hash": hash_field,
    "large": large_value,
    "cost": cost,
    "growth": growth,
    "idle": idle,
    "everyday": everyday,
    "starts": starts,
}
_FAILED = "to be measured"
_DOCUMENT = Path(__file__).parents[2] / "docs" / "performance.md"


def main(argv: list[str] | None = None) -> int:
    arguments = _arguments(argv)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - began:6.0f} s  {text}", highlight=False, markup=False)

    facts = machine()
    outcome, interrupted = Outcome(), False
    with Certificates() as certificates:
        bench = Bench(certificates, [Contender.ours(), *arguments.against], say, profile=arguments.profile)
        if arguments.quick:
            bench.hasten()
        bench.keys = arguments.keys or bench.keys
        with contextlib.closing(bench.commands):
            try:
                for name in arguments.only:
                    outcome.add(_run(name, bench))
            except KeyboardInterrupt:
                say("interrupted; what was measured until now is shown, not written")
                arguments.out, interrupted = None, True
    facts["took"] = f"{time.monotonic() - began:.0f} s{', a quick run' if arguments.quick else ''}"
    show(console, outcome, facts)
    if arguments.out:
        _write(arguments.out, outcome, facts)
        say(f"written to {arguments.out}")
    return 1 if interrupted or any(goal.wanted == _FAILED for goal in outcome.goals) else 0


def _run(name: str, bench: Bench) -> Outcome:
    try:
        return SCENARIOS[name](bench)
    except Exception as error:  # noqa: BLE001 - the other goals are measured all the same, and the exit code tells
        bench.say(f"{name} failed: {error}")
        ours, *others = bench.contenders
        if others:  # another program's failure is no reason not to measure this one
            return _run(name, replace(bench, contenders=[ours]))
        return Outcome(goals=[Goal(name, _FAILED, {ours.name: str(error)}, met=False)])


def _write(document: Path, outcome: Outcome, facts: dict[str, str]) -> None:
    plot = document.with_suffix(".svg")
    draws = bool(outcome.rates or outcome.curves)
    if draws:
        draw(outcome, plot)
    write_between_markers(document, markdown(outcome, facts, plot.name if draws else None))


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.replication", description="Every goal, measured beside Redis' own replication."
    )
    parser.add_argument("--quick", action="store_true", help="small amounts: shows that it works, proves nothing")
    parser.add_argument("--only", type=_scenarios, default=list(SCENARIOS), help=f"of {','.join(SCENARIOS)}")
    parser.add_argument(
        "--against",
        type=_contender,
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="another program with the same flags; may be repeated",
    )
    parser.add_argument("--keys", type=int, help="of a rate's measurement (500,000); fewer for a slow machine")
    parser.add_argument("--out", type=Path, help="document to write; default: docs/performance.md after a full run")
    parser.add_argument("--profile", type=Path, help="have py-spy record the daemon while it pushes")
    arguments = parser.parse_args(argv)
    if arguments.profile and not find_profiler():
        parser.error("--profile needs py-spy: .venv/bin/pip install py-spy")
    if not arguments.out and not arguments.quick and len(arguments.only) == len(SCENARIOS):
        arguments.out = _DOCUMENT
    return arguments


def _scenarios(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in SCENARIOS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is not one of {', '.join(SCENARIOS)}")
    return names


def _contender(text: str) -> Contender:
    name, _, path = text.rpartition("=")
    found = shutil.which(path)
    if not found:
        raise argparse.ArgumentTypeError(f"{path} cannot be run: give the path of an executable file")
    name = name or Path(path).name
    return Contender(name if name != Contender.ours().name else f"{name} at {path}", (str(Path(found).absolute()),))


if __name__ == "__main__":
    sys.exit(main())
