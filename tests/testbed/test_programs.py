"""Other programs than those of the machine, by the environment; logs that outlive their servers."""

import shutil

import pytest

from testbed import Hub, Nginx, RedisServer, Webdis
from testbed.fronts import HAProxy, Stunnel, front
from testbed.logs import keep
from testbed.programs import version_of


@pytest.fixture
def another(tmp_path):
    """The installed redis-server under another path."""
    path = tmp_path / "another-redis-server"
    path.symlink_to(shutil.which("redis-server"))
    return str(path)


def test_the_environment_names_the_server_of_each_role(monkeypatch, another, certificates):
    assert RedisServer().program == "redis-server"
    monkeypatch.setenv("TESTBED_HUB_REDIS", another)
    assert RedisServer().program == "redis-server"
    assert Hub(certificates).server.program == another
    monkeypatch.delenv("TESTBED_HUB_REDIS")
    monkeypatch.setenv("TESTBED_REDIS", another)
    assert Hub(certificates).server.program == another
    with RedisServer() as server:
        assert server.command()[0] == another
        assert server.client().ping()


@pytest.mark.parametrize(("named", "kind"), [("", Nginx), ("haproxy=/x", HAProxy), ("stunnel=/x", Stunnel)])
def test_the_environment_names_what_ends_tls(monkeypatch, certificates, named, kind):
    monkeypatch.setenv("TESTBED_FRONT", named)
    made = front(Webdis(RedisServer()), certificates)
    assert type(made) is kind
    assert made.url.startswith(f"https://localhost:{made.port}")
    assert "/x" in made.command() or kind is Nginx


def test_an_old_server_is_not_told_what_it_does_not_know(tmp_path):
    old = tmp_path / "old-server"
    old.write_text("#!/bin/sh\necho Redis server v=6.2.14 sha=0\n")
    old.chmod(0o755)
    server = RedisServer(program=str(old))
    server.configure()
    assert version_of(str(old)) == (6, 2, 14)
    assert "enable-debug-command" not in (server.directory / "redis.conf").read_text()


def test_logs_are_kept_if_they_are_wanted(monkeypatch, tmp_path):
    monkeypatch.delenv("TESTBED_KEEP", raising=False)
    keep("daemon", {"daemon.log": "x"})
    monkeypatch.setenv("TESTBED_KEEP", str(tmp_path / "kept"))
    with RedisServer() as server:
        server.client().save()
    (kept,) = (tmp_path / "kept").iterdir()
    assert sorted(path.name for path in kept.iterdir()) == ["redis.conf", "redis.log"]
