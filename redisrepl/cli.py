"""The command line: arguments to settings, errors to one sentence and an exit code.

In: argv. Out: an exit code. Left to others: everything that is done.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from redisrepl import __version__
from redisrepl.errors import ConfigError, ExitCode, RedisreplError, exit_code
from redisrepl.local.address import SiteAddress, parse_address
from redisrepl.observe.logging import configure_logging
from redisrepl.settings import ENV_PREFIX, Settings, flag_of, load_settings
from redisrepl.tls import CertificateFiles, read_file

__all__ = ["main"]

_EXAMPLE = """\
example:
  redisrepl --cert c.pem --key k.pem --ca ca.pem -rc --ns site1:

Keeps the keys of the Redis on this machine that start with site1: equal to those of the hub at
https://localhost/redis: writes here go there, and with -rc writes there come here.
"""

_COMMANDS_HELP = """\
commands:
  redisrepl [run] ...      run the daemon (the default)
  redisrepl rdb FILE|-     print a snapshot file as JSON, one object a line
  redisrepl COMMAND --help tells more

exit codes:
  0 stopped when told to    1 unexpected error         2 wrong usage
  69 a server is away       77 refused by a server     78 bad configuration

Each flag is also a variable (--ns: REDISREPL_NS) and a key of the --config file (ns). The order is
flag, variable, file, default. Flags may be written with one dash, as redisRepl 1.2 had them.
"""

#: Spellings of redisRepl 1.2 beside the setting's own.
_GO_FLAGS = {"ca": ["-CA", "--CA"], "ns": ["-nam", "--nam"]}
#: What `--help` shows, in this order.
_GROUPS: list[tuple[str, list[str]]] = [
    ("the hub", ["haddr", "cert", "key", "ca", "hub_database", "notify_config"]),
    ("the site's Redis", ["raddr", "user", "password_file", "site_ca", "site_cert", "site_key"]),
    ("what crosses", ["ns", "rc", "replicate"]),
    ("after a gap", ["state_dir", "initial_sync", "on_conflict", "sweep_period", "sweep_rate"]),
    ("limits", ["max_memory", "max_keys", "max_body", "batch", "flights"]),
    ("times", ["canary_period", "timeout", "connect_timeout", "retry_max", "site_silence", "shutdown_timeout"]),
    ("logs", ["log_format", "log_level"]),
]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, and where to read on."""
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[list[str]], int]] = {"run": _run, "rdb": _rdb}
    command = commands["run"]
    if arguments and arguments[0] in commands:
        command = commands[arguments.pop(0)]
    try:
        return command(arguments)
    except RedisreplError as error:
        sys.stderr.write(f"redisrepl: {error}\n")
        return exit_code(error)
    except KeyboardInterrupt:
        return 130


def _run(argv: list[str]) -> int:
    parser = _Parser(
        prog="redisrepl",
        description=_EXAMPLE,
        epilog=_COMMANDS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        usage="redisrepl --cert FILE --key FILE --ca FILE --ns PREFIX [-rc] [flags]",
    )
    _add_settings(parser, [name for _, names in _GROUPS for name in names])
    parser.add_argument("-pass", "--pass", dest="ask_password", action="store_true", help="ask for the password")
    parser.add_argument("-config", "--config", type=Path, metavar="FILE", help="TOML file with settings")
    parser.add_argument("-version", "--version", action="version", version=f"redisrepl {__version__}")
    flags = vars(parser.parse_args(_go_booleans(argv)))
    ask_password = flags.pop("ask_password")
    file = flags.pop("config") or _from_environment("CONFIG")
    settings = load_settings({name: value for name, value in flags.items() if value is not None}, file)
    configure_logging(settings.log_format, settings.log_level)
    address = site_address(settings, ask_password=ask_password)

    from redisrepl.daemon import Daemon  # noqa: PLC0415 - the other commands do not need it

    async def run() -> None:
        await Daemon(settings, address).run()

    asyncio.run(run())
    return ExitCode.OK


def _rdb(argv: list[str]) -> int:
    raise NotImplementedError


def site_address(settings: Settings, *, ask_password: bool) -> SiteAddress:
    """The site's Redis as the settings say, with its password from where it is kept.

    Raises:
        ConfigError: the address, the password file or a certificate cannot be used.
    """
    password = None
    if ask_password:
        if not sys.stdin.isatty():
            raise ConfigError("--pass asks on a terminal and there is none: use --password-file")
        password = getpass.getpass("Enter Redis password: ")
    elif settings.password_file is not None:
        password = (
            read_file(settings.password_file, "--password-file").decode("utf-8", "surrogateescape").rstrip("\r\n")
        )
        if not password:
            raise ConfigError(f"--password-file {settings.password_file}: is empty: put the password on its first line")
    return parse_address(
        settings.raddr,
        username=settings.user,
        password=password,
        files=CertificateFiles(
            settings.site_ca, settings.site_cert, settings.site_key, ("--site-ca", "--site-cert", "--site-key")
        ),
    )


def _add_settings(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    groups = {name: title for title, members in _GROUPS for name in members}
    made: dict[str, argparse._ArgumentGroup] = {}
    for name in names:
        title = groups[name]
        group = made.setdefault(title, parser.add_argument_group(title)) if title not in made else made[title]
        field = Settings.model_fields[name]
        flag = flag_of(name)
        spellings = [flag, flag[1:], *_GO_FLAGS.get(name, [])]
        help_text = (field.description or "") + _default_text(name)
        if name == "rc":
            group.add_argument(*spellings, dest=name, action="store_true", default=None, help=help_text)
        elif name == "ns":
            group.add_argument(*spellings, dest=name, action="append", metavar="PREFIX", help=help_text)
        else:
            group.add_argument(*spellings, dest=name, metavar=_metavar(name), help=help_text)


def _metavar(name: str) -> str:
    annotation = str(Settings.model_fields[name].annotation)
    if "Path" in annotation:
        return "FILE"
    if "Literal" in annotation:
        return "|".join(part.strip(" '\"") for part in annotation.partition("[")[2].rstrip("]").split(","))
    return {"haddr": "URL", "raddr": "ADDRESS", "user": "NAME", "replicate": "KINDS"}.get(name, "N")


def _default_text(name: str) -> str:
    default = Settings.model_fields[name].default
    match default:
        case None | () | False:
            return ""
        case frozenset():
            return f" (default: {','.join(sorted(default, reverse=True))})"
        case _:
            return f" (default: {default})"


def _from_environment(name: str) -> Path | None:
    value = os.environ.get(ENV_PREFIX + name)
    return Path(value) if value else None


def _go_booleans(argv: Sequence[str]) -> list[str]:
    """Go's flag package also takes `-rc=true` and `-pass=false`; argparse does not."""
    result = []
    for argument in argv:
        name, _, value = argument.partition("=")
        if name.lstrip("-") in {"rc", "pass", "version"} and name.startswith("-") and value:
            if value.lower() in {"1", "t", "true"}:
                result.append(name)
            continue
        result.append(argument)
    return result
