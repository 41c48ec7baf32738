"""Reads settings: flag before variable before TOML file, each value of its type and within its limits.

In: the declared settings, flags, the content of a file; the environment. Out: checked values of those that were given,
or which one is wrong and what would be right. Left to others: where it was said (`settings.settings`).

Why no library: one that takes any type took 13 MB of the daemon for as long as it ran, and a third of its start.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from redisrepl.settings.declared import ByteSize, SelfExplainingError, Setting

__all__ = ["WrongValueError", "read_values"]

_YES = frozenset({"true", "yes", "on", "1", "t", "y"})
_NO = frozenset({"false", "no", "off", "0", "f", "n"})
_BYTES = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*([kmgtpe]?)(i?)b?\s*", re.IGNORECASE)
_POWERS = ("", "k", "m", "g", "t", "p", "e")


class WrongValueError(Exception):
    """A value is wrong. The text says what would be right; it never repeats the value, which may be a secret.

    Attributes:
        name: of the setting.
        explains_itself: no example is needed.
    """

    def __init__(self, name: str, message: str, *, explains_itself: bool) -> None:
        super().__init__(message)
        self.name = name
        self.explains_itself = explains_itself


def read_values(
    declared: Mapping[str, Setting], prefix: str, flags: Mapping[str, Any], content: Mapping[str, Any]
) -> dict[str, Any]:
    """The checked values of the settings that were given.

    Args:
        declared: every setting by name.
        prefix: with which the names of their variables begin.
        flags: by name, as given.
        content: of the TOML file.

    Raises:
        WrongValueError: of the first one that is wrong.
    """
    variables = {variable.lower(): text for variable, text in os.environ.items()}
    named = {name: f"{prefix}{name}".lower() for name in declared}
    given = {
        **content,
        **{name: variables[variable] for name, variable in named.items() if variable in variables},
        **flags,
    }
    values: dict[str, Any] = {}
    for name, setting in declared.items():
        if name in given:
            try:
                values[name] = _read(setting, given[name])
            except ValueError as error:
                explains_itself = isinstance(error, SelfExplainingError)
                raise WrongValueError(name, str(error), explains_itself=explains_itself) from None
    return values


def _read(setting: Setting, written: object) -> object:
    """The value that was meant.

    Raises:
        ValueError: says what it must be.
    """
    if setting.reader is not None:
        return setting.reader(written)
    if setting.choices:
        if written not in setting.choices:
            raise ValueError(f"must be {', '.join(setting.choices[:-1])} or {setting.choices[-1]}")
        return written
    value = _READERS[setting.kind](written)
    _check_limits(setting.limits, value)
    return value


def _check_limits(limits: Mapping[str, float], value: Any) -> None:
    if "gt" in limits and not value > limits["gt"]:
        raise ValueError(f"must be more than {limits['gt']:g}")
    if "ge" in limits and value < limits["ge"]:
        raise ValueError(f"must be at least {_number(limits['ge'])}")
    if "le" in limits and value > limits["le"]:
        raise ValueError(f"must be at most {_number(limits['le'])}")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def _whole_number(written: object) -> int:
    if isinstance(written, str):
        with_zeros = re.fullmatch(r"(.*\d)\.0+", written.strip())  # 5.0, as a program may write it
        text = with_zeros[1] if with_zeros else written
        try:
            return int(text)
        except ValueError:
            pass
    elif isinstance(written, float) and written.is_integer():
        return int(written)
    elif isinstance(written, int) and not isinstance(written, bool):  # to Python true is 1, to people it is not
        return written
    raise ValueError("must be a whole number")


def _any_number(written: object) -> float:
    try:
        if isinstance(written, (str, int, float)) and not isinstance(written, bool):
            value = float(written)
            if math.isfinite(value):
                return value
    except (ValueError, OverflowError):
        pass
    raise ValueError("must be a number")


def _truth(written: object) -> bool:
    word = str(written).lower() if isinstance(written, (bool, int, str)) else ""
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise ValueError("must be true or false")


def _bytes(written: object) -> ByteSize:
    """A number with or without a unit: kB and MB are powers of 1,000, KiB and MiB of 1,024."""
    if isinstance(written, (str, int, float)) and not isinstance(written, bool):
        found = _BYTES.fullmatch(str(written))
        if found is not None and (found[2] or not found[3]):
            power = _POWERS.index(found[2].lower())
            return ByteSize(float(found[1]) * (1024 if found[3] else 1000) ** power)
    raise ValueError("must be a number of bytes, with kB, MB, GB, KiB, MiB or GiB if you like")


def _path(written: object) -> Path:
    if isinstance(written, (str, Path)) and written != "":  # `Path("")` is the current directory
        return Path(written)
    raise ValueError("must be a path")


def _text(written: object) -> str:
    if isinstance(written, str):
        return written
    raise ValueError("must be text")


_READERS: dict[Any, Callable[[object], object]] = {
    int: _whole_number,
    float: _any_number,
    bool: _truth,
    ByteSize: _bytes,
    Path: _path,
    str: _text,
}
