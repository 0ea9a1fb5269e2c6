"""What is decided for a domain, and the slugs that say why. No I/O.

The one home of outcomes and of the reasons that are not network failures (`net/failure.py` has
those).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from smtp_sts.policy import Constraint, Dialect, Policy, parse_next_hop

Outcome = Literal["enforce", "testing", "none", "no-policy", "dane", "temporary-failure"]
Source = Literal["network", "cache"]

#: reason slug -> what it means, for people.
REASONS: Final[dict[str, str]] = {
    "policy-found": "a valid policy applies",
    "no-record": "the domain publishes no MTA-STS record",
    "sts-record-invalid": "the domain's MTA-STS record is not usable, which means no policy",
    "dns-error": "the DNS gave no answer to whether there is a policy",
    "sts-policy-fetch-error": "the policy could not be fetched",
    "sts-policy-invalid": "the policy that was fetched is not valid",
    "sts-webpki-invalid": "the policy host's certificate is not valid",
    "discovery-timeout": "discovery takes too long; it goes on behind this answer",
    "overloaded": "too many discoveries are under way",
    "override": "a rule of the configuration decides",
    "tlsa-usable": "DANE applies: every MX host has TLSA records that DNSSEC proves",
    "dnssec-invalid": "the domain is signed with DNSSEC, and no valid answer tells of its MX hosts",
    "tlsa-required": "the policy asks for TLSA records that hold, as they have before",
    "never-validated": "the policy has never been met, so no mail is refused for it",
    "no-policy-domain": "the next hop is no domain that can have a policy",
}


#: outcome -> what becomes of mail, for people.
MEANINGS: Final[dict[Outcome, str]] = {
    "enforce": "mail goes only to MX hosts that the policy names, over TLS, with a certificate "
    "valid for that name; else it waits",
    "testing": "mail goes as if there was no policy; what would have failed can be reported",
    "none": "mail goes as if there was no policy: the domain has taken its own back",
    "no-policy": "mail goes as ever: over TLS where it is offered, to whoever answers",
    "dane": "an MTA that does DANE sends only to MX hosts whose certificate is the one of their "
    "TLSA records; any other goes by the policy alone",
    "temporary-failure": "mail of an MTA that does DANE waits until this can be told",
}


class Step(msgspec.Struct, frozen=True):
    """One step of a discovery: `ok` None where it is only told."""

    name: str
    ok: bool | None
    text: str


class Draft(msgspec.Struct, frozen=True):
    """What a policy of the first draft is besides (draft-margolis-smtp-sts-00).

    `text` is the record as we write it; `authentication` is its field `a`, "" where it has none.
    `authenticated`: it has proven by that to be the domain's; `applied`: an MX host has met it, so
    that it may refuse mail (section 3.4).
    """

    text: str
    constraint: Constraint
    authentication: str
    authenticated: bool
    applied: bool


class Decision(msgspec.Struct, frozen=True):
    """What applies to a policy domain.

    `fetched_at`, `expires_at` and `valid_until` are seconds since the epoch; an answer made from
    this decision may be used until `valid_until`, and never beyond `expires_at` (law 2).
    """

    policy_domain: str
    outcome: Outcome
    reason: str
    detail: str = ""
    policy: Policy | None = None
    policy_id: str = ""
    source: Source = "network"
    fetched_at: float | None = None
    expires_at: float | None = None
    valid_until: float = 0.0
    steps: tuple[Step, ...] = ()
    #: the security level of a rule of the configuration, for Postfix; with no policy only
    level: str = ""
    #: where the policy is one of the first draft
    draft: Draft | None = None
    #: some MX hosts have TLSA records and others none that is usable; never beside enforced STS
    tlsa: bool = False
    #: of a policy that is not valid, the beginning of what was served (RFC 8460 section 4.5)
    declared: str = ""
    #: why the policy in force could not be fetched anew, "" where it could: a code and words
    refresh_fault: str = ""
    refresh_detail: str = ""

    @property
    def dialect(self) -> Dialect:
        """The dialect of the policy."""
        return "rfc8461" if self.draft is None else "draft00"


#: Outcomes that leave an enforced policy in force for an MTA that is not told of DANE.
_ENFORCED: Final = ("enforce", "dane", "temporary-failure")


def enforced(decision: Decision) -> Policy | None:
    """The policy to enforce, for an MTA that looks for TLSA records itself and lets them win."""
    policy, draft = decision.policy, decision.draft
    if policy is None or policy.mode != "enforce" or decision.outcome not in _ENFORCED:
        return None
    if draft is not None and not (draft.applied and draft.constraint == "webpki"):
        return None  # draft-margolis-smtp-sts-00 section 3.4; TLSA records such an MTA finds itself
    return policy


def without_dane(decision: Decision) -> Decision:
    """The decision for an MTA that does not do DANE: what STS alone says.

    RFC 8461 section 2: a policy must not override a DANE validation that fails. A sender that does
    not do DANE has none that could fail, and enforces the policy there is; where there is none to
    enforce nothing is asked for, and TLSA records that cannot be had keep no mail waiting.
    """
    if decision.outcome not in ("dane", "temporary-failure"):
        return msgspec.structs.replace(decision, tlsa=False) if decision.tlsa else decision
    policy = decision.policy
    outcome: Outcome = "testing"  # one of the first draft that cannot be enforced by STS alone
    if policy is None:
        outcome = "no-policy"
    elif enforced(decision) is not None:
        outcome = "enforce"
    elif decision.draft is None:
        outcome = policy.mode
    return msgspec.structs.replace(decision, outcome=outcome)


def rfc3339(when: float | None) -> str | None:
    """Seconds since the epoch as an RFC 3339 time in UTC."""
    if when is None:
        return None
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def as_data(domain: str, decision: Decision, replies: dict[str, str]) -> dict[str, Any]:
    """The stable form of `smtp-sts query --json`."""
    policy = decision.policy
    return {
        "domain": domain,
        "policy_domain": decision.policy_domain,
        "next_hop": _way(domain),
        "outcome": decision.outcome,
        "reason": decision.reason,
        "detail": decision.detail or REASONS[decision.reason],
        "policy": None
        if policy is None
        else {
            "version": policy.version,
            "mode": policy.mode,
            "mx": list(policy.mx),
            "max_age": policy.max_age,
            "id": decision.policy_id,
            "dialect": decision.dialect,
            **({} if decision.draft is None else _draft_data(decision.draft)),
        },
        "from": decision.source,
        "fetched_at": rfc3339(decision.fetched_at),
        "expires_at": rfc3339(decision.expires_at),
        "replies": replies,
        "steps": [msgspec.structs.asdict(step) for step in decision.steps],
    }


def _way(next_hop: str) -> dict[str, Any]:
    """How mail gets to a next hop, as its key says: what DANE goes by."""
    where = parse_next_hop(next_hop)
    return {"port": where.port, "look_up_mx": where.look_up_mx}


def _draft_data(draft: Draft) -> dict[str, Any]:
    return {
        "constraint": draft.constraint,
        "authentication": draft.authentication,
        "authenticated": draft.authenticated,
        "applied": draft.applied,
    }
