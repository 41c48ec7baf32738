"""Every setting: where it may be said, which word counts, and what is told of a wrong one."""

from __future__ import annotations

import json
import os
import re
import typing
from pathlib import Path

import pytest

from redisrepl.changes import KINDS
from redisrepl.errors import ConfigError
from redisrepl.grammar.arguments import Parser
from redisrepl.grammar.flags import GROUPS, add_settings
from redisrepl.settings.retention import Retention
from redisrepl.settings.settings import ENV_PREFIX, ByteSize, Settings, flag_of, load_settings, unknown_variables

FIELDS = Settings.fields
ALL_KINDS = "set, hset, sets, zsets, lists, streams, del, expire, fields-expire, streams-groups"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(ENV_PREFIX):
            monkeypatch.delenv(name)


def sample(name):
    """Another value than the default: as text, and as it must come out."""
    field = FIELDS[name]
    types = typing.get_args(field.annotation)
    literal = next((t for t in (field.annotation, *types) if typing.get_origin(t) is typing.Literal), None)
    if name == "ns":
        return "a:", (b"a:",)
    if name == "keep_conflicts":
        return "2MiB,1.5d", Retention(2 << 20, 1.5)
    if name in {"listen", "listen_host"}:
        return "a.example", ("a.example",)
    if name == "replicate":
        return "del", frozenset({"del"})
    if literal is not None:
        value = next(value for value in typing.get_args(literal) if value != field.default)
        return value, value
    if Path in (field.annotation, *types):
        return "/some/file", Path("/some/file")
    if field.annotation is bool:
        return ("false", False) if field.default else ("true", True)
    if field.annotation is ByteSize:
        return "2MiB", 2 << 20
    if field.annotation in (int, float):
        value = field.default + 1
        return str(value), value
    return "https://x/", "https://x/"


def toml(tmp_path, text):
    path = tmp_path / "redisrepl.toml"
    path.write_text(text)
    return path


def from_flags(*argv):
    """What the daemon's command line makes of these arguments."""
    parser = Parser(prog="redisrepl")
    add_settings(parser, [name for _, names in GROUPS for name in names])
    return {name: value for name, value in parser.parse(argv).items() if value is not None}


@pytest.mark.parametrize("name", FIELDS)
def test_each_setting_is_a_flag(name):
    text, value = sample(name)
    for flag in (flag_of(name), flag_of(name)[1:]):
        if FIELDS[name].annotation is bool:
            flags = from_flags(f"--no-{flag.lstrip('-')}" if FIELDS[name].default else flag)
        else:
            flags = from_flags(flag, text)
        assert getattr(load_settings(flags), name) == value != FIELDS[name].default


@pytest.mark.parametrize("name", FIELDS)
def test_each_setting_is_a_variable(name, monkeypatch):
    text, value = sample(name)
    monkeypatch.setenv(f"REDISREPL_{name.upper()}", text)

    assert getattr(load_settings({}), name) == value


@pytest.mark.parametrize("name", FIELDS)
def test_each_setting_is_a_key_of_the_file(name, tmp_path):
    text, value = sample(name)
    literal = (
        text
        if isinstance(value, (bool, int, float)) and not isinstance(value, ByteSize) and text != "2MiB"
        else json.dumps(text)
    )
    literal = json.dumps([text]) if name in {"ns", "replicate"} else literal

    assert getattr(load_settings({}, toml(tmp_path, f"{name} = {literal}\n")), name) == value


@pytest.mark.parametrize(
    "name", [name for name in FIELDS if name not in {"ns", "replicate", "rc", "listen", "listen_host"}]
)
def test_flag_goes_before_variable_before_file_before_default(name, monkeypatch, tmp_path):
    text, value = sample(name)
    default = getattr(load_settings({}), name)
    written = str(default) if default is not None else "/default"
    if default is not None and isinstance(default, (int, float)):
        file = toml(tmp_path, f"{name} = {json.dumps(int(default) if isinstance(default, ByteSize) else default)}\n")
    else:
        file = toml(tmp_path, f"{name} = {json.dumps(text)}\n")

    if not isinstance(default, (int, float)):
        assert getattr(load_settings({}, file), name) == value
    monkeypatch.setenv(f"REDISREPL_{name.upper()}", text)
    assert getattr(load_settings({}, file), name) == value
    if default is not None:
        written = str(int(default)) if isinstance(default, ByteSize) else written
        assert getattr(load_settings({name: written}, file), name) == default


def test_the_defaults_load():
    settings = load_settings({})

    assert {name: getattr(settings, name) for name in FIELDS} == {name: field.default for name, field in FIELDS.items()}


