"""Passwords in files: which one is used while a file changes."""

import os
import threading

import pytest
from structlog.testing import capture_logs

from redisrepl.errors import ConfigError
from redisrepl.local.address import parse_address
from redisrepl.local.client import client_options
from redisrepl.passwords import PasswordFile, password_file, text_of


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "password"
    file.write_text("first\n")
    return file


def test_a_new_password_is_used_from_then_on(file):
    password = PasswordFile(file, "--password-file")
    assert password.text() == "first"
    file.write_text("second\r\n")
    assert text_of(password) == "second"


@pytest.mark.parametrize("change", ["is empty", "is gone"])
def test_the_last_password_is_used_while_there_is_none(file, change):
    password = PasswordFile(file, "--password-file")
    for last, following in (("first", "second"), ("second", "third")):
        if change == "is gone":
            file.unlink()
        else:
            file.write_text("")
        with capture_logs() as logs:
            assert [password.text(), password.text()] == [last, last]
        assert [line["event"] for line in logs] == ["password.unreadable"]  # once each time
        assert str(file) in logs[0]["error"]
        file.write_text(following)
        assert password.text() == following


def test_a_pipe_is_read_once(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("secret",))
    writer.start()
    password = PasswordFile(pipe, "--password-file")
    writer.join()
    with capture_logs() as logs:
        assert (password.text(), password.text()) == ("secret", "secret")
    assert not logs


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"secret", "secret"),
        (b" with spaces \r\n", " with spaces "),
        (b"secret\nanother\n", "secret"),
        (b"\xc3\xb6\xff\n", "\xf6\udcff"),
    ],
)
def test_the_password_is_the_first_line_of_its_file(file, content, password):
    file.write_bytes(content)
    assert PasswordFile(file, "--flag").text() == password


@pytest.mark.parametrize("content", [b"", b"\n", b"\nsecret\n"])
def test_a_first_line_that_is_empty_is_named(file, content):
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^--flag {file}: is empty: put the password on its first line$"):
        PasswordFile(file, "--flag")


def test_what_is_no_password_at_the_start(file, tmp_path):
    file.write_text("\n")
    for path, says in ((file, "is empty"), (tmp_path / "none", "no such file")):
        with pytest.raises(ConfigError, match=f"--password-file .*{says}"):
            password_file(path, "--password-file")
    assert password_file(None, "--password-file") is None
    assert [text_of(password) for password in (None, "", "given")] == [None, "", "given"]


def test_every_login_at_the_site_and_its_sentinels_asks_anew(file):
    password = PasswordFile(file, "--password-file")
    address = parse_address("redis-sentinel://s:1/m", username="me", password=password, sentinel_password=password)
    login = client_options(address, 1.0)["credential_provider"]
    assert login.get_credentials() == ("me", b"first")
    file.write_text("second")
    assert login.get_credentials() == ("me", b"second")
    assert address.at("there", 1).password_bytes == b"second"
    assert text_of(address.sentinel_secret) == "second"
    assert "second" not in repr(address) + str(address) + repr(login) + repr(password)


@pytest.mark.parametrize(("url", "login"), [("//u@h", ("u", b"")), ("//:p@h", (b"p",)), ("//:@h", None), ("//h", None)])
def test_a_login_that_an_address_gives(url, login):
    provider = client_options(parse_address("redis:" + url), 1.0)["credential_provider"]
    assert (provider and provider.get_credentials()) == login
