"""`redisrepl status`: how the daemons of a state directory stand.

In: their sockets. Out: a few lines or a line of JSON for each, or a live table of all, and an exit code. Left to
others: what they tell (`observe.state`).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from redisrepl.errors import ExitCode, PeerUnavailableError
from redisrepl.observe.words import count, span
from redisrepl.paths import short_path
from redisrepl.showing import plain
from redisrepl.stdio import writing
from redisrepl.wire.replies import CLOCK_TOLERANCE

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["documents", "run", "verdict", "watch"]

#: Seconds that a daemon has; it may wait for its site for one of them.
_PATIENCE = 5.0

_PULL_COUNTS = (
    ("refused", "failed"),
    ("echoes", "echoes"),
    ("conflicts", "conflicts"),
    ("conflicts decided", "conflicts_resolved"),
)

_STATES = {"well": "well", "starting": "starting", "not well": "NOT WELL"}
_STYLES = {"well": "green", "starting": "yellow", "not well": "bold red"}
_CERTIFICATES = (
    ("certificate_expires_at", "ours, for the hub"),
    ("hub_certificate_expires_at", "the hub's"),
    ("site_client_certificate_expires_at", "ours, for the site"),
    ("site_certificate_expires_at", "the site's"),
    ("listen_certificate_expires_at", "that of --listen"),
)

_Document = dict[str, Any]


def run(directory: Path, *, as_json: bool, out: TextIO, now: float | None = None) -> ExitCode:
    """Ask every daemon whose state is in this directory.

    Args:
        directory: theirs.
        as_json: print what each says as one line, instead of a table.
        out: where that goes.
        now: Unix time; None: that of the clock.

    Raises:
        PeerUnavailableError: none answers.
    """
    daemons = documents(directory)
    if not daemons:
        raise PeerUnavailableError(
            f"no daemon answers in {directory}: see whether one runs, and give its --state-dir, as its user or as root"
        )
    now = time.time() if now is None else now
    for document in daemons:
        print(json.dumps(document) if as_json else "\n".join(_lines(document, now)), file=out)
    return verdict(daemons)


def verdict(daemons: list[_Document]) -> ExitCode:
    """That of the daemon that is worst off."""
    states = {document["state"] for document in daemons}
    if "not well" in states:
        return ExitCode.DIFFERENT
    return ExitCode.STARTING if "starting" in states else ExitCode.OK


def watch(directory: Path, *, period: float, out: TextIO, times: int | None = None) -> ExitCode:
    """Show a table of all daemons again and again, until Ctrl-C.

    Args:
        directory: theirs.
        period: seconds between two looks.
        out: where the table goes; on a terminal it stays in its place, elsewhere one follows the other.
        times: how often to look; None: for ever.
    """
    from rich.console import Console  # noqa: PLC0415 - only this needs it
    from rich.live import Live  # noqa: PLC0415

    before: dict[object, _Document] = {}
    daemons: list[_Document] = []
    console = Console(file=out)
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    with contextlib.suppress(KeyboardInterrupt), writing(out), live or contextlib.nullcontext():
        for look in itertools.count(1):
            daemons = documents(directory)
            table = _table(directory, daemons, before)
            if live is not None:
                live.update(table, refresh=True)
            else:  # at once, and not by rich, which would end the process itself when nobody reads any more
                with console.capture() as shown:
                    console.print(table)
                print(shown.get(), file=out, flush=True)
            before = {document["pid"]: document for document in daemons}
            if look == times:
                break
            time.sleep(period)
    return verdict(daemons) if daemons else ExitCode.UNAVAILABLE


def _table(directory: Path, daemons: list[_Document], before: dict[object, _Document]) -> Table:
    """One row for each daemon; `before` is what each said at the last look."""
    from rich import box  # noqa: PLC0415 - only this needs it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    now = time.strftime("%H:%M:%S")
    caption = f"{count(len(daemons), 'daemon')} in {plain(str(directory))}, {now}; Ctrl-C ends this"
    table = Table(caption=Text(caption), box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, expand=True)
    for title, width in (("site and hub", 19), ("ns", 6), ("state", 11)):
        table.add_column(title, overflow="fold", min_width=width)
    for title in ("lag", "waits", "push/s", "apply/s"):
        table.add_column(title, justify="right", no_wrap=True)
    for document in daemons:
        state = document["state"]
        said = "; ".join(document["problems"]) or document["doing"]
        arrow = "<->" if document["direction"] == "both" else "->"
        place = f"{_bare(document['site'])}\n{arrow} {_bare(document['hub'])}"
        cells = [Text(plain(place)), Text(plain(", ".join(document["namespaces"])))]
        cells.append(Text(plain(f"{state}: {said}" if said else state), _STYLES[state]))
        rates = [_rate(document, before.get(document["pid"]), name) for name in ("pushed", "applied")]
        numbers = [_lag(document), f"{document['waiting_keys']:,}", *rates]
        table.add_row(*cells, *(Text(number) for number in numbers))
    return table


def _bare(url: str) -> str:
    return url.partition("://")[2].rstrip("/")


def _lag(document: _Document) -> str:
    if document["attached_at"] is None:
        return "unknown"
    return span(document["oldest_s"] or 0)


def _rate(document: _Document, before: _Document | None, name: str) -> str:
    if before is None or name not in document:
        return "-"
    seconds = document["asked_at"] - before["asked_at"]
    return f"{(document[name] - before[name]) / seconds:,.1f}" if seconds > 0 else "-"


def documents(directory: Path) -> list[_Document]:
    """What every daemon says whose state is in this directory."""
    return [document for path in sorted(directory.glob("*.sock")) if (document := _ask(path)) is not None]


def _ask(path: Path) -> _Document | None:
    """What a daemon says; None: nobody is there any more, or nobody whom we may ask."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_PATIENCE)
        try:
            with short_path(path) as short:
                connection.connect(short)
            with connection.makefile("rb") as answer:
                document = json.loads(answer.read())
        except (OSError, ValueError):
            return None
    return document if isinstance(document, dict) and "state" in document else None


