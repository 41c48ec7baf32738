"""What a child process reads of settings is what would be read here, errors too."""

import os
from pathlib import Path

import pytest

from redisrepl.errors import ConfigError
from redisrepl.settings import apart
from redisrepl.settings.apart import load_settings_apart
from redisrepl.settings.settings import ByteSize, Settings, load_settings

# Who runs the tests may have threads, which the child has nothing to do with.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

FLAGS = {"ns": ["a:", os.fsdecode(b"\xff:")], "max_value": "2MiB", "key": "k.pem", "replicate": "all", "rc": True}
FILE = 'keep_conflicts = "2MiB,1d"\nlisten = ["127.0.0.1:1", "unix:///x"]\nbatch = 7\nretry_max = 1.5\n'


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "redisrepl.toml"
    path.write_text(FILE)
    return path


def test_the_child_hands_back_what_it_read(file, monkeypatch):
    monkeypatch.setenv("REDISREPL_MAX_MEMORY", "5MB")
    expected = load_settings(FLAGS, file)
    read = load_settings_apart(FLAGS, file)

    assert read == expected
    assert type(read.max_memory) is type(read.max_value) is ByteSize
    assert isinstance(read.key, Path)


def test_it_is_the_child_that_reads(file, monkeypatch):
    """Of what it does, nothing is seen here but what it says."""
    asked = []
    monkeypatch.setattr(apart, "load_settings", lambda *_: asked.append(1) or Settings(batch=os.getpid()))

    assert load_settings_apart({}, file).batch != os.getpid()
    assert not asked


@pytest.mark.parametrize(
    ("flags", "content", "variables"),
    [
        ({"batch": "0"}, "", {}),
        ({"ns": ["a*"]}, "", {}),
        ({}, "batch = ", {}),
        ({}, "sweep_rate = 0", {}),
        ({}, "no_such = 1", {}),
        ({}, "", {"REDISREPL_HADDR": "https://h/", "REDISREPL_TIMEOUT": "secret"}),
        ({"no_such": "1"}, "", {}),
    ],
)
def test_an_error_comes_through_unchanged(flags, content, variables, tmp_path, monkeypatch):
    file = tmp_path / "redisrepl.toml"
    file.write_text(content)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as expected:
        load_settings(flags, file)

    with pytest.raises(ConfigError) as told:
        load_settings_apart(flags, file)

    assert str(told.value) == str(expected.value)


def test_where_no_child_can_be_made_settings_are_read_here(file, monkeypatch):
    def refuse():
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", refuse)

    assert load_settings_apart(FLAGS, file) == load_settings(FLAGS, file)


def test_where_there_are_no_forks_settings_are_read_here(file, monkeypatch):
    monkeypatch.delattr(os, "fork")

    assert load_settings_apart(FLAGS, file) == load_settings(FLAGS, file)


def test_what_nobody_foresaw_is_raised_here(monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(apart, "load_settings", fail)

    with pytest.raises(ZeroDivisionError):
        load_settings_apart({})


def children_of_this_process():
    return {
        child for thread in Path("/proc/self/task").iterdir() for child in (thread / "children").read_text().split()
    }


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_neither_child_nor_pipe_is_left(file):
    before, children = descriptors(), children_of_this_process()
    load_settings_apart(FLAGS, file)

    assert descriptors() == before
    assert children_of_this_process() == children
