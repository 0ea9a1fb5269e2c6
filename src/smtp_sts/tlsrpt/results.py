"""The result types of RFC 8460 section 4.3: the one home of their names, numbers and meanings.

Promises: `RESULTS` holds every type the RFC registers; what it says is for the domain that reads a
report. No I/O.
"""

from __future__ import annotations

from typing import Final

import msgspec

#: Section 4.4: what kind of policy was applied.
POLICY_TYPES: Final = ("tlsa", "sts", "no-policy-found")
#: The same as libtlsrpt numbers them.
POLICY_CODES: Final = {1: "tlsa", 2: "sts", 9: "no-policy-found"}


class Result(msgspec.Struct, frozen=True):
    """A result type: libtlsrpt's number for it, what it means, and what the domain can do."""

    code: int
    meaning: str
    advice: str


RESULTS: Final[dict[str, Result]] = {
    "starttls-not-supported": Result(
        201,
        "The MX host did not offer STARTTLS, or refused it.",
        "Switch TLS on at this MX host. If it is on, something on the way to it removes STARTTLS: "
        "a firewall that inspects SMTP, or an attacker.",
    ),
    "certificate-host-mismatch": Result(
        202,
        "The certificate does not bear the name of the MX host.",
        "Give this MX host a certificate with its MX name as a subjectAltName, or correct the MX "
        "record. If only some senders see it, mail may have been led to another server.",
    ),
    "certificate-not-trusted": Result(
        203,
        "The certificate's chain does not end at a certification authority that the sender trusts; "
        "or, by DANE, no TLSA record matches it.",
        "Send the whole chain, intermediate certificates included; replace a self-signed "
        "certificate by one of a public authority. For DANE publish the TLSA record of a new key "
        "before the key goes into use.",
    ),
    "certificate-expired": Result(
        204,
        "The certificate had expired, or was not valid yet.",
        "Renew it, and reload the server so that it shows the new one. Check the clock.",
    ),
    "validation-failure": Result(
        205,
        "TLS failed for a reason that no other type covers.",
        "Look at the reason; if there is none, look for protocol versions and ciphers that the "
        "server no longer shares with the sender.",
    ),
    "sts-policy-fetch-error": Result(
        301,
        "The policy could not be fetched from the policy host.",
        "See that https://mta-sts.DOMAIN/.well-known/mta-sts.txt answers with status 200 and "
        "type text/plain, without redirects, on IPv4 and IPv6.",
    ),
    "sts-policy-invalid": Result(
        302,
        "The policy was fetched and is not valid, or names none of the MX hosts.",
        "Check the policy's lines: version, mode, max_age, and an mx for every MX host.",
    ),
    "sts-webpki-invalid": Result(
        303,
        "The certificate of the policy host did not verify.",
        "Give mta-sts.DOMAIN a valid certificate of a public authority with that name in it.",
    ),
    "tlsa-invalid": Result(
        304,
        "No TLSA record of the MX host was usable.",
        "Publish TLSA records that SMTP can use: 3 1 1, or 2 1 1 with the anchor in the chain.",
    ),
    "dnssec-invalid": Result(
        305,
        "The TLSA records could not be looked up: DNSSEC validation failed.",
        "Check the signatures and the DS record of the zone, and that denial of existence works.",
    ),
    "dane-required": Result(
        306,
        "The sender demands DANE here, and the MX host has no TLSA records that validate.",
        "Publish signed TLSA records for every MX host, or ask the sender to lift the demand.",
    ),
}
#: libtlsrpt's number -> name
CODES: Final = {result.code: name for name, result in RESULTS.items()}
#: For what is known to have failed and no more; section 4.3.3 wants a reason beside it.
GENERAL_FAILURE: Final = "validation-failure"
#: How a failure-reason-code begins where the sender's own look saw it, and not the MTA.
CHECKED: Final = "sender-check: "
#: Result type of the first draft, in its words: the MX host is none that the policy names.
MX_MISMATCH: Final = "mx-mismatch"
