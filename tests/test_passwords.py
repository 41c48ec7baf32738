"""Passwords from files."""

import pytest

from redisrepl.errors import ConfigError
from redisrepl.passwords import read_password


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"secret", "secret"),
        (b" with spaces \r\n", " with spaces "),
        (b"secret\nanother\n", "secret"),
        (b"\xc3\xb6\xff\n", "\xf6\udcff"),
    ],
)
def test_the_password_is_the_first_line_of_its_file(tmp_path, content, password):
    path = tmp_path / "password"
    path.write_bytes(content)
    assert read_password(path, "--flag") == password


@pytest.mark.parametrize("content", [b"", b"\n", b"\nsecret\n"])
def test_a_first_line_that_is_empty_is_named(tmp_path, content):
    path = tmp_path / "password"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^--flag {path}: is empty: put the password on its first line$"):
        read_password(path, "--flag")


def test_none_was_named():
    assert read_password(None, "--flag") is None
