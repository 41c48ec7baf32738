"""LZF, the compression of strings in a snapshot.

In: compressed bytes and the size that they must decompress to. Out: exactly that many bytes, or ValueError. Left to
others: whether the size is acceptable (`wire.rdb.source` compares it with `MAX_RATIO` first).

The C module `lzf` (python-lzf) is used when it is installed; it is some eighty times faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    import lzf as _native
except ImportError:
    _native = None

__all__ = ["MAX_RATIO", "NATIVE", "decompress", "decompress_pure"]

MAX_RATIO = 88
"""Most bytes one compressed byte can become: a copy of 264 bytes is written as 3."""

_LITERAL = 0x20  # control bytes below it announce literals, the others a copy
_LONG = 7  # a copy length of 7 is continued in the next byte
_MAX_NATIVE = 1 << 31  # the C module takes an int


def decompress_pure(data: bytes, size: int) -> bytes:
    """Decompresses `data` to exactly `size` bytes, else raises ValueError."""
    out = bytearray()
    pos, end = 0, len(data)
    try:
        while pos < end:
            control = data[pos]
            pos += 1
            if control < _LITERAL:
                literals = data[pos : pos + control + 1]
                pos += control + 1
                out += literals
            else:
                length = control >> 5
                if length == _LONG:
                    length += data[pos]
                    pos += 1
                length += 2
                start = len(out) - ((control & 0x1F) << 8 | data[pos]) - 1
                pos += 1
                if start < 0:
                    raise ValueError("a copy from before the beginning")
                piece = out[start : start + length]
                if len(piece) < length:  # it overlaps what it produces: the piece repeats
                    piece = (piece * (length // len(piece) + 1))[:length]
                out += piece
            if len(out) > size:
                break
    except IndexError:
        raise ValueError("the data ends inside a copy") from None
    if pos > end or len(out) != size:
        raise ValueError(f"{end} bytes do not become the {size} announced")
    return bytes(out)


def _decompress_native(data: bytes, size: int) -> bytes:
    """Does what `decompress_pure` does, in C."""
    if not 0 < size < _MAX_NATIVE:
        return decompress_pure(data, size)
    out: bytes | None = _native.decompress(data, size)
    if out is None or len(out) != size:
        raise ValueError(f"{len(data)} bytes do not become the {size} announced")
    return out


NATIVE = _native is not None
decompress: Callable[[bytes, int], bytes] = _decompress_native if NATIVE else decompress_pure
