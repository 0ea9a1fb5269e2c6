"""What the daemon knows of sessions that an MTA counted as without a policy. No I/O.

The MTA was told that no policy applies, and reports `no-policy-found`. The daemon knows why: there
was none, or it could not be had (RFC 8460 section 4.3.2), or it is one in testing mode, which a
reply profile for any MTA does not tell. Promises: sessions are moved, never added: none is counted
twice. Where a policy of the cache applied all the same, nothing has failed and nothing is moved.

What went wrong stands in `failure-reason-code`: `additional-information` is a URI (section 4.4).
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from smtp_sts.reporting.declared import declared_lines
from smtp_sts.reporting.matching import applied
from smtp_sts.resolver.decision import Decision
from smtp_sts.store.tallies import Tally
from smtp_sts.tlsrpt import AppliedPolicy, Failure, PolicyResult

#: Reason of a decision -> type of the policy that could not be had.
_FAULTS: Final = {
    "sts-policy-fetch-error": "sts",
    "sts-policy-invalid": "sts",
    "sts-webpki-invalid": "sts",
    "dnssec-invalid": "tlsa",
}
#: A detail that says what was seen begins with a slug; others tell of our own waiting.
_SEEN: Final = re.compile(r"[a-z][a-z0-9-]+: .")


def may_be_known(tally: Tally) -> bool:
    """Whether the daemon may know more of these sessions than the MTA."""
    # "" is the type of those that nobody could match
    return tally.result.policy.policy_type in ("", "no-policy-found")


def as_known(tally: Tally, decision: Decision | None) -> Tally:
    """The same sessions under the policy that they belong to.

    `decision` is what the daemon says of the domain now, None where it cannot be asked.
    """
    result = tally.result
    if decision is None or not may_be_known(tally):
        return tally
    if decision.outcome == "testing" and decision.draft is None:
        moved = msgspec.structs.replace(result, policy=applied(tally.domain, decision))
        return msgspec.structs.replace(tally, result=moved)
    policy_type = _FAULTS.get(decision.reason)
    if policy_type is None or decision.outcome not in ("no-policy", "temporary-failure"):
        return tally
    sessions = result.successful + result.failed
    if not sessions:
        return tally
    seen = decision.reason == "dnssec-invalid" or _SEEN.match(decision.detail)
    fault = Failure(decision.reason, sessions, failure_reason_code=decision.detail if seen else "")
    moved = PolicyResult(
        AppliedPolicy(
            policy_type,
            decision.policy_domain or tally.domain,
            declared_lines(decision.declared),
        ),
        0,
        sessions,
        # Section 4: failure types are non-exclusive; what else failed stays.
        (fault, *result.failures),
    )
    return msgspec.structs.replace(tally, result=moved)
