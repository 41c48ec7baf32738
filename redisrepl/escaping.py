"""Refuses an address in which a character of a password may have been taken for the end of it.

In: an address as it was given. Out: nothing, or an error that shows no part of it. Left to others: parsing it
(`local.address`, `remote.address`, `remote.direct`, `remote.transport`).

`redis://me:12/secret@host` is a valid address: of the server `me`, at port 12. Who typed it meant another, and a part
of the password would be shown. So what such a password leads to is never taken for an address.
"""

from __future__ import annotations

from redisrepl.errors import ConfigError
from redisrepl.showing import split_scheme, unescaped

__all__ = ["refuse_unescaped"]

_ADVICE = "in a password @ / ? # must be percent-encoded, as %40 %2F %3F %23"


def refuse_unescaped(address: str, flag: str, *, by: str | None = None, names: tuple[str, ...] = ()) -> None:
    """Refuse a `#`, an `@` behind the first `/` or `?`, and a query of anything but known names.

    Args:
        address: as given.
        flag: what gave it, for messages.
        by: the flag for a file with the password, for messages.
        names: what may be in the query, once each; none: there may be no query.

    Raises:
        ConfigError: it holds one of these.
    """
    advice = f"{_ADVICE}, or given by {by}" if by else _ADVICE
    _, rest = split_scheme(address)
    if unescaped(rest):
        raise ConfigError(f"{flag}: has an @ behind a /, ? or #: {advice}")
    _, asked, query = rest.partition("?")
    if "#" in rest or (asked and not names):
        raise ConfigError(f"{flag}: has a part behind ? or #, which means nothing there: leave it out; {advice}")
    given = [pair.partition("=") for pair in query.split("&")] if asked else []
    known = {name for name, found, _ in given if found and name in names}
    if len(known) < len(given):
        wanted = " and ".join(f"{name}=.." for name in names)
        raise ConfigError(f"{flag}: has a part behind ? that is not {wanted}: leave it out; {advice}")
