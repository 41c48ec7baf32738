"""redis-server with each of its options."""

import pytest
import redis

from testbed import Certificates, RedisServer, eventually


@pytest.fixture(scope="module")
def certificates():
    with Certificates() as certificates:
        yield certificates


def test_a_client_speaks_bytes():
    with RedisServer() as server:
        client = server.client()
        client.set(b"\xff\x00", b"\r\n")
        assert client.get(b"\xff\x00") == b"\r\n"


def test_a_password_is_asked_for_and_known_to_client_and_url():
    with RedisServer(password="secret") as server:
        assert server.client().ping()
        with redis.Redis.from_url(server.url) as by_url:
            assert by_url.ping()
        with pytest.raises(redis.AuthenticationError):
            server.client(password="wrong").ping()


def test_acl_users_stand_beside_the_default_user():
    with RedisServer(password="secret", users=["reader on >pw ~site1:* +get"]) as server:
        reader = server.client(username="reader", password="pw")
        assert reader.get("site1:a") is None
        with pytest.raises(redis.exceptions.NoPermissionError):
            reader.get("other")
        assert server.client().set("other", 1)


def test_the_default_user_itself_can_be_restricted():
    with RedisServer(users=["default on nopass ~* +ping", "admin on >pw ~* &* +@all"]) as server:
        assert server.client(username="admin", password="pw").set("a", 1)
        with pytest.raises(redis.exceptions.NoPermissionError):
            server.client().get("a")


def test_a_unix_socket():
    with RedisServer(unix_socket=True) as server, redis.Redis.from_url(server.unix_url) as client:
        assert client.ping()


def test_tls_asks_for_a_client_certificate(certificates):
    with RedisServer(tls=certificates) as server:
        assert server.tls_client().ping()
        url = f"{server.tls_url}?ssl_ca_certs={certificates.ca}"
        with redis.Redis.from_url(url) as anonymous, pytest.raises(redis.ConnectionError):
            anonymous.ping()
        with pytest.raises(redis.ConnectionError):
            server.tls_client(certificates.foreign_client()).ping()


def test_tls_can_do_without_client_certificates(certificates):
    with RedisServer(tls=certificates, tls_auth_clients=False) as server:
        url = f"{server.tls_url}?ssl_ca_certs={certificates.ca}"
        with redis.Redis.from_url(url) as client:
            assert client.ping()


def test_a_replica_follows_its_master():
    with RedisServer(password="secret") as master, RedisServer(replica_of=master) as replica:
        master.client().set("a", 1)
        eventually(lambda: replica.client().get("a") == b"1")


def test_data_survive_kill_when_persistent():
    with RedisServer(persistent=True) as server:
        server.client().set("a", 1)
        server.kill()
        server.start()
        assert server.client().get("a") == b"1"


def test_data_do_not_survive_otherwise():
    with RedisServer() as server:
        server.client().set("a", 1)
        server.restart()
        assert server.client().get("a") is None


def test_any_directive_can_be_overridden():
    limits = ["replica 1mb 1mb 1", "pubsub 2mb 2mb 2"]
    with RedisServer(config={"notify-keyspace-events": "K$h", "client-output-buffer-limit": limits}) as server:
        settings = server.client().config_get("notify-keyspace-events", "client-output-buffer-limit")
        assert sorted(settings["notify-keyspace-events"]) == ["$", "K", "h"]
        assert "1048576 1048576 1" in settings["client-output-buffer-limit"]
        assert "2097152 2097152 2" in settings["client-output-buffer-limit"]


def test_commands_are_counted():
    with RedisServer() as server:
        client = server.client()
        server.reset_commandstats()
        for value in range(3):
            client.set("a", value)
        client.config_get("maxmemory")
        stats = server.commandstats()
        assert stats["set"] == 3
        assert stats["config|get"] == 1
        server.reset_commandstats()
        assert "set" not in server.commandstats()
