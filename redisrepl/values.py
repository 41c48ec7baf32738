"""What a setting is, and how its value is read from a word or from TOML.

In: declarations, and values as people wrote them. Out: checked values, or a `ValueError` that says what would be right.
Left to others: which settings there are, and where they were written (`settings`).

Written by hand because `redisrepl status` and `--help` need it: to load a validation library takes longer than they do.
"""

# No postponed annotations: `Declared` reads them when a class is made, without importing `typing`'s resolver.

import math
import re
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, Self, Union, dataclass_transform, get_args, get_origin

__all__ = ["ByteSize", "Declared", "Field", "SelfExplainingError", "Setting"]

_TRUE = frozenset({"1", "t", "true", "y", "yes", "on"})
_FALSE = frozenset({"0", "f", "false", "n", "no", "off"})
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_POWERS = " kmgt"


class SelfExplainingError(ValueError):
    """A value is wrong, and the message itself says what to write."""


class ByteSize(int):
    """A number of bytes; written as such, or with a unit as in 900kB or 96MiB."""

    __slots__ = ()

    @classmethod
    def parse(cls, word: str) -> Self:
        """The number that a word stands for: k is 1000, Ki is 1024.

        Raises:
            ValueError: it is no size.
        """
        match = _SIZE.fullmatch(word.strip())
        if match is None:
            raise ValueError("must be a number of bytes, with kB, MB, GB, KiB, MiB or GiB if you like")
        number, unit, binary = match.groups()
        return cls(float(number) * (1024 if binary else 1000) ** _POWERS.index(unit.lower() or " "))


class Setting:
    """One setting, as declared.

    Attributes:
        name: in the file; the flag and the variable follow from it.
        annotation: its type.
        default: its value where nobody gives one.
        description: one sentence for `--help`.
        choices: the words that it may be; empty: any.
        example: a value that is right, for messages.
    """

    __slots__ = (
        "annotation",
        "choices",
        "default",
        "description",
        "example",
        "kind",
        "limits",
        "name",
        "reader",
        "shown",
    )

    def __init__(
        self,
        default: object,
        description: str,
        *,
        example: str = "",
        limits: dict[str, float] | None = None,
        shown: bool = True,
        reader: Callable[[object], object] | None = None,
    ) -> None:
        self.name = ""
        self.annotation: Any = None
        self.kind: Any = None
        self.choices: tuple[str, ...] = ()
        self.default = default
        self.description = description
        self.example = example
        self.limits = limits or {}
        self.shown = shown
        self.reader = reader

    def bind(self, name: str, annotation: Any) -> None:
        """Say what it is called and which type it has."""
        self.name = name
        self.annotation = annotation
        parts = [part for part in get_args(annotation) if part is not type(None)]
        is_union = isinstance(annotation, UnionType) or get_origin(annotation) is Union
        self.kind = parts[0] if is_union else annotation
        if get_origin(self.kind) is Literal:
            self.choices = get_args(self.kind)
        if not self.example:
            self.example = self._typical()

    def read(self, value: object) -> object:
        """The checked value of what somebody wrote: a word, or what TOML made of it.

        Raises:
            ValueError: says what would be right. It never repeats the value, which may be a secret in the wrong place.
        """
        if self.reader is not None:
            return self.reader(value)
        if self.choices:
            if value not in self.choices:
                raise ValueError(f"must be {_either(self.choices)}")
            return value
        if self.kind in (int, float, ByteSize):
            return self._limited(self._number(value))
        if self.kind is bool:
            return _truth(value)
        if self.kind is Path and isinstance(value, (str, Path)) and str(value):
            return Path(value)
        if self.kind is str and isinstance(value, str):
            return value
        raise ValueError("must be a path" if self.kind is Path else "must be text")

    def _number(self, value: object) -> int | float:
        if isinstance(value, str):
            try:
                value = ByteSize.parse(value) if self.kind is ByteSize else float(value)
            except ValueError as error:
                raise ValueError(str(error) if self.kind is ByteSize else self._wanted()) from None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(self._wanted())
        if self.kind is float:
            return float(value)
        if value != int(value):
            raise ValueError(self._wanted())
        return ByteSize(value) if self.kind is ByteSize else int(value)

    def _wanted(self) -> str:
        return "must be a number" if self.kind is float else "must be a whole number"

    def _limited(self, value: float) -> float:
        for limit, border in self.limits.items():
            if limit == "ge" and value < border:
                raise ValueError(f"must be at least {border:g}" if border < 1 << 20 else f"must be at least {border}")
            if limit == "gt" and value <= border:
                raise ValueError(f"must be more than {border:g}")
            if limit == "le" and value > border:
                raise ValueError(f"must be at most {border}")
        return value

    def _typical(self) -> str:
        if self.kind is Path:
            return "FILE"
        if self.kind is bool:
            return "true"
        if isinstance(self.default, float):
            return f"{self.default:g}"
        if self.default is None:
            return next(iter(self.choices), "")
        return str(self.default)


def Field(  # noqa: N802 - reads as the word that it stands for in a declaration
    default: Any,
    *,
    description: str,
    example: str = "",
    repr: bool = True,  # noqa: A002 - as in dataclasses
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    read: Callable[[object], object] | None = None,
) -> Any:
    """Declare a setting.

    Args:
        default: its value where nobody gives one.
        description: one sentence for `--help`.
        example: a value that is right, for messages; by default the default.
        repr: whether it may be shown.
        ge: the smallest value.
        gt: what every value is larger than.
        le: the largest value.
        read: makes its value of what was written, where the type alone does not say how.
    """
    limits = {name: limit for name, limit in (("ge", ge), ("gt", gt), ("le", le)) if limit is not None}
    return Setting(default, description, example=example, limits=limits, shown=repr, reader=read)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
class Declared:
    """A frozen record whose fields are declared with `Field`."""

    fields: ClassVar[dict[str, Setting]] = {}

    def __init_subclass__(cls) -> None:
        cls.fields = {}
        for name, annotation in cls.__annotations__.items():
            if isinstance(setting := cls.__dict__.get(name), Setting):
                setting.bind(name, annotation)
                cls.fields[name] = setting

    def __init__(self, **values: object) -> None:
        if unknown := values.keys() - self.fields.keys():
            raise TypeError(f"there is no field {', '.join(sorted(unknown))}")
        for name, setting in self.fields.items():
            object.__setattr__(self, name, values.get(name, setting.default))

    def __setattr__(self, name: str, _value: object) -> None:
        raise AttributeError(f"{name} is frozen: make another one with `replace`")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__.values()))

    def __repr__(self) -> str:
        shown = (f"{name}={self.__dict__[name]!r}" for name, setting in self.fields.items() if setting.shown)
        return f"{type(self).__name__}({', '.join(shown)})"

    def as_dict(self) -> dict[str, Any]:
        """Every field by its name."""
        return dict(self.__dict__)

    def replace(self, **changes: object) -> Self:
        """A copy with some fields changed."""
        return type(self)(**self.__dict__ | changes)


def _truth(value: object) -> bool:
    word = str(value).lower()
    if not isinstance(value, (bool, int, str)) or word not in _TRUE | _FALSE:
        raise ValueError("must be true or false")
    return word in _TRUE


def _either(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
