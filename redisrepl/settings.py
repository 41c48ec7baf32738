"""Every setting, its default and its limits: flag > environment > TOML file > default.

In: flags as strings, the environment, a file. Out: `Settings`. Left to others: spelling flags (`cli`), reading the
files that settings name (`tls`, `cli`).
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ByteSize, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, InitSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from redisrepl.changes import KINDS
from redisrepl.errors import ConfigError
from redisrepl.healing import ConflictWinner, InitialSync
from redisrepl.remote.notifications import NotifyMode
from redisrepl.remote.ways import SubscribeChoice
from redisrepl.wire.unwanted import MAX_VALUE

__all__ = ["ENV_PREFIX", "Settings", "flag_of", "load_settings", "unknown_variables"]

ENV_PREFIX = "REDISREPL_"
#: Variables that are no settings: where the file with settings is.
_OTHER_VARIABLES = frozenset({"CONFIG"})
#: What Kubernetes sets in every container once there is a service of the name redisrepl.
_KUBERNETES = re.compile(r"SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_.+)?")


class Settings(BaseSettings):
    """How one daemon runs; each field is a flag, a variable `REDISREPL_<NAME>` and a key of the TOML file."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True)

    # The hub.
    haddr: str = Field(
        "https://localhost/redis", repr=False, description="address of the hub: Webdis behind its TLS proxy"
    )
    cert: Path | None = Field(None, description="our certificate for the hub, with its chain (PEM)")
    key: Path | None = Field(None, description="private key of --cert (PEM, without a passphrase)")
    ca: Path | None = Field(None, description="certificates to trust for the hub (PEM); default: the system's")
    hub_database: int = Field(0, ge=0, description="number of the database that Webdis uses at the hub")
    notify_config: NotifyMode = Field(
        "merge", description="the hub's notification flags: add what is missing, only check, or never look"
    )
    subscribe: SubscribeChoice = Field(
        "http", description="how the hub's events come: http (long poll), websocket, or auto: WebSocket if the hub can"
    )

    feed: bool = Field(
        True, description="tell other redisrepl sites what is pushed, and take what they tell without fetching it"
    )

    # The site.
    raddr: str = Field(
        ":6379",
        repr=False,
        description="the site's Redis: host:port, redis://, rediss://, unix:///path or redis-sentinel://",
    )
    sentinel: str | None = Field(
        None, repr=False, description="instead of --raddr: host:port,host:port/service of the Sentinels to ask for it"
    )
    source: Literal["auto", "psync", "notify"] = Field(
        "auto", description="how the site's writes are seen: psync, notify (keyspace events) or auto: psync if allowed"
    )
    user: str | None = Field(None, description="user name (ACL) at the site's Redis")
    password_file: Path | None = Field(None, description="file that holds the password of the site's Redis")
    site_ca: Path | None = Field(None, description="certificates to trust for rediss:// (PEM); default: the system's")
    site_cert: Path | None = Field(None, description="our certificate for rediss:// (PEM)")
    site_key: Path | None = Field(None, description="private key of --site-cert (PEM)")
    sentinel_user: str | None = Field(None, description="user name (ACL) at the Sentinels")
    sentinel_password_file: Path | None = Field(None, description="file that holds the password of the Sentinels")

    # What crosses.
    ns: Annotated[tuple[bytes, ...], NoDecode] = Field(
        (), description="namespace: replicate keys that start with this, taken literally; may be repeated"
    )
    rc: bool = Field(False, description="also apply to the site what others write at the hub")
    replicate: Annotated[frozenset[str], NoDecode] = Field(
        frozenset({"set", "hset"}), description="what crosses: strings, fields of hashes, removals, expiry times"
    )
    every_write: bool = Field(
        False, description="push each value that a key had, in order; otherwise only the latest of those that wait"
    )

    # What happens after a gap.
    state_dir: Path | None = Field(
        None,
        description="directory for the acknowledged position; default: $STATE_DIRECTORY or ~/.local/state/redisrepl",
    )
    initial_sync: InitialSync = Field(
        "both",
        description="which way first contact copies: both, push, pull or none; later gaps are healed all the same",
    )
    on_conflict: ConflictWinner | None = Field(
        None,
        description="whose value stands where both sides have one at first contact; default: hub with -rc, else site",
    )
    sweep_period: float = Field(
        3600.0, ge=0, description="seconds between comparisons of both sides; 0: only after gaps"
    )
    sweep_rate: float = Field(20_000.0, gt=0, description="keys compared in a second, at most")

    # Limits.
    max_memory: ByteSize = Field(
        ByteSize(96 << 20),
        ge=1 << 20,
        description="memory for changes that wait for the hub; above it they are re-read",
    )
    max_keys: int = Field(
        2_000_000, ge=1000, description="keys that may wait, each way; others are found by a comparison"
    )
    max_body: ByteSize = Field(
        ByteSize(900_000), ge=1024, description="largest request body; the hub's proxy must allow it (nginx: 1 MB)"
    )
    max_value: ByteSize = Field(
        ByteSize(MAX_VALUE),
        ge=1024,
        description="largest value that is replicated; larger ones are named and left out; the hub must take it",
    )
    batch: int = Field(1000, ge=1, le=100_000, description="changes in one request")
    flights: int = Field(64, ge=1, le=1000, description="requests to the hub side by side, at most")
    max_push_rate: float = Field(0.0, ge=0, description="changes pushed in a second, at most; 0: as fast as it goes")

    # Times, in seconds.
    canary_period: float = Field(10.0, gt=0, description="seconds between proofs that the subscription lives")
    timeout: float = Field(30.0, gt=0, description="seconds to wait for an answer of the hub or the site")
    connect_timeout: float = Field(10.0, gt=0, description="seconds to wait for a connection")
    retry_max: float = Field(15.0, gt=0, description="longest pause between tries, in seconds")
    site_silence: float = Field(60.0, gt=0, description="seconds without a byte after which the replica link is dead")
    shutdown_timeout: float = Field(10.0, ge=0, description="seconds to push what waits when told to stop")

    # Logs.
    log_format: Literal["text", "json"] = Field("text", description="log lines for people or for machines")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="the least that is logged")

    @field_validator("ns", mode="before")
    @classmethod
    def _namespaces(cls, value: object) -> object:
        if isinstance(value, str):  # from the environment
            value = [item for item in value.split(",") if item]
        if isinstance(value, (list, tuple)):
            return tuple(os.fsencode(item) if isinstance(item, str) else item for item in value)
        return value

    @field_validator("replicate", mode="before")
    @classmethod
    def _kinds(cls, value: object) -> object:
        if isinstance(value, str):
            value = [item.strip() for item in value.split(",") if item.strip()]
        return value

    @field_validator("replicate")
    @classmethod
    def _known_kinds(cls, value: frozenset[str]) -> frozenset[str]:
        if unknown := sorted(value - KINDS):
            raise ValueError(f"{', '.join(unknown)} is not one of {', '.join(sorted(KINDS))}")
        if not value:
            raise ValueError(f"name at least one of {', '.join(sorted(KINDS))}")
        return value


