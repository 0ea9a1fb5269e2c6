"""What can be wrong with a TLS session, and its one result type (RFC 8460 section 4.3). No I/O.

Promises: one fault has one word, whoever has seen it. A file of its own, since those who verify are
in processes that make no reports, and do not load what does (`tlsrpt`).
"""

from __future__ import annotations

from typing import Final

#: The type for what no other covers (section 4.3.3).
_GENERAL: Final = "validation-failure"
#: What can be wrong -> its result type: one word for one fault, whoever has seen it (an MTA's
#: datagram, its log, our own look, DANE). Those of certificates are the slugs of `net.failure`.
FAULTS: Final = {
    "starttls-missing": "starttls-not-supported",
    "handshake-failed": _GENERAL,
    "certificate-absent": _GENERAL,
    "certificate-unreadable": _GENERAL,
    "certificate-expired": "certificate-expired",
    "certificate-not-yet-valid": "certificate-expired",
    "certificate-name-mismatch": "certificate-host-mismatch",
    "certificate-self-signed": "certificate-not-trusted",
    "certificate-unknown-issuer": "certificate-not-trusted",
    "certificate-invalid": "certificate-not-trusted",
    # DANE: the records are good, the certificate is another. Postfix has the same word for it.
    "certificate-unmatched": "certificate-not-trusted",
    "tlsa-unusable": "tlsa-invalid",
    "tlsa-not-found": "dane-required",
    "tlsa-lookup-failed": "dnssec-invalid",
}
#: Reasons of Postfix 3.10 beside the general failure, which stand for a fault that has a type.
_TOLD: Final = {
    "self-signed_certificate": "certificate-self-signed",
    "self-signed certificate": "certificate-self-signed",
}


def as_fault(result_type: str, reason: str) -> str:
    """The result type of what an MTA calls so for such a reason."""
    fault = _TOLD.get(reason.lower()) if result_type == _GENERAL else None
    return FAULTS[fault] if fault else result_type
