"""The checksum, in C where it is installed, and in Python."""

from __future__ import annotations

import importlib
import random
import sys
import types

import pytest

from redisrepl.wire.rdb import crc64
from tests.wire.rdb import build

BOTH = pytest.mark.parametrize("update", [crc64.update, crc64.update_pure])


@BOTH
def test_the_check_value_of_redis(update):
    assert update(b"123456789", 0) == 0xE9C6D914C4B8D9CA
    assert update(b"", 5) == 5


@BOTH
@pytest.mark.parametrize("size", [1, 7, 8, 255, 256, 257, 511, 512, 513, 2049, 9000, 65536, 65537, 140000])
def test_any_size_in_any_pieces(update, size):
    data = random.Random(size).randbytes(size)
    expected = build.crc64(data)

    assert update(data, 0) == expected
    middle = size // 3
    assert update(memoryview(data)[middle:], update(data[:middle], 0)) == expected


@pytest.mark.parametrize(("power", "exponents"), crc64.RELATIONS)
def test_the_equations_hold(power, exponents):
    """x**power, reduced step by step, is the sum of the listed powers."""
    number = 1
    for _ in range(power):
        number <<= 1
        if number >> 64:
            number ^= crc64.POLYNOMIAL

    assert number == sum(1 << exponent for exponent in exponents)


@pytest.fixture
def reloaded(monkeypatch):
    def reload(package, extension=None):
        monkeypatch.setitem(sys.modules, "crcmod", package)
        monkeypatch.setitem(sys.modules, "crcmod.crcmod", extension)
        return importlib.reload(crc64)

    yield reload
    monkeypatch.undo()
    importlib.reload(crc64)


def test_without_the_package(reloaded):
    module = reloaded(None)

    assert not module.NATIVE
    assert module.update is module.update_pure


@pytest.mark.parametrize("built", [True, False])
def test_with_the_package(reloaded, built):
    """Without its C extension the package is slower than we are."""
    package, extension = types.ModuleType("crcmod"), types.ModuleType("crcmod.crcmod")
    package.mkCrcFun = lambda *_args, **_kwargs: "made"
    extension._usingExtension = built
    module = reloaded(package, extension)

    assert built == module.NATIVE
    assert module.update == ("made" if built else module.update_pure)
