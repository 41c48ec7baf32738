"""deploy/monitoring with the real Prometheus: rules, dashboard, and alerts in the faults they are for."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml

from testbed import Daemon, FaultProxy, Hub, RedisServer, eventually
from testbed.ports import free_port
from testbed.processes import end_group, spawn
from tests.e2e.support import SWIFT, certificate_flags, place_flags, wait_until_live

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
RUNBOOKS = Path(__file__).parents[2] / "docs" / "monitoring.md"
RULES = yaml.safe_load((MONITORING / "redisrepl.rules.yml").read_text())["groups"][0]["rules"]


def promtool(*args, cwd=MONITORING):
    done = subprocess.run(["promtool", *args], cwd=cwd, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("check", "rules", "redisrepl.rules.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "redisrepl.rules.test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_has_nothing_to_complain_of(command):
    code, said = promtool(*command)

    assert code == 0, said
    assert "FAILED" not in said


def test_each_alert_is_tried_both_ways():
    tried = yaml.safe_load((MONITORING / "redisrepl.rules.test.yml").read_text())["tests"]
    for rule in RULES:
        fires = {
            bool(alert.get("exp_alerts"))
            for test in tried
            for alert in test["alert_rule_test"]
            if alert["alertname"] == rule["alert"]
        }
        assert fires == {True, False}, rule["alert"]


def test_each_alert_has_a_runbook():
    sections = re.findall(r"(?m)^### (\w+)$", RUNBOOKS.read_text())
    for rule in RULES:
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert (page, anchor) == ("docs/monitoring.md", rule["alert"].lower())
        assert rule["alert"] in sections


class Prometheus:
    """A server that looks every half second, with rules whose patience is as short."""

    def __init__(self, directory, target):
        rules = (MONITORING / "redisrepl.rules.yml").read_text()
        # The faults of a test last seconds: no alert waits before it fires, and "behind" begins at a second.
        rules = re.sub(r"(?m)^ +for: .*\n", "", rules).replace(
            "redisrepl_lag_seconds > 60", "redisrepl_lag_seconds > 1"
        )
        (directory / "redisrepl.rules.yml").write_text(rules)
        config = (MONITORING / "prometheus.yml").read_text().replace("127.0.0.1:9646", f"127.0.0.1:{target}")
        config = config.replace("scrape_interval: 15s", "scrape_interval: 500ms\n  evaluation_interval: 500ms")
        (directory / "prometheus.yml").write_text(config)
        self.port = free_port()
        self._process = spawn(
            [
                *("prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data"),
                *(f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=error"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def get(self, path, **query):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.load(answer)["data"]
        except OSError:
            return None

    def query(self, expression):
        found = self.get("query", query=expression)
        return found["result"] if found else []

    def firing(self):
        """Names of the alerts that fire."""
        found = self.get("alerts") or {"alerts": []}
        return {alert["labels"]["alertname"] for alert in found["alerts"] if alert["state"] == "firing"}

    def close(self):
        end_group(self._process, gracefully_within=5.0)


class Scene:
    def __init__(self, certificates, directory):
        self.certificates = certificates
        self.site, self.hub = RedisServer().start(), Hub(certificates).start()
        self.wire = FaultProxy(self.hub.port).start()
        self.port = free_port()
        self.pair = certificates.issue("monitored", "site1.example", common_name="site1")
        flags = ["--ca", certificates.ca, "--cert", self.pair.cert, "--key", self.pair.key]
        assert certificate_flags(certificates)[0] == flags[0]
        self.daemon = Daemon(
            [
                *(*flags, *place_flags(self.site, self.wire.port), *SWIFT, "--ns", "site1:", "-rc"),
                *("--listen", f"127.0.0.1:{self.port}"),
            ],
            env={"REDISREPL_LOG_FORMAT": "json", "STATE_DIRECTORY": str(directory / "state")},
        )
        self.daemon.start()
        self.prometheus = Prometheus(directory, self.port)

    def close(self):
        for part in (self.prometheus, self.daemon, self.wire, self.hub, self.site):
            part.close()


@contextlib.contextmanager
def watched(certificates, directory):
    with contextlib.closing(Scene(certificates, directory)) as scene:
        wait_until_live(scene.daemon, pull=True)
        scene.daemon.wait_for_log("sweep.finished")
        eventually(lambda: scene.prometheus.query('up{job="redisrepl"} == 1'), 60, "Prometheus reads the metrics")
        yield scene


@pytest.fixture(scope="module")
def scene(certificates, tmp_path_factory):
    """One for all who only look."""
    with watched(certificates, tmp_path_factory.mktemp("monitoring")) as scene:
        yield scene


@pytest.fixture
def faulty_scene(certificates, tmp_path):
    """One that a test may break."""
    with watched(certificates, tmp_path) as scene:
        yield scene


def queries():
    for panel in json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


@pytest.mark.parametrize(
    ("title", "expression"), list(queries()), ids=[f"{title}-{n}" for n, (title, _) in enumerate(queries())]
)
def test_each_query_of_the_dashboard_finds_something(scene, title, expression):
    expression = expression.replace("$instance", ".*").replace("$__rate_interval", "1m")
    assert "$" not in expression
    eventually(lambda: scene.prometheus.query(expression), 45, f"{title} shows something")


def test_the_dashboard_has_its_panels_side_by_side():
    panels = json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_the_metrics_are_as_prometheus_wants_them(scene):
    with urllib.request.urlopen(f"http://127.0.0.1:{scene.port}/metrics", timeout=5) as answer:
        text = answer.read()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def fires(scene, *names):
    eventually(lambda: set(names) <= scene.prometheus.firing(), 60, f"{names} fire")


def is_quiet(scene):
    eventually(lambda: not scene.prometheus.firing(), 60, "no alert fires")


@pytest.mark.timeout(400)
def test_each_alert_fires_in_the_fault_that_it_is_for(faulty_scene):
    """One after the other, since each has to be over before the next."""
    scene = faulty_scene
    site, hub = scene.site.client(), scene.hub.redis
    is_quiet(scene)
    scene.wire.down()
    site.set("site1:waits", "v")
    fires(scene, "RedisreplHubAway", "RedisreplNotSubscribed", "RedisreplLagging", "RedisreplNotWell")
    scene.wire.heal()
    is_quiet(scene)

    hub.rpush("site1:list", "a")
    site.hset("site1:list", "field", "v")
    fires(scene, "RedisreplWritesRefused")
    hub.delete("site1:list")
    site.hset("site1:list", "field", "of now")
    is_quiet(scene)

    whole = scene.pair.key.read_bytes()
    scene.pair.key.write_text("nothing")
    fires(scene, "RedisreplCertificateUnusable")
    scene.pair.key.write_bytes(whole)
    is_quiet(scene)
    scene.certificates.issue("monitored", "site1.example", common_name="site1", valid_for=dt.timedelta(days=20))
    fires(scene, "RedisreplCertificateExpiresSoon")
    scene.certificates.issue("monitored", "site1.example", common_name="site1", valid_for=dt.timedelta(days=5))
    fires(scene, "RedisreplCertificateExpires")
    scene.certificates.issue("monitored", "site1.example", common_name="site1")
    is_quiet(scene)

    scene.site.kill()
    fires(scene, "RedisreplSiteAway")
    scene.site.start()
    is_quiet(scene)

    scene.daemon.kill()
    fires(scene, "RedisreplDown")
