"""Where it may listen, and who may ask."""

from __future__ import annotations

import base64
import socket
import ssl

import pytest

from redisrepl.errors import ConfigError
from redisrepl.listener.addresses import access_of, parse_listen_address
from redisrepl.settings.settings import Settings


def access(*listen, **settings):
    return access_of(Settings(listen=listen, **settings), [parse_listen_address(text) for text in listen])


@pytest.mark.parametrize(
    ("text", "shown", "local"),
    [
        ("127.0.0.1:9646", "127.0.0.1:9646", True),
        ("localhost:9646", "localhost:9646", True),
        ("[::1]:9646", "[::1]:9646", True),
        ("127.9.9.9:0", "127.9.9.9:0", True),
        ("unix:///run/a.sock", "unix:///run/a.sock", True),
        ("unix:/run/a.sock", "unix:///run/a.sock", True),
        ("0.0.0.0:9646", "0.0.0.0:9646", False),
        ("[::]:9646", "[::]:9646", False),
        ("site1.example.org:9646", "site1.example.org:9646", False),
        ("192.0.2.1:80", "192.0.2.1:80", False),
    ],
)
def test_an_address_is_understood(text, shown, local):
    place = parse_listen_address(text)

    assert (str(place), place.is_local) == (shown, local)


@pytest.mark.parametrize(
    "text",
    ["", "9646", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536", "::1:9646", "unix:x", "unix://"],
)
def test_what_is_no_address_is_named(text):
    with pytest.raises(ConfigError, match=rf"^--listen {text}: .*: give host:port, as in 127.0.0.1:9646, or unix:///"):
        parse_listen_address(text)


@pytest.mark.parametrize("text", [":9646", "*:9646"])
def test_all_addresses_are_meant_only_if_it_says_so(text):
    with pytest.raises(ConfigError, match=r"names no host: give 127.0.0.1:9646, or 0.0.0.0:9646 for all"):
        parse_listen_address(text)


def test_others_than_this_machine_need_a_token_or_tls(tmp_path, certificates):
    with pytest.raises(
        ConfigError, match=r"^--listen 0.0.0.0:9646: others .* give --listen-token-file, or --listen-cert"
    ):
        access("127.0.0.1:9646", "0.0.0.0:9646")
    token = tmp_path / "token"
    token.write_text("secret\n")
    assert access("0.0.0.0:9646", listen_token_file=token).token == b"secret"
    pair = {"listen_cert": certificates.server, "listen_key": certificates.server_key}
    assert access("0.0.0.0:9646", **pair).context.verify_mode is ssl.CERT_NONE
    assert access("0.0.0.0:9646", **pair, listen_ca=certificates.ca).context.verify_mode is ssl.CERT_REQUIRED


def test_files_that_cannot_be_used_are_named(tmp_path, certificates):
    empty = tmp_path / "token"
    empty.write_text("\n")
    with pytest.raises(ConfigError, match=r"^--listen-token-file .*: is empty: "):
        access("127.0.0.1:1", listen_token_file=empty)
    with pytest.raises(ConfigError, match=r"^--listen-cert is given without --listen-key: "):
        access("127.0.0.1:1", listen_cert=certificates.server)
    with pytest.raises(ConfigError, match=r"^--listen-ca is given without --listen-cert and --listen-key"):
        access("127.0.0.1:1", listen_ca=certificates.ca)


@pytest.mark.parametrize("content", [b"secret", b" secret \r\nanother\n", b"secret\n\n# of the scrapers\n"])
def test_the_token_is_the_first_line_of_its_file(tmp_path, content):
    token = tmp_path / "token"
    token.write_bytes(content)
    assert access("127.0.0.1:1", listen_token_file=token).token == b"secret"


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1:9646", "localhost", "LOCALHOST:1", "[::1]:9646", "::1", "192.0.2.7", "site1.example.org:9646"),
        *("other.example.org.", socket.gethostname()),
    ],
)
def test_our_names_and_addresses_are_known(host):
    assert access("127.0.0.1:1", listen_host=("other.example.org", "Site1.example.org")).knows_host(host)


@pytest.mark.parametrize("host", ["", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:9646", "[x]"])
def test_the_name_of_a_stranger_is_not(host):
    assert not access("127.0.0.1:1").knows_host(host)


def basic(text):
    return {"authorization": f"Basic {base64.b64encode(text).decode()}"}


def test_the_token_is_shown_as_bearer_or_as_a_password(tmp_path):
    token = tmp_path / "token"
    token.write_text("s:cret\n")
    guarded = access("127.0.0.1:1", listen_token_file=token)
    for headers in ({"authorization": "Bearer s:cret"}, {"authorization": "bearer  s:cret"}, basic(b"me:s:cret")):
        assert guarded.shows_token(headers)
    wrong = ({}, {"authorization": "s:cret"}, {"authorization": "Bearer x"}, {"authorization": "Basic ???"})
    for headers in (*wrong, basic(b"s:cret"), basic(b"me:"), {"authorization": "Digest s:cret"}):
        assert not guarded.shows_token(headers)
    assert access("127.0.0.1:1").shows_token({})
