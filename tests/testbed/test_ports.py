"""Free ports."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from testbed import free_port, ports, release_port


@pytest.fixture
def port():
    port = free_port()
    yield port
    release_port(port)


def test_a_port_is_handed_out_once():
    handed_out = [free_port() for _ in range(50)]
    try:
        assert len(set(handed_out)) == 50
    finally:
        for port in handed_out:
            release_port(port)


def test_another_process_cannot_claim_the_same_port(port):
    code = f"from testbed import ports; print(ports._claim({port}))"
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_a_port_that_was_given_back_can_be_claimed_again(port):
    release_port(port)
    assert ports._claim(port)


def test_a_port_in_use_is_not_handed_out(monkeypatch, port):
    with socket.create_server(("127.0.0.1", port)):
        release_port(port)
        monkeypatch.setattr(ports.random, "sample", lambda _population, k: [port] * k)
        with pytest.raises(OSError, match="no free port"):
            free_port()


def test_ports_are_no_ephemeral_ones(port):
    assert port < int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
