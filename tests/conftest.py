"""What every test of the project may use."""

import os
import signal

import pytest
import structlog

from redisrepl.store import Pair, Store
from redisrepl.wire.digests import bucket_of, hash_digest
from testbed import Certificates, Daemon
from testbed.prefork import Parent

# A shell that runs the tests in its background has them ignore SIGINT, and whatever they start would ignore it as well.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Where one of these is set, pytest explains each comparison that fails by a whole diff: minutes for two hashes of
# 90,000 fields, and a test that waits for two copies to become equal fails many comparisons.
for variable in ("CI", "BUILD_NUMBER"):
    os.environ.pop(variable, None)

Daemon.parent = Parent()


#: The longest files of tests, and their directories: begun first, so that no core waits for one of them at the end.
LONGEST = ("chaos", "e2e", "deploy", "hostile", "model")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """What takes longest is run first, each in the order that chance gave it."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.parent.name, len(order)))


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    """A command that a test runs in this process sets up logs, to a stream that is closed with the test."""
    yield
    if structlog.is_configured():
        structlog.reset_defaults()


@pytest.fixture(scope="session")
def certificates():
    with Certificates() as certificates:
        yield certificates


@pytest.fixture
async def store(tmp_path):
    """A store of nobody, in which nothing is agreed."""
    store = Store(tmp_path, Pair("site", "hub", "{}"), digest_of_hash=hash_digest, bucket_of=bucket_of)
    yield store
    await store.close()
