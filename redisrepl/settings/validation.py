"""Reads settings with pydantic: flags override variables, which override the file; types and limits are checked.

In: the declared settings, flags, the content of a file; the environment. Out: checked values of those that were given,
or which one is wrong and what would be right. Left to others: where it was said (`settings.settings`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from redisrepl.settings.declared import ByteSize, SelfExplainingError, Setting

__all__ = ["WrongValueError", "read_values"]

#: Messages for values of a wrong type, by the first word of pydantic's error type.
_WANTED = {
    "int": "must be a whole number",
    "float": "must be a number",
    "finite": "must be a number",
    "bool": "must be true or false",
    "byte": "must be a number of bytes, with kB, MB, GB, KiB, MiB or GiB if you like",
    "path": "must be a path",
    "string": "must be text",
}


class WrongValueError(Exception):
    """A value is invalid. The text says what is valid; it never repeats the value, which may be a secret.

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
        WrongValueError: for the first invalid one.
    """

    class Sources(BaseSettings):
        model_config = SettingsConfigDict(env_prefix=prefix, extra="forbid", hide_input_in_errors=True)

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, dict(content))

    fields: dict[str, Any] = {name: (_type(setting), _limits(setting)) for name, setting in declared.items()}
    model = pydantic.create_model("Settings", __base__=Sources, **fields)
    try:
        read = model(**flags)
    except pydantic.ValidationError as error:
        raise _wrong(error, declared) from None
    return {name: getattr(read, name) for name in read.model_fields_set}


def _type(setting: Setting) -> Any:
    """The type that pydantic validates with."""
    if setting.reader is not None:
        return Annotated[Any, pydantic.PlainValidator(setting.reader)]
    if setting.kind in (int, float, ByteSize):
        kind = pydantic.ByteSize if setting.kind is ByteSize else setting.kind
        return Annotated[kind, pydantic.BeforeValidator(_no_truth)]
    if setting.kind is Path:
        return Annotated[Path, pydantic.BeforeValidator(_some_path)] | None
    return setting.annotation


def _limits(setting: Setting) -> Any:
    limits: dict[str, Any] = dict(setting.limits)
    if setting.kind is float:
        limits["allow_inf_nan"] = False
    return pydantic.Field(setting.default, **limits)


def _no_truth(value: object) -> object:
    """Refuse booleans as numbers: to Python true is 1, to people it is not."""
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - what pydantic expects
    return value


def _some_path(value: object) -> object:
    if value == "":  # `Path("")` is the current directory
        raise ValueError(_WANTED["path"])
    return value


def _wrong(error: pydantic.ValidationError, declared: Mapping[str, Setting]) -> WrongValueError:
    """The first error, in our words."""
    first = error.errors(include_url=False, include_input=False)[0]
    name, kind, context = str(first["loc"][0]), first["type"], first.get("ctx", {})
    match kind:
        case "value_error":
            message = str(context["error"])
        case "literal_error":
            words = declared[name].choices
            message = f"must be {', '.join(words[:-1])} or {words[-1]}"
        case "greater_than":
            message = f"must be more than {context['gt']:g}"
        case "greater_than_equal":
            message = f"must be at least {_number(context['ge'])}"
        case "less_than_equal":
            message = f"must be at most {_number(context['le'])}"
        case _:
            message = _WANTED.get(kind.partition("_")[0], "cannot be read")
            if declared[name].kind is float and "seconds" in declared[name].description:
                message += " of seconds"
    explains_itself = isinstance(context.get("error"), SelfExplainingError)
    return WrongValueError(name, message, explains_itself=explains_itself)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"
