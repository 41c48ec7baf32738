"""Guesses which word was meant by a misspelt one.

In: a word and the known ones. Out: the closest, or our name for it. Left to others: the message.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["closest", "closest_command", "elsewhere", "flag_for"]

_COMMANDS = {
    **dict.fromkeys(("start", "daemon", "serve", "sync", "replicate"), "run"),
    **dict.fromkeys(("compare", "diff", "repair"), "verify"),
    **dict.fromkeys(("doctor", "test", "validate", "ping"), "check"),
    **dict.fromkeys(("info", "health", "state", "ps"), "status"),
    **dict.fromkeys(("monitor", "watch", "follow", "listen"), "tail"),
    **dict.fromkeys(("losers", "lost", "restore", "undo"), "conflicts"),
    **dict.fromkeys(("dump", "snapshot", "export"), "rdb"),
}
#: Flags of other programs, and ours for the same thing.
_ELSEWHERE = {
    **dict.fromkeys(("host", "redis", "port", "redis-url", "local"), "--raddr HOST:PORT"),
    **dict.fromkeys(("hub", "url", "remote", "server"), "--haddr URL"),
    **dict.fromkeys(("prefix", "namespace", "namespaces", "pattern"), "--ns PREFIX"),
    **dict.fromkeys(("database", "dbnum"), "--raddr redis://HOST:PORT/NUMBER"),
    **dict.fromkeys(("tls", "ssl"), "--raddr rediss://HOST:PORT"),
    **dict.fromkeys(("v", "verbose", "debug"), "--log-level debug"),
    **dict.fromkeys(("q", "quiet"), "--log-level warning"),
    **dict.fromkeys(("a", "password", "auth"), "--password-file FILE"),
    **dict.fromkeys(("cacert", "ca-file"), "--ca FILE"),
    **dict.fromkeys(("delete", "deletes"), "--replicate set,hset,del"),
    **dict.fromkeys(("pull", "two-way"), "-rc"),
    "V": "--version",
}


def elsewhere(flag: str) -> str:
    """Our flag for one of another program; empty if there is none."""
    return _ELSEWHERE.get(flag.lstrip("-"), "")


def flag_for(word: str) -> str:
    """The flag for which such a word is a value, with what it is called there; empty if it is like none."""
    if word.startswith(("http://", "https://")):
        return "--haddr URL"
    if word.startswith(("redis://", "rediss://", "unix://")) or word.rpartition(":")[2].isdecimal():
        return "--raddr ADDRESS"
    return "--config FILE" if word.endswith(".toml") else ""


def closest_command(word: str, known: Iterable[str]) -> str:
    """The command that was probably meant; empty if none is close."""
    return _COMMANDS.get(word.lower()) or closest(word.lower(), known)


def closest(word: str, known: Iterable[str]) -> str:
    """The closest known word, whatever the number of dashes; empty if none is close."""
    from difflib import get_close_matches  # noqa: PLC0415 - only mistakes need it, and it takes long to load

    bare = {one.lstrip("-").replace("_", "-"): one for one in sorted(known, reverse=True)}  # two dashes last: they win
    matches = get_close_matches(word.lstrip("-").replace("_", "-"), bare, n=1)
    return bare[matches[0]] if matches else ""
