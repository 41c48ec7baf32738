"""The command line: arguments to settings, errors to one sentence and an exit code.

In: argv. Out: an exit code. Left to others: everything that is done.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn, TextIO, cast, get_args, get_origin

import structlog

from redisrepl import __version__
from redisrepl.errors import ConfigError, ExitCode, RedisreplError, exit_code
from redisrepl.helptexts import (
    CHECK_EXAMPLE,
    RDB_EPILOG,
    RDB_EXAMPLE,
    RUN_EPILOG,
    RUN_EXAMPLE,
    STATUS_EPILOG,
    STATUS_EXAMPLE,
    TAIL_EPILOG,
    TAIL_EXAMPLE,
    VERIFY_EXAMPLE,
)
from redisrepl.local.address import SiteAddress, parse_address
from redisrepl.observe.logging import configure_logging
from redisrepl.settings import ENV_PREFIX, Settings, flag_of, load_settings, unknown_variables
from redisrepl.showing import PlainOutput, plain
from redisrepl.tls import CertificateFiles, read_file

__all__ = ["main"]

_log = structlog.get_logger("redisrepl")

#: Settings that concern one Redis and nothing else.
_TAIL_SETTINGS = [
    *("raddr", "sentinel", "user", "password_file", "site_ca", "site_cert", "site_key"),
    *("sentinel_user", "sentinel_password_file", "ns", "site_silence", "connect_timeout", "retry_max"),
    *("log_format", "log_level"),
]

#: Spellings of redisRepl 1.2 beside the setting's own.
_GO_FLAGS = {"ca": ["-CA", "--CA"], "ns": ["-nam", "--nam"]}
#: What `--help` shows, in this order.
_GROUPS: list[tuple[str, list[str]]] = [
    ("the hub", ["haddr", "cert", "key", "ca", "hub_database", "notify_config", "subscribe", "feed"]),
    (
        "the site's Redis",
        [
            *("raddr", "sentinel", "source", "user", "password_file", "site_ca", "site_cert", "site_key"),
            *("sentinel_user", "sentinel_password_file"),
        ],
    ),
    ("what crosses", ["ns", "rc", "replicate", "every_write"]),
    ("after a gap", ["state_dir", "initial_sync", "on_conflict", "sweep_period", "sweep_rate"]),
    ("limits", ["max_memory", "max_keys", "max_body", "max_value", "batch", "flights", "max_push_rate"]),
    ("times", ["canary_period", "timeout", "connect_timeout", "retry_max", "site_silence", "shutdown_timeout"]),
    ("logs", ["log_format", "log_level"]),
]


class _Parser(argparse.ArgumentParser):
    """Texts as they are written; flags in full; a wrong use in one sentence."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """One sentence, and where to read on."""
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[list[str]], int]] = {
        "run": _run,
        "check": _check,
        "status": _status,
        "verify": _verify,
        "tail": _tail,
        "rdb": _rdb,
    }
    command = commands["run"]
    if arguments and arguments[0] in commands:
        command = commands[arguments.pop(0)]
    try:
        return command(arguments)
    except RedisreplError as error:
        sys.stderr.write(f"redisrepl: {plain(str(error))}\n")
        return exit_code(error)
    except KeyboardInterrupt:
        return 130


def _run(argv: list[str]) -> int:
    parser = _Parser(
        prog="redisrepl",
        description=RUN_EXAMPLE,
        epilog=RUN_EPILOG,
        add_help=False,
        usage="redisrepl --cert FILE --key FILE --ca FILE --ns PREFIX [-rc] [flags]",
    )
    _add_settings(parser, [name for _, names in _GROUPS for name in names])
    parser.add_argument("-h", "-help", "--help", action="help", help="show this and exit")
    parser.add_argument("-version", "--version", action="version", version=f"redisrepl {__version__}")
    settings, address, _ = _load(parser, argv)

    from redisrepl.daemon import Daemon  # noqa: PLC0415 - the other commands do not need it

    async def run() -> None:
        await Daemon(settings, address).run()

    asyncio.run(run())
    return ExitCode.OK


def _load(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[Settings, SiteAddress, dict[str, Any]]:
    """Settings, the site's Redis and the command's own flags; logs are set up by then."""
    parser.add_argument("-pass", "--pass", dest="ask_password", action="store_true", help="ask for the password")
    parser.add_argument("-config", "--config", type=Path, metavar="FILE", help="TOML file with settings")
    flags = vars(parser.parse_args(_go_booleans(argv)))
    ask_password = flags.pop("ask_password")
    file = flags.pop("config") or _from_environment("CONFIG")
    given = {name: flags.pop(name) for name in Settings.model_fields if name in flags}
    settings = load_settings({name: value for name, value in given.items() if value is not None}, file)
    configure_logging(settings.log_format, settings.log_level)
    for variable, meant in unknown_variables().items():
        hint = f"is {meant} meant?" if meant else "config/redisrepl.example.env has them all"
        _log.warning("settings.unknown_variable", variable=variable, hint=hint)
    return settings, site_address(settings, ask_password=ask_password), flags


def _check(argv: list[str]) -> int:
    from redisrepl.subcommands import check  # noqa: PLC0415 - the daemon does not need it

    settings, address, _ = _load(_settings_parser("check", CHECK_EXAMPLE), argv)
    return asyncio.run(check.run(settings, address, out=cast("TextIO", PlainOutput(sys.stdout))))


def _verify(argv: list[str]) -> int:
    from redisrepl.subcommands import verify  # noqa: PLC0415 - the daemon does not need it

    parser = _settings_parser("verify", VERIFY_EXAMPLE)
    parser.add_argument("--repair", action="store_true", help="heal what differs, then compare again")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    settings, address, flags = _load(parser, argv)
    return asyncio.run(
        verify.run(
            settings,
            address,
            repair=flags["repair"],
            as_json=flags["json"],
            out=cast("TextIO", PlainOutput(sys.stdout)),
        )
    )


def _status(argv: list[str]) -> int:
    from redisrepl.checkpoint import default_directory  # noqa: PLC0415 - the daemon does not need them here
    from redisrepl.subcommands import status  # noqa: PLC0415

    parser = _Parser(
        prog="redisrepl status",
        description=STATUS_EXAMPLE,
        epilog=STATUS_EPILOG,
        usage="redisrepl status [--state-dir DIR] [--json]",
    )
    _add_settings(parser, ["state_dir"])
    parser.add_argument("--json", action="store_true", help="what each daemon says, as one line of JSON")
    flags = vars(parser.parse_args(argv))
    directory = flags["state_dir"] or _from_environment("STATE_DIR") or default_directory()
    return status.run(Path(directory), as_json=flags["json"], out=cast("TextIO", PlainOutput(sys.stdout)))


def _settings_parser(command: str, example: str) -> argparse.ArgumentParser:
    """A parser that takes the flags of the daemon, so that its command line can be used as it is."""
    parser = _Parser(
        prog=f"redisrepl {command}",
        description=example,
        usage=f"redisrepl {command} [flags of the daemon]",
    )
    _add_settings(parser, [name for _, names in _GROUPS for name in names])
    return parser


def _rdb(argv: list[str]) -> int:
    from redisrepl.subcommands import rdb  # noqa: PLC0415 - the daemon does not need it

    parser = _Parser(
        prog="redisrepl rdb",
        description=RDB_EXAMPLE,
        epilog=RDB_EPILOG,
    )
    parser.add_argument("file", metavar="FILE", help="the snapshot; - for standard input")
    parser.add_argument("--ns", action="append", default=[], metavar="PREFIX", help="only keys that start with this")
    parser.add_argument("--type", action="append", default=[], choices=rdb.TYPES, help="only values of this type")
    parser.add_argument("--db", action="append", default=[], type=_database, metavar="N", help="only this database")
    shapes = parser.add_mutually_exclusive_group()
    shapes.add_argument("--keys", action="store_true", help="only keys: a JSON string a line; values are passed over")
    shapes.add_argument("--summary", action="store_true", help="a table of types, sizes and the biggest keys instead")
    flags = parser.parse_args(argv)
    return rdb.run(
        flags.file,
        ns=[os.fsencode(prefix) for prefix in flags.ns],
        types=flags.type,
        dbs=flags.db,
        keys=flags.keys,
        summary=flags.summary,
        out=_binary_output(),
        err=cast("TextIO", sys.stderr or io.StringIO()),
    )


def _tail(argv: list[str]) -> int:
    from redisrepl.local.replica import LinkOptions, parse_place  # noqa: PLC0415 - the daemon does not need them
    from redisrepl.subcommands import tail  # noqa: PLC0415

    parser = _Parser(
        prog="redisrepl tail",
        description=TAIL_EXAMPLE,
        epilog=TAIL_EPILOG,
        usage="redisrepl tail [--raddr ADDRESS] [flags]",
    )
    chosen = parser.add_argument_group("what is printed")
    chosen.add_argument("--no-snapshot", action="store_true", help="leave out what is there, begin with the next write")
    chosen.add_argument("--from", dest="begin", metavar="REPLID:OFFSET[:DB]", help="go on after this position instead")
    chosen.add_argument(
        "--key", dest="watched", action="append", default=[], metavar="K", help="this key too; may be repeated"
    )
    chosen.add_argument(
        "--command", action="append", default=[], metavar="NAME", help="of the writes only these; may be repeated"
    )
    _add_settings(parser, _TAIL_SETTINGS)
    settings, address, flags = _load(parser, argv)
    place = parse_place(flags["begin"]) if flags["begin"] else None
    choice = tail.Choice(
        ns=settings.ns,
        keys=frozenset(os.fsencode(key) for key in flags["watched"]),
        commands=frozenset(os.fsencode(name).upper() for name in flags["command"]),
        snapshot=not flags["no_snapshot"],
        place=place,
    )
    options = LinkOptions(
        silence=settings.site_silence, connect_wait=settings.connect_timeout, retry_max=settings.retry_max
    )
    return asyncio.run(tail.run(address, choice, options, sys.stdout.fileno()))


def _database(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError
    return number


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
        password = _password(settings.password_file, "--password-file")
    raddr, flag = settings.raddr, "--raddr"
    if settings.sentinel is not None:
        if raddr != Settings.model_fields["raddr"].default:
            raise ConfigError("--raddr and --sentinel are given: give one of them")
        raddr, flag = settings.sentinel, "--sentinel"
        raddr = raddr if "://" in raddr else f"redis-sentinel://{raddr}"
    sentinel_password = None
    if settings.sentinel_password_file is not None:
        sentinel_password = _password(settings.sentinel_password_file, "--sentinel-password-file")
    return parse_address(
        raddr,
        flag=flag,
        username=settings.user,
        password=password,
        files=CertificateFiles(
            settings.site_ca, settings.site_cert, settings.site_key, ("--site-ca", "--site-cert", "--site-key")
        ),
        sentinel_username=settings.sentinel_user,
        sentinel_password=sentinel_password,
    )


def _binary_output() -> BinaryIO:
    """Standard output; Python has none where it was closed before the start."""
    if sys.stdout is None:
        raise ConfigError("standard output is closed: redirect it to a file")
    return cast("BinaryIO", sys.stdout.buffer)


def _password(file: Path, flag: str) -> str:
    """The password that a file holds, in UTF-8 or not."""
    password = read_file(file, flag).decode("utf-8", "surrogateescape").rstrip("\r\n")
    if not password:
        raise ConfigError(f"{flag} {file}: is empty: put the password on its first line")
    return password


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
        if field.annotation is bool:
            group.add_argument(*spellings, dest=name, action="store_true", default=None, help=help_text)
            help_text = "do not (also -rc=false)" if name == "rc" else "do not"
            group.add_argument(f"--no-{flag[2:]}", dest=name, action="store_false", default=None, help=help_text)
        elif name == "ns":
            group.add_argument(*spellings, dest=name, action="append", metavar="PREFIX", help=help_text)
        else:
            group.add_argument(*spellings, dest=name, metavar=_metavar(name), help=help_text)


def _metavar(name: str) -> str:
    annotation = Settings.model_fields[name].annotation
    parts = (annotation, *get_args(annotation))  # of `Literal[..] | None` too
    if choices := [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]:
        return "|".join(choices)
    if name == "state_dir":
        return "DIR"
    if Path in parts:
        return "FILE"
    return {
        "haddr": "URL",
        "raddr": "ADDRESS",
        "user": "NAME",
        "sentinel": "HOST:PORT,../SERVICE",
        "sentinel_user": "NAME",
        "replicate": "KINDS",
    }.get(name, "N")


def _default_text(name: str) -> str:
    default = Settings.model_fields[name].default
    match default:
        case None | () | False:
            return ""
        case True:
            return " (default: yes)"
        case float():
            return f" (default: {default:g})"
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
            if value.lower() in {"0", "f", "false"}:
                result += ["--no-rc"] if name.lstrip("-") == "rc" else []
                continue
        result.append(argument)
    return result
