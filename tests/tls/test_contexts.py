"""TLS is set up in one place, and every unusable file is named with its flag and what to do."""

from __future__ import annotations

import datetime as dt
import shutil
import ssl
import subprocess

import httpx
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from redisrepl.errors import CertificateError, ConfigError
from redisrepl.tls.contexts import CertificateFiles, client_context, read_file, readable_by_others, tls_reason

pytestmark = pytest.mark.usefixtures("certificates")


def files(certificates, **changes):
    return CertificateFiles(
        **({"ca": certificates.ca, "cert": certificates.client, "key": certificates.client_key} | changes)
    )


def written(path, data):
    path.write_bytes(data)
    return path


def private_key(size=2048):
    return rsa.generate_private_key(public_exponent=65537, key_size=size)


def pem(key, encryption=None):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def self_signed(key, *, start, end):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "site1")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), start, end)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_good_files_make_a_verifying_context(certificates):
    context = client_context(files(certificates))

    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert [dict(part[0] for part in ca["subject"])["organizationName"] for ca in context.get_ca_certs()] == [
        "redisrepl test bed"
    ]


def test_without_a_ca_the_system_s_are_trusted(certificates):
    context = client_context(files(certificates, ca=None))

    assert context.verify_mode is ssl.CERT_REQUIRED
    assert not any("redisrepl test bed" in str(ca["subject"]) for ca in context.get_ca_certs())


def test_a_client_certificate_is_not_a_must():
    assert client_context(CertificateFiles(None, None, None)).verify_mode is ssl.CERT_REQUIRED


def test_a_ca_file_may_hold_several_and_words_in_any_language(certificates, tmp_path):
    other = trustme.CA(organization_name="other")
    content = "# Autorità di certificazione ✓\n".encode() + certificates.ca.read_bytes() + other.cert_pem.bytes()
    context = client_context(files(certificates, ca=written(tmp_path / "ca.pem", content)))

    assert len(context.get_ca_certs()) == 2


@pytest.mark.parametrize(("part", "flag"), [("ca", "--ca"), ("cert", "--cert"), ("key", "--key")])
@pytest.mark.parametrize("kind", ["missing", "directory"])
def test_a_file_that_cannot_be_read_is_named(certificates, tmp_path, part, flag, kind):
    path = tmp_path if kind == "directory" else tmp_path / "missing.pem"
    reason = "is a directory: name a file" if kind == "directory" else "no such file or directory: check the path"
    with pytest.raises(ConfigError, match=rf"^{flag} {path}: {reason}"):
        client_context(files(certificates, **{part: path}))


@pytest.mark.parametrize(("part", "flag"), [("ca", "--ca"), ("cert", "--cert")])
@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"\xff\x00", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_file_without_a_certificate_is_named(certificates, tmp_path, part, flag, content):
    path = written(tmp_path / "x.pem", content)
    with pytest.raises(ConfigError, match=rf"^{flag} {path}: holds no certificate in PEM form"):
        client_context(files(certificates, **{part: path}))


def test_a_certificate_in_der_form_is_none(certificates, tmp_path):
    der = x509.load_pem_x509_certificate(certificates.ca.read_bytes()).public_bytes(Encoding.DER)
    with pytest.raises(ConfigError, match=r"^--ca .* PEM form"):
        client_context(files(certificates, ca=written(tmp_path / "ca.der", der)))


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_file_without_a_key_is_named(certificates, tmp_path, content):
    path = written(tmp_path / "key.pem", content)
    with pytest.raises(ConfigError, match=rf"^--key {path}: holds no private key in PEM form"):
        client_context(files(certificates, key=path))


def test_a_key_of_a_kind_that_nobody_supports_is_named(certificates, tmp_path):
    path = tmp_path / "key.pem"
    openssl = shutil.which("openssl")
    made = subprocess.run([openssl, "ecparam", "-name", "secp112r1", "-genkey", "-noout", "-out", path], check=False)
    assert made.returncode == 0
    with pytest.raises(ConfigError, match=rf"^--key {path}: "):
        client_context(files(certificates, key=path))


def test_an_encrypted_key_is_refused(certificates, tmp_path):
    """The daemon starts without anybody at a keyboard."""
    path = written(tmp_path / "key.pem", pem(private_key(), BestAvailableEncryption(b"secret")))
    with pytest.raises(ConfigError, match=rf"^--key {path}: the key is encrypted: give its passphrase with --key-pass"):
        client_context(files(certificates, key=path))


