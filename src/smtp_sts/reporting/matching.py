"""What the log of an MTA says of a session, held against what the daemon answered. No I/O.

A log does not know the policy, and calls a session good that the policy would not (RFC 8461 section
4.2). Promises: each outcome comes out with a policy and the verdict of that policy. Must not: judge
a domain in testing mode by what its MTA did not look at: that is for our own look at the MX host.
"""

from __future__ import annotations

from typing import Final

import msgspec

from smtp_sts.reporting.outcome import Certificate, Outcome, Trouble
from smtp_sts.resolver.decision import Decision, without_dane
from smtp_sts.tlsrpt import AppliedPolicy

#: What a certificate that was not verified lacks, where a policy wants it verified.
_LACKS: Final[dict[Certificate, str]] = {
    "trusted": "certificate-host-mismatch",
    "untrusted": "certificate-not-trusted",
    "anonymous": "certificate-not-trusted",
}


def applied(domain: str, decision: Decision | None) -> AppliedPolicy:
    """The policy that was applied to mail for `domain`, as a report has it (RFC 8460 section 4.4).

    None is for a daemon that could not be asked, and the same as no policy.
    """
    if decision is None:
        return AppliedPolicy("no-policy-found", domain)
    policy, draft = decision.policy, decision.draft
    # DANE of itself, and not by the word of a policy of the first draft (its c=tlsa)
    dane = decision.outcome in ("dane", "temporary-failure")
    if dane and (draft is None or decision.reason != "tlsa-required"):
        return AppliedPolicy("tlsa", decision.policy_domain)
    if policy is None or decision.outcome not in ("enforce", "testing", "dane"):
        return AppliedPolicy("no-policy-found", domain)
    # Of the first draft the text says where its reports go (`reporting/draft00.py`).
    lines = tuple(policy.lines()) if draft is None else (draft.text,)
    return AppliedPolicy("sts", decision.policy_domain, lines, policy.mx)


def judged(outcome: Outcome, decision: Decision | None) -> Outcome:
    """The outcome under the policy that applied."""
    if decision is not None and not outcome.failed and outcome.tls not in ("", "verified"):
        # Mail went out: whoever does DANE would have held it back, so this MTA does not.
        decision = without_dane(decision)
    outcome = msgspec.structs.replace(outcome, policy=applied(outcome.domain, decision))
    if outcome.failed or decision is None or outcome.tls in ("", "verified"):
        return outcome
    if decision.outcome == "enforce":
        return _failed(outcome, _LACKS[outcome.tls])
    if decision.outcome == "testing" and outcome.tls == "untrusted":
        # at the level `may` Postfix looks at the chain, and not at the name
        return _failed(outcome, "certificate-not-trusted")
    return outcome


def _failed(outcome: Outcome, result_type: str) -> Outcome:
    trouble = Trouble(
        result_type,
        receiving_mx_hostname=outcome.mx_host,
        receiving_ip=outcome.mx_ip,
    )
    return msgspec.structs.replace(outcome, failed=True, troubles=(trouble,))
