"""The grammar of the command line: which commands and flags there are, and the message for a wrong one.

In: words. Out: parsers, the command, one sentence about a mistake. Left to others: what flags mean
(`settings.settings`), the texts of `--help` (`grammar.helptexts`), doing it (`cli`).

Loads nothing that talks to a server: `--help`, completions and the man page need no more than this.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from redisrepl import __version__
from redisrepl.errors import ExitCode
from redisrepl.grammar import helptexts
from redisrepl.grammar.flags import ALL_SETTINGS, LOG_SETTINGS, SITE_SETTINGS, add_settings, spellings_of
from redisrepl.settings.settings import Settings
from redisrepl.settings.suggestions import closest, closest_command, elsewhere, flag_for
from redisrepl.showing import masked, plain

__all__ = ["COMMANDS", "Parser", "go_booleans", "parser_of", "split_command"]


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Shows each flag once; the epilog says that one dash is enough."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        spellings = Parser.spellings(action)
        if not spellings:
            return super()._format_action_invocation(action)
        value = "" if action.nargs == 0 else f" {self._format_args(action, (action.dest or '').upper())}"
        return ", ".join(spellings) + value


class Parser(argparse.ArgumentParser):
    """Keeps texts as written, takes no abbreviated flags, and reports a mistake in one sentence."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Formatter, allow_abbrev=False, add_help=False, **options)
        self.add_argument("-h", "-help", "--help", action="help", help="show this and exit")

    @staticmethod
    def spellings(action: argparse.Action) -> list[str]:
        """How a flag is shown: its own name, and that of redisRepl 1.2 if it differs."""
        return [flag for flag in action.option_strings if _is_own(flag, action.option_strings)]

    def parse(self, argv: Sequence[str]) -> dict[str, Any]:
        """The given flags, by name; a mistake ends the process."""
        flags, rest = self.parse_known_args(go_booleans(argv))
        if rest:
            self.error(self._explain(rest[0], list(argv)))
        return vars(flags)

    def error(self, message: str) -> NoReturn:
        """Report a mistake in one sentence, and where to read on."""
        if message.startswith("argument ") and message.endswith("expected one argument"):
            action = next(a for a in self._actions if "/".join(a.option_strings) == message[9:].partition(": ")[0])
            flag = self.spellings(action)[0]
            message = f"{flag} needs a value: {flag} {action.metavar}"
        elif ": ignored explicit argument" in message:
            flag = message[9:].partition(":")[0].split("/")[0]
            opposite = f"--no-{flag.lstrip('-')}"
            either = f" or {opposite}" if opposite in self._option_string_actions else ""
            message = f"{flag} takes no value: write {flag}{either}"
        elif message.startswith("the following arguments are required: "):
            message = f"{message.rpartition(' ')[2]} is missing"
        self.exit(ExitCode.USAGE, _sentence(self.prog, message.removeprefix("argument ")))

    def _get_option_tuples(self, _option_string: str) -> list[Any]:
        """No abbreviations, not even of flags with one dash: `-p` must not become `-pass`."""
        return []

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse does, in the same words for every version of Python."""
        if action.choices is not None and value not in action.choices:
            close = closest(str(value), action.choices)
            advice = f"is {close} meant?" if close else f"there are {', '.join(action.choices)}"
            raise argparse.ArgumentError(action, f"there is no {value}: {advice}")

    def _explain(self, word: str, argv: list[str]) -> str:
        """The message for an unknown word; possible secrets are not repeated."""
        if not word.startswith("-") or word == "-":
            before = argv[argv.index(word) - 1] if argv.index(word) else ""
            name = before.lstrip("-")
            if name in {"pass", "rc", "every-write"} and before.startswith("-"):
                advice = "it asks, or give --password-file FILE" if name == "pass" else f"write {before} or --no-{name}"
                return f"{before} takes no value: {advice}"
            if word in COMMANDS:
                return f"{word} is a command too: give one of them"
            return f"{word} is neither a flag nor the value of one"
        name = word.partition("=")[0]
        if meant := elsewhere(name):
            return f"there is no flag {name}: {meant} is its name here"
        if others := [command for command in COMMANDS if name in parser_of(command)._option_string_actions]:  # noqa: SLF001 - another of this class
            return f"there is no flag {name} here: it belongs to redisrepl {', '.join(others)}"
        if close := closest(name, self._option_string_actions):
            return f"there is no flag {name}: is {close} meant?"
        return f"there is no flag {name}"


def split_command(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The command, and the words without it; flags may come before it.

    The first word that is neither a flag nor the value of one is the command; the default is `run`.
    """
    words = list(argv)
    skip = False
    for number, word in enumerate(words):
        if skip:
            skip = False
        elif word.startswith("-") and word != "-":
            skip = "=" not in word and word in _flags_with_value()
        elif word in COMMANDS:
            return word, words[:number] + words[number + 1 :]
        elif word in {"help", "version"}:
            return _asked(word, words[number + 1 :])
        elif number and words[number - 1].startswith("-"):
            break  # a word behind a flag without a value: the parser reports it
        else:
            _no_such_command(word, words[number - 2] if number > 1 else "")
    return "run", words


