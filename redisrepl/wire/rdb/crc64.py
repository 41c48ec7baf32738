"""The checksum of snapshots: CRC-64 with the polynomial 0xad93d23594c935a9, bits reflected, beginning at 0.

In: bytes, and the checksum of the bytes before them. Out: the checksum of both. Left to others: what to do when it
differs (`wire.rdb.reader`).

The C extension of `crcmod` is used when it is installed. Without it, a loop over bytes would make 15 MB/s. Instead a
block is taken as one long integer, that is as a polynomial over GF(2), and folded. If x**n equals a sum of a few lower
powers modulo the CRC's polynomial, the upper part of a long polynomial can be removed and added to the lower part at
those few places, which for Python's integers is a handful of shifts and XORs of whole blocks: 200 MB/s. The few
remaining bytes go through the usual table. Squaring such an equation gives one for twice the n with as many terms, so
three equations serve all sizes of blocks.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    import crcmod as _native
    from crcmod.crcmod import _usingExtension as _has_extension
except ImportError:
    _native, _has_extension = None, False

__all__ = ["NATIVE", "POLYNOMIAL", "RELATIONS", "update", "update_pure"]

POLYNOMIAL = 1 << 64 | 0xAD93D23594C935A9
"""The polynomial with its leading term; bit i stands for x**i."""

RELATIONS = (
    (214, (0, 1, 3, 6, 7, 8, 18, 19, 27, 29, 30, 34, 35, 36, 41, 48, 49, 54, 55, 61)),
    (7004, (0, 2, 5, 8, 13, 23, 25, 29, 35, 36, 39, 43, 45, 51, 54, 59, 60)),
    (149742, (0, 4, 9, 12, 26, 33, 37, 39, 40, 41, 43, 45, 46, 59)),
)
"""(n, exponents): x**n is the sum of x**exponent modulo the polynomial. Found by trying n up to a million."""

_REFLECTED = 0x95AC9329AC4BC9B5
_BLOCKS = (
    512,
    2048,
    8192,
    65536,
)  # bytes folded at once; shorter data is filled up in front, where zeros change nothing
_WORTH_FOLDING = 256  # bytes from which on folding beats the table
_FOLDED_BITS = 512


class _Fold(NamedTuple):
    """One fold: the first `bits` bits, the highest powers, are removed and added again `shifts` bits further on."""

    bits: int
    mask: int
    shifts: tuple[int, ...]


def _byte_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (_REFLECTED if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_TABLE = _byte_table()


@cache
def _folds(size: int) -> tuple[list[_Fold], int]:
    """The folds for a block of `size` bytes, the cheapest each time, and the bytes that remain after them.

    Reflection puts the highest power into the lowest bit, so with L bits left bit i is x**(L - 1 - i): taking off the
    first h bits and adding x**d for x**n moves a bit n - d - h places on, counted in what is left.
    """
    relations = [(n << k, [d << k for d in exponents]) for n, exponents in RELATIONS for k in range(12)]
    left = size * 8
    folds: list[_Fold] = []
    while left > _FOLDED_BITS:
        options = []
        for n, exponents in relations:
            bits = min(n - max(exponents), left - n) & ~7
            if bits > 0:
                options.append((len(exponents) + (left - bits) / bits, n, exponents, bits))
        _, n, exponents, bits = min(options)
        folds.append(_Fold(bits, (1 << bits) - 1, tuple(n - bits - d for d in exponents)))
        left -= bits
    return folds, left // 8


def update_pure(data: bytes | memoryview, crc: int = 0) -> int:
    """Continues the checksum `crc` over `data`, without the C extension."""
    end = len(data)
    for start in range(0, end, _BLOCKS[-1]):
        piece = data[start : start + _BLOCKS[-1]]
        size = len(piece)
        if size > _WORTH_FOLDING:
            block = next(block for block in _BLOCKS if block >= size)
            folds, left = _folds(block)
            number = (int.from_bytes(piece, "little") ^ crc) << (block - size) * 8
            for bits, mask, shifts in folds:
                high = number & mask
                number >>= bits
                for shift in shifts:
                    number ^= high << shift
            crc = 0
            piece = number.to_bytes(left, "little")
        for byte in piece:
            crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc


NATIVE = bool(_has_extension)
update: Callable[[bytes | memoryview, int], int] = (
    _native.mkCrcFun(POLYNOMIAL, initCrc=0, rev=True, xorOut=0) if NATIVE else update_pure
)
