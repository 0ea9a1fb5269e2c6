"""The table of draft-margolis-smtp-sts-00: a policy in the DNS, its proof and its being met
(sections 3.2 to 3.5 and appendix 1; docs/draft-00.md says what the draft leaves open).

    question or refresh -> LookUp -> DraftSeen -> a first policy is believed (draft section 3.3)
    then, behind the answers, one at a time:
      another record  -> Prove by the cached policy's mechanism -> CheckMx if both enforce -> adopt
      the same record -> CheckMx (draft section 3.4) -> Prove anew when that is due

A first policy is believed unproven ("MUST be trusted and honored"), and one that was neither proven
nor ever refused mail gives way to another such one: it is the word of whoever was first. Any other
unexpired policy is replaced only by one that proves itself by the mechanism which the cached one
names ("policies will be authenticated using the mechanism specified by the existing cached
policy"), and an enforced one that was met by another enforced one only once an MX host has met it,
too ("a freshly fetched (and unused) policy that has not successfully been applied MUST be
disregarded").
A life counts from the last fetch that was proven; no unchanged or unproven answer prolongs it, nor
does the TTL, which section 3.2 would allow (law 2).
"""

from __future__ import annotations

import hashlib
from typing import Final

from smtp_sts.config import PolicySection
from smtp_sts.policy import DraftRecord
from smtp_sts.resolver.life import events as ev
from smtp_sts.resolver.life.machine import (
    BACKOFF_DOUBLINGS,
    Next,
    Table,
    backed_off,
    from_the_future,
    refresh_time,
    replace,
)
from smtp_sts.resolver.life.state import (
    NO_REASON,
    Cached,
    Failure,
    Reason,
    Seen,
    State,
    Work,
    unexpired,
)
from smtp_sts.store.replacing import SAME_FETCH

#: MX hosts that have met a policy are looked at this often; where none has, it is tried again after
#: `recheck_interval`, doubling up to this (seconds).
CHECK_SECONDS: Final = 3600.0
#: What a report of a failure brings about happens no more often than this (seconds).
FAILURE_SECONDS: Final = 60.0
#: A report-only policy that names no lifetime lives for its TTL, within these bounds (seconds).
NO_LIFETIME: Final = (60.0, 3600.0)


def lifetime_of(record: DraftRecord, ttl: int) -> float:
    """How long a policy lives that came with a TTL (both in seconds)."""
    least, most = NO_LIFETIME
    return record.lifetime or min(max(ttl, least), most)


def digest(text: str) -> str:
    """What tells one policy from another, for people: the record has no id."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def record_of(cached: Cached) -> DraftRecord:
    """The record of a cached policy of this dialect. Raises TypeError for one of another."""
    if not isinstance(cached.policy, DraftRecord):
        raise TypeError(f"a policy of another dialect: {cached.policy!r}")
    return cached.policy


def gives_way(cached: Cached) -> bool:
    """Whether another record may take the place of a cached policy without proof: it was neither
    proven nor ever refused mail, so that nothing is weaker without it. Else a forged first policy
    kept out the domain's own for as long as it says."""
    return not cached.authenticated and not (cached.met and record_of(cached).mode == "enforce")


def better(new: Cached, old: Cached) -> bool:
    """Whether what the store holds goes before what is unexpired in memory (law 1: never the other
    way round): what is proven, then what was met, then the later fetch, as in the store itself."""
    if (
        record_of(new).text == record_of(old).text
        and abs(new.fetched_at - old.fetched_at) < SAME_FETCH
    ):
        return (new.authenticated, new.met) > (old.authenticated, old.met)
    if new.authenticated != old.authenticated:
        return new.authenticated
    if not new.authenticated and new.met != old.met:
        return new.met
    return new.fetched_at > old.fetched_at and (new.authenticated or gives_way(old))


# -- the look ------------------------------------------------------------------------------------


