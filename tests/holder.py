"""A side of a comparison in memory, which answers as `local.compare` and `remote.compare` do."""

from __future__ import annotations

from redisrepl.wire.digests import Page, Summed, add_sums, bucket_of, look_at


class Holder:
    """Keys of one side.

    Attributes:
        held: states by key.
        steps: keys that a step goes through.
        left: keys that a step leaves for later, at most.
        looked: keys that were looked at by name.
        pages, sums_read: steps that were taken.
        before: called with the name of each question.
    """

    def __init__(self, held=(), *, step=3, left=0):
        self.held = dict(held)
        self.step = step
        self.left = left
        self.looked = []
        self.where = "a server of this test"
        self.pages = self.sums_read = 0
        self.before = lambda _question: None

    def _step(self, prefix, cursor):
        keys = sorted(key for key in self.held if key.startswith(prefix))
        begin = int(cursor)
        end = begin + self.step
        return b"%d" % (end if end < len(keys) else 0), keys[begin:end]

    async def sums(self, prefix, cursor, count, sums):
        assert count > 0
        self.before("sums")
        self.sums_read += 1
        following, keys = self._step(prefix, cursor)
        left = keys[: self.left]
        add_sums(sums, {key: look_at(key, self.held[key]) for key in keys if key not in left})
        return Summed(following, len(keys), left)

    async def page(self, prefix, cursor, count, buckets):
        assert count > 0
        self.before("page")
        self.pages += 1
        following, keys = self._step(prefix, cursor)
        wanted = [key for key in keys if buckets is None or bucket_of(key) in buckets]
        left = wanted[: self.left]
        self.looked += wanted[self.left :]
        return Page(following, {key: look_at(key, self.held[key]) for key in wanted if key not in left}, tuple(left))

    async def looks(self, keys):
        self.before("looks")
        self.looked += keys
        return [look_at(key, self.held.get(key)) for key in keys]
