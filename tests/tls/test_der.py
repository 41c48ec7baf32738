"""What is read of a certificate by hand is what `cryptography` reads of it."""

from datetime import UTC, datetime
from itertools import product

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from redisrepl.tls import contexts
from redisrepl.tls.der import read_certificates


def utc(*numbers):
    return datetime(*numbers, tzinfo=UTC)


KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(*extensions, issuer="a", begins=None, ends=None):
    """One that has these extensions, each with whether it is critical."""
    begins, ends = begins or utc(2026, 1, 2, 3, 4, 5), ends or utc(2036, 1, 2, 3, 4, 5)
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("a", issuer)]
    builder = x509.CertificateBuilder(names[1], names[0], KEY.public_key(), x509.random_serial_number(), begins, ends)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(KEY, hashes.SHA256())


def pem(*certificates):
    return b"words\n".join(made.public_bytes(Encoding.PEM) for made in certificates)


USAGE = x509.KeyUsage(*[True] * 9)
OWN_KEY = x509.SubjectKeyIdentifier.from_public_key(KEY.public_key())
ISSUERS_KEY = x509.AuthorityKeyIdentifier.from_issuer_public_key(KEY.public_key())
SETS = [
    [(extension, False) for extension, there in zip((USAGE, OWN_KEY, ISSUERS_KEY), chosen, strict=True) if there]
    for chosen in product((True, False), repeat=3)
]


@pytest.mark.parametrize("others", SETS, ids=[str(len(s)) + "-" + str(n) for n, s in enumerate(SETS)])
@pytest.mark.parametrize("issuer", ["a", "b"])
@pytest.mark.parametrize(
    "constraints",
    [
        [],
        [(x509.BasicConstraints(ca=False, path_length=None), True)],
        [(x509.BasicConstraints(ca=True, path_length=None), False)],
        [(x509.BasicConstraints(ca=True, path_length=3), True)],
    ],
    ids=["none", "leaf", "not critical", "critical"],
)
def test_a_strict_check_is_foreseen(constraints, others, issuer):
    made = certificate(*constraints, *others, issuer=issuer)
    (read,) = read_certificates(pem(made))

    assert read.strict == (not contexts._faults(made))


@pytest.mark.parametrize("year", [1950, 1999, 2000, 2049, 2050, 9999])
def test_dates_are_those_of_cryptography(year):
    made = certificate(begins=utc(1950, 1, 1), ends=utc(year, 12, 31, 23, 59, 59))
    (read,) = read_certificates(pem(made))

    assert read.begins_at == made.not_valid_before_utc
    assert read.ends_at == made.not_valid_after_utc


def test_each_certificate_of_a_file_is_read():
    made = [certificate(ends=utc(2030 + n, 1, 1)) for n in range(3)]

    assert [read.ends_at.year for read in read_certificates(pem(*made))] == [2030, 2031, 2032]


def test_any_damage_is_a_value_error():
    """So that what understands more, or can say what is wrong, is asked."""
    whole = certificate((x509.BasicConstraints(ca=True, path_length=None), True), (USAGE, True)).public_bytes(
        Encoding.DER
    )
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            text = contexts.ssl.DER_cert_to_PEM_cert(damaged).encode()
            try:
                read_certificates(text)
            except ValueError:
                continue


@pytest.mark.parametrize("text", [b"", b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", b"words"])
def test_a_file_without_one_is_a_value_error(text):
    with pytest.raises(ValueError, match="certificate"):
        read_certificates(text)
