"""The table of RFC 8461: from the TXT record to the policy (sections 3.1 to 3.3, 5.1 and 10.2).

    question or refresh -> LookUp -> RecordSeen -> AwaitTurn -> TurnCame -> Fetch -> PolicyFetched
                                        |                          |          |
                        none, or id unchanged: end     fetched by another   FetchFailed: end

A refresh fetches though there is no record (section 10.2: "a refresh must not depend on DNS"), and
a record with the id of the cached policy fetches nothing (section 5.1).
"""

from __future__ import annotations

from typing import Final

from smtp_sts.config import PolicySection
from smtp_sts.policy import Policy
from smtp_sts.resolver.decision import Step
from smtp_sts.resolver.life import events as ev
from smtp_sts.resolver.life.machine import (
    Next,
    Table,
    backed_off,
    nothing,
    refresh_time,
    replace,
    shared,
)
from smtp_sts.resolver.life.state import (
    NO_REASON,
    Cached,
    Failure,
    Look,
    Reason,
    State,
    unexpired,
)

#: What the log tells of a domain without a record.
_NO_RECORD: Final = ("no-policy", "no-record", "")
#: How long a daemon lets another one fetch a policy before it does so itself (seconds): where an
#: answer waits for it, and where a policy is at hand.
CLAIM_PATIENCE: Final = 2.0
REFRESH_PATIENCE: Final = 20.0
#: Why no policy was fetched, where the last attempt is not known any more.
_WAITS: Final = Reason("sts-policy-fetch-error", sentence="the next attempt waits")


def _record_seen(state: State, event: ev.RecordSeen, settings: PolicySection) -> Next:
    look = _look(state)
    now, cached = event.now, unexpired(state, event.now)
    refresh = look.refresh and cached is not None
    state = replace(state, look_steps=event.steps)
    if not event.id and not refresh:
        return _failed(state, event.reason, now, settings)
    if cached is not None and event.id == cached.id and not refresh:
        return _unchanged(state, now, settings)
    if now < state.retry_at:  # section 3.3: not within five minutes of the last attempt
        state, effects = _failed(state, _why_waits(state), now, settings, waits=True)
        return state, (ev.Count("fetch-waits"), *effects)
    number = state.number + 1
    before = cached.fetched_at if cached is not None else 0.0
    state = replace(state, number=number, look=Look(number, look.refresh, event.id, before))
    patience = CLAIM_PATIENCE if cached is None else REFRESH_PATIENCE
    return state, (ev.AwaitTurn(number, patience),)


def _turn_came(state: State, event: ev.TurnCame, settings: PolicySection) -> Next:
    look = _look(state)
    effects: ev.Effects = ()
    if event.kept is not None:
        state, effects = shared(RFC8461, state, event.kept, event.now, settings)
    cached = unexpired(state, event.now)
    fetched = cached is not None and cached.fetched_at > look.fetched_before
    if cached is not None and fetched and look.record_id in ("", cached.id):
        text = Step("policy", True, "another daemon has just fetched it")
        state = replace(state, look_steps=(*state.look_steps, text))
        state, more = _unchanged(state, event.now, settings)
        return state, (*effects, *more)
    number = state.number + 1
    state = replace(state, number=number, look=replace(look, number=number))
    return state, (*effects, ev.Fetch(number))


def _policy_fetched(state: State, event: ev.PolicyFetched, settings: PolicySection) -> Next:
    look = _look(state)
    now, policy, before = event.now, event.policy, state.cached
    lifetime = float(policy.max_age)
    cached = Cached(
        policy,
        look.record_id or (before.id if before is not None else ""),
        fetched_at=now,
        expires_at=now + lifetime,
        refresh_at=refresh_time(now, lifetime, event.spread, settings),
        used_at=max(state.used_at, before.used_at if before is not None else 0.0) or now,
    )
    effects: list[ev.Effect] = [ev.Count("refresh-good")] if look.refresh else []
    effects += [ev.Count("policies-fetched"), ev.Save(cached, event.text)]
    if state.told != policy:
        effects.append(ev.Tell("policy", cached=cached))
    state = replace(
        state,
        unread=False,
        cached=cached,
        absent=NO_REASON,
        look=None,
        look_steps=(*state.look_steps, *event.steps),
        next_check=now + settings.recheck_interval,
        retry_at=0.0,
        failures=0,
        told=policy,
    )
    return state, (*effects, ev.RepliesAreStale())


