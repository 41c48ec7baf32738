"""A whole hub: what gets in, what does not, and what nginx does to requests."""

import ssl
import time

import httpx
import pytest

from testbed import Certificates, FaultProxy, HttpProxy, Hub, Nginx


@pytest.fixture(scope="module")
def hub():
    with Hub() as hub:
        yield hub


@pytest.fixture
def client(hub):
    with httpx.Client(verify=hub.certificates.ssl_context(), timeout=5) as client:
        yield client


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_post_reaches_redis(hub, client, slash):
    answer = client.post(hub.url + slash, content=b"SET/site1:a%2f%2e%3f/%00%ff.raw")
    assert answer.content == b"+OK\r\n"
    assert hub.redis.get("site1:a/.?") == b"\x00\xff"


def test_a_put_keeps_every_byte_of_key_and_value(hub, client):
    """With a plain `proxy_pass http://webdis/;` nginx decodes %2f and %2e and merges slashes."""
    value = bytes(range(256)) * 20
    client.put(f"{hub.url}/SET/k%2f%2f%2e%2e%2fa%2eb%3fc%25", content=value)
    assert hub.redis.get("k//../a.b?c%") == value
    assert client.get(f"{hub.url}/STRLEN/k%2f%2f%2e%2e%2fa%2eb%3fc%25.raw").content == b":5120\r\n"


@pytest.mark.parametrize("method", ["DELETE", "OPTIONS", "PATCH"])
def test_other_methods_are_refused(hub, client, method):
    assert client.request(method, f"{hub.url}/GET/a").status_code == 403


@pytest.mark.parametrize("path", ["/", "/GET/a", "/redisGET/a", "/redisx/GET/a"])
def test_other_paths_lead_nowhere(hub, client, path):
    assert client.get(f"https://localhost:{hub.port}{path}").status_code == 404


def test_without_a_certificate_nginx_answers_400(hub):
    """The handshake succeeds: nginx reports what it found out about the certificate in the first answer."""
    answer = httpx.get(hub.url, verify=hub.certificates.ssl_context(anonymous=True))
    assert answer.status_code == 400
    assert "No required SSL certificate was sent" in answer.text


@pytest.mark.parametrize("broken", ["expired_client", "foreign_client"])
def test_a_certificate_that_does_not_count_gets_400(hub, broken):
    pair = getattr(hub.certificates, broken)()
    answer = httpx.post(hub.url, content=b"SET/site1:intruder/1", verify=hub.certificates.ssl_context(pair))
    assert answer.status_code == 400
    assert "The SSL certificate error" in answer.text
    assert hub.redis.get("site1:intruder") is None


def test_old_tls_is_refused(hub):
    context = hub.certificates.ssl_context()
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(httpx.ConnectError):
        httpx.get(hub.url, verify=context)


@pytest.mark.parametrize("broken", ["expired_server", "misnamed_server"])
def test_a_hub_with_a_broken_certificate_is_noticed_by_the_client(hub, broken):
    pair = getattr(hub.certificates, broken)()
    with Nginx(hub.webdis, hub.certificates, server_pair=pair) as nginx, pytest.raises(httpx.ConnectError):
        httpx.get(nginx.url, verify=hub.certificates.ssl_context())


def test_a_body_beyond_the_limit_gets_413(hub):
    with (
        Nginx(hub.webdis, hub.certificates, client_max_body_size="100k") as nginx,
        httpx.Client(verify=hub.certificates.ssl_context()) as client,
    ):
        assert client.post(nginx.url, content=b"SET/big/" + b"x" * 99_000).status_code == 200
        assert client.post(nginx.url, content=b"SET/big/" + b"x" * 110_000).status_code == 413


def test_a_large_value_passes_the_shipped_limit(hub, client):
    assert client.put(f"{hub.url}/SET/large", content=b"x" * 30_000_000).status_code == 200
    assert hub.redis.strlen("large") == 30_000_000
    hub.redis.delete("large")


def test_a_silent_long_poll_ends_with_the_read_timeout(hub):
    with (
        Nginx(hub.webdis, hub.certificates, proxy_read_timeout="1s") as nginx,
        httpx.Client(verify=hub.certificates.ssl_context(), timeout=10) as client,
        client.stream("POST", nginx.url, content=b"PSUBSCRIBE/quiet.raw") as answer,
    ):
        began = time.monotonic()
        with pytest.raises(httpx.RemoteProtocolError):
            for _ in answer.iter_raw():
                pass
        assert 0.5 < time.monotonic() - began < 5


def test_an_event_passes_the_long_poll_at_once(hub, client):
    with client.stream("POST", hub.url, content=b"PSUBSCRIBE/news%2a.raw") as answer:
        chunks = answer.iter_raw()
        assert b"psubscribe" in next(chunks)
        began = time.monotonic()
        hub.redis.publish("news:1", "hello")
        assert b"hello" in next(chunks)
        assert time.monotonic() - began < 0.2


def test_the_access_log_names_the_site_but_no_key(hub, client):
    client.put(f"{hub.url}/SET/secret-key", content=b"secret-value")
    hub.nginx.stop()  # the log is buffered
    hub.nginx.start()
    log = (hub.nginx.directory / "access.log").read_text()
    assert '"CN=site1' in log
    assert "secret" not in log


def test_a_reload_takes_a_new_server_certificate():
    with Certificates() as certificates, Hub(certificates) as hub:
        before = ssl.get_server_certificate(("127.0.0.1", hub.port))
        certificates.issue("server", "localhost", "127.0.0.1")
        hub.nginx.reload()
        assert ssl.get_server_certificate(("127.0.0.1", hub.port)) != before


def test_a_restart_keeps_the_address(hub, client):
    url = hub.url
    hub.restart()
    assert hub.url == url
    assert client.post(url, content=b"PING").status_code == 200


def test_a_fault_proxy_fits_in_front_and_between(hub):
    with (
        FaultProxy(hub.webdis.port) as inside,
        Nginx(hub.webdis, hub.certificates, upstream_port=inside.port) as nginx,
        FaultProxy(nginx.port) as outside,
        httpx.Client(verify=hub.certificates.ssl_context()) as client,
    ):
        assert client.post(hub.url_at(outside.port), content=b"PING").status_code == 200
        assert inside.counters().accepted == outside.counters().accepted == 1
        inside.down()
        assert client.post(hub.url_at(outside.port), content=b"PING").status_code == 502


@pytest.mark.parametrize("credentials", [{}, {"user": "site", "password": "pw"}])
def test_a_forward_proxy_shows_whom_it_connected(hub, credentials):
    with HttpProxy(**credentials) as proxy:
        context = hub.certificates.ssl_context()
        with httpx.Client(verify=context, proxy=proxy.url) as client:
            assert client.post(hub.url, content=b"PING").status_code == 200
        assert proxy.connects == [f"localhost:{hub.port}"]


def test_a_forward_proxy_can_ask_for_a_password(hub):
    with HttpProxy(user="site", password="pw") as proxy:
        stranger = proxy.url.replace("site:pw@", "")
        context = hub.certificates.ssl_context()
        with httpx.Client(verify=context, proxy=stranger) as client, pytest.raises(httpx.ProxyError, match="407"):
            client.post(hub.url, content=b"PING")