def test_namespaces_are_bytes_as_they_were_given(monkeypatch, tmp_path):
    assert load_settings({"ns": ["site1:", os.fsdecode(b"\xff:")]}).ns == (b"site1:", b"\xff:")
    file = toml(tmp_path, 'ns = ["a,b:", "Größe:"]\n')
    assert load_settings({}, file).ns == (b"a,b:", "Größe:".encode())
    monkeypatch.setenv("REDISREPL_NS", "a:,b:,")
    assert load_settings({}, file).ns == (b"a:", b"b:")


@pytest.mark.parametrize("text", ["set,hset,del,expire", " set , hset,del,expire ", "expire,del,hset,set,"])
def test_kinds_are_a_list_with_commas(text):
    assert load_settings({"replicate": text}).replicate == {"set", "hset", "del", "expire"}


@pytest.mark.parametrize("text", ["all", "set,all"])
def test_all_kinds_have_a_word(text):
    assert load_settings({"replicate": text}).replicate == KINDS


@pytest.mark.parametrize("text", ["all,streams-groups", "streams-groups,all"])
def test_consumer_groups_have_to_be_named(text):
    assert load_settings({"replicate": text}).replicate == KINDS | {"streams-groups"}
    assert load_settings({"replicate": "streams,del,streams-groups"}).replicate == {"streams", "del", "streams-groups"}


@pytest.mark.parametrize(
    ("name", "wrong", "complaint"),
    [
        ("max_keys", "many", "must be a whole number, for example {} 2000000"),
        ("max_keys", "1000.5", "must be a whole number"),
        ("max_keys", "999", "must be at least 1000"),
        ("max_memory", "lots", "must be a number of bytes, with kB, MB, GB, KiB, MiB or GiB if you like"),
        ("max_memory", "1k", "must be at least 1048576, for example {} 96MiB"),
        ("batch", "0", "must be at least 1"),
        ("flights", "1001", "must be at most 1000"),
        ("timeout", "0", "must be more than 0"),
        ("timeout", "-1", "must be more than 0"),
        ("timeout", "soon", "must be a number of seconds, for example {} 30"),
        ("timeout", "nan", "must be a number"),
        ("timeout", "inf", "must be a number"),
        ("canary_period", "0", "must be more than 0"),
        ("hub_database", "-1", "must be at least 0"),
        ("log_format", "xml", "must be text or json, for example {} text"),
        ("log_level", "trace", "must be debug, info, warning or error"),
        ("notify_config", "replace", "must be merge, check or never"),
        ("on_conflict", "mine", "must be hub or site, for example {} hub"),
        (
            "replicate",
            "set,zset",
            f"zset is not one of {ALL_KINDS}, for example {{}} set",
        ),
        (
            "replicate",
            "",
            f"must name at least one of {ALL_KINDS}",
        ),
        ("replicate", "streams-groups,streams", "needs streams and del beside it"),
        ("replicate", "streams-groups,set,hset,del", "needs streams and del beside it"),
        ("rc", "perhaps", "must be true or false"),
        ("state_dir", "", "must be a path"),
        ("ns", "site1:*", "a namespace is a prefix, and the * of site1:* is no wildcard: write site1:"),
        ("ns", "*", "* would mean every key"),
        ("keep_conflicts", "64MiB", "such as 64MiB,30d, or off"),
        ("keep_conflicts", "1023KiB,30d", "from 1MiB to 1TiB"),
    ],
)
def test_a_wrong_value_is_told_with_the_place_where_it_was_said(name, wrong, complaint, monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match=rf"^{flag_of(name)}: ") as caught:
        load_settings({name: wrong})
    assert complaint.format(flag_of(name)) in str(caught.value)
    file = toml(tmp_path, f"{name} = {json.dumps(wrong)}\n")
    with pytest.raises(ConfigError, match=rf"^--config {file}: {name}: "):
        load_settings({}, file)
    monkeypatch.setenv(f"REDISREPL_{name.upper()}", wrong)
    with pytest.raises(ConfigError, match=rf"^the environment variable REDISREPL_{name.upper()}: "):
        load_settings({}, file)


def test_a_variable_may_be_in_lower_case(monkeypatch):
    monkeypatch.setenv("redisrepl_max_keys", "5000")
    assert load_settings({}).max_keys == 5000
    monkeypatch.setenv("redisrepl_max_keys", "many")
    with pytest.raises(ConfigError, match=r"^the environment variable redisrepl_max_keys: must be a whole number"):
        load_settings({})


