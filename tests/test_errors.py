"""Every exception: its exit code, and whether it is worth another try."""

from __future__ import annotations

import gc
import inspect
import weakref

import pytest

from redisrepl import errors
from redisrepl.errors import (
    BodyTooLargeError,
    CertificateError,
    CommandRefusedError,
    ConfigError,
    ExitCode,
    FencedError,
    HubError,
    KeyDeniedError,
    LimitExceededError,
    LinkLostError,
    OutcomeUnknownError,
    OutputError,
    PeerUnavailableError,
    ProtocolError,
    PsyncRefusedError,
    RdbError,
    RedisreplError,
    RefusedError,
    SilentError,
    ValueTooLargeError,
    denies_key,
    exit_code,
    is_transient,
)

TABLE = [
    (RedisreplError("x"), ExitCode.UNEXPECTED, False),
    (ConfigError("x"), ExitCode.CONFIG, False),
    (OutputError("x"), ExitCode.OUTPUT, False),
    (RefusedError("x"), ExitCode.REFUSED, False),
    (CertificateError("x"), ExitCode.REFUSED, False),
    (KeyDeniedError("x"), ExitCode.REFUSED, False),
    (PsyncRefusedError("x"), ExitCode.REFUSED, False),
    (PeerUnavailableError("x"), ExitCode.UNAVAILABLE, True),
    (LinkLostError("x"), ExitCode.UNAVAILABLE, True),
    (SilentError("x"), ExitCode.UNAVAILABLE, True),
    (OutcomeUnknownError("x"), ExitCode.UNAVAILABLE, True),
    (FencedError("x"), ExitCode.UNAVAILABLE, True),
    (HubError("x", status=503), ExitCode.UNAVAILABLE, True),
    (CommandRefusedError("x", status=200), ExitCode.REFUSED, False),
    (BodyTooLargeError("x", status=413), ExitCode.UNAVAILABLE, False),
    (ValueTooLargeError("x", status=200), ExitCode.UNAVAILABLE, False),
    (ProtocolError("x"), ExitCode.UNEXPECTED, True),
    (LimitExceededError("x", 2, 1), ExitCode.UNEXPECTED, True),
    (RdbError("x", offset=1), ExitCode.UNEXPECTED, True),
    (ValueError("x"), ExitCode.UNEXPECTED, False),
    (KeyboardInterrupt(), ExitCode.UNEXPECTED, False),
]


@pytest.mark.parametrize(("error", "code", "transient"), TABLE, ids=[type(row[0]).__name__ for row in TABLE])
def test_what_an_error_means(error, code, transient):
    assert exit_code(error) is code
    assert is_transient(error) is transient


def tree():
    return {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)}


def test_the_table_is_complete():
    assert tree() <= {type(error) for error, _, _ in TABLE}


def test_all_are_of_one_root_and_made_known():
    for kind in tree():
        assert issubclass(kind, RedisreplError)
        assert kind.__name__ in errors.__all__


def test_the_drawing_shows_every_one_where_it_belongs():
    drawing = errors.__doc__.split("\n\n", 1)[1].splitlines()
    drawn, path = {}, {}
    for line in drawing:
        depth = len(line) - len(line.lstrip(" │├└─"))
        name = line.strip(" │├└─").split()[0]
        path[depth] = name
        drawn[name] = next((path[above] for above in sorted(path, reverse=True) if above < depth), "Exception")

    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in tree()}


def test_exit_codes_are_those_of_the_readme():
    codes = {code.name: int(code) for code in ExitCode.__members__.values()}

    assert codes == {
        "OK": 0,
        "UNEXPECTED": 1,
        "USAGE": 2,
        "UNAVAILABLE": 69,
        "OUTPUT": 74,
        "STARTING": 75,
        "REFUSED": 77,
        "CONFIG": 78,
        "INTERRUPTED": 130,
    }
    assert ExitCode.DIFFERENT == 1


def test_errors_of_the_hub_keep_its_status():
    error = HubError("busy", status=503, retry_after=2.5)

    assert (str(error), error.status, error.retry_after) == ("busy", 503, 2.5)
    assert CommandRefusedError("x", status=403).retry_after is None


def test_a_limit_names_size_and_limit():
    error = LimitExceededError("snapshot", 5, 4)

    assert str(error) == "snapshot of 5 bytes is over the limit of 4"
    assert (error.size, error.limit) == (5, 4)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ({"offset": 9}, "bad (at byte 9)"),
        ({"offset": 9, "rdb_type": 0}, "bad (at byte 9, type 0)"),
        ({"offset": 9, "rdb_type": 4, "version": 11}, "bad (at byte 9, type 4, RDB version 11)"),
    ],
)
def test_a_damaged_snapshot_is_placed(place, text):
    error = RdbError("bad", **place)

    assert str(error) == text
    assert (error.reason, error.offset) == ("bad", 9)


@pytest.mark.parametrize(
    ("text", "denies"),
    [
        ("NOPERM this user has no permissions to access one of the keys used as arguments", True),
        ("NOPERM No permissions to access a key", True),
        (
            "The user executing the script can't access at least one of the keys mentioned in the command arguments",
            True,
        ),
        ("ACL failure in script: User x has no permissions to access the 'k' key", True),
        ("NOPERM this user has no permissions to run the 'keys' command", False),
        ("NOPERM this user has no permissions to access one of the channels used as arguments", False),
        ("The user executing the script can't run this command or subcommand", False),
        ("Script attempted to access a non local key in a cluster node", False),
    ],
)
def test_which_refusals_are_about_a_key(text, denies):
    assert denies_key(text) is denies


class Large:
    """What was read."""


def _read(gone):
    reply = Large()
    gone.append(weakref.ref(reply))
    raise ValueError(repr(reply))


def _asked(gone):
    try:
        _read(gone)
    except ValueError as error:
        raise ProtocolError("no reply") from error


def test_an_error_that_is_kept_keeps_nothing_of_what_was_read():
    """Nor does what caused it; and nothing waits for the collector."""
    gone, kept = [], []
    gc.disable()
    try:
        try:
            _asked(gone)
        except ProtocolError as error:
            kept.append(error)
        assert gone[0]() is not None
        errors.without_frames(kept[0])
        assert gone[0]() is None
    finally:
        gc.enable()
    assert isinstance(kept[0].__cause__, ValueError)
