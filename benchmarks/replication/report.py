"""Tables for a terminal and for the document.

In: an `Outcome` and what it was measured on. Out: text. Left to others: the plot (`plot`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.replication.outcome import Goal, Outcome, Table

__all__ = ["BEGIN", "END", "goals_table", "markdown", "show", "write_between_markers"]

BEGIN = "<!-- made by `make bench`: begin -->"
END = "<!-- made by `make bench`: end -->"
_STYLES = {"met": "green", "NOT MET": "bold red"}


def goals_table(goals: Sequence[Goal]) -> Table:
    """All goals; what other contenders measured stands behind the verdict."""
    contenders = list(dict.fromkeys(name for goal in goals for name in goal.measured))
    rows = [
        [
            goal.what,
            goal.wanted,
            goal.measured.get(first, ""),
            goal.verdict,
            *(goal.measured.get(n, "") for n in others),
        ]
        for first, *others in [contenders or [""]]
        for goal in goals
    ]
    head = contenders[:1] or ["measured"]
    return Table("Goals", ["what", "goal", *head, "verdict", *contenders[1:]], rows)


def show(console: Console, outcome: Outcome, facts: Mapping[str, str]) -> None:
    for table in [goals_table(outcome.goals), *outcome.tables]:
        shown = RichTable(title=table.title, box=box.SIMPLE, title_justify="left", caption=table.note or None)
        for n, column in enumerate(table.columns):
            shown.add_column(column, justify="left" if n < 2 else "right")
        for row in table.rows:
            shown.add_row(*(f"[{_STYLES[cell]}]{cell}[/]" if cell in _STYLES else cell for cell in row))
        console.print(shown)
    for name, value in facts.items():
        console.print(f"{name:14}{value}", highlight=False, markup=False)


def markdown(outcome: Outcome, facts: Mapping[str, str], plot: str | None) -> str:
    parts = [_markdown_table(goals_table(outcome.goals), bold="NOT MET")]
    if plot:
        parts.append(f"![keys a second, and CPU seconds per million writes]({plot})")
    parts += [f"### {table.title}\n\n{_markdown_table(table)}" for table in outcome.tables]
    parts.append("### Measured on\n\n" + _markdown_table(Table("", ["", ""], list(map(list, facts.items())))))
    return "\n\n".join(parts)


def _markdown_table(table: Table, bold: str = "") -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(f'**{cell}**' if cell and cell == bold else cell for cell in cells)} |"

    rule = f"|{'|'.join('---' if n < 2 else '---:' for n in range(len(table.columns)))}|"
    lines = [line(table.columns), rule, *map(line, table.rows)]
    return "\n".join(lines) + (f"\n\n{table.note}" if table.note else "")


def write_between_markers(file: Path, text: str) -> None:
    """Replace what stands between the markers; all else in the document is written by hand and stays."""
    before, begin, rest = file.read_text().partition(BEGIN) if file.exists() else ("# Performance\n\n", "", "")
    if file.exists() and (not begin or END not in rest):
        raise RuntimeError(f"{file} has no lines '{BEGIN}' and '{END}': put them where the tables belong")
    after = rest.partition(END)[2] or "\n"
    file.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")
