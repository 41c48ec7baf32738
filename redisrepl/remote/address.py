"""Checks the address of a hub behind Webdis, and adds or removes credentials.

In: `--haddr`. Out: an https:// URL, or an error that says what is wrong. Left to others: connecting
(`remote.transport`), the address of a Redis that is reached directly (`remote.direct`).
"""

from __future__ import annotations

import httpx

from redisrepl.errors import ConfigError
from redisrepl.escaping import refuse_unescaped
from redisrepl.remote.transport import parse_url
from redisrepl.showing import masked

__all__ = ["USER_AGENT", "check_url", "with_credentials", "without_credentials"]

USER_AGENT = "redisrepl"


def check_url(url: str, flag: str = "--haddr") -> str:
    """The hub's address with one slash at its end.

    Raises:
        ConfigError: it is not an https:// address.
    """
    refuse_unescaped(url, flag, by="--hub-password-file")
    shown = without_credentials(url) or "''"
    if any(letter.isspace() for letter in url):  # httpx would escape it
        raise ConfigError(f"{flag} {shown}: has a space in it: give one like https://hub.example.org/redis")
    try:
        parsed = parse_url(url)
    except ValueError:
        raise ConfigError(f"{flag} {shown}: not an address: give one like https://hub.example.org/redis") from None
    if parsed.scheme != "https" or not parsed.host:
        raise ConfigError(
            f"{flag} {shown}: must start with https://, or with rediss:// for the hub's Redis itself, and name a host,"
            " as in https://hub.example.org/redis"
        )
    return url.rstrip("/") + "/"


def without_credentials(url: str) -> str:
    """The address without user and password, for people."""
    return masked(url).replace("…@", "", 1)


def with_credentials(url: str, user: str | None, password: str | None) -> str:
    """The address with a user and a password that were given separately."""
    given = {name: text for name, text in (("username", user), ("password", password)) if text is not None}
    return str(httpx.URL(url).copy_with(**given)) if given else url
