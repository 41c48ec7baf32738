"""The man page and the completions of shells, made from the parsers of the command line.

In: nothing. Out: texts, by the place below `share` where they belong. Left to others: putting them there
(`hatch_build.py`, `release.deb`). Needs shtab and the standard library, so that a build can run it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

import shtab

from redisrepl import __version__
from redisrepl.grammar.arguments import COMMANDS, Parser, parser_of
from redisrepl.settings.settings import ENV_PREFIX, Settings

__all__ = ["ABOUT", "VARIABLES", "shared_files"]

_COMPLETIONS = {
    "bash": "bash-completion/completions/redisrepl",
    "zsh": "zsh/site-functions/_redisrepl",
    "fish": "fish/vendor_completions.d/redisrepl.fish",
}
ABOUT = {
    "run": "run the daemon (the default)",
    "status": "are the daemons on this machine well?",
    "check": "test every precondition and say how to fix it",
    "conflicts": "list, show and restore values that lost a conflict",
    "verify": "are both sides equal?",
    "rdb": "print a snapshot file as JSON",
    "tail": "print what a Redis holds, then each write",
}


VARIABLES = (
    (f"{ENV_PREFIX}NS, {ENV_PREFIX}HADDR, ...", "Each flag is also a variable: in capitals, with _ in place of -."),
    (f"{ENV_PREFIX}CONFIG", "The file with settings, as --config."),
    ("STATE_DIRECTORY, XDG_STATE_HOME", "Where state is kept if --state-dir does not say it."),
    ("HTTPS_PROXY, NO_PROXY", "The proxy on the way to the hub, and the hosts that need none."),
    ("NO_COLOR", "If set and not empty, log lines on a terminal have no colours."),
)


def shared_files() -> dict[str, str]:
    """Every text by its path below `share`."""
    files = {_COMPLETIONS[shell]: shtab.complete(_whole(), shell) for shell in _COMPLETIONS}
    return files | {"man/man1/redisrepl.1": man_page()}


def _whole() -> Parser:
    """One parser with all commands, for shtab; each flag in one spelling."""
    whole = _for_completion("run")
    commands = whole.add_subparsers(metavar="COMMAND")
    for name, about in ABOUT.items():
        commands._name_parser_map[name] = _for_completion(name)
        commands._choices_actions.append(commands._ChoicesPseudoAction(name, [], about))
    return whole


def _for_completion(command: str) -> Parser:
    parser = parser_of(command)
    parser.description = ABOUT[command]
    for action in parser._actions:
        spellings = parser.spellings(action)
        action.option_strings[:] = spellings
        setting = Settings.fields.get(action.dest)
        if setting is not None and setting.choices:
            action.choices = setting.choices
        elif action.metavar == "FILE":
            action.complete = shtab.FILE
        elif action.metavar == "DIR":
            action.complete = shtab.DIRECTORY
    return parser


def man_page() -> str:
    """redisrepl(1), in the macros of man(7)."""
    run = parser_of("run")
    lines = [
        f'.TH REDISREPL 1 "" "redisrepl {__version__}" "User Commands"',
        ".SH NAME",
        r"redisrepl \- keeps a site's Redis namespace and a hub behind Webdis equal, over mutual-TLS HTTPS",
        ".SH SYNOPSIS",
        *(line for command in COMMANDS for line in (*_usage(parser_of(command)), ".br")),
        ".SH DESCRIPTION",
        *_prose(run.description or ""),
        ".SH OPTIONS OF THE DAEMON",
        *_options(run),
        ".SH COMMANDS",
    ]
    for command in COMMANDS:
        lines += [f".SS redisrepl {command}", _escaped(_sentence(ABOUT[command])), ".PP"]
        if command != "run":
            parser = parser_of(command)
            lines += [*_prose(parser.description or ""), *_options(parser, brief=True)]
            lines += _prose(parser.epilog or "")
    lines += [".SH ENVIRONMENT"]
    for name, meaning in VARIABLES:
        lines += [".TP", rf"\fB{_escaped(name)}\fR", _escaped(meaning)]
    lines += [".SH NOTES", *_prose(run.epilog or "", without="commands:")]
    lines += [".SH SEE ALSO", r"\fBredis\-server\fR(1), \fBnginx\fR(8), https://webd.is"]
    return "\n".join(_tidy(lines)) + "\n"


def _tidy(lines: list[str]) -> Iterator[str]:
    """Without macros that begin or end nothing."""
    for before, line, after in zip(["", *lines], lines, [*lines[1:], ""], strict=False):
        if line == ".PP" and (before.startswith((".SH", ".SS")) or after.startswith((".PP", ".SH", ".SS", ".TP"))):
            continue
        if line == ".br" and after.startswith(".SH"):
            continue
        yield line


def _usage(parser: Parser) -> Iterator[str]:
    usage = re.sub(r"\s+", " ", parser.format_usage().removeprefix("usage: ")).strip()
    program, *_ = usage.partition(" -") if parser.prog == "redisrepl" else usage.partition(" [")
    yield f".B {_escaped(program)}"
    yield _escaped(usage[len(program) :].strip())


def _options(parser: Parser, *, brief: bool = False) -> Iterator[str]:
    """The flags; briefly: without those of the daemon, which are told before."""
    common = {*Settings.fields, "help", "config", "ask_password"} - (
        {"ns"} if parser.prog == "redisrepl rdb" else set()
    )
    for group in parser._action_groups:
        told = [action for action in group._group_actions if not (brief and action.dest in common)]
        if told and group.title and not brief:
            yield f".SS {_escaped(_capital(group.title))}"
        for action in told:
            yield ".TP"
            yield _invocation(parser, action)
            yield _escaped(action.help or "")


def _invocation(parser: Parser, action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else str(action.metavar or "|".join(action.choices or [action.dest]))
    if not action.option_strings:
        return rf"\fI{_escaped(value)}\fR"
    names = ", ".join(rf"\fB{_escaped(name)}\fR" for name in parser.spellings(action))
    return names + (rf" \fI{_escaped(value)}\fR" if value else "")


def _prose(text: str, without: str = "") -> Iterator[str]:
    """Paragraphs; what is indented is shown as it stands."""
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        head, _, rest = block.partition("\n")
        if without and head == without:
            continue
        if not head.startswith(" ") and rest.startswith(" "):
            yield from (".PP", _escaped(head), ".RS 2", ".EX")
            yield from (_escaped(line[2:]) for line in rest.splitlines())
            yield from (".EE", ".RE")
        elif head.startswith(" "):
            yield from (".sp", ".RS 2", ".EX", *(_escaped(line[2:]) for line in block.splitlines()), ".EE", ".RE")
        else:
            yield from (".PP", *(_escaped(line) for line in block.splitlines()))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(text: str) -> str:
    return _capital(text) if text.endswith("?") else f"{_capital(text)}."


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha")
    return rf"\&{text}" if text.startswith((".", "'")) else text
