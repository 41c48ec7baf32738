"""docs/certificates.md: each row of its table, on a running daemon.

The authority itself is exchanged, at the hub too, so that whoever still uses an old file is refused. What hands the
files over is played here, by what it does to the file system: a container engine and a booted systemd are not there.
"""

import os
import re
import shutil
from pathlib import Path

import pytest

from testbed import Certificates, Hub, RedisServer, eventually
from tests.e2e.conftest import Daemons
from tests.e2e.support import SWIFT, place_flags, wait_until_live

DEPLOY = Path(__file__).parents[2] / "deploy"
NAMES = ("cert.pem", "key.pem", "ca.pem")


class Scene:
    """A site and a hub whose authority changes; daemons get their files as `tell_where` says."""

    def __init__(self, own, site, hub, daemons):
        self.own, self.site, self.hub, self.daemons = own, site, hub, daemons

    @property
    def issued(self):
        """Where the newest files are, by the names that deployments give them."""
        return dict(zip(NAMES, (self.own.client, self.own.client_key, self.own.ca), strict=True))

    def start(self, directory, namespace, **options):
        flags = [word for name in NAMES for word in (f"--{name.removesuffix('.pem')}", directory / name)]
        place = place_flags(self.site, self.hub)
        daemon = self.daemons.raw(*flags, *place, *SWIFT, "-rc", "--ns", namespace, **options)
        wait_until_live(daemon, pull=True)
        return daemon

    def exchange_authority(self):
        self.own.replace_authority()
        self.hub.nginx.reload()


@pytest.fixture(scope="module")
def scene():
    with Certificates() as own, RedisServer() as site, Hub(own) as hub, Daemons(own) as daemons:
        yield Scene(own, site, hub, daemons)


def replicates(scene, key):
    at_site, at_hub = scene.site.client(), scene.hub.redis
    at_site.set(f"{key}up", "v")
    at_hub.set(f"{key}down", "v")
    eventually(lambda: at_hub.get(f"{key}up") and at_site.get(f"{key}down"), 60, "both ways work")


def kubelet_writes(volume, files):
    """A secret as the kubelet keeps it: links through `..data`, which one rename leads to a new directory."""
    new = volume / f"..2026_{len(list(volume.glob('..2*')))}"
    new.mkdir(parents=True)
    for name, source in files.items():
        shutil.copy(source, new / name)
    before = (volume / "..data").readlink() if (volume / "..data").is_symlink() else None
    (volume / "..data_tmp").symlink_to(new.name)
    (volume / "..data_tmp").rename(volume / "..data")
    for name in files:
        if not (volume / name).is_symlink():
            (volume / name).symlink_to(f"..data/{name}")
    if before:
        shutil.rmtree(volume / before)


def test_kubernetes_exchanges_the_directory_by_one_link(scene, tmp_path):
    kubelet_writes(tmp_path, scene.issued)
    daemon = scene.start(tmp_path, "pod:")
    mark = daemon.mark()
    scene.exchange_authority()
    kubelet_writes(tmp_path, scene.issued)
    daemon.wait_for_log("daemon.reloaded", 60, after=mark)
    replicates(scene, "pod:")
    assert daemon.stop() == 0


def test_compose_sees_what_is_written_in_place_and_not_what_is_renamed(scene, tmp_path):
    """A file that is bound into a container is its inode, as another link to it is."""
    outside, inside = tmp_path / "secrets", tmp_path / "run"
    outside.mkdir()
    inside.mkdir()
    for name, source in scene.issued.items():
        shutil.copy(source, outside / name)
        os.link(outside / name, inside / name)
    daemon = scene.start(inside, "sidecar:")
    mark = daemon.mark()
    scene.exchange_authority()
    for name, source in scene.issued.items():
        (outside / name).write_bytes(source.read_bytes())  # cat new.pem > secrets/org-cert
    daemon.wait_for_log("daemon.reloaded", 60, after=mark)
    replicates(scene, "sidecar:")
    assert daemon.stop() == 0

    (outside / "new").write_text("renewed")
    (outside / "new").rename(outside / "cert.pem")
    assert (inside / "cert.pem").read_text() != "renewed", "so the container has to be made anew after a rename"


def test_whoever_renames_files_one_by_one_needs_no_order(scene, tmp_path):
    """A virtual environment: the pair does not fit for a while, which is said, and then it does."""
    for name, source in scene.issued.items():
        shutil.copy(source, tmp_path / name)
    daemon = scene.start(tmp_path, "venv:")
    mark = daemon.mark()
    scene.exchange_authority()
    for name in ("key.pem", "cert.pem", "ca.pem"):
        shutil.copy(scene.issued[name], tmp_path / "new")
        (tmp_path / "new").rename(tmp_path / name)
        if name == "key.pem":
            assert "is not the key of" in daemon.wait_for_log("certificate.failed", 60, after=mark)["error"]
    daemon.wait_for_log("daemon.reloaded", 60, after=mark)
    replicates(scene, "venv:")
    assert daemon.stop() == 0


def directives(name, key):
    return re.findall(rf"(?m)^{key}=(.*)$", (DEPLOY / name).read_text())


def test_systemd_hands_new_files_over_with_a_restart_that_costs_no_snapshot(scene, tmp_path):
    """What LoadCredential does: copies at the start, readable and no more. The path unit's service restarts it."""
    unit = "redisrepl.service"
    sources = dict(entry.split(":") for entry in directives(unit, "LoadCredential"))
    watched = directives("redisrepl-certificates.path", "PathChanged")
    assert sorted(sources.values()) == sorted(watched)
    assert directives("redisrepl-certificates.service", "ExecStart")[-1].endswith(f"systemctl restart {unit}")
    credentials, state = tmp_path / "credentials", tmp_path / "state"
    pairs = dict(
        pair.split("=", 1) for line in directives(unit, "Environment") for pair in line.split() if "%d" in pair
    )
    environment = {name: value.replace("%d", str(credentials)) for name, value in pairs.items()}
    assert environment.keys() == {"REDISREPL_CERT", "REDISREPL_KEY", "REDISREPL_CA"}

    def hand_over():
        shutil.rmtree(credentials, ignore_errors=True)
        credentials.mkdir()
        for name, source in scene.issued.items():
            shutil.copy(source, credentials / name)
            (credentials / name).chmod(0o400)

    def start():
        flags = [*place_flags(scene.site, scene.hub), *SWIFT, "-rc", "--ns", "unit:"]
        daemon = scene.daemons.raw(*flags, env=environment | {"STATE_DIRECTORY": str(state)})
        wait_until_live(daemon, pull=True)
        return daemon

    hand_over()
    daemon = start()
    replicates(scene, "unit:before:")
    scene.exchange_authority()
    assert daemon.stop() == 0
    hand_over()
    again = start()
    assert again.wait_for_log("stream.attached")["partial"]
    replicates(scene, "unit:after:")
    assert again.stop() == 0
