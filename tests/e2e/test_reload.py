"""SIGHUP takes renewed certificates, SIGUSR1 says how things stand."""

import signal

import pytest

from testbed import Certificates, Hub, RedisServer, eventually
from tests.e2e.support import (
    FOLLOWED,
    SWIFT,
    all_replicated,
    assert_equal_soon,
    certificate_flags,
    place_flags,
    wait_until_live,
)


@pytest.fixture
def own():
    """Certificates that a test may replace."""
    with Certificates() as own:
        yield own


@pytest.fixture
def daemon(daemons, site, own):
    with Hub(own) as hub:
        daemon = daemons.raw(*certificate_flags(own), *place_flags(site, hub), *SWIFT, "--ns", "site1:", "-rc")
        wait_until_live(daemon, pull=True)
        daemon.hub = hub
        yield daemon


def test_a_renewed_certificate_is_taken(daemon, own, at_site):
    own.issue("client", "site1.example", common_name="site1")
    mark = daemon.mark()
    daemon.signal(signal.SIGHUP)
    assert daemon.wait_for_log("daemon.reloaded", after=mark)["certificate"] == str(own.client)
    daemon.hub.nginx.restart()  # every connection is made anew
    at_site.set("site1:key", "v")
    all_replicated(at_site, daemon.hub.redis)
    assert assert_equal_soon(at_site, daemon.hub.redis).keys() == {b"site1:key"}
    assert daemon.stop() == 0


@pytest.mark.parametrize("broken", ["no certificate", "no key", "another key"])
def test_a_broken_file_leaves_the_old_certificate_in_use(daemon, own, at_site, broken):
    whole = {path: path.read_bytes() for path in (own.client, own.client_key)}
    match broken:
        case "no certificate":
            own.client.write_text("nothing\n")
        case "no key":
            own.client_key.unlink()
        case "another key":
            own.client_key.write_bytes(own.issue("other", "other.example").key.read_bytes())
    mark = daemon.mark()
    daemon.signal(signal.SIGHUP)
    failed = daemon.wait_for_log("daemon.reload_failed", after=mark)
    assert failed["level"] == "error"
    assert "--cert" in failed["error"] or "--key" in failed["error"]
    for path, content in whole.items():  # nginx is asked with these whether it is ready
        path.write_bytes(content)
    daemon.hub.nginx.restart()
    at_site.set("site1:key", "v")
    all_replicated(at_site, daemon.hub.redis)
    assert not daemon.logged("daemon.reloaded")
    assert daemon.stop() == 0


def test_how_things_stand(daemon, at_site):
    at_site.set("site1:key", "v")
    all_replicated(at_site, daemon.hub.redis)
    state = daemon.state()
    assert state["pushed"] >= 1
    assert state["applied"] >= 1
    assert state["waiting_keys"] == state["push_failures"] == 0
    assert daemon.running


def test_renewed_files_are_taken_without_a_signal(daemon, own, at_site):
    mark = daemon.mark()
    own.client_key.write_bytes(own.issue("other", "other.example").key.read_bytes())
    assert "is not the key of" in daemon.wait_for_log("certificate.failed", 60, after=mark)["error"]
    assert any(problem.startswith("certificate: ") for problem in daemon.state()["problems"])
    own.issue("client", "site1.example", common_name="site1")
    daemon.wait_for_log("daemon.reloaded", 60, after=mark)
    assert not any(problem.startswith("certificate: ") for problem in daemon.state()["problems"])
    daemon.hub.nginx.restart()
    at_site.set("site1:key", "v")
    all_replicated(at_site, daemon.hub.redis)


def test_the_end_of_both_certificates_is_known(daemon):
    state = daemon.state()
    assert state["certificate_expires_at"] == state["hub_certificate_expires_at"] == "3000-01-01T00:00:00+00:00"


def test_an_authority_that_was_taken_out_of_the_file_is_not_trusted_any_more(daemon, own, at_site):
    """Not even on connections that were made while it was."""
    at_site.set("site1:before", "v")
    all_replicated(at_site, daemon.hub.redis)
    whole = own.ca.read_bytes()
    with Certificates() as others:
        own.ca.write_bytes(others.ca.read_bytes())
        mark = daemon.mark()
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_log("daemon.reloaded", after=mark)
        at_site.set("site1:after", "v")

        def refused(event):
            return any("not signed by the given CA" in line["error"] for line in daemon.logged(event, after=mark))

        # The first of either may be that the connection was ended.
        eventually(lambda: refused("push.failed") and refused("subscribe.failed"), 20)
        assert daemon.hub.redis.get("site1:after") is None
        own.ca.write_bytes(whole + others.ca.read_bytes())
        daemon.signal(signal.SIGHUP)
        all_replicated(at_site, daemon.hub.redis)
        assert daemon.stop() == 0


@pytest.mark.parametrize("source", ["psync", "notify"])
def test_an_authority_of_the_site_that_was_taken_out_is_not_trusted_any_more(daemons, certificates, own, source):
    """No connection to the site is left: the stream and the subscription, and those for reading and writing."""
    with RedisServer(tls=own) as site, Hub(certificates) as hub:
        place = place_flags(f"rediss://localhost:{site.tls_port}", hub)
        ours = ["--site-ca", own.ca, "--site-cert", own.client, "--site-key", own.client_key]
        flags = [*certificate_flags(certificates), *place, *ours, "--source", source, *SWIFT, "--ns", "site1:", "-rc"]
        daemon = daemons.raw(*flags)
        at_site, started = site.client(), FOLLOWED[source]
        daemon.wait_for_log(started)
        daemon.wait_for_log("subscribe.started")
        both_ways(at_site, hub.redis, b"before")
        whole = own.ca.read_bytes()
        own.ca.write_bytes(certificates.ca.read_bytes())
        mark = daemon.mark()
        daemon.signal(signal.SIGHUP)
        hub.redis.set("site1:down", "v")

        def refused(event):
            return any("not signed by the given CA" in line["error"] for line in daemon.logged(event, after=mark))

        def left():
            return {client["addr"] for client in at_site.client_list()} - {at_site.client_info()["addr"]}

        failed = {"psync": "stream.failed", "notify": "notice.failed"}[source]
        eventually(lambda: refused(failed) and not left(), 20)
        assert at_site.get("site1:down") is None
        own.ca.write_bytes(certificates.ca.read_bytes() + whole)
        daemon.signal(signal.SIGHUP)
        both_ways(at_site, hub.redis, b"after")
        assert at_site.get("site1:down") == b"v"
        assert daemon.stop() == 0


def both_ways(at_site, at_hub, name):
    """Where there is no replication stream, there is no `WAIT` either."""
    at_site.set(b"site1:up:" + name, name)
    at_hub.set(b"site1:down:" + name, name)
    eventually(lambda: at_hub.get(b"site1:up:" + name) == at_site.get(b"site1:down:" + name) == name, 20)
