"""Passwords, from the files that settings name: never from the command line, where every user of the machine sees them.

In: a path, and the flag that named it. Out: a password, read again for each login. Left to others: who logs in with it
(`local`, `remote`).
"""

from __future__ import annotations

from pathlib import Path

import structlog

from redisrepl.errors import ConfigError
from redisrepl.files import read_secret

__all__ = ["Password", "PasswordFile", "password_file", "text_of"]

_log = structlog.get_logger("redisrepl")


class PasswordFile:
    """The password that a file holds now, in UTF-8 or not. A new one is used from the next login on.

    Args:
        file: where it is.
        flag: that named the file.

    Raises:
        ConfigError: the file cannot be read, or is empty.
    """

    __slots__ = ("_failed", "_file", "_flag", "_last", "_once")

    def __init__(self, file: Path, flag: str) -> None:
        self._file = file
        self._flag = flag
        self._once = file.is_fifo()  # it can be read once
        self._last = self._read(pipe=True)
        self._failed = False  # whether the last look found none, which was logged

    def text(self) -> str:
        """The password; the last one while there is none, as when the file is being written, or was a pipe."""
        if self._once:
            return self._last
        try:
            self._last = self._read()
        except ConfigError as error:
            if not self._failed:
                _log.warning("password.unreadable", error=str(error), then="the last password is used")
            self._failed = True
        else:
            self._failed = False
        return self._last

    def _read(self, *, pipe: bool = False) -> str:
        password = read_secret(self._file, self._flag, pipe=pipe).decode("utf-8", "surrogateescape")
        if not password:
            raise ConfigError(f"{self._flag} {self._file}: is empty: put the password on its first line")
        return password


#: From an address or a prompt, or from a file; None: there is none.
Password = str | PasswordFile | None


def password_file(file: Path | None, flag: str) -> PasswordFile | None:
    """The password in a file; None if no file was named.

    Raises:
        ConfigError: the file cannot be read, or is empty.
    """
    return None if file is None else PasswordFile(file, flag)


def text_of(password: Password) -> str | None:
    """What to log in with now."""
    return password.text() if isinstance(password, PasswordFile) else password
