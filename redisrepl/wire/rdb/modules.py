"""Skips values of modules by their structure; only the module knows what they mean.

In: the source, at the first module opcode (behind a module id) or at the id. Out: the position behind the value. Left
to others: reading such a value through its server (`wire.opaque`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redisrepl.wire.rdb.source import Source, attempt

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["MAX_MODULE_BYTES", "skip_aux", "skip_key_meta", "skip_module", "skip_values"]

MAX_MODULE_BYTES = 1 << 34
"""Bytes after which a module value that has not ended counts as damaged."""

_EOF, _SINT, _UINT, _FLOAT, _DOUBLE, _STRING = range(6)  # RDB_MODULE_OPCODE_*
_WHEN = 2  # the `when` of a module's AUX data is written as an unsigned integer
_CLASS_SPEC = 4


def skip_values(source: Source) -> Generator[None, None, None]:
    """Skips module values up to and including their end mark."""
    limit = source.offset + MAX_MODULE_BYTES
    while opcode := (yield from attempt(source, Source.length)):
        if opcode in (_SINT, _UINT):
            yield from attempt(source, Source.length)
        elif opcode == _FLOAT:
            source.skip(4)
        elif opcode == _DOUBLE:
            source.skip(8)
        elif opcode == _STRING:
            yield from attempt(source, Source.skip_string)
        else:
            raise source.fail(f"unknown module opcode {opcode}")
        if source.offset > limit:
            raise source.fail(f"a module value of more than {MAX_MODULE_BYTES} bytes")


def skip_module(source: Source) -> Generator[None, None, bool]:
    """Skips a module value (RDB_TYPE_MODULE_2)."""
    yield from attempt(source, Source.length)
    yield from skip_values(source)
    return True


def skip_aux(source: Source) -> Generator[None, None, None]:
    """Skips data that a module stores outside of keys (RDB_OPCODE_MODULE_AUX)."""
    yield from attempt(source, Source.length)
    when = yield from attempt(source, Source.length)
    if when != _WHEN:
        raise source.fail(f"module AUX data begins with {when}")
    yield from attempt(source, Source.length)
    yield from skip_values(source)


def skip_key_meta(source: Source) -> Generator[None, None, None]:
    """Skips data that modules store with a key (RDB_OPCODE_KEY_META)."""
    for _ in range((yield from attempt(source, Source.length))):
        source.skip(_CLASS_SPEC)
        yield from skip_values(source)
