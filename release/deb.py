"""`make deb`: a package for Debian 12 and later, and what descends from it.

In: the wheel of `make dist`, release/debian/, an index with the locked wheels. Out: dist/redisrepl_VERSION_ARCH.deb.
Left to others: the sdist and the rest of dist/ (`release.dist`).

It holds the libraries too, since Debian 12 has older ones, for every Python from 3.11 on: an upgrade of the system's
Python leaves it working. The same commit gives the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import os
import platform
import re
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from redisrepl import __version__
from release.dist import CHECKOUT, DIST, PYTHONS, collect, epoch, run
from release.manual import shared_files

__all__ = ["UNITS", "build", "collect_libraries"]

DEBIAN = CHECKOUT / "release" / "debian"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_SCRIPTS = ("postinst", "prerm", "postrm")
UNITS = [f"redisrepl{at}.service" for at in ("", "@")]
UNITS += [f"redisrepl-certificates{at}.{kind}" for at in ("", "@") for kind in ("path", "service")]
#: Where Debian looks for what a wheel has below `share`.
_PLACES = {"zsh/site-functions": "zsh/vendor-completions"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DIST)
    parser.add_argument("--revision", default="1", help="of the package, for the same version of the program")
    options = parser.parse_args()
    os.environ["SOURCE_DATE_EPOCH"] = epoch()
    options.out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as place:
        libraries = Path(place) / "libraries"
        collect_libraries(libraries)
        print(build(options.out, libraries, options.revision))


def collect_libraries(target: Path, pythons: Sequence[str] = PYTHONS) -> None:
    """What `/usr/lib/redisrepl` holds: the program, and the locked wheels for each Python."""
    with TemporaryDirectory() as place:
        parts = Path(place)
        run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", parts, CHECKOUT)
        collect(target, next(parts.glob("*.whl")), platform.machine(), parts, pythons)


def build(out: Path, libraries: Path, revision: str, compression: str = "xz") -> Path:
    """The package, with what `collect_libraries` has collected."""
    arch = _ARCHITECTURES[platform.machine()]
    version = f"{__version__}-{revision}"
    with TemporaryDirectory() as place:
        root = Path(place) / "root"
        shutil.copytree(libraries, root / "usr" / "lib" / "redisrepl")
        stage(root, version, arch)
        package = out / f"redisrepl_{version}_{arch}.deb"
        run("dpkg-deb", "--root-owner-group", f"-Z{compression}", "--build", root, package)
    return package


def stage(root: Path, version: str, arch: str) -> None:
    """Everything of the package but the libraries, which are there."""
    now = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    _write(root / "usr/bin/redisrepl", (DEBIAN / "redisrepl").read_text(), mode=0o755)
    for place, text in shared_files().items():
        for ours, theirs in _PLACES.items():
            place = place.replace(ours, theirs)  # noqa: PLW2901 - the same place, as Debian calls it
        _write(root / "usr/share" / (f"{place}.gz" if "/man1/" in place else place), text)
    for unit in UNITS:
        text = (CHECKOUT / "deploy" / unit).read_text().replace("/opt/redisrepl/bin/redisrepl", "/usr/bin/redisrepl")
        text = re.sub(r"/opt/redisrepl \(a virtual environment with redisrepl in it\), and in", "in", text)
        _write(root / "lib/systemd/system" / unit, text)
    _write(root / "usr/lib/sysusers.d/redisrepl.conf", (DEBIAN / "sysusers.conf").read_text())
    _write(root / "etc/redisrepl/redisrepl.toml", (CHECKOUT / "config/redisrepl.example.toml").read_text())
    docs = root / "usr/share/doc/redisrepl"
    licence = "".join(f" {line or '.'}\n" for line in (CHECKOUT / "LICENSE").read_text().rstrip().splitlines())
    copyright_text = (DEBIAN / "copyright").read_text().format(year=now.year, licence=licence.rstrip())
    _write(docs / "copyright", copyright_text)
    _write(docs / "changelog.gz", (CHECKOUT / "CHANGELOG.md").read_text())
    entry = f"redisrepl ({version}) unstable; urgency=medium\n\n  * See changelog.gz.\n\n"
    entry += f" -- redisrepl maintainers <maintainers@redisrepl.invalid>  {format_datetime(now)}\n"
    _write(docs / "changelog.Debian.gz", entry)
    for name in ("config/redisrepl.example.env", "deploy/site/users.acl", "deploy/redisrepl.service.d/password.conf"):
        _write(docs / "examples" / Path(name).name, (CHECKOUT / name).read_text())
    _write(root / "usr/share/lintian/overrides/redisrepl", (DEBIAN / "lintian-overrides").read_text())
    for path in [root, *root.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
        elif path.is_file() and path != root / "usr/bin/redisrepl":
            path.chmod(0o644)
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) >> 10
    control = (DEBIAN / "control").read_text().format(version=version, arch=arch, size=size)
    _write(root / "DEBIAN/control", control)
    _write(root / "DEBIAN/conffiles", "/etc/redisrepl/redisrepl.toml\n")
    for name in _SCRIPTS:
        _write(root / "DEBIAN" / name, (DEBIAN / name).read_text(), mode=0o755)
    (root / "DEBIAN").chmod(0o755)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode()
    path.write_bytes(gzip.compress(data, 9, mtime=0) if path.suffix == ".gz" else data)
    path.chmod(mode)


if __name__ == "__main__":
    main()
