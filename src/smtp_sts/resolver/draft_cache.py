"""What is known of the policies of the first draft, and what applies of them now
(draft-margolis-smtp-sts-00 sections 3.2 to 3.5 and appendix 1).

Promises (DESIGN, the laws):
1. a first policy is believed unproven ("MUST be trusted and honored"); an unexpired one is replaced
   only by one that proves itself by the mechanism which the cached one names, and an enforced one
   by another enforced one only once an MX host has met that; but one that is unproven and binds
   nobody is as good as any other unproven one, and gives way to it;
2. a policy lives for `e` from the last fetch that was proven (the first may be unproven): no
   unchanged or unproven answer prolongs it, nor does the TTL, which section 3.2 would allow;
4. a policy that no MX host has ever met refuses no mail (section 3.4);
6. `decide` never waits for a policy's proof or for an MX host.

Whatever the draft leaves open is in docs/draft-00.md. Kept in the store under the name of the TXT
record, beside the RFC 8461 policy of the same domain. Must not: weigh one dialect against the
other, or know of MTAs.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec

from smtp_sts.config import PolicySection
from smtp_sts.net.aside import aside
from smtp_sts.net.places import Places
from smtp_sts.policy import (
    DraftRecord,
    RecordError,
    draft_record_name,
    find_draft_record,
)
from smtp_sts.policy.organisation import share_key
from smtp_sts.resolver.decision import Decision, Draft, Outcome, Source, Step
from smtp_sts.resolver.discovery import Reach
from smtp_sts.resolver.draft_check import Checked, check
from smtp_sts.resolver.draft_discovery import Proof, Seen, find, prove
from smtp_sts.resolver.keeper import Keeper
from smtp_sts.resolver.upkeep import Renewal, Upkeep
from smtp_sts.resolver.waiting import wait_for_work
from smtp_sts.store import FUTURE_SECONDS, Stored, StoreError
from smtp_sts.store.replacing import SAME_FETCH

#: What stands before the policy domain in the key of a policy in the store.
PREFIX: Final = draft_record_name("")
#: Domains that are kept in memory, and bytes of their records' texts; the longest unused go first.
STATES_LIMIT: Final = 50_000
STATES_BYTES: Final = 64 * 1024 * 1024
#: A record weighs about so much more than its text in memory, times and bytes.
_WEIGHT: Final = (8, 1000)
#: Looks at the DNS under way, as a multiple of `max_lookups`. Of these and all below one
#: organisation gets its share.
SLOW_FACTOR: Final = 4
#: Proofs under way, checks of MX hosts under way, and of both together those that wait in line.
PROOFS: Final = 50
CHECKS: Final = 10
WORK_LIMIT: Final = 2000
#: A policy that has not been met is tried again after `recheck_interval`, doubling up to this; one
#: that has is looked at this often (seconds).
CHECK_SECONDS: Final = 3600.0
#: What a report of a failure brings about happens no more often than this (seconds).
FAILURE_SECONDS: Final = 60.0
#: Failed proofs back off from `retry_interval` by doubling, so many times at most.
BACKOFF_DOUBLINGS: Final = 4
#: A report-only policy that names no lifetime lives for its TTL, within these bounds (seconds).
NO_LIFETIME: Final = (60.0, 3600.0)
#: The used time of a policy is written when it is older than this (seconds).
TOUCH_SECONDS: Final = 6 * 3600.0
#: Characters of a record that a line of the log has room for.
LOGGED: Final = 1000
#: An answer waits no longer than this for its policy to be safe on disk (seconds).
SAVE_TIMEOUT: Final = 1.0

_log = logging.getLogger(__name__)


class _Body(msgspec.Struct, frozen=True):
    """What is kept in the place of an RFC 8461 policy's text."""

    text: str
    authenticated: bool = False
    applied: bool = False


class Held(msgspec.Struct, frozen=True):
    """A policy in memory; times are seconds since the epoch."""

    record: DraftRecord
    fetched_at: float
    expires_at: float
    refresh_at: float
    used_at: float
    authenticated: bool = False
    applied: bool = False


