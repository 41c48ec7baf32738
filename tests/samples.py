"""What several tests feed to the code: commands as a master frames them, and every way in which bytes can arrive."""

from __future__ import annotations

from hypothesis import strategies as st

from redisrepl.changes import HashState, SequenceState, StringState
from redisrepl.wire.collections import score_of
from redisrepl.wire.entries import LAST_ID, entry_name, entry_value, entry_words, plain_id

REPLID = "8371445ee47b3a83d9f2d1e0b2d1d8c3f4a5b6c7"
ALL_BYTES = bytes(range(256))
#: Keys that a URL, a glob or a careless parser would take apart.
AWKWARD_NAMES = (
    ALL_BYTES,
    b"a/b.c?d+e%2f&g h.json",
    b"k.raw",
    b"k.json",
    b"..",
    b"%",
    b"//",
    b" ",
    b"\r\n",
    b"\x00",
    "Größe·µ".encode(),
)


def resp(*argv):
    """A command in the canonical framing of a master; written anew here, so that it can judge `encode_command`."""
    lines = [f"*{len(argv)}".encode()]
    for argument in argv:
        lines += [f"${len(argument)}".encode(), argument]
    return b"".join(line + b"\r\n" for line in lines)


def pieces(data, size):
    """The data in pieces of so many bytes; None: in one."""
    if not data:
        return []
    return [data[start : start + (size or len(data))] for start in range(0, len(data), size or len(data))]


def resp_like(*, leaves=None):
    """Bytes that a RESP parser takes seriously: types, lengths and nesting right and wrong."""
    number = st.sampled_from(
        [b"-1", b"0", b"1", b"2", b"3", b"10", b"01", b"4294967295", b"99999999999999999999", b"x"]
    )
    word = st.sampled_from([b"SET", b"REPLCONF", b"GETACK", b"k", b"", b"pmessage", b"ERR no", b"1", b"2 x"])
    bulk = (leaves or word).map(lambda value: b"$%d\r\n%b\r\n" % (len(value), value))
    scalar = st.builds(
        lambda kind, value: kind + value + b"\r\n", st.sampled_from([*map(bytes, zip(b":+-_#,(=!$"))]), word
    )
    header = st.builds(
        lambda kind, count: kind + count + b"\r\n", st.sampled_from([b"*", b"~", b"%", b">", b"|"]), number
    )
    array = st.lists(bulk | scalar, max_size=4).map(lambda items: b"*%d\r\n" % len(items) + b"".join(items))
    return st.lists(bulk | scalar | header | array | st.binary(max_size=6), max_size=8).map(b"".join)


#: Scores in the form in which they are compared.
scores = st.floats(allow_nan=False).map(score_of) | st.sampled_from([b"0", b"1", b"1e+20", b"inf", b"-inf"])

_ids = st.integers(0, 3) | st.integers(1, (1 << 64) - 1)
_entries = st.dictionaries(
    st.builds(lambda ms, seq: entry_name(b"%d-%d" % (ms, seq)), _ids, _ids.filter(bool)),
    st.lists(st.binary(max_size=20) | st.sampled_from([b"", b"1:2", b"\x00:"]), min_size=2, max_size=6)
    .filter(lambda words: len(words) % 2 == 0)
    .map(entry_value),
    max_size=9,
)


@st.composite
def streams(draw, expiries=st.none()):  # noqa: B008 - a strategy is a constant
    """Entries, or none, and a last id that is not below them."""
    entries = draw(_entries)
    greatest = plain_id(max(entries)) if entries else b"0-0"
    last = max(greatest, draw(st.sampled_from([b"0-1", b"5-7", b"18446744073709551615-1"])), key=entry_name)
    return HashState({**entries, LAST_ID: last}, draw(expiries), "stream")


def write(redis, key, state):
    """Have a server hold exactly this under a key."""
    redis.delete(key)
    match state:
        case StringState(value, at):
            redis.set(key, value)
        case SequenceState(items, at):
            redis.rpush(key, *items)
        case HashState(members, at, "set"):
            redis.sadd(key, *members)
        case HashState(members, at, "zset"):
            redis.execute_command("ZADD", key, *(word for member, score in members.items() for word in (score, member)))
        case HashState(elements, at, "stream"):
            for name in sorted(elements.keys() - {LAST_ID}):
                redis.execute_command("XADD", key, plain_id(name), *entry_words(elements[name]))
            if len(elements) == 1:
                redis.execute_command("XADD", key, "0-1", "f", "v")
                redis.execute_command("XTRIM", key, "MAXLEN", 0)
            redis.execute_command("XSETID", key, elements[LAST_ID])
        case HashState(fields, at):
            redis.hset(key, mapping=dict(fields))
        case _:
            return
    if at is not None:
        redis.pexpireat(key, at)
