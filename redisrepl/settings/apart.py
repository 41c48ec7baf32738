"""Has settings read by a process of its own, which ends as soon as it has told what they are.

In: flags and a file, as `settings.settings` takes them. Out: the same settings, or the same error. Left to others:
reading and checking (`settings.settings`, `settings.validation`).

What reads them is pydantic. A daemon needs it once, at its start, and Python unloads no module: it would hold 15 MB for
it as long as it runs. So a child process loads it and hands checked values back, through a pipe, since some of them are
secrets.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from redisrepl.errors import ConfigError
from redisrepl.settings.settings import ByteSize, Settings, load_settings

__all__ = ["load_settings_apart"]

_SIZES = {name for name, setting in Settings.fields.items() if setting.kind is ByteSize}


def load_settings_apart(flags: Mapping[str, Any], file: Path | None = None) -> Settings:
    """As `load_settings`, which is called in a child process; to be called before there are threads.

    Raises:
        ConfigError: as `load_settings`.
    """
    pickled = _read_by_child(flags, file) if hasattr(os, "fork") else b""
    if not pickled:  # without a child, or where it failed in some other way, what there is to say is said here
        return load_settings(flags, file)
    values, wrong = pickle.loads(pickled)  # noqa: S301 - it comes from this very program
    if wrong is not None:
        raise ConfigError(wrong)
    return Settings(**values)


def _read_by_child(flags: Mapping[str, Any], file: Path | None) -> bytes:
    """What the child has to say; nothing if there can be none, or if it did not end well."""
    import asyncio  # noqa: F401, PLC0415 - both processes need it: it is loaded once, before they part

    reading, writing = os.pipe()
    with open(reading, "rb") as pipe:  # noqa: PTH123 - a descriptor
        try:
            child = os.fork()
            if not child:
                _tell(writing, flags, file)
        except OSError:  # no more processes are allowed
            return b""
        finally:
            os.close(writing)
        pickled = pipe.read()
    try:
        _, status = os.waitpid(child, 0)
    except ChildProcessError:  # who started us has the system reap what we start
        return pickled
    return pickled if not status else b""


def _tell(writing: int, flags: Mapping[str, Any], file: Path | None) -> NoReturn:
    """In the child: write the settings to the pipe, or what is wrong; and end without a trace."""
    status = 1
    try:
        values, wrong = {}, None
        try:
            values = load_settings(flags, file).as_dict()
        except ConfigError as error:
            wrong = str(error)
        for name in values.keys() & _SIZES:  # pydantic has its own class for them, which the parent would have to load
            values[name] = ByteSize(values[name])
        with open(writing, "wb", closefd=False) as pipe:
            pickle.dump((values, wrong), pipe)
        status = 0
    finally:
        os._exit(status)