class _State:
    """What one process knows of a domain; times are seconds since the epoch."""

    __slots__ = ("detail", "failed", "failures", "held", "misses", "next_check", "next_look",
                 "reason", "retry_at", "seen", "started", "steps", "task", "told", "unread",
                 "used_at", "weight", "work")  # fmt: skip

    def __init__(self) -> None:
        self.held: Held | None = None
        self.reason = ""
        self.detail = ""
        #: of the look at the DNS, of the proof, and of the check of the MX hosts
        self.steps: dict[str, tuple[Step, ...]] = {}
        self.next_check = 0.0
        self.retry_at = 0.0
        self.failures = 0
        self.failed = (0.0, "", "")
        #: when the MX hosts are looked at, and how often in a row they have not met the policy
        self.next_look = 0.0
        self.misses = 0
        #: the last answer of the DNS that had a record
        self.seen: Seen | None = None
        self.used_at = 0.0
        self.started = 0.0
        self.task: asyncio.Task[None] | None = None
        self.work: asyncio.Task[None] | None = None
        self.told: object = None
        #: the store could not be read: that there is no policy is not known yet
        self.unread = False
        self.weight = 0


class DraftCache:
    """The policies of the first draft, for the domains of one process."""

    def __init__(
        self,
        settings: PolicySection,
        reach: Callable[[], Reach],
        keeper: Keeper,
        counts: dict[str, int],
        *,
        on_change: Callable[[str], None],
        dane: Callable[[], bool],
        smtp_port: int = 25,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`on_change` is called with a domain whose decision has changed; `dane` tells whether TLSA
        records are looked for at all."""
        self._settings = settings
        self._reach = reach
        self._keeper = keeper
        self._counts = counts
        self._on_change = on_change
        self._dane = dane
        self._smtp_port = smtp_port
        self._clock = clock
        self._states: OrderedDict[str, _State] = OrderedDict()
        self._weight = 0
        self._purges = 0
        self.running: set[asyncio.Task[None]] = set()
        #: by organisational domain: looks at the DNS, and the rest, which is slower and must not
        #: keep them out; and of either what holds a place
        self._looks = Places(settings.max_lookups * SLOW_FACTOR)
        self._lines = Places(WORK_LIMIT)
        self._places = Places(settings.max_lookups)
        self._proofs = Places(PROOFS)
        self._checks = Places(CHECKS)

    # -- what is asked ------------------------------------------------------------------------

    def known(self, domain: str) -> Decision | None:
        """What applies where that is known without waiting; starts what is due behind it."""
        state = self._states.get(domain)
        if state is None or state.unread:
            return None
        self._states.move_to_end(domain)
        return self._known(domain, state)

    def _known(self, domain: str, state: _State) -> Decision | None:
        now = state.used_at = self._clock()
        held = _live(state, now)
        if held is not None:
            if now - held.used_at > TOUCH_SECONDS:
                self._keeper.touch(draft_record_name(domain), now)
                state.held = held = msgspec.structs.replace(held, used_at=now)
            if state.task is None and now >= state.next_check:
                self._start(domain, state)
            elif state.work is None and now >= state.next_look:
                self._work(domain, state, self._look(domain, state, held))
            return self._applies(domain, state, held, now, "cache")
        if state.held is not None:  # law 2: expired a moment ago; look again at once
            state.held = None
            state.next_check = 0.0
        if state.task is None and now < state.next_check:
            return self._without(domain, state, "cache")
        return None

    def in_force(self, domain: str) -> Decision | None:
        """What an unexpired policy in memory asks for, without any wait; None where none is."""
        state, now = self._states.get(domain), self._clock()
        held = _live(state, now) if state is not None else None
        if state is None or held is None:
            return None
        return self._applies(domain, state, held, now, "cache")

    async def read(self, domain: str) -> None:
        """Have in memory what the store has of a domain."""
        await self._state(domain)

    async def decide(self, domain: str, *, again: bool = True) -> Decision:
        """What applies to a policy domain now. Never raises for its input.

        `again`: a policy that expires while it is looked at is looked for once more.
        """
        state = await self._state(domain)
        decision = self._known(domain, state)
        if decision is not None:
            return decision
        if state.task is None and not self._start(domain, state):
            self._count("draft-overloaded")
            return Decision(domain, "no-policy", "overloaded")
        task = state.task
        assert task is not None
        left = state.started + self._settings.answer_timeout - asyncio.get_running_loop().time()
        if left > 0:
            await wait_for_work([task], left)
        if not task.done() or task.cancelled():
            self._count("draft-timeout")
            return Decision(domain, "no-policy", "discovery-timeout")  # law 4: fail open
        now = self._clock()
        held = _live(state, now)
        if held is not None:
            return self._applies(domain, state, held, now, "network")
        if state.held is not None:  # expired a moment ago: what was seen then was seen beside it
            if again:
                return await self.decide(domain, again=False)
            self._count("draft-timeout")
            return Decision(domain, "no-policy", "discovery-timeout")
        return self._without(domain, state, "network")

    async def refresh(self, domain: str) -> None:
        """Fetch and prove the policy anew, as the daily refresh does; returns when that is done."""
        now = self._clock()
        state = await self._state(domain)
        if now < state.retry_at:
            await self._keeper.postpone(draft_record_name(domain), state.retry_at, now)
            return
        await self._again(domain, state)
        held = _live(state, self._clock())
        if held is None or held.refresh_at <= now:
            again = max(state.retry_at, now + self._settings.retry_interval)
            await self._keeper.postpone(draft_record_name(domain), again, now)

    async def renew(self, domain: str, *, force: bool = False) -> Renewal:
        """Look for the policy of `domain` and prove it now, at an operator's word."""
        state = await self._state(domain)
        now = self._clock()
        if now < state.retry_at and not force:
            _, reason, detail = state.failed
            return Renewal("waits", reason, detail, state.retry_at)
        state.retry_at = 0.0
        if state.held is not None:
            state.held = msgspec.structs.replace(state.held, refresh_at=now)
        await self._again(domain, state)
        if state.held is not None and state.held.fetched_at >= now:
            return Renewal("fetched")
        _, reason, detail = state.failed
        return Renewal("failed", reason or "overloaded", detail, state.retry_at)

    async def purge(self, domain: str, before: float) -> bool:
        """Forget what was learnt of a domain at a time or before; False where the store refuses."""
        self._purges += 1
        self._drop(domain)
        lasting = await self._keeper.purge(draft_record_name(domain), before)
        self._purges += 1
        self._drop(domain)  # what a query has read meanwhile
        return lasting

    async def learn(self, stored: Stored) -> None:
        """The store holds this policy now: another daemon may have fetched, proven or met it."""
        domain = stored.domain.removeprefix(PREFIX)
        if domain not in self._states:
            self._on_change(domain)
            return
        purges = self._purges
        held = await aside(len(stored.body), lambda: read_stored(stored, domain))
        state = self._states.get(domain)
        if state is None:
            self._on_change(domain)
            return
        if purges != self._purges:  # perhaps what we were told is
            state.unread = state.unread or state.held is None
            return
        now = self._clock()
        live = _live(state, now)
        if held is None or held.expires_at <= now or held.fetched_at > now + FUTURE_SECONDS:
            return
        if live is not None and not _later(held, live):
            return
        state.held, state.unread = held, False
        state.reason, state.detail = "policy-found", ""
        self._settle(domain, state)
        self._on_change(domain)

    def failed(self, domain: str) -> None:
        """Mail to a domain met with a failure: before it is final a new policy is looked for
        (section 3.5 step 4). Costs nothing where no policy of the draft is cached."""
        state = self._states.get(domain)
        if state is None or state.held is None:
            return
        soon = max(self._clock(), state.failed[0] + FAILURE_SECONDS)
        state.next_check = min(state.next_check, soon)
        state.next_look = min(state.next_look, soon)
        state.retry_at = min(state.retry_at, soon)
        self._on_change(domain)

    def upkeep(self, domain: str) -> Upkeep | None:
        """How the upkeep of a domain goes; None where nothing is known of it."""
        state = self._states.get(domain)
        if state is None:
            return None
        return Upkeep(
            state.used_at, state.next_check, state.retry_at, state.failures, *state.failed
        )

    def clock_set(self, seconds: float) -> None:
        """The clock was set forward or, below 0, back: what waits for a time waits as long."""
        for state in self._states.values():
            state.next_check += seconds
            state.next_look += seconds
            state.retry_at += seconds
            state.unread = state.unread or (seconds < 0 and state.held is None)

    def keep_again(self) -> None:
        """The store has lost what it had: what is in memory shall outlive a restart again."""
        now = self._clock()
        held = ((domain, _live(state, now)) for domain, state in self._states.items())
        self._keeper.keep_again([_stored(domain, one) for domain, one in held if one is not None])

    @property
    def states(self) -> int:
        """Domains that this process knows something of."""
        return len(self._states)

    async def close(self) -> None:
        """End what still runs."""
        tasks = list(self.running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- what applies -------------------------------------------------------------------------

    def _applies(
        self, domain: str, state: _State, held: Held, now: float, source: Source
    ) -> Decision:
        decision = decided(domain, held, dane=self._dane(), source=source, steps=_steps(state))
        # While a look is due or under way the answer is kept for a second only, so that what it
        # finds is used at once; and not at all before the first check of the MX hosts has ended.
        until = min(held.expires_at, max(state.next_check, now + 1.0))
        if decision.reason == "never-validated" and state.work is not None:
            until = 0.0
        return msgspec.structs.replace(decision, valid_until=until)

    def _without(self, domain: str, state: _State, source: Source) -> Decision:
        return Decision(
            domain,
            "no-policy",
            state.reason,
            state.detail,
            source=source,
            valid_until=0.0 if state.unread else state.next_check,
            steps=_steps(state),
        )

    # -- what is known ------------------------------------------------------------------------

    async def _state(self, domain: str) -> _State:
        state = self._states.get(domain)
        return await self._read(domain) if state is None or state.unread else state

    async def _read(self, domain: str) -> _State:
        """The state of a domain that the store has not been asked for, or has not answered for."""
        try:
            stored, unread = await self._keeper.get(draft_record_name(domain)), False
        except StoreError:
            stored, unread = None, True
        held, purges = None, self._purges
        if stored is not None:
            body = stored
            held = await aside(len(body.body), lambda: read_stored(body, domain))
        if purges != self._purges:  # perhaps what has just been read
            return await self._read(domain)
        state = self._states.get(domain)
        if state is None:
            state = self._states[domain] = _State()
        elif not state.unread:
            return state
        state.unread = unread
        if stored is not None:
            if held is None:  # somebody else wrote into our file
                self._count("store-invalid")
                _log.error("%s: the draft policy in the store is not valid", domain)
            else:  # law 1: also where an unproven one was believed while the store was away
                state.held = held
                state.reason, state.detail = "policy-found", ""
                state.told = ("policy", held.record.text)
        elif not unread:
            await self._keep(domain, state)  # what was believed while the store was away
        self._settle(domain, state)
        return state

    def _drop(self, domain: str) -> None:
        state = self._states.pop(domain, None)
        if state is not None:
            self._weight -= state.weight
            for task in (state.task, state.work):
                if task is not None:
                    task.cancel()

    def _settle(self, domain: str, state: _State) -> None:
        """Note what is known by now; those asked for longest ago go where it is too much."""
        if self._states.get(domain) is not state:
            return
        times, more = _WEIGHT
        size = len(state.held.record.text) if state.held is not None else 0
        before, state.weight = state.weight, times * size + more
        self._weight += state.weight - before
        while len(self._states) > STATES_LIMIT or self._weight > STATES_BYTES:
            for old, candidate in self._states.items():
                if candidate.task is candidate.work is None and candidate is not state:
                    self._drop(old)
                    break
            else:
                return

    def _count(self, name: str) -> None:
        self._counts[name] = self._counts.get(name, 0) + 1

    # -- looking, proving, checking -----------------------------------------------------------

    def _start(self, domain: str, state: _State) -> bool:
        """Look at the DNS; False where too much is under way."""
        if not self._looks.take(share_key(domain)):
            return False
        state.started = asyncio.get_running_loop().time()
        state.task = self._run(domain, state, self._discover(domain, state))
        return True

    def _work(self, domain: str, state: _State, work: Coroutine[Any, Any, None]) -> None:
        """Do what no answer waits for, one thing at a time for each domain."""
        if state.work is not None or not self._lines.take(share_key(domain)):
            work.close()
            return
        state.work = self._run(domain, state, work)

    def _run(
        self, domain: str, state: _State, work: Coroutine[Any, Any, None]
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self.running.add(task)
        task.add_done_callback(lambda done: self._ended(domain, state, done))
        return task

    def _ended(self, domain: str, state: _State, task: asyncio.Task[None]) -> None:
        self.running.discard(task)
        if state.task is task:
            state.task = None
            self._looks.release(share_key(domain))
        if state.work is task:
            state.work = None
            self._lines.release(share_key(domain))
        self._settle(domain, state)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A defect of ours must neither repeat at once nor go unseen.
            now = self._clock()
            state.next_check = state.next_look = now + self._settings.error_ttl
            if state.held is None:
                state.reason, state.detail = "dns-error", f"internal error: {error!r}"
            self._count("internal-errors")
            _log.error("the draft policy of %s: something broke", domain, exc_info=error)

    async def _again(self, domain: str, state: _State) -> None:
        """Look and prove anew, and wait for both."""
        await _until_idle(state)
        if self._start(domain, state):
            await _until_idle(state)

    async def _discover(self, domain: str, state: _State) -> None:
        async with self._places.of(share_key(domain)):
            seen = await find(domain, self._reach())
        now = self._clock()
        settings = self._settings
        state.steps["record"] = seen.steps
        live = _live(state, now)
        if seen.record is None:
            # Law 1: whatever the DNS says or does not say, the cached policy applies.
            self._count(f"draft-{seen.reason}")
            state.failed = (now, seen.reason, seen.detail)
            error = seen.reason == "dns-error"
            if live is not None:
                state.next_check = now + (
                    settings.error_ttl if error else settings.recheck_interval
                )
                return
            state.reason, state.detail = seen.reason, seen.detail
            state.next_check = now + (settings.error_ttl if error else settings.negative_ttl)
            self._tell_none(domain, state)
            return
        state.seen = seen
        state.next_check = now + settings.recheck_interval
        if live is None or (seen.record.text != live.record.text and _gives_way(live)):
            by = seen.record.authentication
            signed = by is not None and by.mechanism == "dnssec" and seen.secure
            await self._adopt(domain, state, seen, authenticated=signed, applied=False)
        self._work(domain, state, self._follow(domain, state, seen))

    async def _follow(self, domain: str, state: _State, seen: Seen) -> None:
        """What a look at the DNS brings about: a proof, perhaps another policy, a check."""
        now = self._clock()
        held = _live(state, now)
        record = seen.record
        if held is None or record is None:
            return
        if record.text != held.record.text:
            if now >= state.retry_at:
                await self._replace(domain, state, held, seen)
            return
        if now >= state.next_look:  # first: a host that is silent must not keep it from being met
            await self._look(domain, state, held)
            held = _live(state, self._clock())
        if held is None or now < state.retry_at:
            return
        # Fetched in the future, so by a wrong clock: it protects (law 1), and is proven anew.
        wrong = held.fetched_at > now + FUTURE_SECONDS
        if held.authenticated and now < held.refresh_at and not wrong:
            return
        proof = await self._prove(domain, state, seen, held)
        held = _live(state, self._clock())
        if held is None or held.record.text != record.text:
            return
        if proof.good:
            await self._adopt(domain, state, seen, authenticated=True, applied=held.applied)
        elif proof.reason != "no-mechanism":
            self._unproven(domain, state, proof, "the policy has not proven itself")

    async def _replace(self, domain: str, state: _State, held: Held, seen: Seen) -> None:
        """Another policy than the cached one is published: section 3.3 and step 4 of 3.5."""
        record = seen.record
        assert record is not None
        # "policies will be authenticated using the mechanism specified by the existing cached
        # policy", its URL included: whoever runs another host of the domain cannot replace it.
        proof = await self._prove(domain, state, seen, held)
        if self._moved_on(state, held):
            return
        if not proof.good:
            self._unproven(domain, state, proof, "another policy is published, and not proven")
            return
        if record.mode == "enforce" and held.record.mode == "enforce" and held.applied:
            # "a freshly fetched (and unused) policy that has not successfully been applied MUST be
            # disregarded": who strips STARTTLS now must not get the cached one out of the way.
            checked = await self._checked(domain, state, record)
            if self._moved_on(state, held):
                return
            if checked.verdict != "met":
                state.failed = (
                    self._clock(), "never-validated",
                    f"another policy is proven, and no MX host meets it ({checked.failure})",
                )  # fmt: skip
                self._count("draft-unmet-replacement")
                return
            await self._adopt(domain, state, seen, authenticated=True, applied=True)
            return
        await self._adopt(domain, state, seen, authenticated=True, applied=False)
        held_now = _live(state, self._clock())
        if held_now is not None:
            await self._look(domain, state, held_now)

    def _moved_on(self, state: _State, held: Held) -> bool:
        """Whether another policy is cached by now, which has to be asked for its own mechanism."""
        live = _live(state, self._clock())
        return live is not None and live.record.text != held.record.text

    async def _prove(self, domain: str, state: _State, seen: Seen, held: Held) -> Proof:
        assert seen.record is not None
        async with self._proofs.of(share_key(domain)):
            proof = await prove(seen.record, held.record.authentication, seen.secure, self._reach())
        state.steps["authentication"] = proof.steps
        self._count("draft-proof-good" if proof.good else "draft-proof-failed")
        return proof

    def _unproven(self, domain: str, state: _State, proof: Proof, what: str) -> None:
        now = self._clock()
        first = state.failed[1:] != (proof.reason, proof.detail)
        state.failed = (now, proof.reason, proof.detail)
        state.failures += 1
        if proof.fetched:
            doublings = min(state.failures - 1, BACKOFF_DOUBLINGS)
            state.retry_at = now + self._settings.retry_interval * 2**doublings
        if first:
            _log.warning(
                "%s: %s (%s); the cached policy of the first draft applies: %s",
                domain, what, proof.reason, proof.detail,
                extra={"fields": {
                    "event": "draft-unproven", "domain": domain, "reason": proof.reason,
                    "detail": proof.detail, "failures": state.failures,
                }},
            )  # fmt: skip

    async def _checked(self, domain: str, state: _State, record: DraftRecord) -> Checked:
        async with self._checks.of(share_key(domain)):
            checked = await check(
                domain, record, self._reach(), smtp_port=self._smtp_port, dane=self._dane()
            )
        state.steps["check"] = checked.steps
        self._count(f"draft-check-{checked.verdict}")
        return checked

    async def _look(self, domain: str, state: _State, held: Held) -> None:
        """Hold the MX hosts against the policy (section 3.4), and note what came of it."""
        checked = await self._checked(domain, state, held.record)
        now = self._clock()
        live = _live(state, now)
        if live is None or live.record.text != held.record.text:
            return
        if checked.verdict == "met":
            state.misses = 0
            state.next_look = now + CHECK_SECONDS
            if not live.applied:
                state.held = msgspec.structs.replace(live, applied=True)
                await self._keep(domain, state)
                self._tell(domain, state, "an MX host meets the policy")
                self._on_change(domain)
            return
        wait = self._settings.recheck_interval * 2 ** min(state.misses, BACKOFF_DOUBLINGS)
        state.misses += 1
        state.next_look = now + min(wait, CHECK_SECONDS)
        if checked.verdict == "failed" and live.applied:
            # Section 3.5 step 4: "Check for a new (non-cached) authenticated policy".
            state.next_check = min(state.next_check, now + FAILURE_SECONDS)
            if state.misses == 1:
                _log.warning(
                    "%s: no MX host meets the policy of the first draft any more (%s)",
                    domain, checked.failure,
                    extra={"fields": {
                        "event": "draft-failed", "domain": domain, "reason": checked.failure,
                    }},
                )  # fmt: skip

    async def _adopt(
        self, domain: str, state: _State, seen: Seen, *, authenticated: bool, applied: bool
    ) -> None:
        record = seen.record
        assert record is not None
        now, settings = self._clock(), self._settings
        lifetime = lifetime_of(record, seen.ttl)
        gap = min(settings.refresh_interval, max(lifetime * 0.7, settings.recheck_interval))
        if record.authentication is None:
            gap = 2.0 * lifetime  # nothing can ever prove it anew
        before = state.held
        used_at = max(state.used_at, before.used_at if before else 0.0) or now
        state.held = Held(
            record, now, now + lifetime, now + gap * random.uniform(0.8, 1.0), used_at,
            authenticated, applied,
        )  # fmt: skip
        state.reason, state.detail = "policy-found", ""
        # Of one that has expired meanwhile it counts for nothing that an MX host has met it.
        if before is None or now >= before.expires_at or before.record.text != record.text:
            state.next_look, state.misses = 0.0, 0
            state.failures, state.retry_at = 0, 0.0  # those of another policy
        if authenticated:
            state.failures, state.retry_at = 0, 0.0
        self._count("draft-policies-fetched")
        self._settle(domain, state)
        await self._keep(domain, state)
        self._tell(domain, state, "policy" if authenticated else "unproven policy")
        self._on_change(domain)

    async def _keep(self, domain: str, state: _State) -> None:
        held = state.held
        # What the store holds, and could not say, may be better proven than this (law 1).
        if held is None or (state.unread and not held.authenticated):
            return
        # The answer follows when the policy is safe on disk; a disk that hangs does not hold it.
        put = asyncio.ensure_future(self._keeper.put(_stored(domain, held)))
        await asyncio.wait([put], timeout=SAVE_TIMEOUT)

    def _tell(self, domain: str, state: _State, what: str) -> None:
        held = state.held
        if held is None or state.told == (what, held.record.text):
            return
        state.told = (what, held.record.text)
        _log.info(
            "%s: %s of the first draft: %s", domain, what, _brief(held.record.render()),
            extra={"fields": {
                "event": "decision", "domain": domain, "dialect": "draft00",
                "outcome": held.record.mode if held.applied else "testing",
                "reason": "policy-found" if held.applied else "never-validated",
                "policy_id": _digest(held.record.text), "authenticated": held.authenticated,
            }},
        )  # fmt: skip

    def _tell_none(self, domain: str, state: _State) -> None:
        """Log that a record cannot be used; that there is none is what most have."""
        slug = state.detail.partition(":")[0]
        if state.reason == "no-record" or state.told == (state.reason, slug):
            return
        state.told = (state.reason, slug)
        _log.info(
            "%s: no policy of the first draft (%s): %s", domain, state.reason, state.detail,
            extra={"fields": {
                "event": "decision", "domain": domain, "dialect": "draft00",
                "outcome": "no-policy", "reason": state.reason, "detail": state.detail,
            }},
        )  # fmt: skip


def lifetime_of(record: DraftRecord, ttl: int) -> float:
    """How long a policy is kept (seconds), that came with a TTL."""
    least, most = NO_LIFETIME
    return record.lifetime or min(max(ttl, least), most)


def decided(
    domain: str, held: Held, *, dane: bool, source: Source, steps: tuple[Step, ...] = ()
) -> Decision:
    """What an unexpired policy asks for; `dane`: TLSA records can be looked for."""
    record = held.record
    tlsa = record.constraint == "tlsa"
    binding = record.mode == "enforce" and held.applied and (dane or not tlsa)
    outcome: Outcome = record.mode
    reason = "policy-found"
    if record.mode == "enforce" and not binding:
        # Section 3.4: "a policy which has not ever been successfully validated MUST not be used to
        # reject mail"; a sender that cannot validate by it behaves as if it had not been.
        outcome, reason = "testing", "never-validated"
    elif binding and tlsa:
        outcome, reason = "dane", "tlsa-required"
    age = round(held.expires_at - held.fetched_at)
    return Decision(
        domain,
        outcome,
        reason,
        policy=msgspec.structs.replace(record.policy, max_age=age),
        policy_id=_digest(record.text),
        source=source,
        fetched_at=held.fetched_at,
        expires_at=held.expires_at,
        steps=steps,
        draft=Draft(
            record.render(),
            record.constraint,
            record.authentication.render() if record.authentication else "",
            held.authenticated,
            held.applied,
        ),
    )


def _brief(text: str) -> str:
    return text if len(text) <= LOGGED else f"{text[:LOGGED]}..."


def _steps(state: _State) -> tuple[Step, ...]:
    return tuple(step for steps in state.steps.values() for step in steps)


async def _until_idle(state: _State) -> None:
    while tasks := [task for task in (state.task, state.work) if task is not None]:
        await asyncio.wait(tasks)


def _live(state: _State, now: float) -> Held | None:
    """The cached policy, unless it has expired (section 3.2)."""
    held = state.held
    return held if held is not None and now < held.expires_at else None


def _gives_way(held: Held) -> bool:
    """Whether another record may take the place of a cached policy without proof: it was neither
    proven nor ever refused mail, so that it is the word of whoever was first, and nothing is weaker
    without it. Else a forged first policy kept out the domain's own for as long as it says."""
    return not held.authenticated and not (held.applied and held.record.mode == "enforce")


def _later(new: Held, old: Held) -> bool:
    """Whether what the store holds goes before what is in memory (law 1: never the other way
    round): what is proven, then what was met, then the later fetch, as in `store/replacing.py`."""
    if new.record.text == old.record.text and abs(new.fetched_at - old.fetched_at) < SAME_FETCH:
        return (new.authenticated, new.applied) > (old.authenticated, old.applied)
    if new.authenticated != old.authenticated:
        return new.authenticated
    if not new.authenticated and new.applied != old.applied:
        return new.applied
    return new.fetched_at > old.fetched_at and (new.authenticated or _gives_way(old))


def _digest(text: str) -> str:
    """What tells one policy from another, for people: the record has no id."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stored(domain: str, held: Held) -> Stored:
    body = _Body(held.record.text, held.authenticated, held.applied)
    return Stored(
        draft_record_name(domain),
        _digest(held.record.text),
        msgspec.json.encode(body).decode(),
        held.fetched_at,
        held.expires_at,
        held.refresh_at,
        held.used_at,
    )


def read_stored(stored: Stored, domain: str) -> Held | None:
    """A policy out of the store; None where somebody else wrote it."""
    try:
        body = msgspec.json.decode(stored.body, type=_Body)
        record = find_draft_record([body.text.encode()], domain)
    except (msgspec.MsgspecError, RecordError):
        return None
    if record is None:
        return None
    return Held(
        record, stored.fetched_at, stored.expires_at, stored.refresh_at, stored.used_at,
        body.authenticated, body.applied,
    )  # fmt: skip
