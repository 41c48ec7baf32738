"""Every value type of the format: its name for people, its reader and its skipper.

In: the type byte in front of a key. Out: a `Kind`. Left to others: calling it (`wire.rdb.reader`).

The numbers are Redis' RDB_TYPE_* constants (rdb.h). 8 was never assigned. 6, a module value of a release candidate,
cannot be read without that module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from redisrepl.wire.rdb import hashes, listpack, modules, packed, streams, values, ziplist

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redisrepl.wire.rdb.events import Value
    from redisrepl.wire.rdb.values import Reader, Skipper

__all__ = ["KINDS", "STRING", "VALKEY_KINDS", "Kind"]

STRING = 0  # RDB_TYPE_STRING


class Kind(NamedTuple):
    """What to do with a value type.

    Attributes:
        name: "string", "list", "set", "zset", "hash", "stream", "array" or "module2".
        read: yields the value in parts, None when more bytes are needed; nothing for an empty collection. None for a
            value that cannot be read.
        skip: skips the value; returns whether it has elements.
    """

    name: str
    read: Reader | None
    skip: Skipper


def _packed(
    name: str,
    decode: Callable[[bytes], Iterator[list[bytes]]],
    shape: Callable[[list[bytes]], Value],
    empty: int,
) -> Kind:
    """A type whose value is one string, `empty` bytes long when it has no elements."""
    return Kind(name, values.packed(decode, shape), values.skip_packed(empty))


KINDS = {
    STRING: Kind("string", values.read_string, values.skip_packed(-1)),
    1: Kind("list", values.read_strings, values.skip_counted(1)),  # RDB_TYPE_LIST
    2: Kind("set", values.read_strings, values.skip_counted(1)),  # RDB_TYPE_SET
    3: Kind("zset", values.read_zset, values.skip_zset),  # RDB_TYPE_ZSET
    4: Kind("hash", hashes.read_hash, values.skip_counted(2)),  # RDB_TYPE_HASH
    5: Kind("zset", values.read_zset2, values.skip_zset2),  # RDB_TYPE_ZSET_2
    7: Kind("module2", None, modules.skip_module),  # RDB_TYPE_MODULE_2
    9: _packed("hash", packed.zipmap_elements, hashes.paired, packed.ZIPMAP_EMPTY),  # RDB_TYPE_HASH_ZIPMAP
    10: _packed("list", ziplist.elements, values.plain, ziplist.EMPTY),  # RDB_TYPE_LIST_ZIPLIST
    11: _packed("set", packed.intset_elements, values.plain, packed.INTSET_EMPTY),  # RDB_TYPE_SET_INTSET
    12: _packed("zset", ziplist.elements, values.scored, ziplist.EMPTY),  # RDB_TYPE_ZSET_ZIPLIST
    13: _packed("hash", ziplist.elements, hashes.paired, ziplist.EMPTY),  # RDB_TYPE_HASH_ZIPLIST
    14: Kind("list", values.read_quicklist, values.skip_quicklist),  # RDB_TYPE_LIST_QUICKLIST
    15: Kind("stream", streams.stream_reader(1), streams.stream_skipper(1)),  # RDB_TYPE_STREAM_LISTPACKS
    16: _packed("hash", listpack.elements, hashes.paired, listpack.EMPTY),  # RDB_TYPE_HASH_LISTPACK
    17: _packed("zset", listpack.elements, values.scored, listpack.EMPTY),  # RDB_TYPE_ZSET_LISTPACK
    18: Kind("list", values.read_quicklist2, values.skip_quicklist2),  # RDB_TYPE_LIST_QUICKLIST_2
    19: Kind("stream", streams.stream_reader(2), streams.stream_skipper(2)),  # RDB_TYPE_STREAM_LISTPACKS_2
    20: _packed("set", listpack.elements, values.plain, listpack.EMPTY),  # RDB_TYPE_SET_LISTPACK
    21: Kind("stream", streams.stream_reader(3), streams.stream_skipper(3)),  # RDB_TYPE_STREAM_LISTPACKS_3
    22: Kind("hash", hashes.read_hash_metadata_rc, hashes.skip_hash_metadata_rc),  # RDB_TYPE_HASH_METADATA_PRE_GA
    23: _packed("hash", listpack.elements, hashes.timed, listpack.EMPTY),  # RDB_TYPE_HASH_LISTPACK_EX_PRE_GA
    24: Kind("hash", hashes.read_hash_metadata, hashes.skip_hash_metadata),  # RDB_TYPE_HASH_METADATA
    25: Kind("hash", hashes.read_hash_packed_ttl, hashes.skip_hash_packed_ttl),  # RDB_TYPE_HASH_LISTPACK_EX
    26: Kind("stream", streams.stream_reader(4), streams.stream_skipper(4)),  # RDB_TYPE_STREAM_LISTPACKS_4
    27: Kind("stream", streams.stream_reader(5), streams.stream_skipper(5)),  # RDB_TYPE_STREAM_LISTPACKS_5
    28: Kind("array", values.read_array, values.skip_array),  # RDB_TYPE_ARRAY
    29: Kind("hash", hashes.read_template_dump_packed, hashes.skip_template_dump_packed),
    30: Kind("hash", hashes.read_template_packed, values.skip_packed(listpack.EMPTY)),
    31: Kind("hash", hashes.read_template_dump, hashes.skip_template_dump),
    32: Kind("hash", hashes.read_template_reference, hashes.skip_template_reference),
}
"""The types of Redis, and of Valkey except those that differ in `VALKEY_KINDS`."""

VALKEY_KINDS = KINDS | {22: Kind("hash", hashes.read_hash_valkey, hashes.skip_hash_valkey)}  # RDB_TYPE_HASH_2
"""The types under Valkey's magic."""
