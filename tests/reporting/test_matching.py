"""A log's word on a session, under the policy that the daemon answered with."""

from __future__ import annotations

import pytest

from smtp_sts.policy import Policy
from smtp_sts.reporting.matching import applied, judged
from smtp_sts.reporting.outcome import Certificate, Outcome, Trouble
from smtp_sts.resolver.decision import Decision
from smtp_sts.resolver.decision import Outcome as Decided
from smtp_sts.tlsrpt import AppliedPolicy

ENFORCE = Policy("enforce", ("mx.bob.example",), 86400)
TESTING = Policy("testing", ("mx.bob.example",), 86400)


def _decision(outcome: Decided) -> Decision:
    policy = {"enforce": ENFORCE, "testing": TESTING}.get(outcome)
    return Decision("bob.example", outcome, "policy-found", policy=policy)


def _session(tls: Certificate, *troubles: Trouble) -> Outcome:
    return Outcome(
        1.0, "log", "bob.example", bool(troubles), None, troubles, "", tls, "mx.bob.example",
        "192.0.2.2",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "tls", "result_type"),
    [
        ("enforce", "verified", ""),
        ("enforce", "trusted", "certificate-host-mismatch"),
        ("enforce", "untrusted", "certificate-not-trusted"),
        ("enforce", "anonymous", "certificate-not-trusted"),
        ("enforce", "", ""),
        ("dane", "verified", ""),
        ("dane", "trusted", ""),
        ("temporary-failure", "untrusted", ""),
        ("testing", "verified", ""),
        ("testing", "trusted", ""),
        ("testing", "untrusted", "certificate-not-trusted"),
        ("testing", "anonymous", ""),
        ("no-policy", "anonymous", ""),
        ("none", "untrusted", ""),
    ],
)
def test_verdicts(outcome: Decided, tls: Certificate, result_type: str) -> None:
    found = judged(_session(tls), _decision(outcome))
    assert found.failed == bool(result_type)
    assert [t.result_type for t in found.troubles] == ([result_type] if result_type else [])
    if found.troubles:
        trouble = found.troubles[0]
        assert (trouble.receiving_mx_hostname, trouble.receiving_ip) == (
            "mx.bob.example",
            "192.0.2.2",
        )


@pytest.mark.parametrize(
    ("policy", "policy_type", "result_type"),
    [(None, "no-policy-found", ""), (ENFORCE, "sts", "certificate-host-mismatch"),
     (TESTING, "sts", "")],
)  # fmt: skip
def test_an_mta_that_lets_mail_out_which_dane_holds_back_goes_by_sts_alone(
    policy: Policy | None, policy_type: str, result_type: str
) -> None:
    decision = Decision("bob.example", "dane", "tlsa-usable", policy=policy)
    found = judged(_session("trusted"), decision)
    assert found.policy is not None
    assert found.policy.policy_type == policy_type
    assert [t.result_type for t in found.troubles] == ([result_type] if result_type else [])
    kept = judged(_session("verified"), decision).policy
    assert kept is not None
    assert kept.policy_type == "tlsa"


def test_what_the_mta_refused_stays_refused() -> None:
    expired = Trouble("certificate-expired", receiving_ip="192.0.2.2")
    found = judged(_session("untrusted", expired), _decision("enforce"))
    assert found.troubles == (expired,)


def test_policies_are_as_postfix_reports_them() -> None:
    assert applied("bob.example", _decision("enforce")) == AppliedPolicy(
        "sts",
        "bob.example",
        ("version: STSv1", "mode: enforce", "mx: mx.bob.example", "max_age: 86400"),
        ("mx.bob.example",),
    )
    assert applied("bob.example", _decision("dane")).policy_type == "tlsa"
    for decision in (None, _decision("no-policy"), _decision("none")):
        assert applied("bob.example", decision) == AppliedPolicy("no-policy-found", "bob.example")
