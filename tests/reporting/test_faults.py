"""One fault has one result type, whoever has seen it (RFC 8460 section 4.3)."""

from __future__ import annotations

import json

import pytest

from smtp_sts.dane.faults import FAULTS, as_fault
from smtp_sts.net.failure import CAUSES
from smtp_sts.reporting.datagram import parse
from smtp_sts.tlsrpt import RESULTS


def test_every_fault_has_a_type_that_there_is() -> None:
    assert set(FAULTS.values()) <= set(RESULTS)


@pytest.mark.parametrize("slug", [slug for slug in CAUSES if slug.startswith("certificate-")])
def test_every_fault_of_a_certificate_that_openssl_finds_has_a_type(slug: str) -> None:
    assert FAULTS[slug] in RESULTS


@pytest.mark.parametrize(
    ("code", "reason", "result"),
    [
        (205, "self-signed_certificate", FAULTS["certificate-self-signed"]),
        (205, "other", "validation-failure"),
        (203, "", FAULTS["certificate-unmatched"]),
        (204, "certificate not yet valid", FAULTS["certificate-not-yet-valid"]),
    ],
)
def test_what_postfix_tells_has_the_type_of_the_table(code: int, reason: str, result: str) -> None:
    details = [{"c": code, "f": reason}]
    policy = {"policy-type": 2, "policy-domain": "b.example", "failure-details": details, "f": 1}
    data = {"d": "b.example", "pr": "v=TLSRPTv1; rua=mailto:r@x.example", "policies": [policy]}
    (outcome,) = parse(json.dumps(data).encode(), 0.0)
    assert [trouble.result_type for trouble in outcome.troubles] == [result]
    assert as_fault("certificate-expired", "self-signed_certificate") == "certificate-expired"
