"""What is shown to people: addresses without their secrets, text without what a terminal would obey.

In: text as it was given, or as a server sent it. Out: the same, fit to be printed. Left to others: where it goes.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any

__all__ = ["masked", "plain", "plain_fields", "split_scheme", "unescaped"]

#: C0 but for tab and newline, DEL, C1, what is no character, and what turns the order of text around.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
#: What is shown before `://`; anything else there may be the beginning of a password.
_SCHEMES = frozenset(
    {
        *("redis", "rediss", "unix", "redis-sentinel", "rediss-sentinel", "valkey", "valkeys"),
        *("http", "https", "ws", "wss", "ftp", "tcp", "tls", "ssl", "socks5"),
    }
)
_PLACES = re.compile(r"[\w.\-]*(:\d{0,5})?|\[[0-9A-Fa-f:.]*\]?(:-?\d{0,5})?", re.ASCII)


def plain(text: str) -> str:
    """Text in which escapes of a terminal are to be read, not obeyed."""
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def plain_fields(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor for log lines: the texts in them are plain."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = plain(value)
    return event


def split_scheme(address: str) -> tuple[str, str]:
    """What an address begins with, as it may be shown (`redis://`, `…://`, or nothing), and the rest of it."""
    found = _SCHEME.match(address)
    if found is None:
        return "", address
    scheme = found[1].lower()
    return f"{scheme if scheme in _SCHEMES else '…'}://", address[found.end() :]


def unescaped(rest: str) -> bool:
    """Whether what follows `://` has an @ behind its first slash, question mark or hash: in a password, most likely."""
    end = re.search("[/?#]", rest)
    return end is not None and "@" in rest[end.start() :]


def masked(address: str) -> str:
    """An address for a message: without what may be a user, a password or a token, wherever it was put.

    A password with a slash, a question mark or a hash in it ends the address for a parser, but not for who typed it. So
    everything before the last @ is left out, and all of it if that comes behind one of these; without one, a place that
    does not look like host and port. What stands before `://` is shown only if it is a scheme that is known.
    """
    head, rest = split_scheme(address)
    if unescaped(rest):
        return f"{head}…"
    _, secret, shown = rest.rpartition("@")
    place, query, _ = re.split(r"([?#]|\Z)", shown, maxsplit=1)
    host, slash, path = place.partition("/")
    if not secret and not all(map(_PLACES.fullmatch, host.split(","))):
        return f"{head}…"
    return plain(f"{head}{'…@' if secret else ''}{host}{slash}{path}{'?…' if query else ''}")
