"""What is shown holds no secret, and nothing that a terminal obeys."""

import io
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from redisrepl.cli import main
from redisrepl.errors import ConfigError
from redisrepl.local.address import parse_address
from redisrepl.remote.address import check_url, without_credentials
from redisrepl.remote.direct import direct_address
from redisrepl.showing import masked, plain, plain_fields
from redisrepl.stdio import PlainOutput
from redisrepl.subcommands import status
from redisrepl.subcommands.jsonlines import encode_bytes

EVIL = "a\x1b]0;x\x07\x9b31mb\x7f\u202ec"
of = pytest.mark.parametrize


#: What may come before a password, inside of it, and behind it.
BEGINNINGS = st.sampled_from(
    [
        *(
            "redis://",
            "rediss://",
            "unix://",
            "unix:/",
            "redis-sentinel://",
            "rediss-sentinel://",
            "https://",
            "http://",
        ),
        *("x://", "://", "/", "//", "me:", ":", "a,b:1/", ""),
    ]
)
PARTS = st.text("abS:/?#@%[]\\&=,.;+ \t\x1b1209", max_size=6) | st.sampled_from([":9/", ":12#", ":1?db=", "://", "/0?"])
ENDS = st.sampled_from(["@h", "@h:7/2", "@/run/x", "@a,b:1/m", "@h/redis", "@h?db=1", "@:6379", "@"])
SECRETS = st.builds("{}{}S3cret{}{}".format, BEGINNINGS, PARTS, PARTS, ENDS)
#: Without an @, it may be a token in a query or a fragment.
TOKENS = st.builds("{}h{}{}S3cret{}".format, BEGINNINGS, st.sampled_from("?#"), PARTS, PARTS)


def said_of(address):
    """All that may be shown of an address, by whoever takes one."""
    for parse in (
        parse_address,
        lambda text: parse_address(text, flag="--sentinel"),
        lambda text: direct_address(text, 0, None, None),
        lambda text: without_credentials(check_url(text)),
    ):
        try:
            address_of = parse(address)
        except ConfigError as error:
            yield str(error)
        else:
            yield f"{address_of} {address_of!r}"
    yield masked(address)


@settings(max_examples=500, deadline=None)
@given(SECRETS | TOKENS)
@example("redis://:9/S3cret==@h")
@example("redis://us/er:S3cret@h")
@example("redis://:S3cret?rest@h")
@example("redis://:S3cret#rest@h")
@example("redis://:x@y:S3cret/@h/x")
@example("redis://S3cret@h")
@example("unix:/:S3cret@/run/r.sock")
@example("unix://:S3/S3cret@/x?db=y")
@example("/S3cret@h")
@example("me:S3cret://x@h")
@example("S3cret://x@h")
@example("redis-sentinel://user:9/S3cret@h")
@example("redis-sentinel://a:S3cret@h,b:x/m")
@example("redis://u:123?S3cret@h")
@example("redis://:123#S3cret@h")
@example("rediss://u:12#S3cret@h")
@example("https://u:9/S3cret@h")
@example("https://u:S3/cret:S3cret@h:y/")
@example("http://h/?token=S3cret")
@example("https://h/redis#S3cret")
@example("redis://h?db=S3cret")
@example("redis://h?db=S3cret&sentinel_password=S3cret@")
def test_nothing_that_is_said_of_an_address_shows_a_password(address):
    for said in said_of(address):
        assert "s3cret" not in said.lower()


@of(
    "address",
    ["S3cret@x:y", ":S3cret", "redis://:S3cret", "redis-sentinel://:S3cret", "https://:S3cret", "https://h:S3cret/"],
)
def test_what_is_no_port_is_not_shown(address):
    for said in said_of(address):
        assert "S3cret" not in said


@of(
    ("address", "taken_for"),
    [
        ("redis://u:123?S3cret@h", "u:123"),
        ("redis://:123#S3cret@h", ":123"),
        ("rediss://u:12#S3cret@h", "u:12"),
        ("redis-sentinel://user:9/S3cret@h", "user:9"),
        ("https://u:9/S3cret@h", "u:9"),
    ],
)
def test_a_part_of_a_password_is_not_taken_for_a_port(address, taken_for):
    for said in said_of(address):
        assert taken_for not in said
    with pytest.raises(
        ConfigError, match=r"^--raddr: .* must be percent-encoded, as %40 %2F %3F %23, or given by --pass"
    ):
        parse_address(address)
    with pytest.raises(
        ConfigError, match=r"^--haddr: .* must be percent-encoded, as .* or given by --hub-password-file"
    ):
        check_url(address)


def test_a_query_or_fragment_is_refused():
    for address in ("https://h/redis?", "https://h/redis?a=b", "https://h/redis#x"):
        with pytest.raises(ConfigError, match="leave it out"):
            check_url(address)


def test_what_is_no_secret_is_shown():
    assert masked("redis://me:x@[::1]:7/3") == "redis://…@[::1]:7/3"
    assert masked("redis.lab:6379/x") == "redis.lab:6379/x"
    assert without_credentials("https://me:x@hub.lab:8443/redis/") == "https://hub.lab:8443/redis/"


@given(st.text())
def test_plain_text_holds_nothing_that_a_terminal_obeys(text):
    shown = plain(text)
    assert all(
        character in "\t\n" or not ("\0" <= character < " " or "\x7f" <= character < "\xa0") for character in shown
    )
    assert plain(shown) == shown
    shown.encode()


def test_every_way_to_a_terminal_is_plain():
    out = io.StringIO()
    PlainOutput(out).write(EVIL)
    fields = plain_fields(None, "info", {"event": "x", "error": EVIL, "n": 1})

    for text in (out.getvalue(), fields["error"], encode_bytes(EVIL.encode())):
        assert text.isprintable()
    assert json.loads(encode_bytes(EVIL.encode())) == EVIL


def test_the_live_table_is_plain(monkeypatch, tmp_path):
    """Rich takes no escapes out of a text."""
    words = {"site": f"redis://{EVIL}", "hub": f"https://{EVIL}", "state": "not well", "problems": [f"push: {EVIL}"]}
    numbers = dict.fromkeys(("pid", "attached_at", "oldest_s", "waiting_keys", "pushed", "applied", "asked_at"), 1)
    told = words | numbers | {"doing": None, "direction": "both", "namespaces": [EVIL]}
    monkeypatch.setattr(status, "documents", lambda _: [told])
    out = io.StringIO()
    status.watch(tmp_path / EVIL, period=0, out=out, times=1)

    assert all(line.isprintable() for line in out.getvalue().splitlines())
    assert "x1b" in out.getvalue()


def test_the_last_line_of_an_error_is_plain(capfd):
    assert main(["status", "--state-dir", f"/none{EVIL}"]) != 0
    assert capfd.readouterr().err.rstrip("\n").isprintable()
