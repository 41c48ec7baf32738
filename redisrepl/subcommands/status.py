"""`redisrepl status`: how the daemons of a state directory stand.

In: their sockets. Out: a short table or a line of JSON for each, and an exit code. Left to others: what they tell
(`observe.state`).
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from redisrepl.errors import ExitCode, PeerUnavailableError
from redisrepl.observe.socket import short_path
from redisrepl.observe.words import span

__all__ = ["run"]

#: Seconds that a daemon has; it may wait for its site for one of them.
_PATIENCE = 5.0

_PULL_COUNTS = (("refused", "failed"), ("echoes", "echoes"), ("conflicts", "conflicts"), ("replaced", "replaced"))

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
    documents = [document for path in sorted(directory.glob("*.sock")) if (document := _ask(path)) is not None]
    if not documents:
        raise PeerUnavailableError(
            f"no daemon answers in {directory}: see whether one runs, and give its --state-dir, as its user or as root"
        )
    now = time.time() if now is None else now
    for document in documents:
        out.write(json.dumps(document) + "\n" if as_json else "\n".join(_lines(document, now)) + "\n")
    return ExitCode.OK if all(document["well"] for document in documents) else ExitCode.DIFFERENT


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
    return document if isinstance(document, dict) and "well" in document else None


def _lines(document: _Document, now: float) -> Iterator[str]:
    arrow = "<->" if document["direction"] == "both" else "->"
    yield f"{document['site']} {arrow} {document['hub']}: {'well' if document['well'] else 'NOT WELL'}"
    for name, text in _rows(document, now):
        yield f"  {name:12} {text}"


def _rows(document: _Document, now: float) -> Iterator[tuple[str, str]]:
    for problem in document["problems"]:
        yield "trouble", problem
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
    if document["certificate_expires_at"] is not None:
        end = datetime.fromisoformat(document["certificate_expires_at"])
        left = end - datetime.fromtimestamp(now, UTC)
        yield "certificate", f"expires on {end:%Y-%m-%d}, in {left.days} days"
    memory, running = document["memory_bytes"] >> 20, span(now - document["started_at"])
    yield "process", f"version {document['version']}, pid {document['pid']}, {memory} MB, running for {running}"


def _site(document: _Document, now: float) -> str:
    if document["attached_at"] is None:
        return f"not attached ({document['source']})"
    parts = [f"{document['source']}, attached for {span(now - document['attached_at'])}"]
    if document["position"] is not None:
        parts.append(f"at {document['position']}")
    if document["lag_bytes"] is not None:
        parts.append(f"{document['lag_bytes']:,} bytes behind")
    return ", ".join(parts)


def _subscription(subscription: _Document) -> str:
    if not subscription["live"]:
        return f"{subscription['namespace']} by {subscription['way']}: no sign of life"
    trip = subscription["round_trip_s"]
    said = "" if trip is None else f", round trip {trip * 1000:.1f} ms"
    return f"{subscription['namespace']} by {subscription['way']}: live{said}"


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
