"""How the parts of a daemon are put together, where no server is needed to see it."""

import asyncio

import pytest

from redisrepl.changes import StringState
from redisrepl.engine.winners import Lost, Ruling
from redisrepl.local.address import SiteAddress
from redisrepl.parts import Parts
from redisrepl.settings.settings import load_settings
from redisrepl.store.kept import KeptConflicts

KEY = b"site1:key"


@pytest.fixture
async def parts(certificates, tmp_path):
    pair = {"cert": certificates.client, "key": certificates.client_key, "ca": certificates.ca}
    parts = Parts(load_settings({"ns": ["site1:"], "state_dir": tmp_path, **pair}), SiteAddress())
    yield parts
    await parts.close()


async def test_what_lost_is_on_disk_before_anything_else_happens(parts):
    lost = [Lost(Ruling("hub"), StringState(value)) for value in (b"one", b"another")]

    parts.core.losers.lost(KEY, lost, "hub")
    await asyncio.sleep(0)  # whoever waits for a turn has had it

    with KeptConflicts(parts.conflicts.path) as kept:
        assert [kept.state(entry).value for entry in kept.entries()] == [b"one", b"another"]
