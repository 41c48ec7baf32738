"""Files that settings name: any kind of thing may be there, and it is said in one sentence, soon."""

import contextlib
import os
import socket
import threading

import pytest

from redisrepl import files
from redisrepl.errors import ConfigError
from redisrepl.files import MOST, check_regular, read_file


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch):
    monkeypatch.setattr(files, "_PATIENCE", 0.05)


def sparse(path, size=2 << 30):
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.fixture
def odd(tmp_path):
    """What is no file that anybody means, and what is said of it."""
    fifo, unix = tmp_path / "fifo", tmp_path / "socket"
    os.mkfifo(fifo)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(unix))
        yield {
            fifo: "is a pipe",
            unix: "is a socket",
            tmp_path: "is a directory",
            "/dev/zero": "is a device",
            "/dev/tty": "is a device",
            sparse(tmp_path / "large"): "is larger than 4 MB",
            tmp_path / "none": "no such file or directory",
            tmp_path / "large" / "none": "not a directory",
        }


def test_what_is_no_file(odd):
    for path, reason in odd.items():
        with pytest.raises(ConfigError, match=rf"^--flag {path}: {reason}"):
            read_file(path, "--flag")


def test_what_can_be_read_again(odd, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    check_regular(tmp_path / "file", "--flag")
    for path, reason in odd.items():
        if "larger" not in reason and not isinstance(path, str):
            with pytest.raises(ConfigError, match=rf"^--flag {path}: {reason}"):
                check_regular(path, "--flag")


@pytest.mark.parametrize("size", [0, 1, 100_000, MOST])
def test_a_file_and_a_pipe_are_read_to_their_ends(tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    assert read_file(tmp_path / "file", "--flag") == content
    assert read_file(tmp_path / "file", "--flag", pipe=True) == content
    reading, writing = os.pipe()

    def write():
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(content)

    thread = threading.Thread(target=write)
    thread.start()
    assert read_file(f"/dev/fd/{reading}", "--flag", pipe=True) == content
    thread.join()
    os.close(reading)


def test_a_pipe_in_which_nothing_comes():
    reading, writing = os.pipe()
    with pytest.raises(ConfigError, match=r"^--flag /dev/fd/\d+: is a pipe in which nothing came for 0.05 s"):
        read_file(f"/dev/fd/{reading}", "--flag", pipe=True)
    os.close(reading)
    os.close(writing)


def test_a_pipe_without_an_end():
    reading, writing = os.pipe()

    def write():
        with contextlib.suppress(BrokenPipeError):
            while True:
                os.write(writing, bytes(1 << 16))

    thread = threading.Thread(target=write)
    thread.start()
    with pytest.raises(ConfigError, match="is larger than 4 MB"):
        read_file(f"/dev/fd/{reading}", "--flag", pipe=True)
    os.close(reading)
    thread.join()
    os.close(writing)