def test_an_encrypted_key_is_opened_with_its_passphrase(certificates, tmp_path):
    now = dt.datetime.now(dt.UTC)
    key = private_key()
    cert = written(
        tmp_path / "c.pem", self_signed(key, start=now - dt.timedelta(days=1), end=now + dt.timedelta(days=1))
    )
    locked = written(tmp_path / "k.pem", pem(key, BestAvailableEncryption(b"secret")))
    password = written(tmp_path / "password", b"secret\n")

    def encrypted(password, key=locked):
        return CertificateFiles(certificates.ca, cert, key, password=password)

    assert client_context(encrypted(password)).ends_at is not None
    assert client_context(encrypted(written(tmp_path / "lines", b"secret\r\nof this key\n"))).ends_at is not None
    wrong = written(tmp_path / "wrong", b"other\n")
    with pytest.raises(ConfigError, match=rf"^--key-password-file {wrong}: is not the passphrase of --key {locked}: "):
        client_context(encrypted(wrong))
    with pytest.raises(ConfigError, match=r"^--key-password-file .*: no such file"):
        client_context(encrypted(tmp_path / "none"))
    assert client_context(encrypted(password, written(tmp_path / "plain.pem", pem(key)))).ends_at is not None


@pytest.mark.parametrize(
    ("given", "missing", "absent"), [("--cert", "--key", {"key": None}), ("--key", "--cert", {"cert": None})]
)
def test_certificate_and_key_come_together(certificates, given, missing, absent):
    with pytest.raises(ConfigError, match=rf"^{given} is given without {missing}: "):
        client_context(files(certificates, **absent))


def test_the_key_of_another_certificate_is_noticed(certificates):
    pair = certificates.mismatched_client()
    with pytest.raises(ConfigError, match=rf"^--key {pair.key} is not the key of --cert {pair.cert}: "):
        client_context(files(certificates, cert=pair.cert, key=pair.key))


def test_an_expired_certificate_is_noticed_before_the_server_does(certificates):
    pair = certificates.expired_client()
    with pytest.raises(
        CertificateError, match=rf"^--cert {pair.cert}: the certificate expired on 20..-..-.. ..:.. UTC: renew"
    ):
        client_context(files(certificates, cert=pair.cert, key=pair.key))


def test_a_clock_that_is_behind_is_suspected(certificates):
    before = dt.datetime(1999, 1, 1, tzinfo=dt.UTC)
    with pytest.raises(
        CertificateError, match=r"the certificate is valid from .* UTC: check the clock of this machine"
    ):
        client_context(files(certificates), before)


def test_the_given_time_counts(certificates):
    soon = certificates.expiring_client(dt.timedelta(hours=1))
    now = dt.datetime.now(dt.UTC)

    client_context(files(certificates, cert=soon.cert, key=soon.key), now)
    with pytest.raises(CertificateError, match="expired on"):
        client_context(files(certificates, cert=soon.cert, key=soon.key), now + dt.timedelta(hours=2))


def test_a_key_that_openssl_finds_too_weak_is_named_with_the_reason(certificates, tmp_path):
    now = dt.datetime.now(dt.UTC)
    key = private_key(1024)
    cert = self_signed(key, start=now - dt.timedelta(days=1), end=now + dt.timedelta(days=1))
    weak = files(certificates, cert=written(tmp_path / "c.pem", cert), key=written(tmp_path / "k.pem", pem(key)))
    with pytest.raises(
        ConfigError, match=r"^--cert .*c.pem with --key .*k.pem: the key .* is too short for OpenSSL.*2048"
    ):
        client_context(weak)


def test_the_flags_of_another_link_are_named(certificates, tmp_path):
    names = ("--site-ca", "--site-cert", "--site-key")
    with pytest.raises(ConfigError, match=r"^--site-key "):
        client_context(CertificateFiles(certificates.ca, certificates.client, tmp_path / "none", names))
    with pytest.raises(ConfigError, match=r"^--site-cert is given without --site-key"):
        client_context(CertificateFiles(None, certificates.client, None, names))


