"""Where a server has no expiries of hash fields, all else is replicated; `matrix.cases` tests those that have them."""

import pytest
import redis

from testbed import eventually
from tests.e2e.pairs import Pair
from tests.e2e.support import PREFIX, certificate_flags, place_flags


@pytest.fixture
def _without(at_site):
    try:
        at_site.execute_command("HPEXPIRETIME", "none", "FIELDS", 1, "f")
    except redis.ResponseError:
        return
    pytest.skip("this server has expiries of fields")


@pytest.mark.usefixtures("_without")
def test_a_server_without_it_is_named_once_and_all_else_is_replicated(daemons, site, hub):
    """It says so for each side, and hashes are replicated both ways, also over a restart."""
    pair = Pair(daemons, site, hub, "--replicate", "all")
    pair.at_site.hset(PREFIX + b"up", mapping={"a": "1", "b": "2"})
    pair.at_hub.hset(PREFIX + b"down", mapping={"a": "1", "b": "2"})
    pair.expect({PREFIX + b"up": {b"a": b"1", b"b": b"2"}, PREFIX + b"down": {b"a": b"1", b"b": b"2"}})
    said = pair.daemon.logged("fields_expire.unavailable")
    assert sorted(line["side"] for line in said) == ["hub", "site"]
    assert all("unknown command" in line["error"] for line in said)
    pair.end("stop")
    pair.at_site.hset(PREFIX + b"up", "a", "3")
    pair.at_hub.hdel(PREFIX + b"down", "b")
    pair.start_again()
    pair.expect({PREFIX + b"up": {b"a": b"3", b"b": b"2"}, PREFIX + b"down": {b"a": b"1"}})
    pair.daemon.wait_for_log("fields_expire.unavailable")
    eventually(lambda: not pair.daemon.state()["problems"], 10, "nothing is wrong")


def test_nothing_is_asked_where_it_is_not_wanted(daemons, site, hub):
    pair = Pair(daemons, site, hub, "--replicate", "set,hset,del,expire")
    pair.level()
    for client in (pair.at_site, pair.at_hub):
        assert "hpexpiretime" not in str(client.info("errorstats")).lower()
        assert not [name for name in client.info("commandstats") if "hpexpire" in name]
    assert not pair.daemon.logged("fields_expire.unavailable")


@pytest.mark.usefixtures("_without")
def test_check_says_what_is_lost(certificates, site, hub, daemons):
    """That is no failure: the rest is replicated."""
    words = ["--ns", "site1:", *certificate_flags(certificates), *place_flags(site, hub)]
    daemon = daemons.raw("check", "-rc", *words, "--replicate", "set,hset,fields-expire")
    assert daemon.wait(60) == 0
    lines = [line for line in daemon.stdout.splitlines() if "expiry of fields" in line]
    assert len(lines) == 3
    assert all("expiry times of fields of hashes are not replicated" in line for line in lines)