def _fetch_failed(state: State, event: ev.FetchFailed, settings: PolicySection) -> Next:
    now, failures = event.now, state.failures + 1
    retry_at = now + settings.retry_interval
    if (cached := unexpired(state, now)) is not None:
        # A policy at hand gives time; but when it is over, nothing is put off any more.
        retry_at = max(retry_at, min(backed_off(now, failures, settings), cached.expires_at))
    state = replace(
        state,
        look_steps=(*state.look_steps, *event.steps),
        failures=failures,
        fetch_failure=event.reason,
        retry_at=retry_at,
    )
    state, effects = _failed(state, event.reason, now, settings, fetched=True)
    return state, (ev.Count(f"fetch-{event.reason.code}"), *effects)


def _failed(
    state: State,
    reason: Reason,
    now: float,
    settings: PolicySection,
    *,
    fetched: bool = False,
    waits: bool = False,
) -> Next:
    """A look that found no policy has ended."""
    look, cached = _look(state), unexpired(state, now)
    effects: list[ev.Effect] = [] if waits else [ev.Count(reason.code)]
    if look.refresh:
        effects.append(ev.Count("refresh-failed"))
    state = replace(state, look=None, last_failure=Failure(now, reason))
    if cached is not None:
        # Law 1. Section 3.3: without a live policy, but with a valid cached one, "MUST apply that".
        next_check = now + min(settings.error_ttl, settings.recheck_interval)
        if fetched:
            next_check = max(next_check, state.retry_at)
            effects.append(ev.Postpone(state.retry_at, cached.fetched_at))
            if isinstance(cached.policy, Policy) and cached.policy.mode != "none":  # 3.3, 10.2
                effects.append(ev.Tell("refresh-failed", reason, cached, state.failures))
        return replace(state, next_check=next_check), tuple(effects)
    if reason.code == "dns-error":
        next_check = now + settings.error_ttl
    elif reason.code in ("no-record", "sts-record-invalid"):
        next_check = now + settings.negative_ttl
    else:
        next_check = max(now + settings.error_ttl, state.retry_at)
    # Judged by slugs: a stranger's words that change with each look are no other decision. That an
    # unknown domain has no record is what most have, and worth no line.
    told = ("no-policy", reason.code, reason.cause)
    if reason.code == "no-record":
        told = _NO_RECORD  # one for all: most domains have none
    if told != state.told and (reason.code != "no-record" or state.told):
        effects.append(ev.Tell("no-policy", reason))
    if state.cached is not None:
        effects.append(ev.RepliesAreStale())
    if look.refresh:
        effects.append(ev.Postpone(now + settings.retry_interval, now))
    return replace(state, absent=reason, next_check=next_check, told=told), tuple(effects)


def _unchanged(state: State, now: float, settings: PolicySection) -> Next:
    """The cached policy is still the domain's; that prolongs nothing (law 2)."""
    return replace(state, look=None, next_check=now + settings.recheck_interval), ()


def _answer_overdue(state: State, _event: ev.AnswerOverdue, _settings: PolicySection) -> Next:
    if isinstance(state.told, tuple) and state.told:  # once, not with each question
        return state, ()
    reason = Reason("discovery-timeout", sentence="it goes on")
    return replace(state, told=("no-policy", reason.code, "")), (ev.Tell("no-policy", reason),)


def _why_waits(state: State) -> Reason:
    return state.fetch_failure if state.fetch_failure is not NO_REASON else _WAITS


def _look(state: State) -> Look:
    if state.look is None:
        raise ValueError("an answer of a look came where none is under way")
    return state.look


def _fetched_later(new: Cached, old: Cached) -> bool:
    return new.fetched_at > old.fetched_at


RFC8461: Final = Table(
    "rfc8461",
    {
        ev.RecordSeen: _record_seen,
        ev.TurnCame: _turn_came,
        ev.PolicyFetched: _policy_fetched,
        ev.FetchFailed: _fetch_failed,
        ev.AnswerOverdue: _answer_overdue,
    },
    replaces=_fetched_later,
    while_cached=nothing,
)
