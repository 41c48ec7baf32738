"""A real daemon is asked over HTTP, and tells the service manager that started it."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from testbed import Certificates, FaultProxy, eventually
from testbed.ports import free_port
from tests.e2e.support import SWIFT, all_replicated, certificate_flags, pushed

CONFIG = 78
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "status.schema.json").read_text())


@pytest.fixture
def port():
    return free_port()


def get(port, path):
    """Status and text."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_what_it_says_and_what_it_keeps_to_itself(daemons, site, hub, at_site, at_hub, port):
    daemon = daemons.live(site, hub, *SWIFT, "--listen", f"127.0.0.1:{port}")
    at_site.set("site1:s3cret-key", "s3cret-value")
    at_hub.rpush("site1:s3cret-list", "x")
    at_site.hset("site1:s3cret-list", "s3cret-field", "s3cret-value")
    daemon.wait_for_log("push.refused")
    all_replicated(at_site, at_hub)
    eventually(lambda: get(port, "/readyz") == (200, "ready\n"))
    assert get(port, "/livez") == (200, "alive\n")
    import jsonschema  # noqa: PLC0415 - takes seconds, which each process that collects tests would spend

    jsonschema.validate(json.loads(get(port, "/status.json")[1]), SCHEMA)
    metrics = get(port, "/metrics")[1]
    assert "redisrepl_push_refused_total 1.0" in metrics
    page = get(port, "/")[1]
    assert "push.refused" in page
    for said in (metrics, page, get(port, "/status.json")[1]):
        assert "s3cret" not in said
    assert daemon.stop() == 0


def test_a_page_that_is_being_read_does_not_hold_up_the_end(daemons, site, hub, port):
    daemon = daemons.live(site, hub, *SWIFT, "--listen", f"127.0.0.1:{port}", rc=False)
    with contextlib.ExitStack() as stack:
        for path in ("/events", "/events", "/"):
            reader = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            reader.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert reader.recv(12) == b"HTTP/1.1 200"
        assert daemon.stop(10) == 0


def test_a_client_of_an_authority_that_was_removed_does_not_go_on_reading(daemons, site, hub, port, tmp_path):
    pair, trusted = Certificates(tmp_path / "ours"), tmp_path / "trusted.pem"
    trusted.write_bytes(pair.ca.read_bytes())
    flags = ("--listen-cert", pair.server, "--listen-key", pair.server_key, "--listen-ca", trusted)
    daemon = daemons.live(site, hub, *SWIFT, "--listen", f"127.0.0.1:{port}", *flags, rc=False)
    context = pair.ssl_context()
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port), 30), server_hostname="localhost") as reader:
        reader.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert reader.recv(12) == b"HTTP/1.1 200"
        trusted.write_bytes(Certificates(tmp_path / "theirs").ca.read_bytes())
        daemon.signal(signal.SIGHUP)
        with contextlib.suppress(ConnectionResetError):
            while reader.recv(1 << 16):
                pass  # until it ends


def test_it_is_not_ready_while_the_site_is_away(daemons, site, hub, port):
    daemons.live(site, hub, *SWIFT, "--listen", f"127.0.0.1:{port}", rc=False)
    eventually(lambda: get(port, "/readyz")[0] == 200)
    site.kill()
    eventually(lambda: get(port, "/readyz") == (503, "not attached to the site's Redis\n"))
    assert get(port, "/livez")[0] == 200


def test_others_than_this_machine_are_refused_without_token_or_tls(daemons, site, hub, port):
    daemon = daemons.start(site, hub, "--listen", f"0.0.0.0:{port}")
    assert daemon.wait() == CONFIG
    assert f"redisrepl: --listen 0.0.0.0:{port}: others than this machine could read it" in daemon.stderr


def test_an_address_that_is_taken_does_not_hold_up_replication(daemons, site, hub, at_site, at_hub, port):
    with socket.create_server(("127.0.0.1", port)):
        daemon = daemons.live(site, hub, *SWIFT, "--listen", f"127.0.0.1:{port}")
        daemon.wait_for_log("listen.failed")
        all_replicated(at_site, at_hub)
        assert any(problem.startswith(f"listen: --listen 127.0.0.1:{port}: ") for problem in daemon.state()["problems"])
    daemon.wait_for_log("listen.started", 30)
    assert get(port, "/livez")[0] == 200


def test_without_listen_nothing_of_it_is_loaded():
    code = "import sys, redisrepl.daemon; print(*{'prometheus_client', 'redisrepl.listener'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.fixture
def manager():
    """The socket of a service manager, and what it was told."""
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(f"{directory}/notify")
        notify.settimeout(20)
        yield notify, f"{directory}/notify"


def until(notify, line):
    """Everything that is told until this line."""
    told = []
    while line not in told:
        told += notify.recv(4096).decode().split("\n")
    return told


def test_the_service_manager_is_told(daemons, site, hub, at_site, manager):
    notify, path = manager
    at_site.config_set("repl-diskless-sync", "yes")
    at_site.config_set("repl-diskless-sync-delay", "3600")
    env = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "3000000"}
    with FaultProxy(hub.port) as wire:
        daemon = daemons.start(site, wire.port, *SWIFT, env=env)
        before = until(notify, "WATCHDOG=1")
        assert "READY=1" not in before  # it is attached to nothing yet
        at_site.config_set("repl-diskless-sync-delay", "0")
        assert "READY=1" in until(notify, "STATUS=well: 0 keys wait for the hub")
        daemon.signal(signal.SIGHUP)
        assert until(notify, "READY=1").count("RELOADING=1") == 1
        at_site.set("site1:key", "v")
        pushed(at_site)
        assert daemon.stop() == 0
        assert "STOPPING=1" in until(notify, "STATUS=stopping: 0 keys wait for the hub")


def test_an_address_that_is_none_is_said_before_the_state_is_opened(daemons, certificates, tmp_path):
    """Else a state of other namespaces would have been set aside by then."""
    flags = (*certificate_flags(certificates), "--ns", "site1:", "--state-dir", str(tmp_path), "--listen", ":9646")
    daemon = daemons.raw(*flags)
    assert daemon.wait() == CONFIG
    assert list(tmp_path.iterdir()) == []
