"""Which policy a session of an old log is reported under: never one that was not applied."""

from __future__ import annotations

import msgspec
import pytest

from smtp_sts.policy import Policy
from smtp_sts.reporting.hindsight import Hindsight
from smtp_sts.reporting.outcome import Certificate, Outcome, Trouble
from smtp_sts.store import Stored
from smtp_sts.tlsrpt import AppliedPolicy

DAY = 86400.0
FETCHED = 20_000 * DAY
STS = AppliedPolicy(
    "sts",
    "bob.example",
    ("version: STSv1", "mode: enforce", "mx: mx.bob.example", "max_age: 604800"),
    ("mx.bob.example",),
)
NONE = AppliedPolicy("no-policy-found", "bob.example")
TLSA = AppliedPolicy("tlsa", "bob.example")


def _stored(mode: str = "enforce") -> Stored:
    body = f"version: STSv1\r\nmode: {mode}\r\nmx: mx.bob.example\r\nmax_age: 604800\r\n"
    return Stored("bob.example", "1", body, FETCHED, FETCHED + 7 * DAY, FETCHED + DAY, FETCHED)


def _outcome(
    tls: Certificate, trouble: str = "", *, at: float = FETCHED - DAY, domain: str = "bob.example"
) -> Outcome:
    troubles = (Trouble(trouble),) if trouble else ()
    return Outcome(at, "log", domain, bool(trouble), None, troubles, "", tls)


@pytest.mark.parametrize(
    ("outcome", "policy"),
    [
        (_outcome("verified"), STS),
        (_outcome("trusted", "certificate-host-mismatch"), STS),
        (_outcome("", "starttls-not-supported"), STS),
        # went out all the same: nobody had told the MTA of the policy yet
        (_outcome("untrusted"), NONE),
        (_outcome("anonymous"), NONE),
        (_outcome("trusted"), NONE),
        (_outcome("verified", at=FETCHED - 8 * DAY), NONE),
        (_outcome("verified", at=FETCHED + 8 * DAY), NONE),
        (_outcome("verified", "tlsa-invalid"), TLSA),
        (_outcome("", "dane-required"), TLSA),
    ],
)
def test_the_policy_that_applied(outcome: Outcome, policy: AppliedPolicy) -> None:
    found = Hindsight([_stored()])(outcome)
    assert found.policy == policy
    assert (found.failed, found.troubles) == (outcome.failed, outcome.troubles)


def test_the_longest_policy_that_a_domain_can_have_is_reported() -> None:
    """As it is kept it is longer than as it was served: each pattern has its key before it."""
    served = "version: STSv1\nmode: enforce\nmax_age: 604800\n" + "".join(
        f"mx:{n}.b.example\n" for n in range(3_600)
    )
    assert 60_000 < len(served) < 65_536
    policy = Policy.parse(served.encode())
    body = policy.render().decode()
    assert len(body) > 65_536
    found = Hindsight([msgspec.structs.replace(_stored(), body=body)])(_outcome("verified"))
    assert found.policy == AppliedPolicy("sts", "bob.example", policy.lines(), policy.mx)


@pytest.mark.parametrize("body", ["mode: none", "draft"])
def test_what_is_kept_and_is_no_policy_is_none(body: str) -> None:
    stored = _stored("none")
    if body == "draft":
        stored = Stored("bob.example", "1", "v=STS1", FETCHED, FETCHED * 2, FETCHED, FETCHED)
    assert Hindsight([stored])(_outcome("verified")).policy == NONE


def test_a_policy_that_the_source_knows_stays() -> None:
    outcome = Outcome(FETCHED, "log", "bob.example", False, TLSA)
    assert Hindsight([_stored()])(outcome) is outcome


def test_a_domain_of_which_nothing_is_kept_has_none() -> None:
    policy = Hindsight([])(_outcome("verified", domain="c.example")).policy
    assert policy == AppliedPolicy("no-policy-found", "c.example")
