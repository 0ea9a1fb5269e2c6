"""What becomes of a domain's policy: `step`, from a state and an event to the next state and the
effects wanted. No I/O, no clock, no random numbers: everything comes in with the event.

Everything that changes what is known of a domain is in this file and the two tables beside it
(`rfc8461.py`, `draft00.py`). The rules, whichever event comes in whichever order:

1. What is unexpired is replaced or removed only by a policy that was fetched later and
   authenticated, by what the store holds of such a one, or by an operator's purge (law 1). In the
   first draft, by the rules of its section 3.3: `draft00.py`.
2. `expires_at` is written where a policy was fetched, and nowhere else (law 2).
3. One look at a time; `look` is None again after its last answer, after `Broke` and after `Purged`.
4. An answer with a number that is not waited for changes nothing but a count.
5. Whenever no policy applies and none is looked for, `absent` says why or the next question looks
   (law 4: there is always an answer).
6. Between a failed fetch and the next lie `retry_interval` seconds at least, unless an operator
   says otherwise (RFC 8461 section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from smtp_sts.config import PolicySection
from smtp_sts.policy import Dialect
from smtp_sts.resolver.life import events as ev
from smtp_sts.resolver.life.state import (
    NEW,
    NO_REASON,
    Cached,
    Look,
    Reason,
    State,
    unexpired,
)

#: The used time of a policy is written when it is older than this (seconds).
TOUCH_SECONDS: Final = 6 * 3600.0
#: A fetch that lies further in the future was timed by a wrong clock (seconds).
FUTURE_SECONDS: Final = 60.0
#: Failed attempts back off from `retry_interval` by doubling, so many times at most.
BACKOFF_DOUBLINGS: Final = 4

Next = tuple[State, ev.Effects]
Handler = Callable[[State, Any, PolicySection], Next]

replace = msgspec.structs.replace


class Table(msgspec.Struct, frozen=True):
    """What a dialect adds.

    `handlers` are for the events that only this dialect has, or has otherwise. `replaces(new, old)`
    says whether what the store holds takes the place of an unexpired policy. `while_cached` is what
    a question brings about beside the look at the record.
    """

    dialect: Dialect
    handlers: Mapping[type[ev.Event], Handler]
    replaces: Callable[[Cached, Cached], bool]
    while_cached: Handler


def step(table: Table, state: State, event: ev.Event, settings: PolicySection) -> Next:
    """The next state, and what is wanted because of it, in the order in which it is to be done."""
    if isinstance(event, ev.Answer) and not _awaited(state, event.number):
        return state, (ev.Count("late-answers"),)
    if isinstance(event, ev.Asked):
        return _asked(table, state, event, settings)
    if isinstance(event, ev.UpkeepBegins):
        return _read(state) if state.unread else (state, ())
    if isinstance(event, ev.StoreRead | ev.StoreFailed):
        return _store_answered(table, state, event, settings)
    if isinstance(event, ev.Shared):
        return shared(table, state, event.cached, event.now, settings)
    if (handler := table.handlers.get(type(event))) is not None:
        return handler(state, event, settings)
    return _COMMON[type(event)](state, event, settings)


def _awaited(state: State, number: int) -> bool:
    return number > 0 and (
        number == state.reading
        or (state.look is not None and number == state.look.number)
        or (state.work is not None and number == state.work.number)
    )


# -- questions and the store --------------------------------------------------------------------


def _asked(table: Table, state: State, event: ev.Asked, settings: PolicySection) -> Next:
    state = replace(state, used_at=event.now)
    if not state.unread:
        return _due(table, state, event.now, settings)
    return _read(replace(state, asked=True))


def _read(state: State) -> Next:
    if state.reading:
        return state, ()
    number = state.number + 1
    return replace(state, number=number, reading=number), (ev.Read(number),)


def _store_answered(
    table: Table, state: State, event: ev.StoreRead | ev.StoreFailed, settings: PolicySection
) -> Next:
    asked, state = state.asked, replace(state, reading=0, asked=False)
    effects: ev.Effects = ()
    if isinstance(event, ev.StoreRead):
        cached, kept = unexpired(state, event.now), event.cached
        state = replace(state, unread=False)
        # What the store holds was there first: what was believed while it was away stays only where
        # it might have taken its place (law 1).
        if kept is not None and (
            cached is None or (event.now < kept.expires_at and not table.replaces(cached, kept))
        ):
            state = replace(state, cached=kept, absent=NO_REASON, told=kept.policy)
            if cached is not None and cached != kept:
                effects = (ev.RepliesAreStale(),)  # they say what was believed meanwhile
        elif cached is not None:  # it was believed while the store was away
            effects = (ev.SaveAgain(cached),)
    if not asked:
        return state, effects
    # Without the store it goes on: what cannot be known is looked for (law 4).
    state, more = _due(table, state, event.now, settings)
    return state, effects + more


def _due(table: Table, state: State, now: float, settings: PolicySection) -> Next:
    """What a question brings about, once the store has answered or cannot."""
    cached = unexpired(state, now)
    if cached is None:
        known = state.absent is not NO_REASON and now < state.next_check
        return (state, ()) if state.look is not None or known else start_look(state)
    effects: ev.Effects = ()
    if now - cached.used_at > TOUCH_SECONDS:
        cached = replace(cached, used_at=now)
        state, effects = replace(state, cached=cached), (ev.Touch(now),)
    if state.look is None and now >= state.next_check:
        # Fetched in the future, so by a wrong clock: what it says of its life is no more than a
        # guess. It protects (law 1), and is fetched anew.
        state, more = start_look(state, refresh=from_the_future(cached, now))
    else:
        state, more = table.while_cached(state, ev.Asked(now=now), settings)
    return state, effects + more


def start_look(state: State, *, refresh: bool = False) -> Next:
    """Begin a look; `refresh` as in `Look`."""
    number = state.number + 1
    return replace(state, number=number, look=Look(number, refresh)), (ev.LookUp(number),)


def shared(table: Table, state: State, new: Cached, now: float, settings: PolicySection) -> Next:
    """Use what another worker or daemon has put into the store, if it may take this one's place."""
    cached = unexpired(state, now)
    if new.expires_at <= now or new.fetched_at > now + FUTURE_SECONDS:
        return state, ()  # that it is later cannot be told from a time that has not come
    if cached is not None and not table.replaces(new, cached):
        return state, ()
    state = replace(
        state,
        unread=False,
        cached=new,
        absent=NO_REASON,
        failures=0,
        retry_at=0.0,
        next_check=max(state.next_check, now + settings.recheck_interval),
    )
    return state, (ev.Count("policies-shared"), ev.RepliesAreStale())


