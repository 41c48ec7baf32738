"""config/: every setting is there, in the order of --help, and what is said to be a default is one."""

import os
import re
from pathlib import Path

import pytest

from redisrepl.grammar.flags import GROUPS
from redisrepl.settings.settings import ENV_PREFIX, Settings, load_settings

CONFIG = Path(__file__).parents[1] / "config"
TOML = CONFIG / "redisrepl.example.toml"
ENV = CONFIG / "redisrepl.example.env"
IN_ORDER = [name for _, names in GROUPS for name in names]
EXAMPLES = {name for name, field in Settings.fields.items() if field.default in (None, ())}


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch):
    for name in os.environ:
        if name.startswith(ENV_PREFIX):
            monkeypatch.delenv(name)


def uncommented(file):
    """The file with each `#name = value` line in force; prose has a space after the #."""
    return re.sub(r"(?m)^#(?=\S)", "", file.read_text())


def variables():
    pairs = [line.split("=", 1) for line in uncommented(ENV).splitlines() if line and not line.startswith("#")]
    assert len(dict(pairs)) == len(pairs)

    return dict(pairs)


def test_the_command_line_knows_every_setting():
    assert sorted(IN_ORDER) == sorted(Settings.fields)


def test_the_file_changes_nothing_as_it_is():
    assert load_settings({}, TOML).as_dict() == Settings().as_dict()


def test_the_file_lists_every_setting_in_the_order_of_help():
    names = re.findall(r"(?m)^([a-z_]+) = ", uncommented(TOML))

    assert names == IN_ORDER


def test_the_file_shows_the_defaults(tmp_path):
    whole = tmp_path / "whole.toml"
    whole.write_text(uncommented(TOML))
    loaded = load_settings({}, whole)

    for name in set(Settings.fields) - EXAMPLES:
        assert getattr(loaded, name) == getattr(Settings(), name), name
    for name in EXAMPLES:
        assert getattr(loaded, name), name


def test_the_groups_of_the_file_are_those_of_help():
    assert re.findall(r"(?m)^# --- (.+?) -*$", TOML.read_text()) == [title for title, _ in GROUPS]
    assert re.findall(r"(?m)^# --- ([^(,-]+?)(?: \(.*\)|, .*)? ---$", ENV.read_text()) == [t for t, _ in GROUPS]


def test_the_variables_are_every_setting_in_the_order_of_help():
    assert list(variables()) == [f"{ENV_PREFIX}{name.upper()}" for name in ("config", *IN_ORDER)]


def test_the_variables_show_the_defaults(monkeypatch):
    for name, value in variables().items():
        monkeypatch.setenv(name, value)
    loaded = load_settings({})

    for name in set(Settings.fields) - EXAMPLES:
        assert getattr(loaded, name) == getattr(Settings(), name), name
    for name in EXAMPLES:
        assert getattr(loaded, name), name


def test_both_show_the_same_examples(tmp_path, monkeypatch):
    whole = tmp_path / "whole.toml"
    whole.write_text(uncommented(TOML))
    from_file = load_settings({}, whole).as_dict()
    for name, value in variables().items():
        monkeypatch.setenv(name, value)

    assert load_settings({}).as_dict() == from_file
