"""A real redis-server that writes snapshots."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import redis

from testbed.programs import site_redis

DEFAULTS = {
    "rdbcompression": "yes",
    "list-compress-depth": "0",
    "list-max-listpack-size": "-2",
    "hash-max-listpack-entries": "512",
    "hash-max-listpack-value": "64",
    "zset-max-listpack-entries": "128",
    "set-max-intset-entries": "512",
    "stream-node-max-entries": "100",
    "maxmemory-policy": "noeviction",
    "maxmemory": "0",
}


class Server:
    def __init__(self, directory, client):
        self.directory = directory
        self.client = client

    def configure(self, **settings):
        for name, value in settings.items():
            self.client.config_set(name.replace("_", "-"), value)

    def dump(self):
        self.client.save()
        return (Path(self.directory) / "dump.rdb").read_bytes()


@pytest.fixture(scope="session")
def _redis():
    directory = tempfile.mkdtemp(prefix="rdb")
    socket = f"{directory}/s"
    command = [site_redis(), "--port", "0", "--unixsocket", socket, "--dir", directory, "--save", ""]
    with subprocess.Popen([*command, "--enable-debug-command", "yes"], stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            if b"Ready to accept" in line or b"ready to accept" in line:
                break
        with redis.Redis(unix_socket_path=socket, protocol=2, single_connection_client=True) as client:
            yield Server(directory, client)
        process.kill()
    shutil.rmtree(directory)


@pytest.fixture
def server(_redis):
    _redis.configure(**DEFAULTS)
    _redis.client.flushall()
    _redis.client.function_flush("SYNC")
    return _redis
