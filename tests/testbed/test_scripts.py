"""scripts/install-packages and scripts/venv, as far as they decide; nothing is installed here."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
PLAIN_TOOLS = ("sort", "tr", "dirname", "cksum", "cat")
SERVERS = (
    *("redis-server", "webdis", "nginx", "openssl", "tinyproxy", "systemd-analyze", "prometheus", "chromium"),
    *("zsh", "fish", "mandoc", "curl", "cc", "docker-compose"),
)


@pytest.fixture
def machine(tmp_path):
    """A PATH that holds only what the test puts there; `run` runs a script with it."""

    class Machine:
        tools = tmp_path / "bin"

        def install(self, name, text="#!/bin/sh\n"):
            path = self.tools / name
            path.write_text(text)
            path.chmod(0o755)

        def run(self, script, *args, **env):
            # A copy of the script without the line that adds /usr/sbin, where the real nginx may be.
            text = (SCRIPTS / script).read_text().replace('PATH="$PATH:/usr/sbin:/sbin"', ":")
            copy = tmp_path / "scripts" / script
            copy.parent.mkdir(exist_ok=True)
            copy.write_text(text)
            copy.chmod(0o755)
            return subprocess.run(
                [copy, *args],
                cwd=tmp_path,
                env={"PATH": str(self.tools), **env},
                capture_output=True,
                text=True,
                check=False,
            )

    machine = Machine()
    machine.tools.mkdir()
    for tool in PLAIN_TOOLS:
        # A wrapper, not a link: a test that replaces the tool must not write through to the machine's own.
        machine.install(tool, f'#!/bin/sh\nexec {shutil.which(tool)} "$@"\n')
    machine.install("id", "#!/bin/sh\necho 1000\n")
    return machine


def test_nothing_is_done_when_all_is_there(machine):
    for server in SERVERS:
        machine.install(server)
    run = machine.run("install-packages", "demo", "test")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_what_is_missing_is_said_and_asked_of_sudo(machine):
    machine.install("redis-server")
    machine.install("openssl")
    machine.install("apt-get")
    machine.install("sudo", '#!/bin/sh\nshift\necho "$@"\n')
    run = machine.run("install-packages", "demo", "test")
    packages = "chromium curl docker-compose fish gcc libc6-dev mandoc nginx-light prometheus"
    packages += " systemd tinyproxy webdis zsh"
    assert run.stderr == f"install-packages: installing {packages} (no service will be started)\n"
    assert run.stdout == f"--install {packages}\n"


def test_the_demonstration_needs_no_forward_proxy_and_no_systemd(machine):
    for server in SERVERS[:4]:
        machine.install(server)
    assert machine.run("install-packages", "demo").returncode == 0


def test_neither_root_nor_sudo(machine):
    machine.install("apt-get")
    run = machine.run("install-packages", "bench")
    assert run.returncode == 1
    assert run.stderr == (
        "install-packages: neither root nor sudo; please have somebody install: "
        "curl nginx-light openssl redis-server webdis\n"
    )


#: An apt-get that knows one more package than is asked for, and a dpkg-deb that unpacks any as a program of its name.
APT = """#!/bin/sh
case "$*" in
*" -s "*) for name in "$@" libb64; do case $name in [a-z]*) echo "Inst $name (1 Debian:12)" ;; esac; done ;;
*download*) shift 2; for name in "$@"; do : >"$name.deb"; done ;;
*) exit 1 ;;
esac
"""
DPKG_DEB = """#!/bin/sh
mkdir -p "$3/usr/bin"
program="$3/usr/bin/$(basename "$2" .deb)"
printf '#!/bin/sh\necho unpacked' >"$program" && chmod +x "$program"
"""


def test_without_root_the_demonstration_s_servers_are_unpacked(machine, tmp_path):
    for name, text in (("apt-get", APT), ("dpkg-deb", DPKG_DEB), ("redis-server", "#!/bin/sh\n"), ("openssl", "")):
        machine.install(name, text)
    for tool in ("mkdir", "rm", "mv", "sed", "basename", "chmod", "find"):
        machine.install(tool, f'#!/bin/sh\nexec {shutil.which(tool)} "$@"\n')
    run = machine.run("install-packages", "demo")

    assert (run.returncode, run.stdout) == (0, ""), run.stderr
    assert "unpacking nginx-light webdis into .programs (nothing is installed)" in run.stderr
    assert {path.name for path in (tmp_path / ".programs/usr/bin").iterdir()} >= {"nginx-light", "webdis", "libb64"}
    assert machine.run("unpacked", "webdis").stdout == "unpacked\n"


def test_no_debian(machine):
    run = machine.run("install-packages", "demo")
    assert run.returncode == 1
    assert "no Debian or Ubuntu" in run.stderr


@pytest.mark.parametrize("args", [[], ["everything"]])
def test_an_unknown_purpose(machine, args):
    run = machine.run("install-packages", *args)
    assert run.returncode == 1
    assert "demo, test or venv" in run.stderr


def test_python_without_venv_needs_a_package(machine):
    machine.install("apt-get")
    machine.install("sudo", '#!/bin/sh\nshift\necho "$@"\n')
    machine.install("python3", "#!/bin/sh\nexit 1\n")
    assert machine.run("install-packages", "venv").stdout == "--install python3-venv\n"


def test_an_old_python_is_told(machine):
    machine.install("python3", '#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.2\nexit 1\n')
    run = machine.run("venv")
    assert run.returncode == 1
    assert run.stderr == "venv: redisrepl needs Python 3.11 or later; python3 is Python 3.9.2\n"


def test_a_complete_environment_is_left_alone(machine, tmp_path):
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    machine.install("python3", '#!/bin/sh\n[ "$1" = -V ] && echo Python 3.12.1\nexit 0\n')
    (tmp_path / ".venv/bin").mkdir(parents=True)
    shutil.copy(machine.tools / "python3", tmp_path / ".venv/bin/python")
    checksum = subprocess.run(["cksum"], input=b"[project]\n", capture_output=True, check=True).stdout.decode().strip()
    (tmp_path / ".venv/.complete").write_text(f"{checksum} Python 3.12.1\n")
    run = machine.run("venv")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
