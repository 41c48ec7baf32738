"""Reads a server for a comparison: sums, digests, and pages of its keys.

In: a namespace, keys. Out: the server's answers, parsed by `wire.digests`. Left to others: running scripts there and
reading values where it refuses them (`local.compare`, `remote.compare`), comparing (`flow.comparison`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

from redisrepl.namespaces import glob_escape
from redisrepl.wire.collections import extra_types
from redisrepl.wire.digests import (
    LOOK_SCRIPT,
    PAGE_SCRIPT,
    SUMS_SCRIPT,
    WORK,
    Look,
    Page,
    Summed,
    add_sums,
    parse_looks,
    parse_page,
    parse_sums,
    wanted_buckets,
)
from redisrepl.wire.totals import TOTAL_SCRIPT, Total, look_at_large, parse_total

__all__ = ["Comparer"]

_WORK = b"%d" % WORK


class Comparer(ABC):
    """Has a server make digests of what it holds; where it refuses scripts, its values are read instead.

    Args:
        where: which server it is, for messages.
        expiries: whether expiries are compared.
        types: the types that are compared beside strings and hashes.

    Attributes:
        where: likewise.
    """

    def __init__(self, where: str, *, expiries: bool, types: Collection[str]) -> None:
        self.where = where
        others = extra_types(types)
        self._others = (others,) if others else ()
        self._expiries = (b"1" if expiries else b"0") + others

    async def sums(self, prefix: bytes, cursor: bytes, count: int, sums: list[int]) -> Summed:
        """Add the keys of one step of a scan to the sums of their buckets."""
        reply = await self._step(cursor, SUMS_SCRIPT, cursor, _pattern(prefix), b"%d" % count, _WORK, *self._others)
        if reply is not None:
            return parse_sums(reply, sums)
        page = await self._read_page(prefix, cursor, count, None)
        add_sums(sums, page.looks)
        return Summed(page.cursor, len(page.looks))

    async def page(self, prefix: bytes, cursor: bytes, count: int, buckets: Collection[int] | None) -> Page:
        """Keys of a namespace, from cursor `0` on, in these buckets (None: all). A key may come twice, as with SCAN."""
        words = self._expiries, cursor, _pattern(prefix), b"%d" % count, _WORK, *wanted_buckets(buckets)
        reply = await self._step(cursor, PAGE_SCRIPT, *words)
        if reply is None:
            return await self._read_page(prefix, cursor, count, buckets)
        page = parse_page(reply)
        return page._replace(looks=self._as_at_site(page.looks))

    async def looks(self, keys: Sequence[bytes]) -> list[Look]:
        """The digests of what these keys hold."""
        looks: list[Look] = []
        while len(looks) < len(keys):
            rest = keys[len(looks) :]
            reply = await self._script(LOOK_SCRIPT, self._expiries, _WORK, *rest)
            if reply is None:
                return list((await self._read(keys)).values())
            for key, look in zip(rest, parse_looks(reply, len(rest)), strict=False):
                whole = await look_at_large(key, look, self.where, self._total) if look.type else look
                if whole is None:
                    return list((await self._read(keys)).values())
                looks.append(whole)
        return list(self._as_at_site(dict(zip(keys, looks, strict=True))).values())

    async def _total(self, key: bytes, kind: bytes, cursor: bytes) -> Total | None:
        """The sums of some elements of a large collection."""
        reply = await self._script(TOTAL_SCRIPT, key, kind, cursor)
        return None if reply is None else parse_total(reply)

    async def _step(self, cursor: bytes, script: bytes, *words: bytes) -> list[bytes] | None:
        """The reply to a step of a scan; None: the server refuses scripts, or values are read since it did."""
        return None if self._reads_values(cursor) else await self._script(script, *words)

    def _reads_values(self, cursor: bytes) -> bool:  # noqa: ARG002 - for those who give cursors of their own
        """Whether a cursor is of a scan that reads values."""
        return False

    def _as_at_site(self, looks: dict[bytes, Look]) -> dict[bytes, Look]:
        """What was seen, with expiries by the clock of the site."""
        return looks

    @abstractmethod
    async def _script(self, script: bytes, *words: bytes) -> list[bytes] | None:
        """The reply to a script; None if the server refuses scripts."""

    @abstractmethod
    async def _read_page(self, prefix: bytes, cursor: bytes, count: int, buckets: Collection[int] | None) -> Page:
        """As `page`, from values."""

    @abstractmethod
    async def _read(self, keys: Sequence[bytes]) -> dict[bytes, Look]:
        """As `looks`, from values; in the order of the keys."""


def _pattern(prefix: bytes) -> bytes:
    return glob_escape(prefix) + b"*"
