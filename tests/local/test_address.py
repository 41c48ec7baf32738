"""Where the site's Redis is, in every form that it may be given."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redisrepl.errors import ConfigError
from redisrepl.local.address import SiteAddress, parse_address
from redisrepl.tls.contexts import CertificateFiles


@pytest.mark.parametrize(
    ("given_as", "expected"),
    [
        (":6379", SiteAddress()),
        (":7000", SiteAddress(port=7000)),
        ("redis.lab", SiteAddress("redis.lab")),
        ("redis.lab:7000", SiteAddress("redis.lab", 7000)),
        ("192.0.2.1:7000", SiteAddress("192.0.2.1", 7000)),
        ("[::1]:7000", SiteAddress("::1", 7000)),
        ("[::1]", SiteAddress("::1")),
        ("redis://redis.lab", SiteAddress("redis.lab")),
        ("REDIS://redis.lab:7000/", SiteAddress("redis.lab", 7000)),
        ("redis.lab:7000/3", SiteAddress("redis.lab", 7000, database=3)),
        ("redis://redis.lab/3", SiteAddress("redis.lab", database=3)),
        ("redis://redis.lab?db=4", SiteAddress("redis.lab", database=4)),
        ("redis://redis.lab/?db=4", SiteAddress("redis.lab", database=4)),
        ("redis://:pw@redis.lab", SiteAddress("redis.lab", secret="pw")),
        ("redis://me:pw@redis.lab", SiteAddress("redis.lab", username="me", secret="pw")),
        ("redis://me:p%40%2f%3a%25@redis.lab", SiteAddress("redis.lab", username="me", secret="p@/:%")),
        ("me:pw@redis.lab:7000", SiteAddress("redis.lab", 7000, username="me", secret="pw")),
        ("redis://me@redis.lab", SiteAddress("redis.lab", username="me")),
        ("unix:///run/redis.sock", SiteAddress(path="/run/redis.sock")),
        ("unix:///run/a%40b%3f%23.sock", SiteAddress(path="/run/a@b?#.sock")),
        ("unix:///run/redis.sock?db=2", SiteAddress(path="/run/redis.sock", database=2)),
        ("unix://me:pw@/run/redis.sock", SiteAddress(path="/run/redis.sock", username="me", secret="pw")),
    ],
)
def test_an_address_in_its_forms(given_as, expected):
    assert parse_address(given_as) == expected


@pytest.mark.parametrize(
    ("given_as", "sentinels", "service"),
    [
        ("redis-sentinel://a:1,b:2/mymaster", (("a", 1), ("b", 2)), "mymaster"),
        ("redis-sentinel://a/mymaster", (("a", 26379),), "mymaster"),
        ("redis-sentinel://[::1]:5,b/my%2fmaster", (("::1", 5), ("b", 26379)), "my/master"),
    ],
)
def test_sentinels_are_asked_for_the_master(given_as, sentinels, service):
    address = parse_address(given_as)

    assert (address.sentinels, address.service) == (sentinels, service)
    assert address.at("192.0.2.9", 7000) == SiteAddress("192.0.2.9", 7000)


def test_sentinels_have_a_login_of_their_own():
    address = parse_address("redis-sentinel://me:pw@a,b/m/2?sentinel_username=s&sentinel_password=%40")

    assert (address.username, address.password, address.database) == ("me", "pw", 2)
    assert (address.sentinel_username, address.sentinel_secret) == ("s", "@")
    address = parse_address("redis-sentinel://a/m?sentinel_password=x", sentinel_username="t", sentinel_password="y")
    assert (address.sentinel_username, address.sentinel_secret) == ("t", "y")


def test_flags_go_before_what_the_url_says():
    address = parse_address("redis://me:pw@redis.lab", username="you", password="")

    assert (address.username, address.password) == ("you", "")


def test_tls_is_for_rediss_only(certificates):
    files = CertificateFiles(certificates.ca, certificates.client, certificates.client_key)

    assert parse_address("redis://redis.lab", files=files).context is None
    address = parse_address("rediss://redis.lab", files=files)
    assert address.context is not None
    assert address.files is files
    assert address.context.check_hostname
    assert len(address.context.get_ca_certs()) == 1


def test_a_wrong_file_for_tls_is_named(tmp_path):
    files = CertificateFiles(tmp_path / "none", None, None, ("--site-ca", "--site-cert", "--site-key"))
    with pytest.raises(ConfigError, match=r"^--site-ca "):
        parse_address("rediss://redis.lab", files=files)


@pytest.mark.parametrize(
    ("given_as", "complaint"),
    [
        ("http://redis.lab", "http:// is not known: give --raddr as host:port"),
        ("redis.lab:port", "not an address"),
        ("redis.lab:70000", "not an address"),
        ("redis.lab:-1", "not an address"),
        ("::1", "not an address"),
        ("redis://[::1", "not an address"),
        ("redis://ex\u2100mple", "not an address"),
        ("redis://redis.lab/x", "the database 'x' is not a number"),
        ("redis://redis.lab/-1", "is not a number"),
        ("redis://redis.lab/²", "is not a number"),
        ("redis://redis.lab?db=x", "the database is not a number"),
        ("redis://redis.lab?db", "has a part behind ? that is not db=..: leave it out"),
        ("redis://redis.lab?", "has a part behind ? that is not db=..: leave it out"),
        ("redis://redis.lab?db=1&x=2", "has a part behind ? that is not db=..: leave it out"),
        ("redis://redis.lab?db=1&db=1", "has a part behind ? that is not db=..: leave it out"),
        ("redis://redis.lab?sentinel_password=x", "that is not db=..: leave it out"),
        ("redis-sentinel://a/m?x=y", "db=.. and sentinel_username=.. and sentinel_password=.."),
        ("redis://redis.lab#", "has a part behind ? or #, which means nothing there: leave it out"),
        ("redis://me:a/b@redis.lab", "must be percent-encoded, as %40 %2F %3F %23, or given by --password-file"),
        ("/run/redis.sock", "a unix socket is given as unix:///run/redis.sock"),
        ("unix://", "names no socket"),
        ("unix://?db=1", "names no socket"),
        ("redis-sentinel://a:1,b:2", "names no Sentinel or no service"),
        ("redis-sentinel:///m", "names no Sentinel or no service"),
        ("redis-sentinel://a,,b/m", "names no Sentinel or no service"),
        ("redis-sentinel://a:x/m", "not an address"),
    ],
)
def test_what_is_no_address(given_as, complaint):
    with pytest.raises(ConfigError) as caught:
        parse_address(given_as)
    assert str(caught.value).startswith(("--raddr ", "--raddr: "))
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    "given_as",
    [
        "http://me:secret@redis.lab",
        "redis://me:secret@redis.lab/x",
        "redis://:sec#secret@x",
        "redis://x:secret@[::1",
        "me:secret@x:y",
    ],
)
def test_no_message_shows_the_password(given_as):
    with pytest.raises(ConfigError) as caught:
        parse_address(given_as, flag="--site")
    assert "secret" not in str(caught.value)
    assert str(caught.value).startswith(("--site ", "--site: "))


@pytest.mark.parametrize(
    ("given_as", "text"),
    [
        (":6379", "redis://127.0.0.1:6379"),
        ("me:secret@[::1]:7", "redis://[::1]:7"),
        ("unix://:secret@/run/x", "unix:///run/x"),
        ("rediss://me:secret@lab", "rediss://lab:6379"),
        ("redis-sentinel://:secret@a,[::1]:5/m?sentinel_password=secret", "redis-sentinel://a:26379,[::1]:5/m"),
    ],
)
def test_its_text_holds_no_password(given_as, text):
    address = parse_address(given_as)

    assert str(address) == text
    assert "secret" not in repr(address)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30) | st.from_regex(r"(redis|unix|redis-sentinel)://[a:@,/?=%²\[\]0-9.]{0,20}", fullmatch=True))
def test_any_text_is_an_address_or_refused(text):
    try:
        address = parse_address(text)
    except ConfigError:
        return
    assert isinstance(address, SiteAddress)