def flag_of(name: str) -> str:
    """The flag of a setting."""
    return f"--{name.replace('_', '-')}"


def unknown_variables() -> dict[str, str]:
    """Variables of the environment that look like settings and are none, each with the one that may be meant."""
    known = {name.upper() for name in Settings.model_fields} | _OTHER_VARIABLES
    unknown: dict[str, str] = {}
    for variable in sorted(os.environ):
        name = variable.upper().removeprefix(ENV_PREFIX)
        if not variable.upper().startswith(ENV_PREFIX) or name in known or _KUBERNETES.fullmatch(name):
            continue
        close = difflib.get_close_matches(name, known, n=1)
        unknown[variable] = ENV_PREFIX + close[0] if close else ""
    return unknown


def load_settings(flags: Mapping[str, Any], file: Path | None = None) -> Settings:
    """Put settings together.

    Args:
        flags: by name of the setting, as given; only those that were given.
        file: a TOML file; None: none.

    Raises:
        ConfigError: names the flag, variable or key that is wrong.
    """
    content = _read_toml(file) if file is not None else {}

    class Sources(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, content)

    try:
        return Sources(**flags)
    except ValidationError as error:
        raise ConfigError(_explain(error, flags, content, file)) from None


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            content = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"--config {file}: {(error.strerror or str(error)).lower()}: check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {file}: not TOML: {error}") from None
    known = Settings.model_fields
    for name in content:
        if name not in known:
            raise ConfigError(f"--config {file}: {name} is not a setting: see config/redisrepl.example.toml")
    return content


def _explain(error: ValidationError, flags: Mapping[str, Any], content: Mapping[str, Any], file: Path | None) -> str:
    """The first thing that is wrong, and where it was said."""
    first = error.errors(include_url=False, include_input=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    variable = f"{ENV_PREFIX}{name.upper()}"
    if name in flags:
        place = flag_of(name)
    elif variable in os.environ:
        place = f"the environment variable {variable}"
    elif name in content:
        place = f"--config {file}: {name}"
    else:
        place = flag_of(name)
    return f"{place}: {first['msg'].removeprefix('Value error, ')}"
