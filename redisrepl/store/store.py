"""Remembers what both sides agree on about each key, and the daemon's state, across restarts.

In: facts that are agreed, or will be when a batch is acknowledged; the state document. Out: what is agreed about keys.
Left to others: the formats (`store.journal`, `store.database`), what follows from an ancestor (`engine.plans`).

Recording is one `write` in the caller's thread; a worker thread does everything else, one job at a time. A disk error
is reported, never raised: the store goes on with what it could not write in memory, and writes it once it can.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from redisrepl.changes import HeldBy, Position
from redisrepl.engine.continuity import Side
from redisrepl.engine.places import Place, Places, Seen
from redisrepl.errors import ConfigError
from redisrepl.store import reading
from redisrepl.store.database import PAGE, Database
from redisrepl.store.directory import ForeignStateError, Pair, StateDirectory, open_private
from redisrepl.store.facts import Changes, Facts
from redisrepl.store.folding import Agreed, Folder
from redisrepl.store.journal import Kind, record
from redisrepl.store.unusable import reason_of
from redisrepl.store.upgrade import old_checkpoint

__all__ = ["Store"]

_log = structlog.get_logger("redisrepl")

_T = TypeVar("_T")
_RETRY = 5.0  # seconds between attempts to write, after one failed
#: Numbers that a process leaves out: more than are assigned until the journal is on the disk.
_AHEAD = 1 << 24
_SYNC = 1.0  # seconds between calls that force the journal to the disk
_IDLE = 5.0  # seconds without records before the journal is folded
_BEHIND = 4 << 20  # bytes of unread journal after which the worker reads on, so that a lookup has less to read
_RENEW = 32 << 20  # bytes of journal, beside the carried records, after which a new one replaces it
_RENEW_IDLE = 1 << 20  # the same while nothing is recorded
_LONGEST = 256 << 20  # bytes to which a journal may grow that cannot be folded
_BUFFER = 1 << 20


class Store:
    """The journal and the ancestor of one pair of site and hub.

    Args:
        directory: where the files are; created if missing.
        pair: site and hub that they belong to.
        digest_of_hash: digest of a hash, from its key and the sums of its elements' digests.
        bucket_of: to which of 256 buckets a key belongs; must not differ between versions.
        on_trouble: called with the reason when writing fails, and with None when it works again; in the caller's
            thread.
        clock: seconds that never go backwards.
        sets_aside: files that cannot be used are renamed, and new ones made; otherwise that is an error.

    Attributes:
        saved: the state document that was saved last; empty at first contact.
        open_batches: numbers of the batches that the last process sent to the hub, and whose outcome it did not record.
        open_applies: keys of the batches that it sent to the site, and whose outcome it did not record.
        number: the last number that was assigned.
        durable: what was recorded up to this number is on the disk, whatever happens.
        behind: the last process ended while it could not write, or something was forgotten: more was agreed on than is
            known.
        failed: why nothing can be written; None if it can.

    Raises:
        StateDirectoryError: the directory cannot be used.
        ForeignStateError: what is there cannot be used, and is not set aside.
        ConfigError: another daemon uses it for the same pair.
    """

    def __init__(
        self,
        directory: Path,
        pair: Pair,
        *,
        digest_of_hash: Callable[[bytes, tuple[int, int]], int],
        bucket_of: Callable[[bytes], int],
        on_trouble: Callable[[str | None], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        sets_aside: bool = True,
    ) -> None:
        self._directory = StateDirectory(directory, pair, sets_aside=sets_aside)
        try:
            self._folder = Folder(self._directory, pair, digest_of_hash=digest_of_hash, bucket_of=bucket_of)
        except (OSError, sqlite3.Error) as error:
            self._directory.release()
            raise self._directory.error(error) from None
        except ForeignStateError:
            self._directory.release()
            raise
        self._journal = self._folder.journal
        found = self._folder.found
        self.number = self.durable = self._recorded = found.number
        self._ahead = _AHEAD if self.number else 0
        self.open_batches = sorted(found.open)
        self.open_applies = found.applied_keys()
        self.saved = found.document
        self.failed: str | None = None
        self._document: dict[str, object] = dict(found.document)  # what the next process will find
        self._on_trouble = on_trouble
        self._clock = clock
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._written_at = self._synced_at = clock()
        self._retry_write_at = self._retry_job_at = clock()
        self._dirty = False  # whether something was written since the journal was last forced to the disk
        self._seen = self._journal.base  # place up to which the worker was asked to read
        self._idle = False  # whether the last job ran while nothing was recorded, and so folded everything
        self._worker = ThreadPoolExecutor(1, "store")
        self._job: Future[int] | None = None
        self._sign = self._directory.file("behind")  # a file that is there while agreements are not written
        self.behind = self._signed = self._sign.exists()
        self._old: Path | None = self._directory.file("json")
        saved = old_checkpoint(self._old, pair)
        if saved is None:
            self._old = None
        elif not self.saved:
            self.save(saved)
            self.saved = saved

    @property
    def fresh(self) -> bool:
        """Whether nothing is agreed about any key: at first contact, or if the files could not be used."""
        return self._folder.fresh

    def take_forgot(self) -> bool:
        """Whether something was forgotten since this was asked last; then it is `behind`.

        Not before what is agreed on then can be written: it would be forgotten again.
        """
        if not self._folder.forgot or self._journal.unwritten:
            return False
        self._folder.forgot = False
        self._fall_behind()
        return True

    def file(self, ending: str) -> Path:
        """A file of this pair beside the store's own, with this ending."""
        return self._directory.file(ending)

    # Recording.

    def next_number(self, apart: int = 0) -> int:
        """Assign a number, for a batch; so many before it are set apart for its parts.

        The first one is far behind the last that is known: if power was lost, the last process has assigned others, by
        which the hub still knows its batches.
        """
        self.number += self._ahead + 1 + apart
        self._ahead = 0
        return self.number

    def sending(self, batch: int, facts: Facts, *, to_site: bool = False) -> None:
        """Record, at once, that a batch is about to be sent: when it is acknowledged, its facts become agreed.

        Args:
            batch: its number.
            facts: what both sides hold once it has been executed.
            to_site: whether it goes to the site, not to the hub.
        """
        self.number = max(self.number, batch)
        self._recorded = max(self._recorded, batch)
        record_of = reading.applying if to_site else reading.sending
        self._record(record_of(batch, facts.encoded()))
        self._write()

    def acknowledged(self, batch: int, refused: Collection[bytes] = (), held_by: HeldBy | None = None) -> None:
        """Record that a batch was executed: its facts are agreed, except those about the refused keys.

        Args:
            batch: its number.
            refused: these keys.
            held_by: where in its history the site came to hold it; None: that is not known.
        """
        self._folder.fresh = False  # now, not when the worker reads the record
        if held_by is not None:
            self._record(reading.held_by(batch, held_by))
        self._record(reading.acknowledged(batch, refused))

    def ended(self, batch: int) -> None:
        """Record that a batch of unknown outcome is not executed from here on: what is agreed on later, it is not."""
        self._record(reading.ended(batch))

    def dropped(self, batch: int) -> None:
        """Record that a batch was not executed: its facts do not count."""
        self._record(reading.dropped(batch))

    def agreed(self, facts: Facts, held_by: HeldBy | None = None) -> None:
        """Record that these facts are agreed; `held_by` as of `acknowledged`."""
        if facts:
            self._folder.fresh = False  # now, not when the worker reads the record
            number = self.next_number()
            if held_by is not None:
                self._record(reading.held_by(number, held_by))
            self._record(reading.agreed(number, facts.encoded()))
            self._recorded = max(self._recorded, number)

    async def forget(self, number: int) -> None:
        """Record that nothing is agreed about any key: the files are older than the last process left them.

        Args:
            number: that process had got as far as this.
        """
        self.number = max(self.number, number)
        self.durable, self._ahead = self.number, _AHEAD
        self._record(record(Kind.CLEARED))
        self._fall_behind()
        await self._ask(self._folder.catch_up, None)
        self._folder.forgot = False  # who has it forgotten knows

    def save(self, document: Mapping[str, object]) -> None:
        """Save the state from which the next process continues. It is written after everything recorded before it.

        Args:
            document: values that JSON can hold, by name; the caller must not change them afterwards. Only values that
                differ from the last ones are written, in one record.
        """
        before = self._document
        news = {name: value for name, value in document.items() if name not in before or before[name] != value}
        news |= {name: None for name in before.keys() - document.keys() if before[name] is not None}
        if news:
            self._document = before | news
            self._record(reading.patch(news))

    def _record(self, data: bytes) -> None:
        self._buffer.append(data)
        self._buffered += len(data)
        if self._buffered > _BUFFER:
            self._write()

    def _write(self) -> None:
        """Write what is buffered; if that fails, the journal keeps it until `flush` writes it."""
        if not self._buffer:
            return
        data = b"".join(self._buffer)
        self._buffer, self._buffered = [], 0
        if self._journal.unwritten or not self._append(data):
            self._journal.keep(data)

    def _append(self, data: bytes = b"") -> bool:
        """Write what the journal keeps, and this behind it; whether it could be written."""
        try:
            self._check_size()
            self._journal.append(data)
        except OSError as error:
            self._put_up_sign()
            self._retry_write_at = self._clock() + _RETRY
            self._report(reason_of(error))
            return False
        self._written_at = self._clock()
        self._dirty, self._idle = True, False
        return True

    def _check_size(self) -> None:
        if self._folder.trouble and self._journal.size > _LONGEST:
            raise OSError(f"the journal has grown to {self._journal.size} bytes and cannot be folded")

    def _put_up_sign(self) -> None:
        with contextlib.suppress(OSError):  # a full disk most often has room for a name
            os.close(open_private(self._sign, os.O_WRONLY | os.O_CREAT))
            self._signed = True

    def _fall_behind(self) -> None:
        self.behind = True
        self._put_up_sign()

    def caught_up(self) -> None:
        """Both sides were compared, so that what was agreed on is known again."""
        self.behind = False

    def _take_down_sign(self) -> None:
        """All that is agreed is known, and written; a sign that stays has the next process compare everything."""
        if not self._signed or self.behind or self._folder.forgot or self._journal.unwritten:
            return
        self._signed = False
        try:
            self._sign.unlink(missing_ok=True)
        except OSError as error:
            self._report(reason_of(error))

    def _report(self, trouble: str | None) -> None:
        if trouble != self.failed:
            self.failed = trouble
            self._on_trouble(trouble)

    def flush(self) -> None:
        """Write what is buffered; in the background, sync the journal and fold it."""
        self._write()
        now = self._clock()
        if self._journal.unwritten and now >= self._retry_write_at:
            self._append()
        self._take_down_sign()
        if self._job and self._job.done():
            synced = self._job.result()  # raises only errors that `_maintain` does not expect: bugs
            self.durable = max(self.durable, synced)
            self._job = None
        if not self._journal.unwritten:
            self._remove_old()
            self._report(self._folder.trouble)
        if self._job is None:
            self._begin_job(now)

    def _remove_old(self) -> None:
        """Remove the checkpoint of an earlier version, once the journal holds its content."""
        if self._old:
            with contextlib.suppress(OSError):
                self._journal.sync()
                self._old.unlink(missing_ok=True)
                self._old = None

    # In the background.

    def _begin_job(self, now: float) -> None:
        idle = now - self._written_at >= _IDLE
        size = self._journal.size - 2 * self._folder.carried
        much = self._journal.end - self._seen > _BEHIND
        if (self._folder.trouble or self._journal.unwritten) and now < self._retry_job_at and not much:
            return
        if size > _RENEW or (idle and not self._idle and size > _RENEW_IDLE):
            step: Callable[[], object] = self._folder.renew
        elif self._folder.trouble or (idle and not self._idle):
            step = self._folder.fold
        elif much:
            step = self._folder.catch_up
        elif self._dirty and now - self._synced_at >= _SYNC:
            step = _nothing
        else:
            return
        self._idle = idle
        self._seen, self._synced_at, self._dirty = self._journal.end, now, False
        self._retry_job_at = now + _RETRY
        self._job = self._worker.submit(self._maintain, step, self._recorded)

    def _maintain(self, step: Callable[[], object], recorded: int) -> int:
        """Force the journal to the disk, unless it has no room there, then run a step.

        Returns:
            Up to which number all that was recorded is on the disk now, as far as this call knows.
        """
        synced = 0
        try:
            if not self._journal.unwritten:
                if self._journal.removed:
                    self._folder.restore()
                self._journal.sync()
                synced = recorded
            self._folder.trouble = None
            self._folder.undamaged(step)
        except (OSError, sqlite3.Error, ConfigError) as error:
            self._folder.trouble = reason_of(error)
        return synced

    async def _ask(self, question: Callable[[], _T], otherwise: _T) -> _T:
        """Let the worker answer after everything recorded was written; `otherwise` if the files cannot be read."""

        def answer() -> _T:
            try:
                return self._folder.undamaged(question)
            except (OSError, sqlite3.Error) as error:
                self._folder.trouble = reason_of(error)
                return otherwise

        self._write()
        self._seen = self._journal.end
        return await asyncio.wrap_future(self._worker.submit(answer))

    # Asking.

    async def lookup(
        self, keys: Sequence[bytes], *, elements: bool = False, names: Mapping[bytes, Collection[bytes]] | None = None
    ) -> dict[bytes, Agreed]:
        """What is agreed about these keys, and what pushes of unknown outcome may have left at the hub.

        Args:
            keys: those with neither are missing in the result.
            elements: whether to return the agreed elements too.
            names: of these keys, no other elements than those.
        """
        lookup = partial(self._folder.lookup, keys, elements=elements, names=names or {}, behind=self.behind)
        return await self._ask(lookup, {})

    async def agreed_since(
        self, number: float, kept: Position | None = None, *, most: int
    ) -> dict[bytes, dict[bytes | None, int]] | None:
        """What was agreed after this number, or will be once an open batch is acknowledged.

        Args:
            number: of a record or batch.
            kept: what is known to lie before this place of the site's history is left out.
            most: the largest number of keys to return.

        Returns:
            For each key the number of its last agreement, as a whole (None) and by element. None if that is no longer
            known, or if there are more keys.
        """
        return await self._ask(partial(self._folder.agreed_since, number, kept, most=most), None)

    async def unanswered(self, by: Side, places: Places, number: float) -> Mapping[Place, Collection[int | None]]:
        """Digests of what was sent without an answer, where nothing was agreed on since, and nothing else sent.

        Args:
            by: the side that held it, and of which the other was sent it.
            places: as `agreed_since` returned them for this number, or an earlier one.
            number: it was sent after this.
        """
        return await self._ask(partial(self._folder.unanswered, by, places, number), {})

    async def history(self, number: float, most: int) -> list[Seen] | None:
        """What was agreed on, in order; None if that is no longer known back to this number.

        Args:
            number: of a record or batch.
            most: the largest number of entries to return.
        """
        return await self._ask(partial(self._folder.history, number, most), None)

    async def names(
        self, key: bytes, wanted: Callable[[bytes], bool] | None = None, *, before: bytes | None = None
    ) -> set[bytes]:
        """The names of elements of a collection that are agreed on.

        Args:
            key: of the collection.
            wanted: whether a name is asked for, called in the worker's thread; None: all are.
            before: likewise those that sort before this one.
        """
        return await self._ask(partial(self._folder.names, key, wanted, before), set())

    async def sums(self, prefix: bytes) -> list[int]:
        """For each of the 256 buckets, the sum of the digests of the prefix's keys, modulo 2**48."""
        return await self._read(lambda database, changes: database.sums(prefix, changes), [0] * 256)

    async def listed(self, prefix: bytes, buckets: Collection[int]) -> AsyncIterator[list[tuple[bytes, int]]]:
        """The prefix's keys in these buckets, with their digests, in pages."""
        none: dict[bytes, tuple[int | None, int | None]] = {}
        changed = await self._read(lambda database, changes: database.changed(changes, prefix, buckets), none)
        rows: list[tuple[bytes, int]] = []
        after: bytes | None = None
        while page := await self._ask(partial(self._folder.page, prefix, buckets, after), rows):
            yield [row for row in page if row[0] not in changed]
            after = page[-1][0]
        rows = [(key, digest) for key, (_, digest) in changed.items() if digest is not None]
        for at in range(0, len(rows), PAGE):
            yield rows[at : at + PAGE]

    async def count(self) -> int:
        """The number of keys with an agreed state."""
        return await self._read(lambda database, changes: database.count(changes), 0)

    async def _read(self, question: Callable[[Database, Changes], _T], otherwise: _T) -> _T:
        """What the database tells, with as few changes beside it as can be."""
        await self.fold()
        return await self._ask(partial(self._folder.read, question), otherwise)

    async def fold(self) -> bool:
        """Write everything that was recorded to the database; False if some of it, or all, could not be."""
        return await self._ask(self._folder.fold, False)

    async def close(self) -> None:
        """Write what is buffered, force it to the disk, and close the files. A second call does nothing."""
        if self._folder.stopped:
            return
        self._write()
        if self._journal.unwritten:
            self._append()
        self._take_down_sign()
        self._folder.stopped = True
        await asyncio.wrap_future(self._worker.submit(self._close))
        self._worker.shutdown()

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._journal.sync()
        with contextlib.suppress(OSError, sqlite3.Error):
            self._folder.close()
        self._directory.release()


def _nothing() -> None:
    """A job without a step: `_maintain` only forces the journal to the disk."""