def _draft_seen(state: State, event: ev.DraftSeen, settings: PolicySection) -> Next:
    now, cached = event.now, unexpired(state, event.now)
    refresh = state.look is not None and state.look.refresh
    state = replace(state, look=None, look_steps=event.steps)
    if event.record is None:
        state, effects = _no_record(state, event, settings)
        return state, (*effects, *_put_off(state, now, settings, refresh=refresh))
    seen = Seen(event.record, event.secure, event.ttl)
    state = replace(state, next_check=now + settings.recheck_interval)
    effects = ()
    if cached is None or (seen.record.text != record_of(cached).text and gives_way(cached)):
        by = seen.record.authentication
        signed = by is not None and by.mechanism == "dnssec" and seen.secure
        state, effects = _adopt(state, seen, event, settings, authenticated=signed, met=False)
    state, more = _follow(state, seen, now, settings, refresh=refresh)
    if state.work is None:
        more = (*more, *_put_off(state, now, settings, refresh=refresh))
    return state, (*effects, *more)


def _no_record(state: State, event: ev.DraftSeen, settings: PolicySection) -> Next:
    """Law 1: whatever the DNS says or does not say, a cached policy applies."""
    now, reason = event.now, event.reason
    wait = settings.error_ttl if reason.code == "dns-error" else settings.negative_ttl
    effects: list[ev.Effect] = [ev.Count(f"draft-{reason.code}")]
    state = replace(state, last_failure=Failure(now, reason))
    if unexpired(state, now) is not None:
        return replace(state, next_check=now + min(wait, settings.recheck_interval)), (*effects,)
    told = ("no-policy", reason.code, reason.cause)
    if reason.code != "no-record" and told != state.told:  # none is what most have
        state = replace(state, told=told)
        effects.append(ev.Tell("draft-no-policy", reason))
    if state.cached is not None:
        effects.append(ev.RepliesAreStale())
    return replace(state, absent=reason, next_check=now + wait), (*effects,)


def _follow(
    state: State, seen: Seen, now: float, settings: PolicySection, *, refresh: bool
) -> Next:
    """What a look brings about: a proof, perhaps another policy, a check; one thing at a time."""
    cached = unexpired(state, now)
    if cached is None or state.work is not None:
        return state, ()
    if seen.record.text != record_of(cached).text:
        if now < state.retry_at:
            return state, ()
        work = Work(0, "prove", seen, record_of(cached), replaces=True, refresh=refresh)
        return _begin(state, work)
    if now >= state.next_mx_check:
        # First: a policy host that is silent must not keep the policy from being met.
        work = Work(0, "check", seen, seen.record, refresh=refresh, prove_next=True)
        return _begin(state, work)
    return _prove_if_due(state, seen, now, settings, refresh=refresh)


def _prove_if_due(
    state: State, seen: Seen, now: float, _settings: PolicySection, *, refresh: bool
) -> Next:
    cached = unexpired(state, now)
    if cached is None or now < state.retry_at or record_of(cached).text != seen.record.text:
        return state, ()
    due = refresh or now >= cached.refresh_at or from_the_future(cached, now)
    if cached.authenticated and not due:
        return state, ()
    return _begin(state, Work(0, "prove", seen, record_of(cached), refresh=refresh))


def _begin(state: State, work: Work) -> Next:
    number = state.number + 1
    state = replace(state, number=number, work=replace(work, number=number))
    seen = work.seen
    if work.doing == "check":
        return state, (ev.CheckMx(number, seen.record),)
    return state, (ev.Prove(number, seen.record, work.against.authentication, seen.secure),)


# -- proofs and checks ---------------------------------------------------------------------------


