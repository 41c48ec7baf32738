"""LZF in C, where it is installed, and in Python."""

from __future__ import annotations

import importlib
import sys
import types

import pytest

from redisrepl.wire.rdb import lzf

BOTH = pytest.mark.parametrize("decompress", [lzf.decompress, lzf.decompress_pure])


@BOTH
@pytest.mark.parametrize(
    ("data", "result"),
    [
        (b"\x00a", b"a"),
        (b"\x1f" + bytes(range(32)), bytes(range(32))),
        (b"\x02abc\x20\x02", b"abcabc"),
        (b"\x00a\x60\x00", b"a" * 6),
        (b"\x01ab\xe0\x05\x01", b"ab" * 8),
        (b"\x00a\xe0\xff\x00", b"a" * 265),
        (b"\x1f" + b"x" * 31 + b"y" + b"\x1f" + b"z" * 32 + b"\x20\x20", b"x" * 31 + b"y" + b"z" * 32 + b"yzz"),
        (b"\x1f" + bytes(32) + b"\x1f" + bytes(32) * 1 + b"\x20\x3f", bytes(67)),
    ],
)
def test_good_data(decompress, data, result):
    assert decompress(data, len(result)) == result


@BOTH
@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"\x00a", 2),
        (b"\x00a\x00b", 1),
        (b"\x00a", 0),
        (b"\x05abc", 6),
        (b"\x05abc", 3),
        (b"\x20\x00", 3),
        (b"\x00a\x20\x01", 4),
        (b"\x00a\x20", 4),
        (b"\x00a\xe0", 10),
        (b"\x00a\xe0\x05", 15),
        (b"", 5),
        (b"\x00a\xe0\xff\x00\xe0\xff\x00", 270),
    ],
)
def test_damaged_data(decompress, data, size):
    with pytest.raises(ValueError, match=r"."):
        decompress(data, size)


@pytest.fixture
def reloaded():
    """The module as it is with another `lzf` installed; the real one is put back."""
    known = sys.modules.get("lzf")

    def reload(native):
        sys.modules["lzf"] = native
        importlib.reload(lzf)
        return lzf

    yield reload
    if known is None:
        sys.modules.pop("lzf", None)
    else:
        sys.modules["lzf"] = known
    importlib.reload(lzf)


def test_without_the_c_module(reloaded):
    module = reloaded(None)

    assert not module.NATIVE
    assert module.decompress is module.decompress_pure


@pytest.mark.parametrize(("answer", "size"), [(b"abc", 3), (None, 4), (b"abc", 4)])
def test_with_a_c_module(reloaded, answer, size):
    native = types.ModuleType("lzf")
    native.decompress = lambda _data, _size: answer
    module = reloaded(native)

    assert module.NATIVE
    assert module.decompress(b"", 0) == b""
    if answer is not None and len(answer) == size:
        assert module.decompress(b"?", size) == answer
    else:
        with pytest.raises(ValueError, match="announced"):
            module.decompress(b"?", size)
