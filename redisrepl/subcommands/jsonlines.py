"""Redis data as JSON, one object a line.

Comes in: bytes, scores, entries of a snapshot.
Goes out: JSON text; `entry_line` gives the bytes of a line, or of its piece when the entry is a part of a value.
Left to others: where the lines go.

Bytes are a JSON string when they are valid UTF-8, else `{"base64": "..."}`; nothing is lost and nothing is guessed.
Numbers JSON has no word for are the strings "inf", "-inf" and "nan". Lines are assembled by hand: this is three times
as fast as `json.dumps`, and a value of any size leaves in pieces.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from json.encoder import encode_basestring as _quote  # in C where there is one
from math import isfinite
from typing import TYPE_CHECKING, cast

from redisrepl.wire.rdb import Stream

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redisrepl.wire.rdb import Consumer, Entry, Function, Group, Value

__all__ = ["encode_bytes", "encode_number", "entry_line", "function_line"]


def encode_bytes(data: bytes) -> str:
    """A JSON string when the bytes are valid UTF-8, else an object with their base64."""
    try:
        text = _quote(data.decode())
        return text if data.isascii() and b"\x7f" not in data else _CONTROLS.sub(_escaped, text)
    except UnicodeDecodeError:
        return f'{{"base64":"{b2a_base64(data, newline=False).decode()}"}}'


#: What `_quote` lets through though a terminal may obey it: DEL, C1, and what turns the order of text around.
_CONTROLS = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def encode_number(number: float) -> str:
    """A JSON number, or the string "inf", "-inf" or "nan"."""
    return repr(number) if isfinite(number) else f'"{number}"'


def entry_line(entry: Entry) -> bytes:
    """The line of an entry with its line feed; for a part of a value, the piece of the line that the part makes.

    A line has `db`, `key`, `type`, `value`, `expires_at_ms`, and `idle` or `freq` when the snapshot has them. The
    pieces of the parts of one value, written one after the other, are its line.
    """
    db, key, kind, value, expires, idle, freq, first, last, _ = entry
    if kind == "string" and value is not None:
        text = encode_bytes(cast("bytes", value))
    else:
        text = _value(kind, value, first, last)
    if first:
        text = f'{{"db":{db},"key":{encode_bytes(key)},"type":"{kind}","value":{text}'
    if last:
        text = f'{text},"expires_at_ms":{"null" if expires is None else expires}'
        if idle is not None:
            text += f',"idle":{idle}'
        if freq is not None:
            text += f',"freq":{freq}'
        text += "}\n"
    return text.encode()


def function_line(function: Function) -> bytes:
    """The line of a function library: the same fields, type "function", without database and key."""
    source = encode_bytes(function.source)
    return f'{{"db":null,"key":null,"type":"function","value":{source},"expires_at_ms":null}}\n'.encode()


def _value(kind: str, value: Value, first: bool, last: bool) -> str:
    """A collection, without its opening bracket unless first and without its closing one unless last."""
    if value is None:
        return "null"
    if isinstance(value, Stream):
        start, end = '{"entries":[', f"]{_tail(value)}}}"
        text = ",".join(f'["{number}",{_pairs(fields)}]' for number, fields in value.entries)
    else:
        start, end = "[", "]"
        text = ",".join(_elements(kind, value))
    if not first:
        start = "," if text else ""
    return f"{start}{text}{end if last else ''}"


def _elements(kind: str, value: Value) -> Iterable[str]:
    """The elements of a collection; which shape they have follows from the type."""
    match kind:
        case "zset":
            scored = cast("list[tuple[bytes, float]]", value)
            return [f"[{encode_bytes(member)},{encode_number(score)}]" for member, score in scored]
        case "hash":
            fields = cast("list[tuple[bytes, bytes] | tuple[bytes, bytes, int | None]]", value)
            return [_field(*field) for field in fields]
        case "array":
            indexed = cast("list[tuple[int, bytes | int | float]]", value)
            return [f"[{index},{_item(item)}]" for index, item in indexed]
        case _:  # list, set
            return map(encode_bytes, cast("list[bytes]", value))


def _field(field: bytes, value: bytes, *expiry: int | None) -> str:
    times = "".join(",null" if ms is None else f",{ms}" for ms in expiry)
    return f"[{encode_bytes(field)},{encode_bytes(value)}{times}]"


def _item(item: bytes | float) -> str:
    return encode_bytes(item) if isinstance(item, bytes) else encode_number(item)


def _pairs(pairs: list[tuple[bytes, bytes]]) -> str:
    return f"[{','.join([f'[{encode_bytes(one)},{encode_bytes(two)}]' for one, two in pairs])}]"


def _tail(stream: Stream) -> str:
    groups = ",".join(_group(group) for group in stream.groups)
    return (
        f',"last_id":"{stream.last_id}","length":{stream.length},"first_id":{_id(stream.first_id)},'
        f'"max_deleted_id":{_id(stream.max_deleted_id)},"entries_added":{_int(stream.entries_added)},"groups":[{groups}]'
    )


def _group(group: Group) -> str:
    pending = ",".join([f'["{number}",{ms},{count}]' for number, ms, count in group.pending])
    consumers = ",".join(_consumer(consumer) for consumer in group.consumers)
    return (
        f'{{"name":{encode_bytes(group.name)},"last_id":"{group.last_id}","entries_read":{_int(group.entries_read)},'
        f'"pending":[{pending}],"consumers":[{consumers}],"nacked":{_ids(group.nacked)}}}'
    )


def _consumer(consumer: Consumer) -> str:
    return (
        f'{{"name":{encode_bytes(consumer.name)},"seen_ms":{consumer.seen_ms},"active_ms":{_int(consumer.active_ms)},'
        f'"pending":{_ids(consumer.pending)}}}'
    )


def _id(number: str | None) -> str:
    return "null" if number is None else f'"{number}"'


def _ids(numbers: list[str]) -> str:
    return f"[{','.join(map(_id, numbers))}]"


def _int(number: int | None) -> str:
    return "null" if number is None else str(number)
