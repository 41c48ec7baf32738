"""`make dist`: sdist, wheel, redisrepl.pyz, SBOM and checksums, the same bytes at each build of a commit.

In: the checkout, release/requirements.txt (every dependency with its hashes), a package index. Out: dist/.
Left to others: the Debian package (`release.deb`), signing and uploading.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from redisrepl import __version__

__all__ = ["LOCK", "PYTHONS", "build", "collect", "epoch", "run"]

CHECKOUT = Path(__file__).parents[1]
LOCK = CHECKOUT / "release" / "requirements.txt"
DIST = CHECKOUT / "dist"
#: The pyz holds the compiled modules for each of these side by side; their names say for which they are.
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
#: What wheels for Linux call their system, oldest C library first.
_SYSTEMS = ("manylinux1", "manylinux2010", "manylinux2014", "manylinux_2_17", "manylinux_2_28")
#: What pip notes about an installation, which is nothing that runs.
_NOTES = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default=platform.machine(), help="of the pyz: x86_64 or aarch64")
    parser.add_argument("--out", type=Path, default=DIST)
    options = parser.parse_args()
    build(options.out, options.arch)
    for line in (options.out / "SHA256SUMS").read_text().splitlines():
        print(line)


def build(out: Path, arch: str) -> None:
    """Everything, into a directory that is emptied first."""
    os.umask(0o022)  # shiv stores the modes of what it packs
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    environment = os.environ | {"SOURCE_DATE_EPOCH": epoch()}
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, CHECKOUT, env=environment)
    wheel = next(out.glob("*.whl"))
    with TemporaryDirectory() as place:
        site_packages = Path(place) / "site-packages"
        collect(site_packages, wheel, arch, Path(place))
        run(
            *(sys.executable, "-m", "shiv", "--site-packages", site_packages, "--console-script", "redisrepl"),
            *("--compressed", "--reproducible", "--python", "/usr/bin/env python3"),
            *("--output-file", out / "redisrepl.pyz"),
            env=environment,
        )
    run(
        *(sys.executable, "-m", "cyclonedx_py", "requirements", LOCK, "--pyproject", CHECKOUT / "pyproject.toml"),
        *("--output-reproducible", "--output-file", out / f"redisrepl-{__version__}.cdx.json"),
        env=environment,
    )
    files = sorted(file for file in out.iterdir() if file.is_file() and file.name != ".gitignore")
    sums = (f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    (out / "SHA256SUMS").write_text("".join(sums))


def collect(site_packages: Path, wheel: Path, arch: str, place: Path, pythons: Sequence[str] = PYTHONS) -> None:
    """What the pyz holds: the locked wheels for each Python, and ours."""
    lock = place / "lock.txt"
    # Whether a dependency is needed is decided for this Python; the pyz is for others too, so that it has all of them.
    locked = re.split(r"(?m)^(?=[a-z])", re.sub(r" ; [^\\\n]+", " ", LOCK.read_text()))[1:]
    names = {entry.partition("==")[0].replace("-", "_") for entry in locked}
    systems = [word for system in _SYSTEMS for word in ("--platform", f"{system}_{arch}")]
    for python in pythons:
        target = place / python
        lock.write_text("".join(entry for entry in locked if entry.partition("==")[0].replace("-", "_") in names))
        run(
            *(sys.executable, "-m", "pip", "install", "--quiet", "--target", target, "--no-deps", "--no-compile"),
            *("--only-binary", ":all:", "--require-hashes", "--python-version", python, *systems, "-r", lock),
        )
        shutil.copytree(target, site_packages, dirs_exist_ok=True)
        names &= _compiled(target)  # the others are the same for each
    run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--target", place / "ours", "--no-deps", "--no-compile"),
        wheel,
    )
    shutil.copytree(place / "ours", site_packages, dirs_exist_ok=True)
    for path in [*site_packages.glob("bin"), *site_packages.glob("share"), *site_packages.rglob("__pycache__")]:
        shutil.rmtree(path)
    for path in site_packages.glob("*.dist-info/*"):
        if path.name in _NOTES:
            path.unlink()


def _compiled(target: Path) -> set[str]:
    """The distributions that have modules for this Python alone."""
    records = target.glob("*.dist-info/RECORD")
    return {record.parent.name.partition("-")[0] for record in records if ".cpython-" in record.read_text()}


def epoch() -> str:
    """The time of the last commit, which stands in every archive; where there is none, that of the changelog."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return given
    git = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    return git.stdout.strip() or str(int((CHECKOUT / "CHANGELOG.md").stat().st_mtime))


def run(*command: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
    """Run a tool; its output is shown if it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        env=env,
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(str(word) for word in command[:4])} ...: exit {done.returncode}\n{done.stdout}")


if __name__ == "__main__":
    main()
