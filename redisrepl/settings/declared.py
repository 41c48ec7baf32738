"""How a setting is declared, and the frozen record that holds the values of all.

In: declarations. Out: what each is called, its type, its default, its limits. Left to others: which settings there are
(`settings.settings`), reading and checking what people wrote (`settings.validation`).

`redisrepl status` and `--help` need only the declarations; loading a validation library would take longer than all
else.
"""

# No postponed annotations: `Declared` reads them when a class is created, without `typing`'s resolver.

from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, Self, Union, dataclass_transform, get_args, get_origin

__all__ = ["ByteSize", "Declared", "Field", "SelfExplainingError", "Setting", "default_text"]


class SelfExplainingError(ValueError):
    """A value is wrong, and the message itself says what to write."""


class ByteSize(int):
    """A number of bytes; written as such, or with a unit as in 900kB or 96MiB."""

    __slots__ = ()


class Setting:
    """One setting, as declared.

    Attributes:
        name: in the file; the flag and the variable follow from it.
        annotation: its type.
        default: its value where nobody gives one.
        description: one sentence for `--help`.
        choices: the allowed words; empty if any value is allowed.
        example: a valid value, for messages.
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
        """Set its name and type."""
        self.name = name
        self.annotation = annotation
        parts = [part for part in get_args(annotation) if part is not type(None)]
        is_union = isinstance(annotation, UnionType) or get_origin(annotation) is Union
        self.kind = parts[0] if is_union else annotation
        if get_origin(self.kind) is Literal:
            self.choices = get_args(self.kind)
        if not self.example:
            self.example = self._typical()

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
        example: a valid value, for messages; by default the default.
        repr: whether it may be shown.
        ge: the smallest value.
        gt: the bound that every value must exceed.
        le: the largest value.
        read: converts what was written to a value, where the type alone does not say how.
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


def default_text(default: object) -> str:
    """A default, as `--help` shows it behind a description."""
    match default:
        case None | () | False:
            return ""
        case True:
            return " (default: yes)"
        case float():
            return f" (default: {default:g})"
        case frozenset():
            return f" (default: {','.join(sorted(default, reverse=True))})"
        case ByteSize():
            return f" (default: {_size(default)})"
        case _:
            return f" (default: {default})"


def _size(number: int) -> str:
    if number % (1 << 20) == 0:
        return f"{number >> 20}MiB"
    return f"{number // 1000}kB" if number % 1000 == 0 else str(number)
