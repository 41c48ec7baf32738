"""Certificates, good and broken."""

import datetime as dt
import ssl
import stat

import pytest
from cryptography import x509

from testbed import Certificates


@pytest.fixture(scope="module")
def certificates():
    with Certificates() as certificates:
        yield certificates


def read(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_the_files_have_their_names(certificates):
    names = {"ca.pem", "server.pem", "server-key.pem", "client.pem", "client-key.pem"}
    assert names <= {path.name for path in certificates.directory.iterdir()}


def test_keys_are_their_owners_alone(certificates):
    for key in (certificates.server_key, certificates.client_key, certificates.foreign_client().key):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_an_expired_certificate_has_expired(certificates):
    assert read(certificates.expired_client().cert).not_valid_after_utc < dt.datetime.now(dt.UTC)
    assert read(certificates.expired_server().cert).not_valid_after_utc < dt.datetime.now(dt.UTC)


def test_an_expiring_certificate_is_good_for_as_long_as_asked(certificates):
    left = read(certificates.expiring_client(dt.timedelta(days=3)).cert).not_valid_after_utc - dt.datetime.now(dt.UTC)
    assert dt.timedelta(days=2, hours=23) < left <= dt.timedelta(days=3)


def test_a_key_that_does_not_fit_is_refused_by_the_library(certificates):
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        certificates.ssl_context(certificates.mismatched_client())


def test_a_foreign_certificate_has_another_issuer(certificates):
    assert read(certificates.foreign_client().cert).issuer != read(certificates.ca).subject


def test_issuing_again_replaces_the_files(certificates):
    first = certificates.issue("rotated", "site1.example")
    before = first.cert.read_bytes()
    second = certificates.issue("rotated", "site1.example")
    assert second == first
    assert second.cert.read_bytes() != before


def test_a_directory_of_the_caller_is_left_alone(tmp_path):
    with Certificates(tmp_path / "here") as certificates:
        assert certificates.ca.parent == tmp_path / "here"
    assert certificates.ca.exists()
