"""The snapshot format (RDB): bytes in, keys with their values out.

Comes in: chunks of bytes, pushed into `RdbReader.feed`.
Goes out: `Aux`, `Function` and `Entry` events; `assemble` puts values together that come in parts.
Left to others: reading the file or the socket, and what follows the snapshot (`RdbReader.unused`).

    reader.py      magic, opcodes, keys, checksum
    types.py       every value type: its name, reader and skipper
    values.py, hashes.py, streams.py, modules.py     one family of value types each
    listpack.py, ziplist.py, packed.py               collections packed into one string
    source.py, parts.py   the buffer, lengths and strings; collections in parts
    lzf.py, crc64.py
    events.py      what comes out

All versions of Redis 2.4 to 8.10 (1 to 15) and Valkey 9 (80) are read; a newer version is read as long as everything in
it is known. Sections 3 and 4 of the project's notes on the format are its specification.
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
