"""Parses snapshots (RDB).

In: chunks of bytes, pushed into `RdbReader.feed`. Out: `Aux`, `Function` and `Entry` events; `assemble` puts together
values that come in parts. Left to others: reading the file or the socket, and what follows the snapshot
(`RdbReader.unused`).

    reader.py      magic, opcodes, keys, checksum
    types.py       every value type: its name, reader and skipper
    values.py, hashes.py, streams.py, modules.py     one family of value types each
    listpack.py, ziplist.py, packed.py               collections packed into one string
    source.py, parts.py   the buffer, lengths and strings; collections in parts
    lzf.py, crc64.py      compression, checksum
    events.py      the events

It reads all RDB versions of Redis 2.4 to 8.10 (1 to 15) and Valkey 9 (80), and a newer version if it holds nothing
unknown. The format is defined by Redis' source (rdb.h, rdb.c); comments cite its constants.
"""

from redisrepl.wire.rdb.events import Aux, Consumer, Entry, Event, Function, Group, Stream, Value, assemble
from redisrepl.wire.rdb.reader import DEFAULT_MAX_STRING, RdbReader

__all__ = [
    "DEFAULT_MAX_STRING",
    "Aux",
    "Consumer",
    "Entry",
    "Event",
    "Function",
    "Group",
    "RdbReader",
    "Stream",
    "Value",
    "assemble",
]
