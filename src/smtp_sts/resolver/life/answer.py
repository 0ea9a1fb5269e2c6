"""What a state means for mail, as of now. No I/O; nothing is changed.

An answer is always made from the state of this very moment, never from what was read before
something was waited for.
"""

from __future__ import annotations

from typing import Final

import msgspec

from smtp_sts.policy import DraftRecord, Policy
from smtp_sts.resolver.decision import Decision, Draft, Outcome, Source, Step
from smtp_sts.resolver.life.draft00 import record_of
from smtp_sts.resolver.life.state import NO_REASON, Cached, Reason, State, unexpired
from smtp_sts.resolver.upkeep import Renewal, Upkeep

#: While a look is due or under way an answer is kept no longer, so that what it finds is used soon
#: (seconds).
SHORTLY: Final = 1.0


def applies(
    domain: str, state: State, now: float, source: Source, *, dane: bool
) -> Decision | None:
    """The decision where a policy is in force; `dane`: TLSA records can be looked for."""
    cached = unexpired(state, now)
    if cached is None:
        return None
    decision = of_policy(domain, cached, dane=dane, source=source, steps=state.steps)
    until = min(cached.expires_at, max(state.next_check, now + SHORTLY))
    if decision.reason == "never-validated" and state.work is not None:
        until = 0.0  # not at all before the first check of the MX hosts has ended
    if state.failures and decision.draft is None:
        fault = state.fetch_failure
        return msgspec.structs.replace(
            decision, valid_until=until, refresh_fault=fault.code, refresh_detail=fault.detail
        )
    return msgspec.structs.replace(decision, valid_until=until)


def answerable(state: State, now: float) -> bool:
    """Whether there is an answer that has not to be waited for."""
    if state.reading:
        return False
    if unexpired(state, now) is not None:
        return True
    return state.look is None and state.absent is not NO_REASON and now < state.next_check


def answer(domain: str, state: State, now: float, source: Source, *, dane: bool) -> Decision | None:
    """The decision; None where it has to be waited for (or `overdue` is all there is to say)."""
    if not answerable(state, now):
        return None
    decision = applies(domain, state, now, source, dane=dane)
    if decision is not None:
        return decision
    until = 0.0 if state.unread else state.next_check
    return _none(domain, state.absent, source, until, state.steps)


def just_fetched(domain: str, state: State, asked: float, *, dane: bool) -> Decision | None:
    """The decision for mail that was asked about at a time, by a policy that was fetched for it and
    whose life is over already (max_age 0, or a slow disk); it is not to be kept."""
    cached = state.cached
    if cached is None or cached.fetched_at < asked:
        return None
    return of_policy(domain, cached, dane=dane, source="network", steps=state.steps)


def overdue(domain: str, state: State, now: float, reason: str, *, dane: bool) -> Decision:
    """The decision where nothing is waited for any longer: what is known, else the mail goes for
    `reason` (law 4)."""
    return applies(domain, state, now, "cache", dane=dane) or _none(
        domain, Reason(reason), "network", 0.0, ()
    )


def _none(
    domain: str, reason: Reason, source: Source, until: float, steps: tuple[Step, ...]
) -> Decision:
    return Decision(
        domain,
        "no-policy",
        reason.code,
        reason.detail,
        source=source,
        valid_until=until,
        steps=steps,
        declared=reason.declared,
    )


def of_policy(
    domain: str, cached: Cached, *, dane: bool, source: Source, steps: tuple[Step, ...] = ()
) -> Decision:
    """What an unexpired policy asks for, of either dialect."""
    if isinstance(cached.policy, Policy):
        return _rfc8461(domain, cached, cached.policy, source, steps)
    return _draft00(domain, cached, record_of(cached), (source, steps), dane=dane)


def _rfc8461(
    domain: str, cached: Cached, policy: Policy, source: Source, steps: tuple[Step, ...]
) -> Decision:
    return Decision(
        policy_domain=domain,
        outcome=policy.mode,
        reason="policy-found",
        policy=policy,
        policy_id=cached.id,
        source=source,
        fetched_at=cached.fetched_at,
        expires_at=cached.expires_at,
        steps=steps,
    )


def _draft00(
    domain: str,
    cached: Cached,
    record: DraftRecord,
    how: tuple[Source, tuple[Step, ...]],
    *,
    dane: bool,
) -> Decision:
    tlsa = record.constraint == "tlsa"
    binding = record.mode == "enforce" and cached.met and (dane or not tlsa)
    outcome: Outcome = record.mode
    reason = "policy-found"
    if record.mode == "enforce" and not binding:
        # Section 3.4: "a policy which has not ever been successfully validated MUST not be used to
        # reject mail"; a sender that cannot validate by it behaves as if it had not been.
        outcome, reason = "testing", "never-validated"
    elif binding and tlsa:
        outcome, reason = "dane", "tlsa-required"
    age = round(cached.expires_at - cached.fetched_at)
    return Decision(
        domain,
        outcome,
        reason,
        policy=msgspec.structs.replace(record.policy, max_age=age),
        policy_id=cached.id,
        source=how[0],
        fetched_at=cached.fetched_at,
        expires_at=cached.expires_at,
        steps=how[1],
        draft=Draft(
            record.render(),
            record.constraint,
            record.authentication.render() if record.authentication else "",
            cached.authenticated,
            cached.met,
        ),
    )


def upkeep_of(state: State) -> Upkeep:
    """How the upkeep of a domain goes, for an operator."""
    failure = state.last_failure
    return Upkeep(
        state.used_at,
        state.next_check,
        state.retry_at,
        state.failures,
        failure.at,
        failure.reason.code,
        failure.reason.detail,
    )


def renewal_of(state: State, began: float) -> Renewal:
    """What came of a fetch that an operator wanted at a time."""
    if state.cached is not None and state.cached.fetched_at >= began:
        return Renewal("fetched")
    reason = state.last_failure.reason
    if reason is NO_REASON:
        return Renewal("overloaded")
    return Renewal("failed", reason.code, reason.detail, state.retry_at)
