"""Sessions that an MTA counts as without a policy stand under the one that the daemon knows of."""

from __future__ import annotations

import pytest

from smtp_sts.policy import Policy
from smtp_sts.reporting.looks import outside
from smtp_sts.reporting.own_knowledge import as_known
from smtp_sts.resolver.decision import Decision
from smtp_sts.store.tallies import Tally
from smtp_sts.tlsrpt import AppliedPolicy, Failure, PolicyResult
from smtp_sts.tlsrpt.results import RESULTS

NONE = AppliedPolicy("no-policy-found", "bob.example")
TEXT = b"version: STSv1\nmode: %s\nmx: *.bob.example\nmax_age: 86400\n"
REFUSED = "tcp-refused: mta-sts.bob.example: connection refused"


def _tally(policy: AppliedPolicy = NONE, failures: tuple[Failure, ...] = ()) -> Tally:
    failed = sum(f.failed_session_count for f in failures)
    return Tally(1, "bob.example", "v=TLSRPTv1; rua=mailto:r@bob.example",
                 PolicyResult(policy, 5, failed, failures))  # fmt: skip


def _decision(reason: str, detail: str = "", outcome: str = "no-policy") -> Decision:
    return Decision("bob.example", outcome, reason, detail)  # type: ignore[arg-type]


def _with_policy(mode: str) -> Decision:
    policy = Policy.parse(TEXT % mode.encode())
    return Decision("bob.example", mode, "policy-found", policy=policy)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "reason", ["sts-policy-fetch-error", "sts-policy-invalid", "sts-webpki-invalid"]
)
def test_a_policy_that_could_not_be_had_is_the_failure_of_each_session(reason: str) -> None:
    tally = as_known(_tally(), _decision(reason, REFUSED))
    assert tally.result == PolicyResult(
        AppliedPolicy("sts", "bob.example"), 0, 5,
        (Failure(reason, 5, failure_reason_code=REFUSED),),
    )  # fmt: skip
    assert (tally.day, tally.domain, tally.record) == (1, "bob.example", _tally().record)
    assert reason in RESULTS


def test_what_else_failed_stays_and_no_session_is_added() -> None:
    other = Failure("starttls-not-supported", 2)
    result = as_known(_tally(failures=(other,)), _decision("sts-policy-invalid")).result
    assert (result.successful, result.failed) == (0, 7)
    assert result.failures == (Failure("sts-policy-invalid", 7), other)


def test_our_own_waiting_is_no_reason_to_tell() -> None:
    waits = "the last fetch failed less than five minutes ago; the next one waits"
    (failure,) = as_known(_tally(), _decision("sts-policy-fetch-error", waits)).result.failures
    assert failure.failure_reason_code == ""


def test_a_domain_whose_dnssec_does_not_validate() -> None:
    decision = _decision("dnssec-invalid", "bob.example is signed, and ...", "temporary-failure")
    result = as_known(_tally(), decision).result
    assert result.policy == AppliedPolicy("tlsa", "bob.example")
    assert [f.result_type for f in result.failures] == ["dnssec-invalid"]


def test_a_policy_in_testing_mode_that_the_mta_was_not_told() -> None:
    result = as_known(_tally(), _with_policy("testing")).result
    assert (result.successful, result.failed) == (5, 0)
    assert "mode: testing" in result.policy.policy_string
    assert result.policy.mx_host == ("*.bob.example",)


@pytest.mark.parametrize(
    "decision",
    [None, _decision("no-record"), _decision("dns-error"), _decision("discovery-timeout"),
     _with_policy("enforce"), _with_policy("none")],
)  # fmt: skip
def test_else_the_mtas_word_stands(decision: Decision | None) -> None:
    assert as_known(_tally(), decision) == _tally()


def test_sessions_under_a_policy_are_left_alone() -> None:
    tally = _tally(AppliedPolicy("sts", "bob.example", ("mode: enforce",)))
    assert as_known(tally, _decision("sts-policy-fetch-error", REFUSED)) == tally


def test_mx_hosts_outside_an_enforced_policy_are_failures() -> None:
    hosts = ["mx.bob.example", "a.b.bob.example", "mx.mallory.example"]
    tally = outside("bob.example", _with_policy("enforce"), hosts, 7)
    assert tally is not None
    assert (tally.day, tally.result.successful, tally.result.failed) == (7, 0, 2)
    assert tally.result.policy.mx_host == ("*.bob.example",)
    assert [
        (f.result_type, f.receiving_mx_hostname, f.failure_reason_code)
        for f in tally.result.failures
    ] == [("validation-failure", host, "sender-check: mx-mismatch") for host in hosts[1:]]
    assert outside("bob.example", _with_policy("enforce"), hosts[:1], 7) is None
