"""A store as its tests use it: digests and buckets that a person can follow, and a dict that says what is right."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from redisrepl.store import Facts, Pair, Store

PAIR = Pair("127.0.0.1:6379", "https://hub.example/redis/", '{"database": 0, "namespaces": ["73697465313a"]}')
PART = (1 << 48) - 1


def digest_of_hash(key, total):
    return (total[0] * 31 + total[1] * 7 + len(key)) & (1 << 60) - 1


def bucket_of(key):
    return key[-1] if key else 0


def disk_full(_):
    """In place of a write."""
    raise OSError(28, os.strerror(28))


def new_store(directory, pair=PAIR, **options):
    return Store(directory, pair, digest_of_hash=digest_of_hash, bucket_of=bucket_of, **options)


def total_of(elements):
    return sum(d >> 48 for d in elements.values()) & PART, sum(d & PART for d in elements.values()) & PART


def name(number):
    """The name of a field, of any length."""
    return b"f" * number + b"%d" % number


def facts(*told):
    """Facts from tuples: name of the method, arguments."""
    result = Facts()
    for method, *arguments in told:
        getattr(result, method)(*arguments)
    return result


def strings(*pairs):
    return facts(("strings", [key for key, _ in pairs], [digest for _, digest in pairs]))


@dataclass
class Held:
    """What is agreed about a key; `elements` None: a string."""

    digest: int
    number: int
    expires_at_ms: int | None = None
    elements: dict | None = None


@dataclass
class Model:
    """The right answer, by brute force."""

    keys: dict = field(default_factory=dict)
    open: dict = field(default_factory=dict)
    document: dict = field(default_factory=dict)

    def copy(self):
        keys = {
            key: Held(h.digest, h.number, h.expires_at_ms, None if h.elements is None else dict(h.elements))
            for key, h in self.keys.items()
        }
        return Model(keys, dict(self.open), self.document)

    def agree(self, told, number, refused=()):
        for method, key, *arguments in told:
            if method == "strings":
                for one, digest in zip(key, *arguments, strict=True):
                    if one not in refused:
                        self.string(one, number, digest, None)
            elif key not in refused:
                getattr(self, method)(key, number, *arguments)

    def string(self, key, number, digest, expires_at_ms):
        self.keys[key] = Held(digest, number, expires_at_ms)

    def hash(self, key, number, elements, expires_at_ms):
        self.keys[key] = Held(0, number, expires_at_ms, {})
        self.fields(key, number, elements, [b"none of them"])

    def fields(self, key, number, elements, gone=()):
        if not elements and not gone:
            return
        held = self.keys.setdefault(key, Held(0, number))
        if held.elements is None:  # a string: the collection in its place is a new key
            held.elements, held.expires_at_ms = {}, None
        held.elements.update(elements)
        for one in gone:
            held.elements.pop(one, None)
        held.number, held.digest = number, digest_of_hash(key, total_of(held.elements))
        if not held.elements:
            del self.keys[key]

    def gone(self, key, _):
        self.keys.pop(key, None)

    def expiry(self, key, number, expires_at_ms):
        if held := self.keys.get(key):
            held.expires_at_ms, held.number = expires_at_ms, number

    def sums(self, prefix):
        sums = [0] * 256
        for key, held in self.keys.items():
            if key.startswith(prefix):
                sums[bucket_of(key)] = (sums[bucket_of(key)] + held.digest) & PART
        return sums

    def listed(self, prefix, buckets):
        return sorted((k, h.digest) for k, h in self.keys.items() if k.startswith(prefix) and bucket_of(k) in buckets)


async def assert_like(store, model, keys):
    found = await store.lookup(keys, elements=True)
    held = {
        key: Held(one.digest, one.number, one.expires_at_ms, one.elements)
        for key, one in found.items()
        if one.digest is not None
    }
    assert held == model.keys
    for one in found.values():
        assert one.total == (None if one.elements is None else total_of(one.elements))
        assert one.digest is not None or one.intents or one.element_intents
    without = await store.lookup(keys)
    assert {key: (one.digest, one.number, one.expires_at_ms, one.total) for key, one in without.items()} == {
        key: (one.digest, one.number, one.expires_at_ms, one.total) for key, one in found.items() if key in without
    }
    assert all(one.elements is None for one in without.values())
    assert await store.count() == len(model.keys)
    assert await store.sums(b"") == model.sums(b"")
    for buckets in (range(256), range(0, 256, 2)):
        assert sorted([row async for page in store.listed(b"", buckets) for row in page]) == model.listed(b"", buckets)
