"""deploy/kubernetes, as far as it can be tried without a cluster: what it gives the daemon, and whether names meet."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from redisrepl import __version__
from redisrepl.settings.settings import ENV_PREFIX, Settings, load_settings

CHECKOUT = Path(__file__).parents[2]
BASE = CHECKOUT / "deploy" / "kubernetes"


def document(name):
    return yaml.safe_load((BASE / name).read_text())


@pytest.fixture(scope="module")
def pod():
    return document("statefulset.yaml")["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def daemon(pod):
    (container,) = [container for container in pod["containers"] if container["name"] == "redisrepl"]
    return container


def environment(daemon):
    (generator,) = document("kustomization.yaml")["configMapGenerator"]
    assert daemon["envFrom"] == [{"configMapRef": {"name": generator["name"]}}]
    literals = dict(literal.split("=", 1) for literal in generator["literals"])
    return literals | {variable["name"]: variable["value"] for variable in daemon["env"]}


def test_every_file_is_a_resource_and_every_resource_a_file():
    resources = document("kustomization.yaml")["resources"]
    assert sorted(resources) == sorted({path.name for path in BASE.iterdir()} - {"kustomization.yaml"})


def test_names_meet():
    stateful, service = document("statefulset.yaml"), document("service.yaml")
    labels = stateful["spec"]["template"]["metadata"]["labels"]
    assert stateful["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    assert stateful["spec"]["serviceName"] == service["metadata"]["name"]


def test_every_volume_is_mounted_and_every_mount_a_volume(pod):
    claims = document("statefulset.yaml")["spec"]["volumeClaimTemplates"]
    volumes = {volume["name"] for volume in pod["volumes"]} | {claim["metadata"]["name"] for claim in claims}
    mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
    assert mounted == volumes


def test_the_daemon_is_that_of_the_image(daemon, pod):
    dockerfile = (CHECKOUT / "Dockerfile").read_text()
    user, group = re.search(r"(?m)^USER (\d+):(\d+)$", dockerfile).groups()
    context = pod["securityContext"]
    assert daemon["image"] == f"redisrepl:{__version__}"
    assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (int(user), int(group), int(group))
    assert "/var/lib/redisrepl" in {mount["mountPath"] for mount in daemon["volumeMounts"]}
    assert pod["terminationGracePeriodSeconds"] > Settings().shutdown_timeout


def test_no_state_of_the_daemon_takes_redis_out_of_its_service_or_restarts_it(daemon):
    """Readiness belongs to the pod: while the hub is away, clients of the site still need their Redis."""
    assert not {"readinessProbe", "livenessProbe", "startupProbe"} & daemon.keys()


def test_nothing_may_become_more_than_it_is(pod):
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_the_settings_are_settings(daemon, monkeypatch):
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in environment(daemon).items():
        monkeypatch.setenv(name, value)
    settings = load_settings({})
    assert (settings.rc, settings.ns) == (True, (b"site1:",))
    mounts = {mount["mountPath"] for mount in daemon["volumeMounts"]}
    for file in (settings.cert, settings.key, settings.ca, settings.password_file):
        assert str(file.parent) in mounts


def test_the_command_line_is_accepted(daemon):
    run = subprocess.run(
        [sys.executable, "-m", "redisrepl", *daemon["args"]],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), **environment(daemon)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 78
    assert "/run/secrets/redis/password" in run.stderr