def _proof_came(state: State, event: ev.ProofCame, settings: PolicySection) -> Next:
    work, now = _work(state), event.now
    state = replace(state, work=None, proof_steps=event.steps)
    effects: ev.Effects = (ev.Count("draft-proof-good" if event.good else "draft-proof-failed"),)
    record, cached = work.seen.record, unexpired(state, now)
    if cached is not None and record_of(cached).text != work.against.text:
        more: ev.Effects = ()  # it was held against another policy than the one to be replaced
        state = replace(state, next_check=min(state.next_check, now))
    elif not event.good:
        state, more = _unproven(state, event, settings, replaces=work.replaces)
    elif work.replaces and cached is not None and _must_be_met(record, cached):
        state, more = _begin(state, replace(work, doing="check"))
    else:
        met = cached is not None and cached.met and not work.replaces
        state, more = _adopt(state, work.seen, event, settings, authenticated=True, met=met)
        if work.replaces:
            check = Work(0, "check", work.seen, record, refresh=work.refresh)
            state, begun = _begin(state, check)
            more = (*more, *begun)
    return _worked(state, (*effects, *more), work, now, settings)


def _must_be_met(record: DraftRecord, cached: Cached) -> bool:
    return record.mode == "enforce" and record_of(cached).mode == "enforce" and cached.met


def _unproven(
    state: State, event: ev.ProofCame, settings: PolicySection, *, replaces: bool
) -> Next:
    now, reason = event.now, event.reason
    if reason.code == "no-mechanism" and not replaces:
        return state, ()
    first = state.last_failure.reason != reason
    failures = state.failures + 1
    state = replace(state, last_failure=Failure(now, reason), failures=failures)
    if event.fetched:
        state = replace(state, retry_at=backed_off(now, failures, settings))
    if not first:
        return state, ()
    what: ev.What = "draft-replacement-unproven" if replaces else "draft-unproven"
    return state, (ev.Tell(what, reason, failures=failures),)


def _mx_checked(state: State, event: ev.MxChecked, settings: PolicySection) -> Next:
    work, now = _work(state), event.now
    state = replace(state, work=None, mx_steps=event.steps)
    cached = unexpired(state, now)
    effects: ev.Effects = (ev.Count(f"draft-check-{event.verdict}"),)
    more: ev.Effects = ()
    if work.replaces:
        if cached is not None and record_of(cached).text != work.against.text:
            state = replace(state, next_check=min(state.next_check, now))
        elif cached is None or event.verdict == "met":
            met = event.verdict == "met"
            state, more = _adopt(state, work.seen, event, settings, authenticated=True, met=met)
        else:
            sentence = f"another policy is proven, and no MX host meets it ({event.failure})"
            failure = Failure(now, Reason("never-validated", sentence=sentence))
            state, more = replace(state, last_failure=failure), (
                ev.Count("draft-unmet-replacement"),
            )  # fmt: skip
    elif cached is not None and record_of(cached).text == work.seen.record.text:
        state, more = _checked(state, cached, event, settings)
        if work.prove_next:
            state, begun = _prove_if_due(state, work.seen, now, settings, refresh=work.refresh)
            more = (*more, *begun)
    return _worked(state, (*effects, *more), work, now, settings)


def _checked(state: State, cached: Cached, event: ev.MxChecked, settings: PolicySection) -> Next:
    """Our own look at the MX hosts for the cached policy has ended (section 3.4)."""
    now = event.now
    if event.verdict == "met":
        state = replace(state, misses=0, next_mx_check=now + CHECK_SECONDS)
        if cached.met:
            return state, ()
        cached = replace(cached, met=True)
        state, effects = replace(state, cached=cached), _save(state, cached)
        return state, (*effects, ev.Tell("draft-met", cached=cached), ev.RepliesAreStale())
    wait = settings.recheck_interval * 2.0 ** min(state.misses, BACKOFF_DOUBLINGS)
    misses = state.misses + 1
    state = replace(state, misses=misses, next_mx_check=now + min(wait, CHECK_SECONDS))
    effects = () if cached.met else (ev.RepliesAreStale(),)  # not kept before the first check ended
    if event.verdict == "failed" and cached.met:
        # Section 3.5 step 4: "Check for a new (non-cached) authenticated policy".
        state = replace(state, next_check=min(state.next_check, now + FAILURE_SECONDS))
        if misses == 1:
            effects = (*effects, ev.Tell("draft-failed", Reason(event.failure)))
    return state, effects


