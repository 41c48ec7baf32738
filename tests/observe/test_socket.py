"""The socket in the state directory, at its real file."""

import asyncio
import socket

import pytest
import structlog
from structlog.testing import capture_logs

from redisrepl.observe.socket import SocketFile, serve_state


async def document():
    return {"pid": 42}


async def asked(path):
    reader, writer = await asyncio.open_unix_connection(path)
    answer = await reader.read()
    writer.close()
    return answer


@pytest.fixture
def path(tmp_path):
    return tmp_path / "0123.sock"


@pytest.fixture
def theirs(path):
    """Of another program, which serves it."""
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        theirs.listen()
        yield theirs


@pytest.mark.usefixtures("theirs")
async def test_a_socket_that_is_served_is_not_replaced(path):
    structlog.reset_defaults()
    with capture_logs() as logs:
        await serve_state(path, document)

    assert [(line["event"], line["error"]) for line in logs] == [("daemon.no_socket", "Address already in use")]
    assert path.is_socket()


def test_a_socket_is_served_whose_queue_is_full(path, theirs):
    theirs.listen(0)
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(str(path))
        with pytest.raises(OSError, match="in use"):
            SocketFile(path)


def test_a_socket_of_datagrams_is_served(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as theirs:
        theirs.bind(str(path))
        with pytest.raises(OSError, match="in use"):
            SocketFile(path)


async def test_a_dead_socket_is_replaced_and_only_our_own_is_removed(path, theirs):
    theirs.close()
    for replaced in (False, True):
        task = asyncio.ensure_future(serve_state(path, document))
        await asyncio.sleep(0)
        assert await asked(path) == b'{"pid": 42}\n'
        if replaced:
            path.unlink()
            other = SocketFile(path)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert path.exists() == replaced
    other.listening.close()
