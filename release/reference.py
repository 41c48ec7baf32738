"""`make reference`: docs/reference.md, every command and setting, from the program itself.

In: the parsers, the declared settings. Out: the page. Left to others: comparing it (`tests/test_documents.py`), details
of some commands (docs/commands.md).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from redisrepl.grammar.arguments import COMMANDS, Parser, parser_of
from redisrepl.grammar.flags import GROUPS
from redisrepl.settings.declared import default_text
from redisrepl.settings.settings import ENV_PREFIX, Settings, flag_of
from release.manual import ABOUT, VARIABLES

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).parents[1] / "docs" / "reference.md"
_HEAD = """\
# Commands and settings

This page is generated from the program (`make reference`), and a test compares it. `redisrepl COMMAND --help` says the
same.

- Flags override variables, which override the `--config` file, which overrides defaults.
- A flag may have one dash or two: `-ns` and `--ns`.
- Sizes are bytes, or numbers with a unit: `900kB`, `96MiB`. Times are seconds.
- Examples of each setting: [redisrepl.example.toml](../config/redisrepl.example.toml),
  [redisrepl.example.env](../config/redisrepl.example.env).
- Exit codes and log events: [messages](messages.md). Metrics: [monitoring](monitoring.md#prometheus-and-grafana).
"""
#: Flags of the daemon, which have their own tables.
_OF_THE_DAEMON = {*Settings.fields, "config", "ask_password", "help", "version"}
_COMMON = (
    ("--config FILE", "TOML file with settings."),
    ("--pass", "Ask for the password of the site's Redis."),
    ("--version", "Show the version and exit."),
    ("-h, --help", "Show the flags and exit."),
)


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_commands(), *_settings(), *_variables()]) + "\n"


def _commands() -> Iterator[str]:
    yield from ("## Commands", "", "| command | what it does |", "|---|---|")
    for name in COMMANDS:
        yield f"| [`redisrepl {name}`](#redisrepl-{name}) | {_sentence(ABOUT[name])} |"
    yield ""
    for name in COMMANDS:
        parser = parser_of(name)
        own = [action for action in parser._actions if action.dest not in _OF_THE_DAEMON or name == "rdb"]
        own = [action for action in own if action.dest != "help"]
        yield from (f"### redisrepl {name}", "", _sentence(ABOUT[name]), "")
        yield from ("```text", " ".join(parser.format_usage().removeprefix("usage: ").split()), "```", "")
        if name in {"run", "check", "verify", "tail", "conflicts"}:
            taken = "all [settings](#settings)" if name in {"run", "check", "verify"} else "the settings of its server"
            yield from (f"It takes {taken} as flags.", "")
        if own:
            yield from ("| flag | meaning |", "|---|---|")
            yield from (f"| {_flag(parser, action)} | {_sentence(_cell(action.help or ''))} |" for action in own)
            yield ""


def _flag(parser: Parser, action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else str(action.metavar or "/".join(map(str, action.choices or [action.dest])))
    spellings = parser.spellings(action)
    return _cell(f"`{' '.join(filter(None, [', '.join(spellings), value]))}`")


def _settings() -> Iterator[str]:
    yield from ("## Settings", "")
    for title, names in GROUPS:
        yield from (f"### {title[0].upper()}{title[1:]}", "")
        yield from ("| flag | variable, key of the file | default | meaning |", "|---|---|---|---|")
        for name in names:
            setting = Settings.fields[name]
            default = default_text(setting.default).removeprefix(" (default: ").removesuffix(")")
            default = "no" if setting.default is False else default
            flag = flag_of(name) + (f", --no-{flag_of(name)[2:]}" if setting.kind is bool else "")
            flag = {"rc": "-rc, --no-rc", "ca": "--ca, -CA", "ns": "--ns, -nam"}.get(name, flag)
            told = _cell(setting.description)
            if setting.choices and not all(word in told for word in setting.choices):
                told += f": {', '.join(setting.choices)}"
            shown = f"`{default}`" if default else ""
            yield f"| `{flag}` | `{ENV_PREFIX}{name.upper()}`, `{name}` | {shown} | {_sentence(told)} |"
        yield ""
    yield from ("### Other flags", "", "| flag | meaning |", "|---|---|")
    yield from (f"| `{flag}` | {meaning} |" for flag, meaning in _COMMON)
    yield ""


def _variables() -> Iterator[str]:
    yield from ("## Other variables", "", "| variable | meaning |", "|---|---|")
    yield from (f"| `{name}` | {meaning} |" for name, meaning in VARIABLES[1:])


def _sentence(text: str) -> str:
    text = f"{text[:1].upper()}{text[1:]}"
    return text if text.endswith(("?", ".")) else f"{text}."


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
