"""The command line: arguments to settings, errors to one sentence and an exit code.

In: argv. Out: an exit code. Left to others: which flags there are (`grammar.arguments`), everything that is done.

What a command needs is loaded by that command: `redisrepl status` runs every few seconds in many places. So each
command here reads its words, loads what it needs, and returns what is to be done.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redisrepl.errors import ConfigError, ExitCode, RedisreplError, exit_code
from redisrepl.grammar.arguments import Parser, parser_of, split_command
from redisrepl.grammar.flags import REPEATED
from redisrepl.imports import without
from redisrepl.settings.settings import ENV_PREFIX, Settings, load_settings, split_list, unknown_variables
from redisrepl.showing import plain
from redisrepl.stdio import binary_output, prepare, standard_output, text_output

if TYPE_CHECKING:
    from redisrepl.local.address import SiteAddress

__all__ = ["main", "site_address"]

#: What libraries would load for a terminal.
_NOT_FOR_DAEMONS = ("rich", "click")

# ruff: noqa: PLC0415 - see above


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    commands = {
        "run": _run,
        "check": _check,
        "status": _status,
        "conflicts": _conflicts,
        "verify": _verify,
        "tail": _tail,
        "rdb": _rdb,
    }
    prepare()
    try:
        gc.disable()  # what is loaded stays: to look for garbage in it took a tenth of the time of a start
        try:
            command, words = split_command(sys.argv[1:] if argv is None else argv)
            work = commands[command](parser_of(command), words)
        finally:
            gc.enable()
        code = work()
    except RedisreplError as error:
        sys.stderr.write(f"redisrepl: {plain(str(error))}\n")
        return exit_code(error)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    return code


def _run(parser: Parser, argv: list[str]) -> Callable[[], int]:
    from redisrepl.settings.apart import load_settings_apart

    settings, address, _ = _load(parser, argv, load_settings_apart)
    if not settings.ns and settings.cert is None and settings.key is None:
        raise ConfigError(f"nothing says what to replicate: {parser.usage}; redisrepl --help tells more")

    import asyncio

    with without(*_NOT_FOR_DAEMONS):
        from redisrepl.daemon import Daemon

    async def run() -> int:
        await Daemon(settings, address).run()
        return ExitCode.OK

    return lambda: asyncio.run(run())


def _load(
    parser: Parser, argv: list[str], load: Callable[[Mapping[str, Any], Path | None], Settings] = load_settings
) -> tuple[Settings, SiteAddress, dict[str, Any]]:
    """Settings, the site's Redis and the command's own flags; logs are set up by then."""
    flags = parser.parse(argv)
    ask_password = flags.pop("ask_password")
    file = flags.pop("config") or _from_environment("CONFIG")
    given = {name: flags.pop(name) for name in Settings.fields if name in flags}
    for name in REPEATED:
        if given.get(name) is not None:
            given[name] = _split(given[name])
    settings = load({name: value for name, value in given.items() if value is not None}, file)

    with without(*_NOT_FOR_DAEMONS):
        import structlog

        from redisrepl.observe.logging import configure_logging

    configure_logging(settings.log_format, settings.log_level)
    for variable, meant in unknown_variables().items():
        hint = f"is {meant} meant?" if meant else "config/redisrepl.example.env has them all"
        structlog.get_logger("redisrepl").warning("settings.unknown_variable", variable=variable, hint=hint)
    return settings, site_address(settings, ask_password=ask_password), flags


def _split(prefixes: list[str]) -> list[str]:
    """`--ns a:,b:` is `--ns a: --ns b:`, as in the environment; an empty one stays, for it is a mistake to be told."""
    return [prefix for given in prefixes for prefix in split_list(given) or [given]]


def _check(parser: Parser, argv: list[str]) -> Callable[[], int]:
    settings, address, _ = _load(parser, argv)

    import asyncio

    from redisrepl.subcommands import check

    return lambda: asyncio.run(check.run(settings, address, out=text_output()))


def _verify(parser: Parser, argv: list[str]) -> Callable[[], int]:
    settings, address, flags = _load(parser, argv)

    import asyncio

    from redisrepl.subcommands import verify

    choice = verify.Choice(repair=flags["repair"], removals=flags["removals"], as_json=flags["json"])
    return lambda: asyncio.run(verify.run(settings, address, choice, out=text_output()))


def _status(parser: Parser, argv: list[str]) -> Callable[[], int]:
    flags = parser.parse(argv)

    from redisrepl.paths import default_directory
    from redisrepl.subcommands import status

    directory = flags["state_dir"] or _from_environment("STATE_DIR") or default_directory()
    if flags["watch"] is not None:
        return lambda: status.watch(Path(directory), period=flags["watch"], out=standard_output())
    return lambda: status.run(Path(directory), as_json=flags["json"], out=text_output())


def _conflicts(parser: Parser, argv: list[str]) -> Callable[[], int]:
    settings, address, flags = _load(parser, argv)

    from redisrepl.paths import default_directory
    from redisrepl.subcommands import conflicts

    directory = settings.state_dir or default_directory()
    return lambda: conflicts.run(directory, conflicts.Choice.of(flags), address, settings.timeout, out=binary_output())


def _rdb(parser: Parser, argv: list[str]) -> Callable[[], int]:
    flags = parser.parse(argv)

    from redisrepl.subcommands import rdb

    return lambda: rdb.run(
        flags["file"],
        ns=[os.fsencode(prefix) for prefix in _split(flags["ns"])],
        types=flags["type"],
        dbs=flags["db"],
        keys=flags["keys"],
        summary=flags["summary"],
        out=binary_output(),
        err=sys.stderr,
    )


def _tail(parser: Parser, argv: list[str]) -> Callable[[], int]:
    settings, address, flags = _load(parser, argv)

    import asyncio

    from redisrepl.local.replica import LinkOptions, parse_place
    from redisrepl.subcommands import tail

    choice = tail.Choice(
        ns=settings.ns,
        keys=frozenset(os.fsencode(key) for key in flags["watched"]),
        commands=frozenset(os.fsencode(name).upper() for name in flags["command"]),
        snapshot=not flags["no_snapshot"],
        place=parse_place(flags["begin"]) if flags["begin"] else None,
    )
    options = LinkOptions(
        silence=settings.site_silence, connect_wait=settings.connect_timeout, retry_max=settings.retry_max
    )
    return lambda: asyncio.run(tail.run(address, choice, options, binary_output().fileno()))


def site_address(settings: Settings, *, ask_password: bool) -> SiteAddress:
    """The site's Redis as the settings say, with its password from where it is kept.

    Raises:
        ConfigError: the address, the password file or a certificate cannot be used.
    """
    from redisrepl.local.address import parse_address
    from redisrepl.passwords import Password, password_file
    from redisrepl.tls.certificates import site_files

    password: Password
    if ask_password:
        if not sys.stdin.isatty():
            raise ConfigError("--pass asks on a terminal and there is none: use --password-file")

        import getpass

        password = getpass.getpass("Enter Redis password: ")
    else:
        password = password_file(settings.password_file, "--password-file")
    raddr, flag = settings.raddr, "--raddr"
    if settings.sentinel is not None:
        if raddr != Settings.fields["raddr"].default:
            raise ConfigError("--raddr and --sentinel are given: give one of them")
        raddr, flag = settings.sentinel, "--sentinel"
        raddr = raddr if "://" in raddr else f"redis-sentinel://{raddr}"
    return parse_address(
        raddr,
        flag=flag,
        username=settings.user,
        password=password,
        files=site_files(settings),
        sentinel_username=settings.sentinel_user,
        sentinel_password=password_file(settings.sentinel_password_file, "--sentinel-password-file"),
    )


def _from_environment(name: str) -> Path | None:
    value = os.environ.get(ENV_PREFIX + name)
    return Path(value) if value else None
