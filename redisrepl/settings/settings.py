"""Every setting, its default and its limits: flag > environment > TOML file > default.

In: flags as strings, the environment, a file. Out: `Settings`. Left to others: spelling flags (`grammar.arguments`),
reading the files that settings name (`tls.contexts`, `cli`), reading and checking values (`settings.validation`).

`--help` and `redisrepl status` need only these declarations; pydantic is loaded only to read settings.
"""

# No postponed annotations: `declared.Declared` reads them when the class is made.

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from redisrepl.errors import ConfigError
from redisrepl.files import read_file
from redisrepl.settings.declared import ByteSize, Declared, Field, SelfExplainingError
from redisrepl.settings.retention import Retention
from redisrepl.settings.suggestions import closest

__all__ = ["ENV_PREFIX", "ByteSize", "Settings", "flag_of", "load_settings", "split_list", "unknown_variables"]

ENV_PREFIX = "REDISREPL_"
#: What `--replicate` may name, of `changes.KINDS`, which this module need not load.
_KINDS = ("set", "hset", "sets", "zsets", "lists", "streams", "del", "expire", "fields-expire", "streams-groups")
#: What `all` leaves out: groups belong to the readers of one side, until somebody says that they read in turn.
_APART = "streams-groups"
#: Variables that are no settings: the path of the TOML file.
_OTHER_VARIABLES = frozenset({"CONFIG"})
#: What helps where the file is no TOML, by what Python says.
_TOML_HINTS = {
    "Invalid value": 'put text in quotes, as in haddr = "https://hub.example.org/redis"; true and false do not',
    "Expected '='": 'a line is like haddr = "https://hub.example.org/redis"',
    "Cannot overwrite": "leave one of the two lines out",
    "Unclosed": "close it",
    "decode": "save it as UTF-8",
}
#: Kubernetes sets these in every container once there is a service named redisrepl.
_KUBERNETES = re.compile(r"SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_.+)?")


def split_list(text: str) -> list[str]:
    """The items of a list with commas, without the space around each; a comma at the end adds none."""
    return [item for piece in text.split(",") if (item := piece.strip())]


def _namespaces(value: object) -> tuple[bytes, ...]:
    """Prefixes as bytes. A string is a list with commas; in a list each item is taken as it is."""
    items = split_list(value) if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, (str, bytes)) for item in items):
        raise ValueError("must be a prefix, or a list of prefixes")
    for item in items:
        text = item if isinstance(item, str) else os.fsdecode(item)
        if text.endswith("*"):
            if prefix := text.rstrip("*"):
                raise SelfExplainingError(
                    f"a namespace is a prefix, and the * of {text} is no wildcard: write {prefix}"
                )
            raise ValueError("* would mean every key: give the prefix of the keys to replicate")
        if text and not text.strip():
            raise ValueError("is nothing but space: give the prefix of the keys to replicate")
        if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
            raise SelfExplainingError(f"the quotes are a part of the prefix here: write {text[1:-1]}")
    return tuple(os.fsencode(item) for item in items)


def _words(value: object) -> tuple[str, ...]:
    """Words. A string is a list with commas; in a list each item is taken as it is."""
    items = split_list(value) if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) and item for item in items):
        raise ValueError("must be text, or a list of texts")
    return tuple(items)


def _kinds(value: object) -> frozenset[str]:
    items = split_list(value) if isinstance(value, str) else value
    if not isinstance(items, (list, tuple, set, frozenset)) or not all(isinstance(item, str) for item in items):
        raise ValueError(f"must be a list of {', '.join(_KINDS)}")
    if "all" in items:
        items = {*items, *_KINDS} - {"all"} - ({_APART} - set(items))
    if unknown := sorted(set(items) - set(_KINDS)):
        raise ValueError(f"{', '.join(unknown)} is not one of {', '.join(_KINDS)}")
    if not items:
        raise ValueError(f"must name at least one of {', '.join(_KINDS)}")
    if _APART in items and not {"streams", "del"} <= set(items):
        raise SelfExplainingError(f"{_APART} needs streams and del beside it, since XACK removes a pending entry")
    return frozenset(items)


