"""Both sides went on by themselves: every write, every field and every removal of both stands afterwards."""

import pytest

from tests.e2e.pairs import REMOVALS, Pair, overrun, some, write


@pytest.mark.parametrize(
    ("source", "way", "count"), [("psync", "stop", 200), ("psync", "kill", 1000), ("notify", "kill", 200)]
)
def test_each_side_has_written_and_removed_while_the_daemon_was_away(daemons, site, hub, source, way, count):
    """Keys of its own, keys that were on both, and fields of one hash; the backlog does not reach back."""
    pair = Pair(daemons, site, hub, *REMOVALS, source=source)
    pair.fill(
        *(some(f"{name} by the {side}", count, "old") for side in ("site", "hub") for name in ("changed", "removed")),
        some("untouched", 2 * count, "old"),
        {b"site1:hash": {b"of the site": b"old", b"of the hub": b"old", b"out site": b"v", b"out hub": b"v"}},
    )
    pair.end(way)
    with overrun(pair.at_site):
        for side, client in (("site", pair.at_site), ("hub", pair.at_hub)):
            write(client, some(f"changed by the {side}", count, "new") | some(f"new at the {side}", count, "new"))
            client.delete(*some(f"removed by the {side}", count, ""))
            client.hset("site1:hash", mapping={f"of the {side}": "new", f"added by the {side}": "new"})
            client.hdel("site1:hash", f"out {side}")
    pair.start_again()
    fields = (b"of the site", b"of the hub", b"added by the site", b"added by the hub")
    pair.expect(
        *(
            some(f"{name} {side}", count, "new")
            for side in ("site", "hub")
            for name in ("changed by the", "new at the")
        ),
        some("untouched", 2 * count, "old"),
        {b"site1:hash": dict.fromkeys(fields, b"new")},
    )


def test_each_side_has_written_without_removals(daemons, site, hub, at_site, at_hub):
    """As by default; what one side has removed is not asked about here."""
    pair = Pair(daemons, site, hub)
    pair.fill(
        some("changed by the site", 300, "old"),
        some("changed by the hub", 300, "old"),
        {b"site1:hash": {b"of the site": b"old", b"of the hub": b"old"}},
    )
    pair.end("kill")
    with overrun(at_site):
        for side, client in (("site", at_site), ("hub", at_hub)):
            write(client, some(f"changed by the {side}", 300, "new"))
            client.hset("site1:hash", mapping={f"of the {side}": "new"})
    pair.start_again()
    pair.expect(
        some("changed by the site", 300, "new"),
        some("changed by the hub", 300, "new"),
        {b"site1:hash": {b"of the site": b"new", b"of the hub": b"new"}},
    )


def test_the_same_write_on_both_sides_is_no_conflict(daemons, site, hub, at_site, at_hub):
    pair = Pair(daemons, site, hub, *REMOVALS)
    pair.fill(some("key", 300, "old"), some("gone", 100, "v"))
    pair.end("kill")
    with overrun(at_site):
        for client in (at_site, at_hub):
            write(client, some("key", 300, "new"))
            client.delete(*some("gone", 100, ""))
    pair.start_again()
    pair.expect(some("key", 300, "new"))
    assert pair.daemon.logged("conflict.resolved") == []
