"""certs.example/make-certs, and what comes out of it."""

import shutil
import ssl
import stat
import subprocess
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from testbed import Certificates, Nginx, RedisServer, Webdis
from testbed.certificates import KeyPair

MAKE_CERTS = Path(__file__).parents[2] / "certs.example" / "make-certs"


def make_certs(*args, succeed=True):
    run = subprocess.run([MAKE_CERTS, *args], capture_output=True, text=True, check=False)
    assert (run.returncode == 0) is succeed, run.stderr
    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("certificates") / "here"
    make_certs("--site", "lab7", "--days", "30", directory, "hub.example.org", "192.0.2.7")
    return directory


@pytest.fixture
def copy(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "copy"))


def client_context(directory, stem="client"):
    context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # what Python 3.13 does by default
    context.load_cert_chain(directory / f"{stem}.pem", directory / f"{stem}-key.pem")
    return context


def names(path):
    extension = x509.load_pem_x509_certificate(path.read_bytes()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    return [str(name.value) for name in extension.value]


def test_keys_are_their_owners_alone_and_on_p256(made):
    for stem in ("ca", "server", "client"):
        assert stat.S_IMODE((made / f"{stem}-key.pem").stat().st_mode) == 0o600
        certificate = x509.load_pem_x509_certificate((made / f"{stem}.pem").read_bytes())
        assert isinstance(certificate.public_key().curve, ec.SECP256R1)


def test_the_server_certificate_is_for_localhost_and_the_given_hosts(made):
    assert names(made / "server.pem") == ["localhost", "127.0.0.1", "hub.example.org", "192.0.2.7"]


def test_the_client_certificate_names_the_site(made):
    subject = x509.load_pem_x509_certificate((made / "client.pem").read_bytes()).subject
    assert "CN=lab7" in subject.rfc4514_string()


def test_a_hub_lets_their_holder_in(made, copy):
    make_certs("--client", "site2", copy)
    with RedisServer() as server, Webdis(server) as webdis, Certificates() as others:
        others.ca = made / "ca.pem"
        pair = KeyPair(made / "server.pem", made / "server-key.pem")
        with Nginx(webdis, others, server_pair=pair) as nginx:
            for context in (client_context(made), client_context(copy, "site2")):
                assert httpx.post(nginx.url, content=b"PING", verify=context).status_code == 200


def test_files_that_exist_are_left_alone(copy):
    before = {path: path.read_bytes() for path in copy.iterdir()}
    assert "exists; --force replaces it" in make_certs(copy, succeed=False).stderr
    assert {path: path.read_bytes() for path in copy.iterdir()} == before


def test_force_replaces_them(copy):
    before = (copy / "client.pem").read_bytes()
    make_certs("--force", copy)
    assert (copy / "client.pem").read_bytes() != before
    client_context(copy)


@pytest.mark.parametrize("args", [[], ["--unknown", "x"], ["--days", "soon", "x"], ["--site", "a/b", "x"]])
def test_wrong_usage_is_told(args, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert make_certs(*args, succeed=False).returncode == 2
    assert not list(tmp_path.iterdir())


def test_another_client_needs_an_authority(tmp_path):
    assert "holds no authority" in make_certs("--client", "site2", tmp_path, succeed=False).stderr
