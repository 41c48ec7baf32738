"""What has to be known of a certificate file that is as it should be: dates, and whether a strict check would mind.

In: a file in PEM form. Out: a few facts of each certificate in it. Left to others: every other question, above all
whether a certificate is to be trusted (OpenSSL), and what exactly is wrong with one (`tls.contexts`).

`cryptography` brings an OpenSSL of its own: 8 MB, for as long as the daemon runs. Certificates are DER (X.690): each
value is a tag, a length and so many bytes, and RFC 5280 tells in which order they come.
"""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from typing import NamedTuple

__all__ = ["Certificate", "read_certificates"]

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_LONG = 0x80  # from here on a length tells how many bytes the length takes
_VERSION, _EXTENSIONS = 0xA0, 0xA3  # tags of [0] and [3] in a TBSCertificate
_BOOLEAN, _UTC_TIME = 0x01, 0x17
#: Extensions by the ends of their names, all of which are in id-ce.
_BASIC_CONSTRAINTS, _KEY_USAGE, _OWN_KEY, _ISSUERS_KEY = (b"\x55\x1d" + bytes([n]) for n in (19, 15, 14, 35))


class Certificate(NamedTuple):
    """Facts of one certificate.

    Attributes:
        begins_at, ends_at: between which it is valid.
        strict: it is no authority, or one in which a strict check misses nothing.
    """

    begins_at: datetime
    ends_at: datetime
    strict: bool


def read_certificates(pem: bytes) -> list[Certificate]:
    """The certificates of a file.

    Raises:
        ValueError: it holds none, or one that is not understood here.
    """
    blocks = _PEM.findall(pem)
    if not blocks:
        raise ValueError("no certificate")
    try:
        return [_certificate(ssl.PEM_cert_to_DER_cert(block.decode("ascii"))) for block in blocks]
    except IndexError:
        raise ValueError("a certificate that ends early") from None


def _values(data: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of each value that follows another."""
    values = []
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length >= _LONG:
            size = length - _LONG
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if at + length > len(data):
            raise IndexError
        values.append((tag, data[at : at + length]))
        at += length
    return values


def _certificate(der: bytes) -> Certificate:
    """See RFC 5280, 4.1: version, serial number, algorithm, issuer, validity, subject, key, .., extensions."""
    signed = _values(_values(der)[0][1])[0][1]
    fields = _values(signed)
    if fields[0][0] == _VERSION:
        del fields[0]
    issuer, validity, subject = fields[2:5]
    begins_at, ends_at = (_time(*value) for value in _values(validity[1]))
    extensions = next((_values(_values(content)[0][1]) for tag, content in fields if tag == _EXTENSIONS), [])
    return Certificate(begins_at, ends_at, _is_strict([content for _, content in extensions], issuer == subject))


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == _UTC_TIME:  # two digits of the year, from 1950 to 2049
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _is_strict(extensions: list[bytes], own: bool) -> bool:
    """Whether an authority has what OpenSSL's X509_V_FLAG_X509_STRICT asks for; `own`: it has signed itself."""
    parts = {values[0][1]: values[1:] for values in map(_values, extensions)}
    constraints = parts.get(_BASIC_CONSTRAINTS)
    if constraints is None or _BOOLEAN not in dict(_values(_values(constraints[-1][1])[0][1])):
        return True  # no authority
    needed = {_KEY_USAGE, _OWN_KEY} if own else {_KEY_USAGE, _OWN_KEY, _ISSUERS_KEY}
    return constraints[0][0] == _BOOLEAN and needed <= parts.keys()