def _lines(document: _Document, now: float) -> Iterator[str]:
    arrow = "<->" if document["direction"] == "both" else "->"
    yield f"{document['site']} {arrow} {document['hub']}: {_STATES[document['state']]}"
    for name, text in _rows(document, now):
        yield f"  {name:12} {text}"


def _rows(document: _Document, now: float) -> Iterator[tuple[str, str]]:
    remedies = {f"{trouble['what']}: {trouble['error']}": trouble["remedy"] for trouble in document["troubles"]}
    for problem in document["problems"]:
        yield "trouble", problem
        if (said := remedies.get(problem)) is not None:
            yield "", said
    if document["doing"]:
        yield "starting", document["doing"]
    yield "namespaces", ", ".join(document["namespaces"])
    yield "site", _site(document, now)
    oldest = "" if document["oldest_s"] is None else f", the oldest for {span(document['oldest_s'])}"
    yield "waiting", f"{document['waiting_keys']:,} keys, {document['waiting_bytes']:,} bytes{oldest}"
    failed, echoes = document["push_failures"], document["echoes_local"]
    yield "pushed", f"{document['pushed']:,}, refused {failed:,}, echoes {echoes:,}, requests {document['requests']:,}"
    if document["direction"] == "both":
        counts = ", ".join(f"{name} {document[key]:,}" for name, key in _PULL_COUNTS)
        yield "pulled", f"{document['applied']:,}, {counts}"
        for subscription in document["subscriptions"]:
            yield "subscription", _subscription(subscription)
    yield "sweep", _sweep(document["sweep"], now)
    yield "scripts", "allowed at the hub" if document["scripts"] else "refused by the hub: each write is a request"
    if abs(ahead := document["hub_clock_ahead_s"] or 0) > CLOCK_TOLERANCE:
        yield "clock", f"the hub's is {ahead:+,.1f} s from ours, so expiries are converted"
    for place, whose in _CERTIFICATES:
        if document[place] is not None:
            end = datetime.fromisoformat(document[place])
            left = (end - datetime.fromtimestamp(now, UTC)).days
            yield "certificate", f"{whose}: expires on {end:%Y-%m-%d}, in {left:,} days"
    memory, running = document["memory_bytes"] >> 20, span(now - document["started_at"])
    yield "process", f"version {document['version']}, pid {document['pid']}, {memory} MB, running for {running}"


def _site(document: _Document, now: float) -> str:
    if document["attached_at"] is None:
        return f"not attached ({document['source']})"
    parts = [f"{document['source']}, attached for {span(now - document['attached_at'])}"]
    if document["position"] is not None:
        parts.append(f"at {document['position']}")
    if document["lag_bytes"] is not None:
        parts.append(f"{document['lag_bytes']:,} bytes behind" if document["lag_bytes"] else "nothing is behind")
    return ", ".join(parts)


def _subscription(subscription: _Document) -> str:
    where = subscription["namespace"] + ("" if subscription["channel"] is None else f" by {subscription['channel']}")
    if not subscription["live"]:
        return f"{where}: no sign of life"
    trip = subscription["round_trip_s"]
    said = "" if trip is None else f", round trip {trip * 1000:.1f} ms"
    return f"{where}: live{said}"


def _sweep(sweep: _Document, now: float) -> str:
    parts = []
    if "finished_at" in sweep:
        parts.append(
            f"last {span(now - sweep['finished_at'])} ago ({sweep['reason']}): {sweep['compared']:,} compared,"
            f" {sweep['different']:,} different"
        )
    if sweep["running"] is not None:
        parts.append(f"one is under way ({sweep['running']})")
    if sweep["owed"] is not None:
        parts.append(f"one is due ({sweep['owed']})")
    if sweep["next_at"] is not None:
        parts.append(f"next in {span(sweep['next_at'] - now)}")
    return "; ".join(parts) or "none yet"
