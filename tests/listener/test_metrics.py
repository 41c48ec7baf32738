"""The metrics: their names follow the rules, the documents list them, and Prometheus' own parsers read them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from redisrepl.listener.metrics import Metrics
from tests.listener.subject import DOCUMENT

DOCUMENTED = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()


def families(lag=0.5, **changes):
    text, _ = Metrics().text(DOCUMENT | changes, lag)
    return {family.name: family for family in parse(text.decode())}


def value(name, **labels):
    (sample,) = [sample for sample in families()[name].samples if sample.labels == labels]
    return sample.value


def test_both_formats_can_be_read_and_say_the_same():
    metrics = Metrics()
    plain, kind = metrics.text(DOCUMENT, 0.5, "text/plain")
    assert kind.startswith("text/plain")
    modern, kind = metrics.text(DOCUMENT, 0.5, "application/openmetrics-text; version=1.0.0, text/plain;q=0.5")
    assert kind.startswith("application/openmetrics-text")
    ours = {family.name for family in parse(plain.decode()) if family.name.startswith("redisrepl_")}
    assert ours == {f.name for f in parse_openmetrics(modern.decode()) if f.name.startswith("redisrepl_")}


@pytest.mark.parametrize("version", ["x", "1.x", '"1.0.0"', "1.0.0-rc", "9" * 5000, "\xe9"])
@pytest.mark.parametrize("wanted", ["application/openmetrics-text", "text/plain"])
def test_a_version_that_is_no_number_counts_as_none(wanted, version):
    plain, kind = Metrics().text(DOCUMENT, 0.5, f"{wanted};version={version}")

    assert kind.startswith("text/plain")
    assert list(parse(plain.decode()))


PIECES = [
    "application/openmetrics-text",
    "text/plain",
    "*/*",
    "version=",
    "escaping=",
    "q=",
    ";",
    ",",
    "=",
    " ",
    ".",
    "1",
]
ACCEPT = st.lists(st.sampled_from(PIECES) | st.text(st.characters(max_codepoint=255), max_size=4)).map("".join)


@settings(deadline=None)
@given(ACCEPT)
def test_whatever_is_accepted_is_answered(accept):
    text, kind = Metrics().text(DOCUMENT, 0.5, accept)

    assert kind.encode("latin-1").startswith((b"text/plain", b"application/openmetrics-text"))
    assert text.startswith(b"# HELP ")


def test_numbers_are_those_of_the_document():
    assert value("redisrepl_pushed_changes") == DOCUMENT["pushed"]
    assert value("redisrepl_lag_seconds") == 0.5
    assert value("redisrepl_lag_bytes") == 3496
    assert value("redisrepl_failures", what="push") == 3
    assert value("redisrepl_failing", what="push") == 0
    assert value("redisrepl_state", redisrepl_state="well") == 1
    assert value("redisrepl_state", redisrepl_state="not well") == 0
    assert value("redisrepl_round_trip_seconds", namespace="site1:") == 0.0123
    assert value("redisrepl_sweep_timestamp_seconds") == 999_900
    assert value("redisrepl_certificate_expiry_timestamp_seconds", link="hub", role="client") == 42 * 86400


def test_what_nobody_knows_is_absent():
    found = families(None, lag_bytes=None, unread_bytes=None)
    assert not {"redisrepl_lag_seconds", "redisrepl_lag_bytes", "redisrepl_unread_bytes"} & found.keys()
    trip = [DOCUMENT["subscriptions"][0] | {"round_trip_s": None}]
    assert families(subscriptions=trip)["redisrepl_round_trip_seconds"].samples == []


def test_a_daemon_that_only_pushes_has_no_numbers_of_the_other_direction():
    document = {name: v for name, v in DOCUMENT.items() if name not in {"applied", "conflicts", "subscriptions"}}
    text, _ = Metrics().text(document, 0.0)
    assert b"redisrepl_applied" not in text
    assert b"redisrepl_subscription" not in text


def test_what_fails_now_is_1():
    (sample,) = [
        s for s in families(troubles=[{"what": "push"}])["redisrepl_failing"].samples if s.labels == {"what": "push"}
    ]
    assert sample.value == 1


@pytest.mark.parametrize("name", sorted(name for name in families() if name.startswith("redisrepl_")))
def test_each_is_named_by_the_rules_and_documented(name):
    family = families()[name]
    assert re.fullmatch(r"redisrepl_[a-z_]+", family.name)
    assert family.documentation.endswith(".")
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels = sorted({label for sample in family.samples for label in sample.labels})
    shown = f"`{name}` {{{', '.join(labels)}}}" if labels else f"`{name}`"
    assert f"| {shown} | {family.type} | {family.documentation} |" in DOCUMENTED


def test_what_is_documented_is_there():
    named = set(re.findall(r"(?m)^\| `(redisrepl_\w+)`", DOCUMENTED))
    text, _ = Metrics().text(DOCUMENT, 0.5)
    assert named == set(re.findall(r"(?m)^(redisrepl_\w+)[ {]", text.decode()))


def test_no_label_is_without_bounds():
    labels = {label for family in families().values() for sample in family.samples for label in sample.labels}
    assert labels == {
        *("version", "python", "direction", "source", "redisrepl_state", "what", "namespace", "link", "role"),
    }
