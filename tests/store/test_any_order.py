"""Any calls in any order end as a dict would, with the store closed, killed, full and begun anew between them."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.store.stores import Model, assert_like, disk_full, facts, name, new_store

KEYS = [b"", b"a", b"ab", b"ac", b"b", b"\xff", b"\xff\xff", b"x" * 300]
keys = st.sampled_from(KEYS)
digests = st.integers(0, (1 << 60) - 1)
expiries = st.none() | st.integers(-(1 << 40), 1 << 62)
names = st.sampled_from([b"", *(name(n) for n in range(3))])
#: Some add up to nothing.
elements = st.dictionaries(names, st.sampled_from([0, 1, (1 << 48) - 1, 1 << 48, ((1 << 48) - 1) << 48, (1 << 96) - 1]))
told = st.one_of(
    st.lists(st.tuples(keys, digests), unique_by=lambda pair: pair[0]).map(
        lambda pairs: ("strings", [key for key, _ in pairs], [digest for _, digest in pairs])
    ),
    st.tuples(st.just("string"), keys, digests, expiries),
    st.tuples(st.just("hash"), keys, elements, expiries),
    st.tuples(st.just("fields"), keys, elements, st.sets(names)),
    st.tuples(st.just("gone"), keys),
    st.tuples(st.just("expiry"), keys, expiries),
).map(lambda one: (*one[:2], one[2], one[3] - set(one[2])) if one[0] == "fields" else one)
batches = st.lists(told, min_size=1, max_size=5)


#: In memory where there is such a directory: nothing here is about the disk, and many files are forced to it.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


class Calls(RuleBasedStateMachine):
    """`model` is what was called, `written` what is in the file; while it is `full`, nothing more is."""

    def __init__(self):
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="store-", dir=MEMORY)
        self.loop = asyncio.new_event_loop()
        self.model = Model()
        self.written = self.model.copy()
        self.now = 0.0
        self.open()

    def open(self):
        self.full = False
        self.store = new_store(Path(self.directory.name), clock=lambda: self.now)
        self.store.caught_up()
        assert self.store.saved == self.model.document
        assert self.store.open_batches == sorted(self.model.open)

    def wrote(self):
        if not self.full:
            self.written = self.model.copy()

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    @rule(batch=batches)
    def agreed(self, batch):
        self.store.agreed(facts(*batch))
        self.model.agree(batch, self.store.number)

    @rule(batch=batches)
    def sending(self, batch):
        number = self.store.next_number()
        self.store.sending(number, facts(*batch))
        self.model.open[number] = batch
        self.wrote()

    @precondition(lambda self: self.model.open)
    @rule(data=st.data(), refused=st.sets(keys, max_size=2))
    def acknowledged(self, data, refused):
        number = data.draw(st.sampled_from(sorted(self.model.open)))
        self.store.acknowledged(number, refused)
        self.model.agree(self.model.open.pop(number), number, refused)

    @precondition(lambda self: self.model.open)
    @rule(data=st.data())
    def dropped(self, data):
        number = data.draw(st.sampled_from(sorted(self.model.open)))
        self.store.dropped(number)
        del self.model.open[number]

    @rule(number=st.integers(0, 3))
    def save(self, number):
        self.model.document = {"number": number}
        self.store.save(self.model.document)

    @rule()
    def flush(self):
        self.store.flush()
        self.wrote()

    @precondition(lambda self: not self.full)
    @rule()
    def fills(self):
        self.full, self.store._journal.append = True, disk_full

    @precondition(lambda self: self.full)
    @rule()
    def frees(self):
        self.full = False
        del self.store._journal.append
        self.now += 5.0
        self.flush()

    @rule()
    def look(self):
        self.run(assert_like(self.store, self.model, KEYS))
        self.wrote()

    @rule()
    def fold(self):
        self.run(self.store.fold())
        self.wrote()

    @rule()
    def renew(self):
        self.flush()
        self.store._worker.submit(self.store._folder.renew).result()

    @rule()
    def close(self):
        self.run(self.store.close())
        self.wrote()
        self.model = self.written.copy()
        self.open()

    @rule()
    def killed(self):
        """What is in memory only is lost; of the database nothing is brought to its place."""
        self.store._buffer.clear()
        self.run(self.store.close())
        self.model = self.written.copy()
        self.open()

    @invariant()
    def numbers_only_rise(self):
        assert self.store.number >= max((held.number for held in self.model.keys.values()), default=0)

    def teardown(self):
        try:
            if self.full:
                self.frees()
            self.run(assert_like(self.store, self.model, KEYS))
        finally:
            self.run(self.store.close())
            self.loop.close()
            self.directory.cleanup()


TestCalls = Calls.TestCase
TestCalls.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
