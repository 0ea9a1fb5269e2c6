"""Which policy applied to a session of an old log, as far as that can be told afterwards. No I/O.

Promises: a policy is named only where the log shows that it was kept to, or broken: mail that went
out over a session that was not verified did so without a policy, whatever the domain publishes
today. No session that the log calls good comes out as failed. Must not: guess at domains in testing
mode: MTAs do not look at what would fail there.
A policy that the store keeps counts for as long before its last fetch as it lasts (`max_age`): a
policy in use is fetched daily, and its id alone is not kept for each day.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from smtp_sts.policy import Policy
from smtp_sts.reporting.outcome import Outcome
from smtp_sts.resolver.stored import from_store
from smtp_sts.store import Stored
from smtp_sts.tlsrpt import AppliedPolicy

#: Results that only a DANE policy has (RFC 8460 section 4.3.2.1).
_DANE: Final = ("tlsa-invalid", "dnssec-invalid", "dane-required")


class Hindsight:
    """Gives each outcome of a log a policy; `policies` are what the store keeps."""

    def __init__(self, policies: Iterable[Stored]) -> None:
        self._stored = {stored.domain: stored for stored in policies}
        #: domain -> from when on, until when, and the policy
        self._known: dict[str, tuple[float, float, AppliedPolicy] | None] = {}

    def __call__(self, outcome: Outcome) -> Outcome:
        """The outcome with the policy that applied."""
        if outcome.policy is not None:
            return outcome
        return msgspec.structs.replace(outcome, policy=self._applied(outcome))

    def _applied(self, outcome: Outcome) -> AppliedPolicy:
        domain = outcome.domain
        if outcome.failed and any(t.result_type in _DANE for t in outcome.troubles):
            return AppliedPolicy("tlsa", domain)
        if outcome.failed or outcome.tls == "verified":
            known = self._policy(domain)
            if known is not None and known[0] <= outcome.at <= known[1]:
                return known[2]
        return AppliedPolicy("no-policy-found", domain)

    def _policy(self, domain: str) -> tuple[float, float, AppliedPolicy] | None:
        if domain in self._known:
            return self._known[domain]
        stored = self._stored.get(domain)
        found = None
        cached = from_store(stored) if stored is not None else None
        policy = cached.policy if cached is not None else None
        # One of the first draft has no reports of this form.
        if cached is not None and isinstance(policy, Policy) and policy.mode != "none":
            applied = AppliedPolicy("sts", domain, policy.lines(), policy.mx)
            found = (cached.fetched_at - policy.max_age, cached.expires_at, applied)
        self._known[domain] = found
        return found
