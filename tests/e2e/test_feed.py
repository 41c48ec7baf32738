"""What one redisrepl site pushes, another takes from the feed: at once, without a fetch, and without an echo."""

import contextlib
import itertools
import json
import random
import signal

import httpx
import pytest

from testbed import RedisServer, eventually
from tests.e2e.support import ALPHABET, Monitor, all_replicated, assert_equal_soon, pushed

FAR = 4_102_444_800_000


@pytest.fixture
def other():
    with RedisServer() as server:
        yield server


def quiet(daemon):
    """Nothing is under way any more, the sweep of the start included."""
    daemon.wait_for_log("sweep.finished")
    return eventually(
        lambda: [s for s in [daemon.state()] if not s["dirty_keys"] + s["fetching_keys"] + s["expected_remote"]]
    )[-1]


def lone_writes(at_site, at_other, *writes):
    for number, write in enumerate(writes):
        write(at_site)
        marker = b"site1:lone:%d" % number
        at_site.set(marker, 1)
        eventually(lambda marker=marker: at_other.get(marker) == b"1")


def test_lone_writes_of_another_site_need_no_fetch(daemons, site, other, hub, at_site):
    daemons.live(site, hub)
    follower = daemons.live(other, hub)
    at_other = other.client()
    before = quiet(follower)
    lone_writes(
        at_site,
        at_other,
        lambda c: c.set(b"site1:\x00\xff" + ALPHABET, ALPHABET),
        lambda c: c.set("site1:expires", "v", pxat=FAR),
        lambda c: c.hset("site1:hash", mapping={ALPHABET: ALPHABET, "f": ""}),
        lambda c: c.hset("site1:hash", "f", "later"),
        lambda c: c.incr("site1:counter"),
        lambda c: c.mset({"site1:a": 1, "site1:b": 2}),
    )
    assert_equal_soon(at_site, at_other)
    after = quiet(follower)

    assert after["fetched"] == before["fetched"]
    assert after["fed"] - before["fed"] >= 13
    assert at_other.pexpiretime("site1:expires") == FAR


def test_a_change_that_leaves_nothing_to_push_does_not_end_it(daemons, site, other, hub, at_site):
    """Counted and removed: there is no value to push, so no request, and no time of the hub."""
    daemons.live(site, hub)
    follower = daemons.live(other, hub)
    at_other = other.client()
    at_other.pipeline(transaction=True).incr("site1:gone").delete("site1:gone").execute()
    pushed(at_other)
    before = quiet(follower)
    lone_writes(at_site, at_other, lambda c: c.set("site1:k", "v"))
    after = quiet(follower)

    assert after["fetched"] == before["fetched"]
    assert after["fed"] > before["fed"]


def test_a_very_large_collection_does_not_end_it(daemons, site, other, hub, at_site, at_hub):
    """Its digests are compared in the end, and nothing of it is fetched then."""
    begin = "for i = 1, 45000 do redis.call('SADD', KEYS[1], 'member:' .. i) end"
    at_hub.eval(begin, 1, "site1:large")
    daemons.live(site, hub, "--replicate", "all")
    follower = daemons.live(other, hub, "--replicate", "all")
    at_other = other.client()
    eventually(lambda: at_site.scard("site1:large") == at_other.scard("site1:large") == 45_000, 60)
    before = quiet(follower)
    lone_writes(at_site, at_other, lambda c: c.set("site1:k", "v"))
    after = quiet(follower)

    assert after["fetched"] == before["fetched"]
    assert after["fed"] > before["fed"]