def _kept(value: object) -> Retention:
    return value if isinstance(value, Retention) else Retention.parse(str(value))


class Settings(Declared):
    """How one daemon runs; each field is a flag, a variable `REDISREPL_<NAME>` and a key of the TOML file."""

    # The hub.
    haddr: str = Field(
        "https://localhost/redis",
        repr=False,
        example="https://hub.example.org/redis",
        description="the hub: https:// of Webdis behind its TLS proxy, or rediss:// of the hub's Redis itself",
    )
    hub_user: str | None = Field(None, example="redisrepl", description="user name at the hub")
    hub_password_file: Path | None = Field(None, description="file that holds the password of --hub-user")
    cert: Path | None = Field(None, description="our certificate for the hub, with its chain (PEM)")
    key: Path | None = Field(None, description="private key of --cert (PEM)")
    key_password_file: Path | None = Field(None, description="file that holds the passphrase of --key")
    ca: Path | None = Field(None, description="certificates to trust for the hub (PEM); default: the system's")
    strict_certificates: bool = Field(
        False, description="refuse authorities that lack what RFC 5280 requires, as Python 3.13 does"
    )
    hub_database: int = Field(0, ge=0, description="number of the database at the hub: the one that Webdis uses")
    notify_config: Literal["merge", "check", "never"] = Field(
        "merge", description="the hub's notification flags: add what is missing, only check, or never look"
    )
    subscribe: Literal["http", "websocket", "auto"] = Field(
        "http", description="how the hub's events come: http (long poll), websocket, or auto: WebSocket if the hub can"
    )

    feed: bool = Field(
        True, description="send small pushes to other redisrepl sites too, and apply theirs without a fetch"
    )

    # The site.
    raddr: str = Field(
        ":6379",
        repr=False,
        example="redis.example.org:6379",
        description="the site's Redis: host:port, redis://, rediss://, unix:///path or redis-sentinel://",
    )
    sentinel: str | None = Field(
        None,
        repr=False,
        example="s1:26379,s2:26379/mymaster",
        description="instead of --raddr: host:port,host:port/service of the Sentinels to ask for it",
    )
    source: Literal["auto", "psync", "notify"] = Field(
        "auto", description="how to follow the site's writes: psync, notify (keyspace events) or auto: psync if allowed"
    )
    user: str | None = Field(None, example="redisrepl", description="user name (ACL) at the site's Redis")
    password_file: Path | None = Field(None, description="file that holds the password of the site's Redis")
    site_ca: Path | None = Field(None, description="certificates to trust for rediss:// (PEM); default: the system's")
    site_cert: Path | None = Field(None, description="our certificate for rediss:// (PEM)")
    site_key: Path | None = Field(None, description="private key of --site-cert (PEM)")
    site_key_password_file: Path | None = Field(None, description="file that holds the passphrase of --site-key")
    sentinel_user: str | None = Field(None, example="redisrepl", description="user name (ACL) at the Sentinels")
    sentinel_password_file: Path | None = Field(None, description="file that holds the password of the Sentinels")

    # What is replicated.
    ns: tuple[bytes, ...] = Field(
        (),
        read=_namespaces,
        example="site1:",
        description="namespace: replicate keys that start with this prefix; for several repeat it, or write a:,b:",
    )
    rc: bool = Field(False, description="also apply to the site what others write at the hub")
    replicate: frozenset[str] = Field(
        frozenset({"set", "hset"}),
        read=_kinds,
        example="set,hset,del,expire",
        description="what is replicated: strings (set), hashes (hset), sets, zsets, lists, streams, removals (del), "
        "expiry times (expire), those of fields of hashes (fields-expire), or all; consumer groups (streams-groups)",
    )
    opaque: Literal["restore", "off"] = Field(
        "off",
        description="keys of types that have no portable form (those of modules): restore (DUMP and RESTORE), or off",
    )
    every_write: bool = Field(False, description="push each value that a key had, in order; otherwise only its latest")

    # What happens after an outage.
    state_dir: Path | None = Field(
        None,
        example="DIRECTORY",
        description="directory for the state; default: $STATE_DIRECTORY or ~/.local/state/redisrepl",
    )
    initial_sync: Literal["both", "push", "pull", "none"] = Field(
        "both",
        description="what first contact copies: both, push, pull or none; later outages are repaired in any case",
    )
    on_conflict: Literal["hub", "site"] | None = Field(
        None,
        description="whose value wins where both sides changed a key, or have one at first contact; "
        "default: hub with -rc, else site",
    )
    keep_conflicts: Retention = Field(
        Retention(64 << 20, 30.0),
        read=_kept,
        description="size and age of the values that lost a conflict and are kept (`redisrepl conflicts`), or off",
    )
    sweep_period: float = Field(
        3600.0, ge=0, description="seconds between comparisons of both sides; 0: only after outages"
    )
    max_removals: float = Field(
        50.0,
        ge=0,
        le=100,
        description="percent of all keys (and more than 100) that one comparison may remove; more wait for a person",
    )
    sweep_rate: float = Field(30_000.0, gt=0, description="keys compared in a second, at most")

    # Limits.
    max_memory: ByteSize = Field(
        ByteSize(64 << 20),
        ge=1 << 20,
        example="96MiB",
        description="memory for changes that wait for the hub; above it values are read again",
    )
    max_keys: int = Field(
        2_000_000, ge=1000, description="keys that may wait, in each direction; a comparison finds others"
    )
    max_body: ByteSize = Field(
        ByteSize(900_000),
        ge=1024,
        example="900kB",
        description="largest request body; the hub's proxy must allow it (nginx: 1 MB)",
    )
    max_value: ByteSize = Field(
        ByteSize(64 << 20),  # `wire.unwanted.MAX_VALUE`, which this module need not load
        ge=1024,
        example="64MiB",
        description="largest value that is replicated; larger ones are logged and left out; the hub must accept it",
    )
    batch: int = Field(1000, ge=1, le=100_000, description="changes in one request")
    flights: int = Field(64, ge=1, le=1000, description="requests to the hub side by side, at most")
    max_push_rate: float = Field(0.0, ge=0, description="changes pushed in a second, at most; 0: no limit")
    linger: int = Field(
        0, ge=0, le=1000, description="milliseconds that a write may wait for others, to share their requests; 0: none"
    )

    # Times, in seconds.
    canary_period: float = Field(10.0, gt=0, description="seconds between proofs that the subscription lives")
    timeout: float = Field(30.0, gt=0, description="seconds to wait for an answer of the hub or the site")
    connect_timeout: float = Field(10.0, gt=0, description="seconds to wait for a connection")
    retry_max: float = Field(15.0, gt=0, description="longest pause between tries, in seconds")
    site_silence: float = Field(60.0, gt=0, description="seconds without a byte after which the replica link is dead")
    shutdown_timeout: float = Field(10.0, ge=0, description="seconds to push waiting changes after a signal to stop")

    # Metrics and status page.
    listen: tuple[str, ...] = Field(
        (),
        read=_words,
        example="127.0.0.1:9646",
        description="serve /metrics, probes and a status page at host:port or unix:///path; may be repeated",
    )
    listen_host: tuple[str, ...] = Field(
        (),
        read=_words,
        example="site1.example.org",
        description="name in requests to --listen, in addition to localhost and IP addresses; may be repeated",
    )
    listen_token_file: Path | None = Field(None, description="file with a token that every request must show")
    listen_cert: Path | None = Field(None, description="certificate of --listen (PEM): it speaks HTTPS then")
    listen_key: Path | None = Field(None, description="private key of --listen-cert (PEM)")
    listen_ca: Path | None = Field(None, description="authority of the clients that may ask --listen (PEM)")

    # Logs.
    log_format: Literal["text", "json"] = Field("text", description="log lines for people or for machines")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the lowest level that is logged"
    )

    @property
    def kinds(self) -> frozenset[str]:
        """Which of `changes.KINDS` are replicated."""
        return self.replicate | {"opaque"} if self.opaque == "restore" else self.replicate


