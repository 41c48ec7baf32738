"""The site's Redis is followed by its keyspace events, where it refuses to replicate."""

from matrix.cases.agreeing import ALL_BYTES, agree, named
from tests.e2e.pairs import write

SOURCE = "notify"


def test_both_ways_by_events(pair):
    up = {b"site1:up:" + ALL_BYTES: ALL_BYTES, b"site1:up:hash": {ALL_BYTES: b"v", b"n": b"1"}}
    down = {key.replace(b":up:", b":down:"): value for key, value in up.items()}
    write(pair.at_site, up)
    write(pair.at_hub, down)
    pair.at_site.append("site1:appended", "ab")
    pair.at_site.setbit("site1:bits", 7, 1)
    pair.at_site.incrby("site1:number", 42)
    pair.at_site.setrange("site1:range", 1, "x")
    pair.at_site.rename("site1:range", "site1:renamed")
    others = {b"site1:appended": b"ab", b"site1:bits": b"\x01", b"site1:number": b"42", b"site1:renamed": b"\0x"}
    agree(pair, up | down | others, gone=[b"site1:range"])


def test_removals_and_kill_9_by_events(pair):
    values = named("events", 20, "v")
    up, down, *rest = sorted(values)
    write(pair.at_site, values)
    agree(pair, values)
    pair.end("kill")
    pair.at_site.delete(up)
    pair.at_hub.delete(down)
    pair.start_again()
    agree(pair, dict.fromkeys(rest, b"v"), gone=[up, down])
