"""The flags of the settings: their spellings, their groups in `--help`, the names of their values.

In: the declared settings. Out: flags of a parser. Left to others: which command takes which (`grammar.arguments`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from redisrepl.settings.declared import default_text
from redisrepl.settings.settings import Settings, flag_of

__all__ = ["ALL_SETTINGS", "GROUPS", "LOG_SETTINGS", "REPEATED", "SITE_SETTINGS", "add_settings", "spellings_of"]

LOG_SETTINGS = ["log_format", "log_level"]
#: The groups of `--help`, in this order.
GROUPS: list[tuple[str, list[str]]] = [
    (
        "the hub",
        [
            *("haddr", "cert", "key", "key_password_file", "ca", "strict_certificates", "hub_user"),
            *("hub_password_file", "hub_database", "notify_config", "subscribe", "feed"),
        ],
    ),
    (
        "the site's Redis",
        [
            *("raddr", "sentinel", "source", "user", "password_file", "site_ca", "site_cert", "site_key"),
            *("site_key_password_file", "sentinel_user", "sentinel_password_file"),
        ],
    ),
    ("what is replicated", ["ns", "rc", "replicate", "opaque", "every_write"]),
    (
        "after an outage",
        ["state_dir", "initial_sync", "on_conflict", "keep_conflicts", "sweep_period", "max_removals", "sweep_rate"],
    ),
    ("limits", ["max_memory", "max_keys", "max_body", "max_value", "batch", "flights", "max_push_rate", "linger"]),
    ("times", ["canary_period", "timeout", "connect_timeout", "retry_max", "site_silence", "shutdown_timeout"]),
    (
        "metrics and status page",
        ["listen", "listen_host", "listen_token_file", "listen_cert", "listen_key", "listen_ca"],
    ),
    ("logs", LOG_SETTINGS),
]
ALL_SETTINGS = [name for _, names in GROUPS for name in names]
#: The settings that say where one Redis is and how to log in.
SITE_SETTINGS = [
    *("raddr", "sentinel", "user", "password_file", "site_ca", "site_cert", "site_key"),
    *("site_key_password_file", "strict_certificates", "sentinel_user", "sentinel_password_file"),
]
#: Settings whose flag may be given more than once.
REPEATED = ("ns", "listen", "listen_host")
#: Spellings of redisRepl 1.2 beside the setting's own.
_GO_FLAGS = {"ca": ["-CA", "--CA"], "ns": ["-nam", "--nam"]}
_METAVARS = {
    "haddr": "URL",
    "raddr": "ADDRESS",
    "user": "NAME",
    "hub_user": "NAME",
    "sentinel": "HOST:PORT,../SERVICE",
    "sentinel_user": "NAME",
    "keep_conflicts": "SIZE,DAYS",
    "linger": "MS",
    "replicate": "KINDS",
    "ns": "PREFIX",
    "listen": "ADDRESS",
    "listen_host": "NAME",
    "state_dir": "DIR",
}


def add_settings(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Add the flags of these settings to a parser."""
    groups = {name: title for title, members in GROUPS for name in members}
    made: dict[str, argparse._ArgumentGroup] = {}
    for name in names:
        title = groups[name]
        group = made.setdefault(title, parser.add_argument_group(title)) if title not in made else made[title]
        setting = Settings.fields[name]
        spellings = spellings_of(name)
        help_text = setting.description + default_text(setting.default)
        if setting.kind is bool:
            group.add_argument(*spellings, dest=name, action="store_true", default=None, help=help_text)
            help_text = "do not (also -rc=false)" if name == "rc" else "do not"
            group.add_argument(
                f"--no-{flag_of(name)[2:]}", dest=name, action="store_false", default=None, help=help_text
            )
        elif name in REPEATED:
            group.add_argument(*spellings, dest=name, action="append", metavar=_METAVARS[name], help=help_text)
        else:
            group.add_argument(*spellings, dest=name, metavar=_metavar(name), help=help_text)


def spellings_of(name: str) -> list[str]:
    """Every spelling of the flag of a setting."""
    flag = flag_of(name)
    return [flag, flag[1:], *_GO_FLAGS.get(name, [])]


def _metavar(name: str) -> str:
    setting = Settings.fields[name]
    if setting.choices:
        return "|".join(setting.choices)
    return _METAVARS.get(name, "FILE" if setting.kind is Path else "N")