def flag_of(name: str) -> str:
    """The flag of a setting."""
    return f"--{name.replace('_', '-')}"


def unknown_variables() -> dict[str, str]:
    """Environment variables that look like settings and are none, each with the one that was probably meant."""
    known = {name.upper() for name in Settings.fields} | _OTHER_VARIABLES
    unknown: dict[str, str] = {}
    for variable in sorted(os.environ):
        name = variable.upper().removeprefix(ENV_PREFIX)
        if not variable.upper().startswith(ENV_PREFIX) or name in known or _KUBERNETES.fullmatch(name):
            continue
        close = closest(name, known)
        unknown[variable] = ENV_PREFIX + close if close else ""
    return unknown


def load_settings(flags: Mapping[str, Any], file: Path | None = None) -> Settings:
    """Merge flags, environment and file.

    Args:
        flags: by name of the setting, as given; only those that were given.
        file: a TOML file; None: none.

    Raises:
        ConfigError: names the flag, variable or key that is wrong.
    """
    content = _read_toml(file) if file is not None else {}
    if unknown := sorted(flags.keys() - Settings.fields.keys()):
        raise ConfigError(f"{flag_of(unknown[0])} is not a setting: see redisrepl --help")

    from redisrepl.settings.validation import WrongValueError, read_values  # noqa: PLC0415 - loads pydantic

    try:
        return Settings(**read_values(Settings.fields, ENV_PREFIX, flags, content))
    except WrongValueError as error:
        place, example = _place(error.name, flags, file)
        hint = "" if error.explains_itself else f", for example {example}"
        raise ConfigError(f"{place}: {error}{hint}") from None