def _asked(word: str, rest: list[str]) -> tuple[str, list[str]]:
    """`redisrepl help tail` is `redisrepl tail --help`."""
    if word == "version":
        return "run", ["--version"]
    return (rest[0] if rest and rest[0] in COMMANDS else "run"), ["--help"]


def _sentence(program: str, message: str) -> str:
    return f"{program}: {message}{' See' if message.endswith('?') else '; see'} {program} --help\n"


def _no_such_command(word: str, flag: str) -> NoReturn:
    """Say what may be meant; `flag` is the one before the last word, if there is one."""
    advice = f"there are {', '.join(COMMANDS)}"
    if word.startswith(("\u2014", "\u2013")):
        advice = f"the long dash comes from a word processor: write --{word[1:]}"
    elif flag in _flags_with_value():
        advice = f"if it belongs to {flag}, write it together with the value before, without a space"
    elif close := closest_command(word, COMMANDS):
        advice = f"is {close} meant?"
    elif word.endswith((":", ":*")):
        advice = f"a namespace is given as --ns {word.rstrip('*')}"
    elif flag_of_word := flag_for(word):
        advice = f"give it as {flag_of_word}"
    shown = plain(masked(word) if "@" in word or "://" in word else word)
    sys.stderr.write(_sentence("redisrepl", f"there is no command '{shown}': {advice}"))
    raise SystemExit(ExitCode.USAGE)


def _flags_with_value() -> frozenset[str]:
    """Every flag, of any command, that takes a value."""
    names = [name for name, setting in Settings.fields.items() if setting.kind is not bool]
    flags = {spelling for name in names for spelling in spellings_of(name)}
    return frozenset(
        flags | {"--config", "-config", "--type", "--db", "--from", "--command", "--show", "--restore", "--number"}
    )


def parser_of(command: str) -> Parser:
    """The parser of a command."""
    return COMMANDS[command]()


def _run() -> Parser:
    parser = Parser(
        prog="redisrepl",
        description=helptexts.RUN_EXAMPLE,
        epilog=helptexts.RUN_EPILOG,
        usage="redisrepl --cert FILE --key FILE --ca FILE --ns PREFIX [-rc] [flags]",
    )
    _add_daemon_flags(parser)
    parser.add_argument(
        "-version",
        "--version",
        action="version",
        version=f"redisrepl {__version__}",
        help="show the version and exit",
    )
    return parser


def _check() -> Parser:
    return _of_daemon("check", helptexts.CHECK_EXAMPLE)


