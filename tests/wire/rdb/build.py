"""Writes snapshots for tests, byte by byte and on its own account: nothing here comes from the reader under test."""

from __future__ import annotations

import struct

EMPTY_LISTPACK = b"\x07\x00\x00\x00\x00\x00\xff"


def crc64(data):
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x95AC9329AC4BC9B5 if crc & 1 else 0)
    return crc


def rdb(*records, version=11, valkey=False, checksum=True):
    """A whole snapshot around the records."""
    magic = b"VALKEY%03d" % version if valkey else b"REDIS%04d" % version
    body = magic + b"".join(records) + b"\xff"
    if version < 5:
        return body
    return body + (crc64(body) if checksum else 0).to_bytes(8, "little")


def length(number):
    if number < 1 << 6:
        return bytes([number])
    if number < 1 << 14:
        return (0x4000 | number).to_bytes(2, "big")
    if number < 1 << 32:
        return b"\x80" + number.to_bytes(4, "big")
    return b"\x81" + number.to_bytes(8, "big")


def string(data):
    return length(len(data)) + data


def integer(number):
    for encoding, size in ((0xC0, 1), (0xC1, 2), (0xC2, 4)):
        if -(1 << 8 * size - 1) <= number < 1 << 8 * size - 1:
            return bytes([encoding]) + number.to_bytes(size, "little", signed=True)
    raise ValueError(number)


def compressed(packed, original):
    return b"\xc3" + length(len(packed)) + length(original) + packed


def repeated(byte, times):
    """LZF data for one byte repeated 3 times or more, as a literal and copies of it."""
    packed = b"\x00" + byte
    left = times - 1
    while left:
        size = min(left, 264)
        if left - size in (1, 2):
            size -= 3
        packed += bytes([(size - 2) << 5, 0]) if size < 9 else bytes([0xE0, size - 9, 0])
        left -= size
    return compressed(packed, times)


def key(kind, name, value):
    return bytes([kind]) + string(name) + value


def millis(number):
    return number.to_bytes(8, "little", signed=True)


def double(number):
    return struct.pack("<d", number)


def stream_id(ms, seq):
    return struct.pack(">QQ", ms, seq)


def backlen(size, *, long=False):
    width = max(1, (size.bit_length() + 6) // 7) + long
    return bytes((size >> 7 * i & 0x7F) | (0x80 if i < width - 1 else 0) for i in reversed(range(width)))


def listpack_entry(item, *, long=False):
    if isinstance(item, int):
        for low, high, make in (
            (0, 127, lambda n: bytes([n])),
            (-4096, 4095, lambda n: (0xC000 | n & 0x1FFF).to_bytes(2, "big")),
            (-(1 << 15), (1 << 15) - 1, lambda n: b"\xf1" + n.to_bytes(2, "little", signed=True)),
            (-(1 << 23), (1 << 23) - 1, lambda n: b"\xf2" + n.to_bytes(3, "little", signed=True)),
            (-(1 << 31), (1 << 31) - 1, lambda n: b"\xf3" + n.to_bytes(4, "little", signed=True)),
            (-(1 << 63), (1 << 63) - 1, lambda n: b"\xf4" + n.to_bytes(8, "little", signed=True)),
        ):
            if low <= item <= high:
                entry = make(item)
                break
    elif len(item) < 64:
        entry = bytes([0x80 | len(item)]) + item
    elif len(item) < 4096:
        entry = (0xE000 | len(item)).to_bytes(2, "big") + item
    else:
        entry = b"\xf0" + len(item).to_bytes(4, "little") + item
    return entry + backlen(len(entry), long=long)


def listpack(*items, long=False, count=None):
    body = b"".join(listpack_entry(item, long=long) for item in items)
    count = min(len(items), 65535) if count is None else count
    return struct.pack("<IH", len(body) + 7, count) + body + b"\xff"


def ziplist(*items, count=None):
    body = b""
    previous = 0
    for item in items:
        entry = bytes([previous]) if previous < 254 else b"\xfe" + previous.to_bytes(4, "little")
        if isinstance(item, int):
            if 0 <= item <= 12:
                entry += bytes([0xF1 + item])
            else:
                for head, size in ((0xFE, 1), (0xC0, 2), (0xF0, 3), (0xD0, 4), (0xE0, 8)):
                    if -(1 << 8 * size - 1) <= item < 1 << 8 * size - 1:
                        entry += bytes([head]) + item.to_bytes(size, "little", signed=True)
                        break
        elif len(item) < 64:
            entry += bytes([len(item)]) + item
        elif len(item) < 16384:
            entry += (0x4000 | len(item)).to_bytes(2, "big") + item
        else:
            entry += b"\x80" + len(item).to_bytes(4, "big") + item
        body += entry
        previous = len(entry)
    count = min(len(items), 65535) if count is None else count
    return struct.pack("<IIH", len(body) + 11, len(body) + 10 - previous, count) + body + b"\xff"


def intset(width, *numbers):
    return struct.pack("<II", width, len(numbers)) + b"".join(n.to_bytes(width, "little", signed=True) for n in numbers)


def zipmap(*pairs, free=0, count=None):
    def size(data):
        return bytes([len(data)]) if len(data) < 254 else b"\xfe" + len(data).to_bytes(4, "little")

    body = b"".join(size(name) + name + size(value) + bytes([free]) + value + b"?" * free for name, value in pairs)
    return bytes([min(len(pairs), 254) if count is None else count]) + body + b"\xff"


def stream_node(ms, seq, names, *entries, deleted=0):
    """A node of (flags, ms delta, seq delta, fields or values) entries, as its key and its listpack."""
    items = [len(entries) - deleted, deleted, len(names), *names, 0]
    for flags, ms_delta, seq_delta, fields in entries:
        items += [flags, ms_delta, seq_delta]
        if not flags & 2:
            items.append(len(fields) // 2)
        items += [*fields, len(fields) + 3]
    return string(stream_id(ms, seq)) + string(listpack(*items))