def test_what_comes_by_the_feed_is_executed_once_and_does_not_come_back(daemons, site, other, hub, at_site):
    daemons.live(site, hub)
    daemons.live(other, hub)
    at_other = other.client()
    all_replicated(at_site, at_other)
    with Monitor(hub.server) as of_hub, Monitor(other) as of_other:
        for number in range(100):
            at_site.set(b"site1:once:%d" % number, number)
            at_site.hset(b"site1:once:h%d" % number, "f", number)
        assert_equal_soon(at_site, at_other)
        all_replicated(at_other, at_site)  # an echo would have gone before it
        for monitor in (of_hub, of_other):
            written = {key: count for key, count in monitor.writes().items() if b":once:" in key}
            assert written == dict.fromkeys(written, 1)
            assert len(written) == 200


def test_one_field_of_a_large_hash_does_not_bring_the_whole_of_it(daemons, site, other, hub, at_site):
    daemons.live(site, hub)
    follower = daemons.live(other, hub)
    at_other = other.client()
    at_site.hset("site1:large", mapping={b"%d" % n: b"x" * 20 for n in range(20_000)})
    eventually(lambda: at_other.hlen("site1:large") == 20_000, 30)
    before = quiet(follower)
    at_site.hset("site1:large", "7", "changed")
    eventually(lambda: at_other.hget("site1:large", "7") == b"changed")

    assert quiet(follower)["fetched"] == before["fetched"]


def test_bulk_is_fetched_in_batches(daemons, site, other, hub, at_site):
    daemon = daemons.live(site, hub)
    follower = daemons.live(other, hub)
    quiet(follower)
    daemon.signal(signal.SIGSTOP)  # so that it reads them together, however slow the machine
    with at_site.pipeline(transaction=False) as pipeline:
        for number in range(2000):
            pipeline.set(b"site1:%d" % number, number)
        pipeline.execute()
    daemon.signal(signal.SIGCONT)

    assert len(assert_equal_soon(at_site, other.client())) == 2000
    assert follower.state()["fetched"] > 1000


def test_it_can_be_switched_off(daemons, site, other, hub, at_site):
    daemons.live(site, hub, "--no-feed")
    follower = daemons.live(other, hub)
    quiet(follower)
    lone_writes(at_site, other.client(), lambda c: c.set("site1:k", "v"))

    assert quiet(follower)["fed"] == 0


def test_sites_that_write_the_same_keys_end_equal(daemons, site, other, hub, at_site, at_hub):
    """The feed, events, pushes of their own and a foreign writer, all at once on few keys."""
    for server in (site, other):
        daemons.live(server, hub)
    rng = random.Random(5)
    clients = [at_site, other.client(), at_hub]
    for number in range(600):
        client = rng.choice(clients)
        if rng.random() < 0.5:
            client.set(b"site1:s%d" % rng.randrange(5), number)
        else:
            client.hset(b"site1:h%d" % rng.randrange(3), b"f%d" % rng.randrange(4), number)

    for here, there in itertools.pairwise(clients):
        assert_equal_soon(here, there, timeout=60)


def test_who_reads_events_as_json_gets_whole_messages(daemons, site, hub, at_site):
    """As redisRepl 1.2 does on other sites: it takes the fourth element of each, and ends if there is none."""
    daemons.live(site, hub)
    pattern = "__keyspace@0__:site1:*"
    messages = []
    with (
        httpx.Client(timeout=10) as client,
        client.stream("GET", f"{hub.webdis.url}PSUBSCRIBE/{pattern}") as answer,
        contextlib.suppress(StopIteration),
    ):
        decoder, text = json.JSONDecoder(), ""
        for chunk in answer.iter_text():
            text += chunk
            while text.strip():
                try:
                    value, end = decoder.raw_decode(text.lstrip())
                except ValueError:
                    break
                text = text.lstrip()[end:]
                message = value["PSUBSCRIBE"]
                if message[0] == "psubscribe":
                    at_site.set(b"site1:binary", b"\x00\xff\xfe")
                    at_site.set(b"site1:end", 1)
                else:
                    messages.append(message)
            if any(message[2].endswith("site1:end") for message in messages):
                break

    assert all(len(message) == 4 for message in messages)
    assert any(message[2].endswith("redisrepl:feed") for message in messages)
