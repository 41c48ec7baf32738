"""What all servers have in common, shown with redis-server."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import redis

from testbed import Hub, RedisServer, ServerFailedError, eventually


def is_alive(pid):
    """Whether it runs; what has lost its parent may stay as a zombie until the tests end (`testbed.prefork`)."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_it_answers_when_start_returns_and_leaves_nothing_when_closed():
    with RedisServer() as server:
        assert server.running
        assert server.client().ping()
        directory, pid = server.directory, server.pid
    assert not directory.exists()
    assert not Path(f"/proc/{pid}").exists()


def test_a_server_that_does_not_come_up_shows_the_end_of_its_log():
    server = RedisServer(config={"maxmemory": "a lot"})
    with pytest.raises(ServerFailedError, match="maxmemory"):
        server.start()
    server.close()


def test_another_port_is_tried_when_somebody_took_ours():
    server = RedisServer()
    with socket.create_server(("127.0.0.1", server.port)) as squatter, server:
        assert server.port != squatter.getsockname()[1]
        assert server.client().ping()


def test_a_restart_keeps_the_port():
    with RedisServer() as server:
        client, port = server.client(), server.port
        server.restart()
        assert server.port == port
        assert client.ping()


def test_a_restart_does_not_move_to_another_port():
    with RedisServer() as server:
        server.stop()
        with (
            socket.create_server(("127.0.0.1", server.port)),
            pytest.raises(ServerFailedError, match="Address already in use"),
        ):
            server.start()


def test_starting_twice_is_refused():
    with RedisServer() as server, pytest.raises(RuntimeError, match="running already"):
        server.start()


def test_a_killed_server_can_be_started_again():
    with RedisServer() as server:
        server.kill()
        assert not server.running
        with pytest.raises(redis.ConnectionError):
            server.client().ping()
        server.start()
        assert server.client().ping()


def test_a_paused_server_keeps_connections_and_answers_when_resumed():
    with RedisServer() as server:
        client = server.client(socket_timeout=0.1)
        client.ping()
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()
        assert server.client().ping()


def test_a_paused_server_can_be_stopped():
    with RedisServer() as server:
        server.pause()
        server.stop()
        assert not server.running


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_no_server_outlives_the_test_run(end):
    """Not even one that was started in a thread, whose end must not end the server either."""
    script = textwrap.dedent("""
        import threading
        from testbed import Certificates, FaultProxy, Hub
        hub = Hub()
        starter = threading.Thread(target=hub.start)
        starter.start()
        starter.join()
        proxy = FaultProxy(hub.port).start()
        workers = hub.nginx._accepting_workers()
        assert hub.redis.ping()
        print(hub.server.pid, hub.webdis.pid, hub.nginx.pid, *workers, proxy._process.pid, flush=True)
        input()
    """)
    run = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with run:
        pids = run.stdout.readline().split()
        assert len(pids) >= 5
        os.kill(run.pid, end)
    eventually(lambda: not any(map(is_alive, pids)), description="all servers gone")


def test_a_server_that_ended_by_itself_leaves_no_children_behind():
    with Hub() as hub:
        workers = hub.nginx._accepting_workers()
        os.kill(hub.nginx.pid, signal.SIGKILL)  # nginx workers do not notice
        eventually(lambda: not hub.nginx.running)
        hub.nginx.start()
        eventually(lambda: not any(map(is_alive, workers)))
        assert hub.nginx.running