@pytest.mark.parametrize(("mode", "readable"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_whether_others_may_read_a_key(tmp_path, mode, readable):
    path = written(tmp_path / "key.pem", b"")
    path.chmod(mode)

    assert readable_by_others(path) is readable


def test_a_file_is_read_as_it_is(tmp_path):
    assert read_file(written(tmp_path / "x", b"a\r\n\xff"), "--x") == b"a\r\n\xff"


# What goes wrong in a handshake, in words for the one who runs this.


def test_an_error_that_has_nothing_to_do_with_tls_has_no_reason():
    assert tls_reason(ConnectionRefusedError("refused")) is None
    assert tls_reason(ValueError()) is None


def test_a_chain_of_causes_may_run_in_a_circle():
    first, second = OSError("a"), OSError("b")
    first.__cause__, second.__cause__ = second, first

    assert tls_reason(first) is None


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired",
            "certificate has expired",
        ),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] Hostname mismatch, certificate is not valid for 'x'", "another host name"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] IP address mismatch", "another address"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] unable to get local issuer certificate", "not signed by the given CA"),
        ("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED]", "asks for a client certificate"),
        ("[SSL: TLSV1_ALERT_UNKNOWN_CA]", "does not trust the CA of our certificate"),
        ("[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED]", "our certificate has expired"),
        ("[SSL: SSLV3_ALERT_CERTIFICATE_REVOKED]", "was revoked"),
        ("[SSL: SSLV3_ALERT_BAD_CERTIFICATE]", "refuses our certificate"),
        ("[SSL: SSLV3_ALERT_HANDSHAKE_FAILURE]", "refuses the TLS handshake"),
        ("[SSL: WRONG_VERSION_NUMBER]", "does not speak TLS"),
        ("certificate verify failed: CA cert does not include key usage extension", "lacks the extension keyUsage"),
        ("certificate verify failed: Missing Authority Key Identifier", "lacks authorityKeyIdentifier"),
        ("certificate verify failed: Missing Subject Key Identifier", "lacks the extension subjectKeyIdentifier"),
        ("certificate verify failed: Basic Constraints of CA cert not marked critical", "basicConstraints are not"),
        ("certificate verify failed: unable to get issuer certificate", "lacks its root"),
        ("certificate verify failed: unable to verify the first certificate", "sends no intermediate ones"),
        ("certificate verify failed: self-signed certificate in certificate chain", "by a private one"),
        ("certificate verify failed: self signed certificate", "self-signed"),
        ("certificate verify failed: certificate is not yet valid", "not valid yet: check the clocks"),
        ("certificate verify failed: certificate signature failure", "a wrong signature"),
        ("certificate verify failed: certificate revoked", "was revoked"),
        ("certificate verify failed: invalid CA certificate", "by one that is no CA"),
        ("certificate verify failed: path length constraint exceeded", "pathlen"),
        ("certificate verify failed: unsuitable certificate purpose", "serverAuth"),
        ("certificate verify failed: unsupported certificate purpose", "serverAuth"),
        ("certificate verify failed: EE certificate key too weak", "key of the server's certificate is too short"),
        ("certificate verify failed: CA certificate key too weak", "key of the CA is too short"),
        ("certificate verify failed: CA signature digest algorithm too weak", "SHA-256"),
        ("certificate verify failed: certificate chain too long", "too many certificates"),
        ("[SSL: SSLV3_ALERT_UNSUPPORTED_CERTIFICATE]", "clientAuth"),
        ("[SSL: SSLV3_ALERT_CERTIFICATE_UNKNOWN]", "look into its log"),
        ("[SSL: TLSV1_ALERT_ACCESS_DENIED]", "does not let it in"),
        ("[SSL: TLSV1_ALERT_DECRYPT_ERROR]", "could not check our signature"),
        ("[SSL: TLSV1_UNRECOGNIZED_NAME]", "does not know the host name"),
        ("[SSL: TLSV1_ALERT_PROTOCOL_VERSION]", "TLS 1.2 or later"),
        ("[SSL: UNSUPPORTED_PROTOCOL]", "TLS 1.2 or later"),
        ("[SSL: EE_KEY_TOO_SMALL]", "too short for OpenSSL"),
        ("[SSL: CA_MD_TOO_WEAK]", "SHA-256"),
        ("[SSL: SOMETHING_NEW]", "TLS failed: "),
    ],
)
def test_what_openssl_says_is_put_into_words(said, meaning):
    error = ssl.SSLError(1, said)

    assert meaning in tls_reason(error)
    wrapped = httpx.ConnectError("all attempts failed")
    wrapped.__cause__ = OSError("connection")
    wrapped.__cause__.__context__ = error
    assert tls_reason(wrapped) == tls_reason(error)


def test_the_text_of_an_error_may_be_all_there_is():
    assert "asks for a client certificate" in tls_reason(OSError("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] alert"))


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("certificate verify failed: certificate is not yet valid (_ssl.c:1)", "not valid yet"),
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unsuitable certificate purpose",
            "not meant for servers",
        ),
        ("certificate verify failed: CA cert does not include key usage extension", "keyUsage"),
        ("[SSL: TLSV1_ALERT_PROTOCOL_VERSION] tlsv1 alert protocol version", "TLS 1.2 or later"),
        ("[SSL: UNSUPPORTED_PROTOCOL] unsupported protocol", "TLS 1.2 or later"),
    ],
)
def test_what_openssl_says_in_words(text, meaning):
    assert meaning in tls_reason(ssl.SSLError(1, text))
