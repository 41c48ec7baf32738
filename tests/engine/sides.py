"""Both sides of one key in memory, and a memory of what was agreed: what the tests of the engine compare with."""

from __future__ import annotations

from redisrepl.changes import (
    KINDS,
    Deleted,
    ExpirySet,
    FieldsDeleted,
    HashSet,
    HashState,
    Invalidated,
    StringSet,
    StringState,
)
from redisrepl.engine.ancestor import Agreed
from redisrepl.engine.pushes import with_values
from redisrepl.wire.digests import digest_of, elements_of, hash_digest, string_digest, total_of

KEY = b"ns:k"


def string(value, expires_at_ms=None):
    return StringState(value.encode(), expires_at_ms)


def hash_(expires_at_ms=None, /, **fields):
    return HashState({name.encode(): value.encode() for name, value in fields.items()}, expires_at_ms)


def ancestor_of(state, number=1, key=KEY, **known):
    """What is agreed on where both sides have held this; `known`: what is not known for sure."""
    if state is None:
        return Agreed(None, number, **known) if known else None
    elements = elements_of(state.fields) if isinstance(state, HashState) else None
    return Agreed(
        digest_of(key, state),
        number,
        state.expires_at_ms,
        None if elements is None else total_of(elements.values()),
        elements,
        **known,
    )


def changed(state, changes):
    """What a key holds once these have happened to it."""
    for change in changes:
        match state, change:
            case _, StringSet(_, value, at):
                state = StringState(value, at)
            case _, Deleted():
                state = None
            case StringState(value), ExpirySet(_, at):
                state = StringState(value, at)
            case HashState(fields), ExpirySet(_, at):
                state = HashState(fields, at)
            case None | HashState(), HashSet(_, fields):
                old = state or HashState({})
                state = HashState(
                    {**old.fields, **{f: v for f, v in fields.items() if v is not None}}, old.expires_at_ms
                )
            case HashState(fields, at), FieldsDeleted(_, names):
                left = {name: value for name, value in fields.items() if name not in names}
                state = HashState(left, at) if left else None
            case None, FieldsDeleted() | ExpirySet():
                pass
            case _:
                raise AssertionError(f"{change} of {state}")
    return state


def resolved(change, site, kinds=KINDS):
    """A change with its values, as `pushing` reads them from the site."""
    match change:
        case None:
            return []
        case Invalidated():
            return with_values(change, site, kinds)
        case HashSet(key, fields):
            read = site.fields if isinstance(site, HashState) else {}
            known = {name: read.get(name) if value is None else value for name, value in fields.items()}
            gone = tuple(name for name, value in known.items() if value is None)
            return [HashSet(key, known), *([FieldsDeleted(key, gone)] if gone else [])]
        case _:
            return [change]


class Memory:
    """What is agreed about one key: `store.Store` with its `Facts`, in a dictionary."""

    def __init__(self, state=None):
        self.digest = self.expires_at_ms = self.elements = None
        if state is not None:
            self.digest, self.expires_at_ms = digest_of(KEY, state), state.expires_at_ms
            self.elements = elements_of(state.fields) if isinstance(state, HashState) else None

    def strings(self, keys, digests):
        for key, digest in zip(keys, digests, strict=True):
            self.string(key, digest, None)

    def string(self, key, digest, expires_at_ms):
        assert key == KEY
        self.digest, self.expires_at_ms, self.elements = digest, expires_at_ms, None

    def fields(self, key, fields, gone=()):
        assert key == KEY
        self.elements = {**(self.elements or {}), **fields}
        for name in gone:
            self.elements.pop(name, None)
        self._sum()

    def hash(self, key, fields, expires_at_ms):
        assert key == KEY
        self.elements, self.expires_at_ms = dict(fields), expires_at_ms
        self._sum()

    def _sum(self):
        self.digest = hash_digest(KEY, total_of(self.elements.values())) if self.elements else None
        if not self.elements:
            self.elements = self.expires_at_ms = None

    def gone(self, key):
        assert key == KEY
        self.digest = self.expires_at_ms = self.elements = None

    forget = gone

    def expiry(self, key, expires_at_ms):
        assert key == KEY
        if self.digest is not None:
            self.expires_at_ms = expires_at_ms

    @property
    def agreed(self):
        if self.digest is None:
            return None
        total = None if self.elements is None else total_of(self.elements.values())
        return Agreed(self.digest, 1, self.expires_at_ms, total, self.elements)

    def holds(self, state):
        """Whether this is what is agreed on."""
        return self.agreed == ancestor_of(state)


__all__ = ["KEY", "Memory", "ancestor_of", "changed", "hash_", "resolved", "string", "string_digest"]
