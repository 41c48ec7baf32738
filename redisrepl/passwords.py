"""Passwords, from the files that settings name: never from the command line, where every user of the machine sees them.

In: a path, and the flag that named it. Out: a password. Left to others: who logs in with it (`local`, `remote`).
"""

from __future__ import annotations

from pathlib import Path

from redisrepl.errors import ConfigError
from redisrepl.files import read_secret

__all__ = ["read_password"]


def read_password(file: Path | None, flag: str) -> str | None:
    """The password that a file holds, in UTF-8 or not; None if none was named.

    Raises:
        ConfigError: the file cannot be read, or is empty.
    """
    if file is None:
        return None
    password = read_secret(file, flag).decode("utf-8", "surrogateescape")
    if not password:
        raise ConfigError(f"{flag} {file}: is empty: put the password on its first line")
    return password