def _verify() -> Parser:
    parser = _of_daemon("verify", helptexts.VERIFY_EXAMPLE)
    parser.add_argument("--repair", action="store_true", help="deal with what differs, then compare again")
    parser.add_argument(
        "--removals", action="store_true", help="with --repair: remove as many keys as it takes (see --max-removals)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    return parser


def _of_daemon(command: str, example: str) -> Parser:
    """A parser that takes the daemon's flags, so that its command line can be reused unchanged."""
    parser = Parser(
        prog=f"redisrepl {command}", description=example, usage=f"redisrepl {command} [flags of the daemon]"
    )
    _add_daemon_flags(parser)
    return parser


def _status() -> Parser:
    parser = Parser(
        prog="redisrepl status",
        description=helptexts.STATUS_EXAMPLE,
        epilog=helptexts.STATUS_EPILOG,
        usage="redisrepl status [--state-dir DIR] [--json | --watch [SECONDS]]",
    )
    add_settings(parser, ["state_dir"])
    shapes = parser.add_mutually_exclusive_group()
    shapes.add_argument("--json", action="store_true", help="what each daemon says, as one line of JSON")
    watch_help = "a live table of all daemons (every 2 s)"
    shapes.add_argument("--watch", nargs="?", type=_seconds, const=2.0, metavar="SECONDS", help=watch_help)
    return parser


def _conflicts() -> Parser:
    parser = Parser(
        prog="redisrepl conflicts",
        description=helptexts.CONFLICTS_EXAMPLE,
        epilog=helptexts.CONFLICTS_EPILOG,
        usage="redisrepl conflicts [--state-dir DIR] [--json] [--show [KEY] | --restore [KEY]] [--number N] [flags]",
    )
    chosen = parser.add_mutually_exclusive_group()
    show_help = "print the value of this key that was lost last; without KEY that of --number"
    chosen.add_argument("--show", nargs="?", const=True, metavar="KEY", help=show_help)
    restore_help = "write it at the site's Redis, as any client would"
    chosen.add_argument("--restore", nargs="?", const=True, metavar="KEY", help=restore_help)
    parser.add_argument(
        "--number", type=_whole_number, metavar="N", help="the value of this number, if it is not the last of the key"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, values and all")
    add_settings(parser, ["state_dir", *SITE_SETTINGS, "timeout", *LOG_SETTINGS])
    _add_ways_to_settings(parser)
    return parser


def _rdb() -> Parser:
    from redisrepl.subcommands.rdb import TYPES  # noqa: PLC0415 - the other commands do not need it

    parser = Parser(prog="redisrepl rdb", description=helptexts.RDB_EXAMPLE, epilog=helptexts.RDB_EPILOG)
    parser.add_argument("file", metavar="FILE", help="the snapshot; - for standard input")
    parser.add_argument(
        *("--ns", "-ns"), action="append", default=[], metavar="PREFIX", help="only keys that start with this"
    )
    parser.add_argument("--type", action="append", default=[], choices=TYPES, help="only values of this type")
    parser.add_argument("--db", action="append", default=[], type=_database, metavar="N", help="only this database")
    shapes = parser.add_mutually_exclusive_group()
    shapes.add_argument("--keys", action="store_true", help="only keys: a JSON string a line; values are passed over")
    shapes.add_argument("--summary", action="store_true", help="a table of types, sizes and the biggest keys instead")
    return parser


def _tail() -> Parser:
    parser = Parser(
        prog="redisrepl tail",
        description=helptexts.TAIL_EXAMPLE,
        epilog=helptexts.TAIL_EPILOG,
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
    add_settings(parser, [*SITE_SETTINGS, "ns", "site_silence", "connect_timeout", "retry_max", *LOG_SETTINGS])
    _add_ways_to_settings(parser)
    return parser


#: Each command with its parser.
COMMANDS: dict[str, Callable[[], Parser]] = {
    "run": _run,
    "status": _status,
    "conflicts": _conflicts,
    "check": _check,
    "verify": _verify,
    "rdb": _rdb,
    "tail": _tail,
}


def _add_daemon_flags(parser: Parser) -> None:
    add_settings(parser, ALL_SETTINGS)
    _add_ways_to_settings(parser)


def _add_ways_to_settings(parser: Parser) -> None:
    parser.add_argument(
        "-pass", "--pass", dest="ask_password", action="store_true", help="ask for the password of the site's Redis"
    )
    parser.add_argument("-config", "--config", type=Path, metavar="FILE", help="TOML file with settings")


def _is_own(flag: str, others: Sequence[str]) -> bool:
    """Whether a spelling is a name of its own, not just another one with one dash instead of two."""
    return flag in {"-rc", "-nam", "-CA"} or (f"-{flag}" not in others and flag not in {"--rc", "--nam", "--CA"})


def _whole_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("must be a whole number, as `redisrepl conflicts` lists them")
    return int(text)


def _database(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("must be the number of a database, for example --db 3")
    return int(text)


def _seconds(text: str) -> float:
    try:
        period = float(text)
    except ValueError:
        period = 0.0
    if not 0.1 <= period <= 3600:  # noqa: PLR2004 - what can be meant
        raise argparse.ArgumentTypeError("must be a number of seconds, for example --watch 5")
    return period


def go_booleans(argv: Sequence[str]) -> list[str]:
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
