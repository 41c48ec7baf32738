"""Reads files that settings name: whatever is at such a path, it takes neither long nor much memory.

In: a path, and the flag that named it. Out: bytes, or an error that names both. Left to others: what they mean
(`tls.contexts`, `passwords`, `settings.settings`).

Reading a pipe waits for whoever writes to it, and a device may have no end. A shell passes on what a command writes as
a pipe (`--password-file <(COMMAND)`), so these are read where that is wanted, for a while; not where a file is read
again while the daemon runs, which would stand still.
"""

from __future__ import annotations

import os
import select
import stat
import time
from pathlib import Path

from redisrepl.errors import ConfigError

__all__ = ["MOST", "check_regular", "read_file", "read_secret"]

#: Bytes of a file: the authorities of all of a system are a quarter of a megabyte.
MOST = 4 << 20
#: Seconds for a command that writes to a pipe.
_PATIENCE = 10.0

_KINDS = (
    (stat.S_ISDIR, "is a directory"),
    (stat.S_ISFIFO, "is a pipe"),
    (stat.S_ISSOCK, "is a socket"),
    (stat.S_ISCHR, "is a device"),
    (stat.S_ISBLK, "is a device"),
)
_OTHERWISE = "name a file"


def read_file(path: Path, flag: str, *, pipe: bool = False) -> bytes:
    """The content of a configured file.

    Args:
        path: of it.
        flag: that named it.
        pipe: whether it may be a pipe.

    Raises:
        ConfigError: it cannot be read; names the flag, the file and the reason.
    """
    try:
        _check(path, flag, os.stat(path).st_mode, pipe=pipe)  # noqa: PTH116 - before it is opened, which has effects on devices
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            mode = os.fstat(file).st_mode
            _check(path, flag, mode, pipe=pipe)
            content = _content(file, path, flag, waits=stat.S_ISFIFO(mode))
        finally:
            os.close(file)
    except OSError as error:
        raise _unreadable(path, flag, error) from None
    if len(content) > MOST:
        raise ConfigError(f"{flag} {path}: is larger than {MOST >> 20} MB: {_OTHERWISE} that is what this flag takes")
    return content


def read_secret(path: Path, flag: str, *, pipe: bool = True) -> bytes:
    """The first line of a file with a password, a passphrase or a token; others are for people. See `read_file`."""
    return read_file(path, flag, pipe=pipe).partition(b"\n")[0].rstrip(b"\r")


def check_regular(path: Path, flag: str) -> None:
    """Check that a path leads to what can be read at once, and again: a file, and nothing else.

    Raises:
        ConfigError: it does not.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _unreadable(path, flag, error) from None
    _check(path, flag, mode, pipe=False)


def _check(path: Path, flag: str, mode: int, *, pipe: bool) -> None:
    if stat.S_ISREG(mode) or (pipe and stat.S_ISFIFO(mode)):
        return
    kind = next((said for is_it, said in _KINDS if is_it(mode)), "is no file")
    raise ConfigError(f"{flag} {path}: {kind}: {_OTHERWISE}")


def _content(file: int, path: Path, flag: str, *, waits: bool) -> bytes:
    """What there is to be read, but no more than a byte over the limit."""
    pieces: list[bytes] = []
    left, until = MOST + 1, time.monotonic() + _PATIENCE
    while left:
        if waits and not select.select([file], [], [], max(0.0, until - time.monotonic()))[0]:
            raise ConfigError(f"{flag} {path}: is a pipe in which nothing came for {_PATIENCE:g} s: {_OTHERWISE}")
        piece = os.read(file, min(left, 1 << 16))
        if not piece:
            break
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _unreadable(path: Path, flag: str, error: OSError) -> ConfigError:
    reason = (error.strerror or str(error)).lower()
    return ConfigError(f"{flag} {path}: {reason}: check the path and that this user may read it")
