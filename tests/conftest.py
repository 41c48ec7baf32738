"""What every test of the project may use."""

import signal

import pytest

from redisrepl.store import Pair, Store
from redisrepl.wire.digests import bucket_of, hash_digest
from testbed import Certificates, Daemon
from testbed.prefork import Parent

# A shell that runs the tests in its background has them ignore SIGINT, and whatever they start would ignore it as well.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

Daemon.parent = Parent()


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
