"""The failure types of the first draft: slugs, XML names, and what they are in RFC 8460. No I/O.

draft-margolis-smtp-sts-00 section 4 (slugs) and appendix 3 (XML names). The one home of this table,
read both ways: `DRAFT_RESULTS` from the draft, `FROM_RFC8460` towards it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from smtp_sts.tlsrpt.results import GENERAL_FAILURE


class DraftResult(msgspec.Struct, frozen=True):
    """A failure type.

    `xml` is the name to write: section 4 has a type for which appendix 3 has no name. `rfc8460` is
    the result type of RFC 8460 that says the same, or "" where `validation-failure` with this slug
    as its reason is the closest; `rfc8460_tlsa` the one under the constraint `tlsa`.
    """

    xml: str
    rfc8460: str
    rfc8460_tlsa: str
    meaning: str


def _result(xml: str, rfc8460: str, meaning: str, tlsa: str = "") -> DraftResult:
    return DraftResult(xml, rfc8460, tlsa or rfc8460, meaning)


DRAFT_RESULTS: Final[dict[str, DraftResult]] = {
    "mx-mismatch": _result("MxMismatch", "", "The MX host is none that the policy names."),
    "certificate-mismatch": _result(
        # Appendix 3 has no CertificateMismatch. Under section 3.4 a certificate without the MX
        # host's name "did not validate according to the policy validation constraint".
        "InvalidCertificate",
        "certificate-host-mismatch",
        "The certificate does not bear the name of the MX host.",
    ),
    "invalid-certificate": _result(
        "InvalidCertificate",
        "certificate-not-trusted",
        "The certificate did not validate as the policy asks for.",
        tlsa="tlsa-invalid",
    ),
    "expired-certificate": _result(
        "ExpiredCertificate", "certificate-expired", "The certificate had expired."
    ),
    "starttls-not-supported": _result(
        "StarttlsNotSupported", "starttls-not-supported", "The MX host did not offer STARTTLS."
    ),
    "tlsa-invalid": _result("TlsaInvalid", "tlsa-invalid", "TLSA validation failed."),
    "dnssec-invalid": _result(
        "DnssecInvalid", "dnssec-invalid", "DNS records could not be validated."
    ),
    "sender-does-not-support-validation-method": _result(
        "SenderDoesNotSupportValidationMethod",
        "",
        "The sender can never validate in the way that the policy asks for.",
    ),
}

#: What reports may have as the text of `failure`, in lower case without hyphens -> slug. A slug
#: goes before another type's XML name.
NAMES: Final = {
    **{result.xml.lower(): slug for slug, result in DRAFT_RESULTS.items()},
    **{slug.replace("-", ""): slug for slug in DRAFT_RESULTS},
}

#: Result type of RFC 8460 -> slug of the draft; "" where the draft has none and none comes near.
FROM_RFC8460: Final[dict[str, str]] = {
    **{result.rfc8460: slug for slug, result in DRAFT_RESULTS.items() if result.rfc8460},
    # The widest type: "did not validate according to the policy validation constraint".
    GENERAL_FAILURE: "invalid-certificate",
    "dane-required": "tlsa-invalid",
    # Of the policy, not of an MX host: the draft has no types for these.
    "sts-policy-fetch-error": "",
    "sts-policy-invalid": "",
    "sts-webpki-invalid": "",
}
#: Result types of RFC 8460 that come back from the XML as another type.
WIDENED: Final = frozenset(
    name
    for name, slug in FROM_RFC8460.items()
    if slug and DRAFT_RESULTS[NAMES[DRAFT_RESULTS[slug].xml.lower()]].rfc8460 != name
)