def _place(name: str, flags: Mapping[str, Any], file: Path | None) -> tuple[str, str]:
    """Where the value in force was given, and how a valid one would be written there."""
    setting = Settings.fields[name]
    if name in flags:
        flag = flag_of(name)
        return flag, flag if setting.kind is bool else f"{flag} {setting.example}"
    spellings = {variable.lower(): variable for variable in os.environ}
    if variable := spellings.get(f"{ENV_PREFIX}{name}".lower()):
        return f"the environment variable {variable}", f"{variable}={setting.example}"
    return f"--config {file}: {name}", f"{name} = {_toml(name)}"


def _toml(name: str) -> str:
    """The example of a setting, as TOML."""
    setting = Settings.fields[name]
    if setting.kind in (int, float, bool):
        return setting.example
    if name in {"ns", "replicate"}:
        return "[" + ", ".join(f'"{item}"' for item in split_list(setting.example)) + "]"
    return f'"{setting.example}"'


def _read_toml(file: Path) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 - most starts read no file

    text = read_file(file, "--config", pipe=True)
    try:
        content = tomllib.loads(text.decode("utf-8-sig"))  # some editors begin a file with a byte order mark
    except RecursionError:
        raise ConfigError(f"--config {file}: not TOML: its lists are too deep") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        hint = next((hint for said, hint in _TOML_HINTS.items() if said in str(error)), "correct that line")
        raise ConfigError(f"--config {file}: not TOML: {error}: {hint}") from None
    for name, value in content.items():
        if name in Settings.fields:
            continue
        if isinstance(value, dict):
            hint = 'the file has no tables, only lines like haddr = "https://hub.example.org/redis"'
        else:
            close = closest(name.lower().removeprefix(ENV_PREFIX.lower()), Settings.fields)
            hint = f"is {close} meant?" if close else "config/redisrepl.example.toml has them all"
        raise ConfigError(f"--config {file}: {name} is not a setting: {hint}")
    return content
