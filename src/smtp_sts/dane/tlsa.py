"""TLSA records (RFC 6698 section 2), and which of them SMTP may use (RFC 7672 section 3). No I/O.

Promises: `Tlsa.parse` gives a record or raises `TlsaError`; `unusable` never raises, for any data.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from smtp_sts.dane.errors import TlsaError

#: RFC 7218 section 2.
PKIX_TA, PKIX_EE, DANE_TA, DANE_EE = 0, 1, 2, 3
CERT, SPKI = 0, 1
FULL, SHA256, SHA512 = 0, 1, 2
_DIGEST_BYTES: Final = {SHA256: 32, SHA512: 64}


class Tlsa(msgspec.Struct, frozen=True):
    """The data of one record; `data` is the certificate association data."""

    usage: int
    selector: int
    matching: int
    data: bytes

    @classmethod
    def parse(cls, rdata: bytes) -> Tlsa:
        """Read the record data of one TLSA record. Raises TlsaError."""
        if len(rdata) < 4:
            raise TlsaError(
                "tlsa-too-short", f"{len(rdata)} bytes; a TLSA record has four at the least"
            )
        return cls(rdata[0], rdata[1], rdata[2], rdata[3:])

    def covers(self, certificate: bytes, spki: bytes) -> bool:
        """Whether the data is that of a certificate and its SubjectPublicKeyInfo, DER both."""
        selected = certificate if self.selector == CERT else spki
        if self.matching == FULL:
            return self.data == selected
        return self.data == _digest(self.matching, selected)

    @property
    def parameters(self) -> str:
        """The three numbers, as in `3 1 1`."""
        return f"{self.usage} {self.selector} {self.matching}"

    def __str__(self) -> str:
        """The presentation format (RFC 6698 section 2.2)."""
        return f"{self.parameters} {self.data.hex()}"


def _digest(matching: int, selected: bytes) -> bytes:
    return (hashlib.sha256 if matching == SHA256 else hashlib.sha512)(selected).digest()


def unusable(record: Tlsa) -> str | None:
    """Why SMTP cannot use this record, a sentence; None where it can."""
    shown = f"TLSA {record.parameters}"
    if record.usage in (PKIX_TA, PKIX_EE):  # RFC 7672 section 3.1.3
        return f"{shown}: usages 0 and 1 are not for SMTP, publish 3 1 1 or 2 0 1"
    if record.usage not in (DANE_TA, DANE_EE):
        return f"{shown}: certificate usage {record.usage} is unknown"
    if record.selector not in (CERT, SPKI):
        return f"{shown}: selector {record.selector} is unknown"
    if record.matching == FULL:
        from smtp_sts.dane.certificate import is_key, read  # rare, and 20 MB

        if record.selector == CERT and read(record.data) is None:
            return f"{shown}: the data is no certificate"
        if record.selector == SPKI and not is_key(record.data):
            return f"{shown}: the data is no public key"
        return None
    length = _DIGEST_BYTES.get(record.matching)
    if length is None:
        return f"{shown}: matching type {record.matching} is unknown"
    if len(record.data) != length:
        return f"{shown}: a digest of {len(record.data)} bytes, it must have {length}"
    return None
