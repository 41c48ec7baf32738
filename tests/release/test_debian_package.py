"""The Debian package is installed, upgraded, removed and purged, by dpkg, on a machine that is lost afterwards.

That machine is this one behind an overlay: what is written there lands below a temporary directory. It needs root, and
a kernel that lets it mount. systemd is not running in it: what the package tells it is written down.
"""

import gzip
import os
import shutil
import subprocess

import pytest

from redisrepl import __version__
from release import deb

#: Mounts the machine, with an empty /run, and runs a command in it.
ENTER = """
set -e
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/written,workdir=$1/work" "$1/root"
mount -t tmpfs tmpfs "$1/root/run"
mount -t proc proc "$1/root/proc"
mkdir -p "$1/root/run/systemd/system"
root=$1/root
shift
exec chroot "$root" "$@"
"""
#: Takes the place of a program: what it is told. To compile all libraries would take most of the test's time.
TOLD = '#!/bin/sh\necho "${0##*/}" "$@" >>/var/log/told\n'


class Machine:
    def __init__(self, place):
        self.place = place
        for name in ("written", "work", "root"):
            (place / name).mkdir(parents=True)

    def try_run(self, *command):
        return subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "sh", "-c", ENTER, "sh", self.place, *command],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
            capture_output=True,
            text=True,
            check=False,
        )

    def run(self, *command):
        done = self.try_run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def path(self, name):
        """A file that was written there; those of this machine are not seen."""
        return self.place / "written" / name.lstrip("/")

    def write(self, name, text, mode=0o644):
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_text(text)
        self.path(name).chmod(mode)

    def told(self):
        """What these programs were told since the last time."""
        log = self.path("/var/log/told")
        said = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return said


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path / "machine")
    if os.getuid() != 0:
        pytest.skip("only root can install a package on a machine of its own")
    tried = machine.try_run("true")
    if tried.returncode:
        pytest.skip(f"no mount namespace with an overlay here: {tried.stderr.strip()}")
    for program in ("systemctl", "py3compile"):
        machine.write(f"/usr/bin/{program}", TOLD, 0o755)
    return machine


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Two revisions, for the one Python that the machine has, and not compressed: `make deb` takes its time."""
    version = subprocess.run(
        ["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    libraries = tmp_path / "libraries"
    deb.collect_libraries(libraries, [version])
    return [deb.build(tmp_path, libraries, revision, "none") for revision in ("1", "2")]


@pytest.mark.timeout(300)
def test_a_life_of_the_package(machine, packages):
    for package in packages:
        shutil.copy(package, machine.path("/"))
    first, second = (f"/{package.name}" for package in packages)
    config, state = "/etc/redisrepl/redisrepl.toml", "/var/lib/redisrepl/state"

    # Installed: it works, with what the package depends on. Nothing is started, since nothing is configured.
    machine.run("dpkg", "--no-triggers", "--install", first)
    assert machine.run("redisrepl", "--version") == f"redisrepl {__version__}\n"
    compiled, reloaded = "py3compile -p redisrepl /usr/lib/redisrepl", "systemctl --system daemon-reload"
    assert machine.told() == [compiled, reloaded]
    assert "redisrepl daemon" in machine.run("getent", "passwd", "redisrepl")
    assert machine.path("/usr/lib/redisrepl/redisrepl/__pycache__").is_dir()
    for unit in deb.UNITS:
        text = machine.path(f"/usr/lib/systemd/system/{unit}").read_text()
        assert ("ExecStart=/usr/bin/redisrepl run" in text) == (unit in {"redisrepl.service", "redisrepl@.service"})
    assert gzip.decompress(machine.path("/usr/share/man/man1/redisrepl.1.gz").read_bytes()).startswith(b".")
    for place in ("bash-completion/completions/redisrepl", "zsh/vendor-completions/_redisrepl"):
        assert machine.path(f"/usr/share/{place}").read_text()
    assert machine.path("/usr/share/fish/vendor_completions.d/redisrepl.fish").read_text()

    # Upgraded: what the administrator wrote stays, and a daemon that runs is restarted.
    edited = machine.path(config).read_text() + '\nhaddr = "https://hub.example.org/redis"\n'
    machine.write(config, edited)
    machine.write(state, "what both sides agreed on")
    machine.run("dpkg", "--no-triggers", "--install", second)
    assert f"Version: {__version__}-2\n" in machine.run("dpkg", "--status", "redisrepl")
    assert machine.path(config).read_text() == edited
    assert machine.path(state).exists()
    assert machine.told() == [compiled, reloaded, "systemctl try-restart redisrepl.service redisrepl@*.service"]
    assert machine.run("redisrepl", "--version")

    # Removed: the program is gone and runs no more; configuration and state stay.
    machine.run("dpkg", "--remove", "redisrepl")
    assert machine.try_run("redisrepl", "--version").returncode
    assert not machine.path("/usr/lib/redisrepl").exists()
    stopped, disabled, *rest = machine.told()
    assert stopped.startswith("systemctl stop ")
    assert disabled.startswith("systemctl --no-reload disable redisrepl.service redisrepl@.service ")
    assert rest == [reloaded]
    assert machine.path(config).read_text() == edited
    assert machine.path(state).exists()

    # Purged: nothing is left but the user.
    machine.run("dpkg", "--purge", "redisrepl")
    assert not machine.path("/etc/redisrepl").exists()
    assert not machine.path("/var/lib/redisrepl").exists()
    assert "redisrepl" not in machine.run("dpkg", "--get-selections")