# -- what both dialects do alike ----------------------------------------------------------------


def _refresh_due(state: State, event: ev.RefreshDue, _settings: PolicySection) -> Next:
    if event.now < state.retry_at:
        return state, (ev.Postpone(state.retry_at, event.now),)
    return (state, ()) if state.look is not None else start_look(state, refresh=True)


def _renewal_wanted(state: State, _event: ev.RenewalWanted, _settings: PolicySection) -> Next:
    state = replace(state, retry_at=0.0)
    return (state, ()) if state.look is not None else start_look(state, refresh=True)


def _purged(state: State, _event: ev.Purged, _settings: PolicySection) -> Next:
    # Law 1 is the operator's to break. The number stays: what is under way comes late.
    return replace(NEW, number=state.number), (ev.RepliesAreStale(),)


def _clock_set(state: State, event: ev.ClockSet, settings: PolicySection) -> Next:
    # What waits for a time waits as long as before. Policies keep their times: a clock neither
    # weakens nor prolongs one (laws 1 and 2); what seemed expired may be in the store.
    # A time that is by the new clock already, as a look between its setting and our seeing it has
    # left it, would be moved by years: nothing waits longer than it ever does.
    seconds = event.seconds
    failing = settings.retry_interval * 2.0**BACKOFF_DOUBLINGS
    latest = event.now + max(
        settings.recheck_interval, settings.negative_ttl, settings.error_ttl, failing
    )
    state = replace(
        state,
        next_check=min(state.next_check + seconds, latest),
        retry_at=min(state.retry_at + seconds, latest),
        next_mx_check=min(state.next_mx_check + seconds, latest),
        unread=state.unread or (seconds < 0 and unexpired(state, event.now) is None),
    )
    return state, ()  # all replies are made anew by who has seen that the clock was set


def _store_replaced(state: State, event: ev.StoreReplaced, _settings: PolicySection) -> Next:
    cached = unexpired(state, event.now)
    return state, () if cached is None else (ev.SaveAgain(cached),)


def nothing(state: State, _event: ev.Event, _settings: PolicySection) -> Next:
    """Nothing follows from this."""
    return state, ()


def _broke(state: State, event: ev.Broke, settings: PolicySection) -> Next:
    """A place was refused (no `error`), or a defect of ours: that must neither repeat at once nor
    go unseen."""
    if event.number == state.reading:
        return replace(state, reading=0, asked=False), ()
    if state.look is not None and event.number == state.look.number:
        state = replace(state, look=None)
    else:
        state = replace(state, work=None)
    if not event.error:
        return state, ()
    again = event.now + settings.error_ttl
    state = replace(state, next_check=again, next_mx_check=again)
    if unexpired(state, event.now) is None:
        state = replace(state, absent=Reason("dns-error", "internal error", event.error))
    return state, (ev.Count("internal-errors"),)


_COMMON: Final[Mapping[type[ev.Event], Handler]] = {
    ev.RefreshDue: _refresh_due,
    ev.RenewalWanted: _renewal_wanted,
    ev.Purged: _purged,
    ev.ClockSet: _clock_set,
    ev.StoreReplaced: _store_replaced,
    ev.MailFailed: nothing,
    ev.AnswerOverdue: nothing,
    ev.Broke: _broke,
}


def from_the_future(cached: Cached, now: float) -> bool:
    """Whether a policy was fetched by a clock that was ahead."""
    return cached.fetched_at > now + FUTURE_SECONDS


def refresh_time(now: float, lifetime: float, spread: float, settings: PolicySection) -> float:
    """When a policy that was fetched now is refreshed: about daily, spread so that not all are due
    at once, and in good time before a shorter one expires (RFC 8461 section 10.2)."""
    gap = min(settings.refresh_interval, max(lifetime * 0.7, settings.recheck_interval))
    return now + gap * (0.8 + 0.2 * spread)


def backed_off(now: float, failures: int, settings: PolicySection) -> float:
    """When the next attempt may follow the last of so many that failed in a row."""
    return now + settings.retry_interval * 2.0 ** min(failures - 1, BACKOFF_DOUBLINGS)
