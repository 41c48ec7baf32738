"""deploy/*.service: systemd understands them, and leaves the daemon little to do harm with."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from redisrepl.errors import ExitCode
from redisrepl.observe import service
from redisrepl.settings.settings import ENV_PREFIX, Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = ["redisrepl.service", "redisrepl@.service"]
#: What restarts them when certificates were renewed.
WATCHERS = [f"redisrepl-certificates{at}.{kind}" for at in ("", "@") for kind in ("path", "service")]


@pytest.fixture
def units(tmp_path):
    """The units with their drop-ins, an instance of the template, and an executable that is there."""
    for name in UNITS:
        text = (DEPLOY / name).read_text().replace("/opt/redisrepl/bin/redisrepl", sys.executable)
        for copy in {name, name.replace("@", "@site1")}:
            (tmp_path / copy).write_text(text)
            shutil.copytree(DEPLOY / f"{name}.d", tmp_path / f"{copy}.d")
    for name in WATCHERS:
        text = (DEPLOY / name).read_text()
        for copy in {name, name.replace("@", "@site1")}:
            (tmp_path / copy).write_text(text)
    return tmp_path


def analyze(*args):
    return subprocess.run(["systemd-analyze", *args], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "unit", ["redisrepl.service", "redisrepl@site1.service", *(name.replace("@", "@site1") for name in WATCHERS)]
)
def test_systemd_has_nothing_to_complain_of(units, unit):
    verified = analyze("verify", "--man=no", units / unit)

    assert verified.returncode == 0
    assert [line for line in verified.stderr.splitlines() if "redisrepl" in line] == []


def test_an_unknown_directive_would_be_found(units):
    """The test above can fail."""
    unit = units / "redisrepl.service"
    unit.write_text(unit.read_text().replace("PrivateTmp=", "PrivateTemp="))

    assert "PrivateTemp" in analyze("verify", "--man=no", unit).stderr


@pytest.mark.parametrize("unit", UNITS)
def test_the_exposure_is_below_one_and_a_half(units, unit):
    """By the measure of systemd, where 10 is a service without any hardening."""
    checked = analyze("security", "--offline=yes", "--threshold=15", "--no-pager", units / unit)
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", checked.stdout)

    assert checked.returncode == 0, checked.stdout
    assert float(exposure[1]) < 1.5


def test_the_exposure_of_the_hubs_webdis_is_below_two_and_a_half(tmp_path):
    shutil.copy(DEPLOY / "hub" / "redisrepl-webdis@.service", tmp_path / "redisrepl-webdis@site1.service")
    unit = tmp_path / "redisrepl-webdis@site1.service"
    checked = analyze("security", "--offline=yes", "--threshold=25", "--no-pager", unit)

    assert checked.returncode == 0, checked.stdout
    assert float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", checked.stdout)[1]) < 2.5


def directives(name):
    pairs = [line.split("=", 1) for line in (DEPLOY / name).read_text().splitlines() if re.match(r"\w+=", line)]
    values = {}
    for key, value in pairs:
        values.setdefault(key, []).append(value)
    return values


def test_the_hubs_webdis_comes_back_however_often_it_dies():
    """With WebSockets, Webdis may crash when its Redis restarts; by default systemd starts it five times in 10 s."""
    found = directives("hub/redisrepl-webdis@.service")

    assert found["Restart"] == ["always"]
    assert found["StartLimitIntervalSec"] == ["0"]


def test_both_units_are_hardened_alike():
    hardening = [
        (DEPLOY / name).read_text().partition("NoNewPrivileges")[2].partition("[Install]")[0] for name in UNITS
    ]

    assert hardening[0] == hardening[1]


@pytest.mark.parametrize("name", UNITS)
def test_what_cannot_get_better_is_not_tried_again(name):
    codes = {ExitCode.USAGE, ExitCode.REFUSED, ExitCode.CONFIG}

    assert directives(name)["RestartPreventExitStatus"] == [" ".join(str(int(code)) for code in sorted(codes))]


@pytest.mark.parametrize("name", UNITS)
def test_stopping_may_take_as_long_as_the_daemon_may(name):
    assert int(directives(name)["TimeoutStopSec"][0]) > Settings().shutdown_timeout


@pytest.mark.parametrize("name", UNITS)
def test_each_credential_is_used_and_each_variable_is_known(name):
    unit = directives(name)
    dropin = directives(f"{name}.d/password.conf")
    loaded = {entry.partition(":")[0] for entry in unit["LoadCredential"] + dropin["LoadCredential"]}
    pairs = [pair.split("=", 1) for line in unit["Environment"] + dropin["Environment"] for pair in line.split()]
    variables = {key: value for key, value in pairs if key.startswith(ENV_PREFIX)}

    assert {value.removeprefix("%d/") for value in variables.values() if value.startswith("%d/")} == loaded
    assert {key.removeprefix(ENV_PREFIX).lower() for key in variables} <= {*Settings.fields, "config"}


@pytest.mark.parametrize("name", UNITS)
def test_it_is_told_when_the_daemon_is_ready_and_when_it_is_stuck(name):
    unit = directives(name)

    assert unit["Type"] == ["notify"]
    assert int(unit["TimeoutStartSec"][0]) > service._READY_AT_LATEST
    assert int(unit["WatchdogSec"][0]) >= 30
    assert unit["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert "AF_UNIX" in unit["RestrictAddressFamilies"][0]  # it is told over a unix socket


@pytest.mark.parametrize("at", ["", "@"])
def test_every_credential_that_is_a_certificate_is_watched(at):
    """Systemd hands them over at the start only, so the daemon cannot see that they were renewed."""
    loaded = {entry.partition(":")[2] for entry in directives(f"redisrepl{at}.service")["LoadCredential"]}
    watched = directives(f"redisrepl-certificates{at}.path")["PathChanged"]

    assert set(watched) == loaded
    restarts = directives(f"redisrepl-certificates{at}.service")["ExecStart"][-1]
    assert restarts == f"/usr/bin/systemctl restart redisrepl{'@%i' if at else ''}.service"


@pytest.mark.parametrize(
    ("state", "restarted"),
    [("active", True), ("activating", True), ("failed", True), ("inactive", False), ("deactivating", False)],
)
@pytest.mark.parametrize("at", ["", "@"])
def test_one_that_failed_between_two_new_files_is_started_again_and_one_that_was_stopped_is_not(
    at, state, restarted, tmp_path
):
    """With the first file alone, certificate and key do not fit, and the daemon ends with 78: the second mends that."""
    condition = directives(f"redisrepl-certificates{at}.service")["ExecCondition"][-1]
    unit = f"redisrepl{'@site1' if at else ''}.service"
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f'#!/bin/sh\n[ "$*" = "is-active {unit}" ] && echo {state}\n')
    systemctl.chmod(0o755)
    script = shlex.split(condition.replace("%i", "site1").replace("$$", "$"))[-1]
    run = subprocess.run(["/bin/sh", "-c", script], env={"PATH": str(tmp_path)}, check=False)
    assert (run.returncode == 0) == restarted