@pytest.mark.parametrize("value", ["5", "[5]", "{}", "true", "[[1]]"])
def test_a_namespace_of_another_type_is_an_error(value, tmp_path):
    if value == "{}":
        value = "{a = 1}"
    with pytest.raises(ConfigError, match="ns: "):
        load_settings({}, toml(tmp_path, f"ns = {value}\n"))


@pytest.mark.parametrize("value", ["5", "[5]", "[[1]]", "{a = 1}"])
def test_kinds_of_another_type_are_an_error(value, tmp_path):
    with pytest.raises(ConfigError, match="replicate: "):
        load_settings({}, toml(tmp_path, f"replicate = {value}\n"))


@pytest.mark.parametrize("value", ["5", "[5]", "false", "[[1]]", "{max_bytes = 1, max_days = 1}"])
def test_what_is_kept_of_conflicts_is_text(value, tmp_path):
    with pytest.raises(ConfigError, match="keep_conflicts: "):
        load_settings({}, toml(tmp_path, f"keep_conflicts = {value}\n"))


def test_a_key_that_is_no_setting_is_an_error(tmp_path):
    for text, hint in (
        ("hadr = 'x'", "hadr is not a setting: is haddr meant?"),
        ("max-keys = 5000", "max-keys is not a setting: is max_keys meant?"),
        ("qqqq = 1", "qqqq is not a setting: config/redisrepl.example.toml has them all"),
        ("[hub]", "hub is not a setting: the file has no tables, only lines like haddr ="),
    ):
        file = toml(tmp_path, text)
        with pytest.raises(ConfigError, match=f"^{re.escape(f'--config {file}: {hint}')}"):
            load_settings({}, file)


def test_a_flag_that_is_no_setting_is_an_error():
    with pytest.raises(ConfigError, match="hadr"):
        load_settings({"hadr": "x"})


@pytest.mark.parametrize("content", [b"ns = [", b"ns = " + b"[" * 100_000, b"ns = 'a'\nns = 'b'\n", b"\xff = 1"])
def test_a_file_that_is_not_toml(content, tmp_path):
    file = tmp_path / "x.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^--config {file}: not TOML: "):
        load_settings({}, file)


def test_a_file_that_begins_with_a_byte_order_mark(tmp_path):
    assert load_settings({}, toml(tmp_path, '\ufeffns = ["site1:"]\n')).ns == (b"site1:",)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"no such file or directory: check the path and that this user may read it$"):
        load_settings({}, tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"is a directory: name a file$"):
        load_settings({}, tmp_path)


def test_nothing_shows_a_password(monkeypatch, tmp_path):
    """Not the settings as text, and no complaint about a wrong one."""
    settings = load_settings({"raddr": "redis://me:secret@redis.lab", "haddr": "https://hub/redis"})
    assert "secret" not in repr(settings)
    assert "secret" not in str(settings)
    monkeypatch.setenv("REDISREPL_RADDR", "redis://:secret@redis.lab")
    for flags in ({"timeout": "secret"}, {"log_level": "secret"}, {"max_memory": "secret"}):
        with pytest.raises(ConfigError) as caught:
            load_settings(flags)
        assert "secret" not in str(caught.value)
    monkeypatch.delenv("REDISREPL_RADDR")
    with pytest.raises(ConfigError) as caught:
        load_settings({}, toml(tmp_path, "raddr = ['secret']\n"))
    assert "secret" not in str(caught.value)


def test_settings_do_not_change():
    with pytest.raises(AttributeError, match="frozen"):
        load_settings({}).timeout = 5.0


# Variables that are no settings.


def test_a_mistyped_variable_is_told_with_the_one_that_may_be_meant(monkeypatch):
    monkeypatch.setenv("REDISREPL_HADR", "s3cret")
    monkeypatch.setenv("redisrepl_max_key", "1")
    monkeypatch.setenv("REDISREPL_QQQQ", "1")
    assert unknown_variables() == {
        "REDISREPL_HADR": "REDISREPL_HADDR",
        "REDISREPL_QQQQ": "",
        "redisrepl_max_key": "REDISREPL_MAX_KEYS",
    }


def test_settings_and_what_kubernetes_sets_are_known(monkeypatch):
    others = ("CONFIG", "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_80_TCP_ADDR")
    for name in (*(field.upper() for field in FIELDS), *others):
        monkeypatch.setenv(f"REDISREPL_{name}", "x")
    monkeypatch.setenv("NOT_REDISREPL_NS", "x")
    assert unknown_variables() == {}