def _adopt(
    state: State,
    seen: Seen,
    event: ev.DraftSeen | ev.ProofCame | ev.MxChecked,
    settings: PolicySection,
    *,
    authenticated: bool,
    met: bool,
) -> Next:
    now, record, before = event.now, seen.record, state.cached
    lifetime = lifetime_of(record, seen.ttl)
    refresh_at = refresh_time(now, lifetime, event.spread, settings)
    if record.authentication is None:
        refresh_at = now + 2.0 * lifetime  # nothing can ever prove it anew
    used_at = max(state.used_at, before.used_at if before is not None else 0.0) or now
    cached = Cached(
        record,
        digest(record.text),
        now,
        now + lifetime,
        refresh_at,
        used_at,
        authenticated,
        met,
    )
    # Of one that has expired meanwhile it counts for nothing that an MX host has met it.
    if unexpired(state, now) is None or before is None or record_of(before).text != record.text:
        state = replace(state, next_mx_check=0.0, misses=0, failures=0, retry_at=0.0)
    if authenticated:
        state = replace(state, failures=0, retry_at=0.0)
    effects: list[ev.Effect] = [ev.Count("draft-policies-fetched"), *_save(state, cached)]
    what: ev.What = "draft-policy" if authenticated else "draft-unproven-policy"
    if state.told != (told := (what, record.text)):
        effects.append(ev.Tell(what, cached=cached))
    state = replace(state, cached=cached, absent=NO_REASON, told=told)
    return state, (*effects, ev.RepliesAreStale())


def _save(state: State, cached: Cached) -> ev.Effects:
    # What the store holds, and could not say, may be better proven than this (law 1).
    return () if state.unread and not cached.authenticated else (ev.Save(cached),)


def _worked(
    state: State, effects: ev.Effects, work: Work, now: float, settings: PolicySection
) -> Next:
    if state.work is not None:
        return state, effects
    return state, (*effects, *_put_off(state, now, settings, refresh=work.refresh))


def _put_off(state: State, now: float, settings: PolicySection, *, refresh: bool) -> ev.Effects:
    """A refresh that brought no proof is tried again later, not at once."""
    cached = unexpired(state, now)
    if not refresh or (cached is not None and cached.refresh_at > now):
        return ()
    return (ev.Postpone(max(state.retry_at, now + settings.retry_interval), now),)


# -- beside --------------------------------------------------------------------------------------


def _while_cached(state: State, event: ev.Asked, _settings: PolicySection) -> Next:
    cached = unexpired(state, event.now)
    if cached is None or state.work is not None or event.now < state.next_mx_check:
        return state, ()
    record = record_of(cached)
    return _begin(state, Work(0, "check", Seen(record, secure=False, ttl=0), record))


def _mail_failed(state: State, event: ev.MailFailed, _settings: PolicySection) -> Next:
    """Before a failure is final a new policy is looked for (section 3.5 step 4)."""
    if unexpired(state, event.now) is None:
        return state, ()
    soon = max(event.now, state.last_failure.at + FAILURE_SECONDS)
    state = replace(
        state,
        next_check=min(state.next_check, soon),
        next_mx_check=min(state.next_mx_check, soon),
        retry_at=min(state.retry_at, soon),
    )
    return state, (ev.RepliesAreStale(),)


def _work(state: State) -> Work:
    if state.work is None:
        raise ValueError("an answer of a proof or check came where none is under way")
    return state.work


DRAFT00: Final = Table(
    "draft00",
    {
        ev.DraftSeen: _draft_seen,
        ev.ProofCame: _proof_came,
        ev.MxChecked: _mx_checked,
        ev.MailFailed: _mail_failed,
    },
    replaces=better,
    while_cached=_while_cached,
)

__all__ = ["DRAFT00", "better", "digest", "gives_way", "lifetime_of", "record_of"]
