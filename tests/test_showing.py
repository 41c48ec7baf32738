"""What is shown holds no secret, and nothing that a terminal obeys."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redisrepl.cli import main
from redisrepl.errors import ConfigError
from redisrepl.local.address import parse_address
from redisrepl.remote.address import check_url, without_credentials
from redisrepl.showing import PlainOutput, masked, plain, plain_fields
from redisrepl.subcommands.jsonlines import encode_bytes

EVIL = "a\x1b]0;x\x07\x9b31mb\x7f\u202ec"
of = pytest.mark.parametrize


@of(
    "address",
    [
        "redis://:9/S3cret==@h",
        "redis://us/er:S3cret@h",
        "redis://:S3cret?rest@h",
        "redis://:S3cret#rest@h",
        "redis://:x@y:S3cret/@h/x",
        "redis://S3cret",
        "redis://:S3cret",
        "S3cret@x:y",
        "http://h/?token=S3cret",
        "redis-sentinel://:S3cret",
        "redis-sentinel://a:S3cret@h,b:x/m",
        "unix://:S3/S3cret@/x?db=y",
        "redis://h?db=S3cret&sentinel_password=S3cret@",
    ],
)
def test_no_address_of_a_site_shows_a_secret(address):
    try:
        text = str(parse_address(address)) + repr(parse_address(address))
    except ConfigError as error:
        text = str(error)
    assert "S3cret" not in text.replace("redis://S3cret:6379", "").replace("host='S3cret'", "").replace(
        "s3cret", "S3cret"
    ) or (address == "redis://S3cret")


@of(
    "address",
    [
        "https://h/redis?token=S3cret",
        "https://h/redis#S3cret",
        "https://u:S3cret@h/redis?x",
        "https://u:S3/cret:S3cret@h:y/",
        "https://:S3cret",
        "http://u:S3cret@h/",
        "https://h:S3cret/",
    ],
)
def test_no_address_of_a_hub_shows_a_secret(address):
    with pytest.raises(ConfigError) as caught:
        check_url(address)
    assert "S3cret" not in str(caught.value)


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


def test_the_last_line_of_an_error_is_plain(capfd):
    assert main(["status", "--state-dir", f"/none{EVIL}"]) != 0
    assert capfd.readouterr().err.rstrip("\n").isprintable()
