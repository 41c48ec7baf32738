"""Which keys may cross."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redisrepl.errors import ConfigError
from redisrepl.namespaces import Namespaces, glob_escape, printable
from testbed import RedisServer
from tests.samples import ALL_BYTES


@pytest.fixture(scope="module")
def redis():
    with RedisServer() as server:
        yield server.client()


@pytest.mark.parametrize(
    ("key", "covered"),
    [
        (b"site1:", True),
        (b"site1:x", True),
        (b"site1:site2:x", True),
        (b"site1", False),
        (b"site10:x", False),
        (b"SITE1:x", False),
        (b" site1:x", False),
        (b"xsite1:", False),
        (b"lab\xff\x00", True),
        (b"lab\xff", True),
        (b"lab", False),
        (b"", False),
    ],
)
def test_a_key_belongs_where_it_starts_with_a_prefix(key, covered):
    assert Namespaces([b"site1:", b"lab\xff"]).covers(key) is covered


def test_prefixes_keep_their_order_and_lose_repetitions():
    assert list(Namespaces([b"b:", b"a:", b"b:"])) == [b"b:", b"a:"]
    assert Namespaces([b"b:", b"a:", b"b:"]).prefixes == (b"b:", b"a:")


def test_a_glob_is_no_glob():
    namespaces = Namespaces([b"a*"])

    assert namespaces.covers(b"a*b")
    assert not namespaces.covers(b"ab")


def test_no_namespace_is_an_error():
    with pytest.raises(ConfigError, match="no namespace is given"):
        Namespaces([])


@pytest.mark.parametrize("prefixes", [[b""], [b"a:", b""]])
def test_an_empty_namespace_would_be_everything(prefixes):
    with pytest.raises(ConfigError, match="--ns is empty"):
        Namespaces(prefixes)


@pytest.mark.parametrize("prefixes", [[b"a", b"a:"], [b"a:", b"b", b"a"], [b"a", b"a0", b"ab"], [b"\xff", b"\xff\xfe"]])
def test_a_namespace_inside_another_is_an_error(prefixes):
    with pytest.raises(ConfigError, match="lies inside"):
        Namespaces(prefixes)


def test_the_error_names_both():
    with pytest.raises(ConfigError, match=r"--ns a\\x00b lies inside --ns a\\x00:"):
        Namespaces([b"a\x00b", b"a\x00"])


@given(st.sets(st.binary(min_size=1, max_size=3), min_size=1, max_size=6), st.binary(max_size=5))
def test_no_key_belongs_to_two(prefixes, key):
    overlap = any(a != b and a.startswith(b) for a in prefixes for b in prefixes)
    try:
        namespaces = Namespaces(prefixes)
    except ConfigError:
        assert overlap
    else:
        assert not overlap
        owners = [prefix for prefix in prefixes if key.startswith(prefix)]
        assert len(owners) == namespaces.covers(key)


def test_an_open_end_is_told():
    namespaces = Namespaces([b"site1:", b"RSE", b"lab7", b"a/", b"\xff", b"{tag}"])

    assert namespaces.without_delimiter() == (b"RSE", b"lab7", b"\xff")


def test_it_can_be_read_in_a_log():
    assert repr(Namespaces([b"a:", b"\xff\n"])) == "Namespaces(a:, \\xff\\n)"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"site1:x", "site1:x"),
        ("Größe·µ".encode(), "Größe·µ"),
        (b"a\xffb", "a\\xffb"),
        (b"a\r\n\x00\x1b[31m", "a\\r\\n\\x00\\x1b[31m"),
        ("\u202eabc".encode(), "\\u202eabc"),
        ("\U000e0001".encode(), "\\U000e0001"),
        (b"x" * 80, "x" * 80),
        (b"x" * 81, "x" * 79 + "…"),
        (b"", ""),
    ],
)
def test_a_key_is_printed_so_that_it_cannot_forge_a_log_line(name, text):
    assert printable(name) == text


@given(st.binary(max_size=60))
def test_any_key_is_printed_on_one_short_line(name):
    assert len(printable(name)) <= 80
    assert printable(name).isprintable()


# Globs, judged by a real server.


@pytest.mark.parametrize("byte", range(256))
def test_a_prefix_of_any_byte_matches_itself_alone(redis, byte):
    character = bytes([byte])
    other = bytes([byte ^ 1])
    redis.flushall()
    redis.mset({b"n" + character + b"1": "", b"n" + other + b"1": "", b"nn1": "", b"n": ""})

    assert redis.keys(glob_escape(b"n" + character) + b"*") == [b"n" + character + b"1"]


@pytest.mark.parametrize(
    "prefix", [b"n[x]", b"n[^x]", b"a*b", b"a?b", b"a\\b", b"a\\", b"[", b"]", b"[a-z", b"*", b"**", b"\\*", ALL_BYTES]
)
def test_a_prefix_with_meaning_to_a_glob_matches_itself_alone(redis, prefix):
    redis.flushall()
    redis.mset({prefix: "", prefix + b"x": "", b"nx": "", b"aXb": "", b"ab": "", b"a": "", b"nn": "", b"z": ""})

    assert sorted(redis.keys(glob_escape(prefix) + b"*")) == sorted([prefix, prefix + b"x"])


def test_an_escaped_prefix_is_a_pattern_to_subscribe_to(redis):
    with redis.pubsub(ignore_subscribe_messages=True) as listener:
        listener.psubscribe(glob_escape(b"n[x]*") + b"*")
        listener.get_message(timeout=5)
        assert redis.publish(b"n[x]*1", "") == 1
        assert redis.publish(b"nx1", "") == 0
        assert redis.publish(b"n[x]1", "") == 0
