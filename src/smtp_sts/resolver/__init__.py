"""The decision for a domain: cached policy, discovery, recheck and refresh (RFC 8461 section 5.1),
and DANE before it where it applies (RFC 8461 section 2).

Promises (DESIGN, the laws):
1. nothing but a policy fetched over authenticated HTTPS replaces or removes an unexpired one;
2. a policy lives for `max_age` from its last successful fetch and no longer;
3. DANE wins only where DNSSEC proves all of it (`precedence.py` weighs);
4. a domain without a policy is let through, quickly, with the reason counted;
6. `decide` returns within the answer timeout, and for a cached policy without waiting for the
   network.

One discovery runs for a domain however many ask, beside it one look for DANE. Must not: know of
MTAs, replies or sockets.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from types import MappingProxyType
from typing import Final

import msgspec

from smtp_sts.config import PolicySection
from smtp_sts.net.aside import aside
from smtp_sts.net.places import Places
from smtp_sts.policy import MAX_RENDERED, Policy, PolicyError, draft_record_name
from smtp_sts.policy.organisation import share_key
from smtp_sts.resolver import overrides
from smtp_sts.resolver.dane_looks import SLOW_FACTOR, DaneLooks, Looking
from smtp_sts.resolver.decision import Decision, Source, Step
from smtp_sts.resolver.discovery import Found, Reach, discover
from smtp_sts.resolver.keeper import Keeper
from smtp_sts.resolver.overrides import Rules
from smtp_sts.resolver.precedence import Known, weigh
from smtp_sts.resolver.upkeep import Renewal, Upkeep
from smtp_sts.resolver.waiting import wait_for_work
from smtp_sts.store import FUTURE_SECONDS, Stored, StoreError

#: Domains whose state is kept in memory; the least recently asked for go first.
STATES_LIMIT: Final = 50_000
#: And what they may weigh together, bytes: a policy of 64 KiB takes half a megabyte in memory.
STATES_BYTES: Final = 128 * 1024 * 1024
#: What a short string takes besides its text, bytes.
_STRING: Final = 57
#: An answer waits no longer than this for its policy to be safe on disk (seconds).
SAVE_TIMEOUT: Final = 1.0
#: The used time of a policy is written when it is older than this (seconds).
TOUCH_SECONDS: Final = 6 * 3600.0
#: How long a daemon lets another one fetch a policy before it does so itself (seconds): where an
#: answer waits for it, and where a policy is at hand.
CLAIM_PATIENCE: Final = 2.0
REFRESH_PATIENCE: Final = 20.0
#: Failed refreshes back off from `retry_interval` by doubling, so many times at most.
BACKOFF_DOUBLINGS: Final = 4
#: How the keys of policies of the first draft begin in the store (`draft_cache.py`).
_DRAFTS: Final = draft_record_name("")

_log = logging.getLogger(__name__)


class _State:
    """What one process knows of a domain; times are seconds since the epoch."""

    __slots__ = ("dane", "detail", "failed", "failures", "fetch_failed", "look", "next_check",
                 "policy", "reason", "retry_at", "started", "steps", "stored", "task", "told",
                 "unread", "used_at", "weight")  # fmt: skip

    def __init__(self) -> None:
        self.stored: Stored | None = None
        self.policy: Policy | None = None
        self.reason = ""
        self.detail = ""
        self.steps: tuple[Step, ...] = ()
        self.next_check = 0.0
        self.retry_at = 0.0
        self.failures = 0
        #: the last look that found no policy: when, the reason, and in words
        self.failed = (0.0, "", "")
        #: why the last fetch failed: the reason, and in words
        self.fetch_failed = ("", "")
        self.used_at = 0.0
        self.started = 0.0
        self.task: asyncio.Task[Decision] | None = None
        self.dane: Known | None = None
        self.look: Looking | None = None
        #: the decision that the log tells of: a policy, or why there is none
        self.told: Policy | tuple[str, str] | None = None
        #: the store could not be read: that there is no policy is not known yet
        self.unread = False
        #: what is known, roughly, in bytes
        self.weight = 0


class Resolver:
    """Decides for the domains of one process."""

    def __init__(
        self,
        settings: PolicySection,
        reach: Reach,
        keeper: Keeper,
        counts: dict[str, int],
        *,
        on_change: Callable[[str], None] = lambda _domain: None,
        rules: Rules = MappingProxyType({}),
        smtp_port: int = 25,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.reach = reach
        self._keeper = keeper
        self._counts = counts
        #: called with a domain whose decision has changed
        self.on_change = on_change
        self._rules = rules
        self.smtp_port = smtp_port
        self._clock = clock
        self._states: OrderedDict[str, _State] = OrderedDict()
        self._weight = 0
        self._purges = 0
        keeper.on_replaced = self._keep_again
        #: discoveries, by organisational domain: those that hold a place, and all under way
        self._places = Places(settings.max_lookups)
        self._under_way = Places(settings.max_lookups * SLOW_FACTOR)
        self._running: set[asyncio.Task[Decision]] = set()
        self.looks = DaneLooks(
            settings, lambda: self.reach.dns, self._count, clock,
            learnt=self._learnt, smtp_port=smtp_port,
        )  # fmt: skip

    @property
    def dane(self) -> bool:
        """Whether DANE is looked for: without a trusted validating resolver there is none (RFC 7672
        section 2.1)."""
        return self.settings.dane and self.reach.dns.trusts_ad

    async def decide(self, domain: str) -> Decision:
        """What applies to a policy domain now; see `Decision`. Never raises for its input."""
        rule = overrides.find(self._rules, domain)
        decided = overrides.fixed(rule, domain, self._clock()) if rule else None
        if decided is not None:
            return decided
        state = self._states.get(domain)
        if state is None or state.unread:
            state = await self._read(domain)
        else:
            self._states.move_to_end(domain)
        dane = self.dane and not (rule and rule.never_dane)
        began = asyncio.get_running_loop().time()
        if dane:
            self.looks.start(domain, state)
        decision = await self._decide(domain, state)
        if rule:
            decision = overrides.adapt(rule, decision)
        return await self.looks.weighed(decision, state, began) if dane else decision

    def known(self, domain: str) -> Decision | None:
        """What an unexpired policy in memory asks for, without any wait; None where none is."""
        rule = overrides.find(self._rules, domain)
        decision = self._in_force(domain)
        if decision is None:
            return None
        if rule:
            decision = overrides.fixed(rule, domain, self._clock()) or overrides.adapt(
                rule, decision
            )
        state, now = self._states.get(domain), self._clock()
        if state is None or not self.dane or (rule and rule.never_dane):
            return decision
        fresh = state.dane if state.dane is not None and now < state.dane.until else None
        return weigh(decision, fresh, now + 1.0)

    def _in_force(self, domain: str) -> Decision | None:
        state, now = self._states.get(domain), self._clock()
        live = _live(state, now) if state is not None else None
        if state is None or live is None:
            return None
        return self._cached(domain, state, live, now)

    async def recall(self, domain: str) -> Decision | None:
        """As `known`, of the store too."""
        state = self._states.get(domain)
        if state is None or state.unread:
            await self._read(domain)
        return self.known(domain)

    async def _decide(self, domain: str, state: _State) -> Decision:
        """What STS says."""
        now = self._clock()
        state.used_at = now
        live = _live(state, now)
        if live is not None:
            if now - live.used_at > TOUCH_SECONDS:
                self._keeper.touch(domain, now)
                state.stored = msgspec.structs.replace(live, used_at=now)
            if state.task is None and now >= state.next_check:
                # Fetched in the future, so by a wrong clock: what it says of its life is no more
                # than a guess. It protects (law 1), and is fetched anew.
                wrong = live.fetched_at > now + FUTURE_SECONDS
                self._start(domain, state, refresh=wrong)
            return self._cached(domain, state, live, now)
        if state.stored is not None:  # law 2: expired a moment ago; look again at once
            state.stored = state.policy = None
            state.next_check = 0.0
        if state.task is None and now < state.next_check:
            return self._without(domain, state, "cache")
        if state.task is None and not self._start(domain, state, refresh=False):
            return self._count_timeout(domain, "overloaded")
        return await self._await_discovery(domain, state)

    async def refresh(self, domain: str) -> None:
        """Fetch the policy of `domain` anew, as the daily refresh does; returns when that is done.

        Does nothing where a discovery runs already or a fetch failed a short time ago.
        """
        now = self._clock()
        if domain.startswith(_DRAFTS):  # kept from when that dialect was switched on
            await self._keeper.postpone(domain, now + self.settings.refresh_interval, now)
            return
        state = self._states.get(domain)
        if state is None or state.unread:
            state = await self._read(domain)
        if now < state.retry_at:
            await self._keeper.postpone(domain, state.retry_at, now)
        elif state.task is None and self._start(domain, state, refresh=True) and state.task:
            await asyncio.wait([state.task])
            if _live(state, self._clock()) is None:  # what the store holds is no policy, or no more
                await self._keeper.postpone(domain, now + self.settings.retry_interval, now)

    def upkeep(self, domain: str) -> Upkeep | None:
        """How the upkeep of a domain goes; None where this process knows nothing of it."""
        state = self._states.get(domain)
        if state is None:
            return None
        return Upkeep(
            state.used_at, state.next_check, state.retry_at, state.failures, *state.failed
        )

    async def renew(self, domain: str, *, force: bool = False) -> Renewal:
        """Look for the policy of `domain` now and fetch it, at an operator's word.

        Section 3.3 wants five minutes between a failed fetch and the next: only `force` does not
        wait for them. A discovery that runs already is waited for.
        """
        state = self._states.get(domain)
        if state is None or state.unread:
            state = await self._read(domain)
        while state.task is not None:
            await asyncio.wait([state.task])
        now = self._clock()
        if now < state.retry_at and not force:
            _, reason, detail = state.failed
            return Renewal("waits", reason, detail, state.retry_at)
        state.retry_at = 0.0
        if not self._start(domain, state, refresh=True) or state.task is None:
            return Renewal("overloaded")
        await asyncio.wait([state.task])
        if state.stored is not None and state.stored.fetched_at >= now:
            return Renewal("fetched")
        _, reason, detail = state.failed
        return Renewal("failed", reason, detail, state.retry_at)

    async def purge(self, domain: str, before: float) -> bool:
        """Forget everything of a domain that was learnt at a time or before.

        Law 1 is the operator's to break: until the next fetch nothing protects the domain. False
        where the store has refused, so that a restart brings the policy back.
        """
        self._purges += 1
        self._drop(domain)
        lasting = await self._keeper.purge(domain, before)
        self._purges += 1
        self._drop(domain)  # what a query has read meanwhile
        return lasting

    def _drop(self, domain: str) -> None:
        state = self._states.pop(domain, None)
        if state is not None:
            self._weight -= state.weight
        if state is not None and state.task is not None:
            state.task.cancel()

    async def learn(self, stored: Stored) -> None:
        """The store holds this policy now: another worker or daemon may have fetched it."""
        domain, purges = stored.domain, self._purges
        state = self._states.get(domain)
        if state is not None:
            if not self._goes_before(stored, state):
                return
            policy = await self._parsed(stored)
            if purges != self._purges:  # perhaps what we were told is
                state = self._states.get(domain)
                if state is not None and state.stored is None:
                    state.unread = True
                return
            state = self._states.get(domain)
            if state is not None and not self._take_over(stored, policy, state):
                return
        # Of a domain that was forgotten there may be replies that were made ready.
        self.on_change(domain)

    async def holds(self, domain: str) -> bool:
        """Whether the store holds a policy in force: then its owner answers without the network."""
        now = self._clock()
        return any(now < stored.expires_at for stored in await self.kept(domain))

    async def kept(self, domain: str) -> list[Stored]:
        """What the store holds for a domain, whoever put it there; nothing where it cannot tell."""
        try:
            stored = await self._keeper.get(domain)
        except StoreError:
            return []
        return [stored] if stored is not None else []

    def clock_set(self, seconds: float) -> None:
        """The clock was set forward or, below 0, back: what waits for a time waits as long as
        before. Policies keep their times: nothing weakens or prolongs one (laws 1 and 2)."""
        for state in self._states.values():
            state.next_check += seconds
            state.retry_at += seconds
            if state.dane is not None:
                state.dane = msgspec.structs.replace(state.dane, until=state.dane.until + seconds)
            # What seemed to be expired may be in force, by the right time.
            state.unread = state.unread or (seconds < 0 and state.stored is None)

    def _keep_again(self) -> None:
        """The store has lost what it had: what is in memory shall outlive a restart again."""
        now = self._clock()
        for state in self._states.values():
            live = _live(state, now)
            if live is not None and state.policy is not None:
                body = state.policy.render().decode()
                self._keeper.keep_again([msgspec.structs.replace(live, body=body)])

    def failed(self, domain: str) -> None:
        """Mail to a domain met with a failure: nothing follows from that in RFC 8461, whose record
        is asked for again often enough (section 5.1)."""

    @property
    def states(self) -> int:
        """Domains that this process knows something of."""
        return len(self._states)

    @property
    def running(self) -> int:
        """Discoveries under way."""
        return len(self._running)

    async def close(self) -> None:
        """End the discoveries that still run."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self.looks.close()

    # -- what is known ------------------------------------------------------------------------

    async def _read(self, domain: str) -> _State:
        """The state of a domain that the store has not been asked for, or has not answered for."""
        try:
            stored, unread = await self._keeper.get(domain), False
        except StoreError:
            # Law 1: a store that cannot be read may hold a policy. What the network says is used
            # meanwhile, and the store is asked again with the next query.
            stored, unread = None, True
        purges = self._purges
        policy = await self._parsed(stored) if stored is not None else None
        if purges != self._purges:  # perhaps what has just been read
            return await self._read(domain)
        state = self._states.get(domain)
        if state is None:
            state = self._remember(domain)
            state.unread = unread
        elif state.unread:
            state.unread = unread
        else:
            return state
        if stored is not None and policy is not None and state.stored is None:
            state.policy, state.stored = policy, _slim(stored, domain)
            state.reason, state.told = "policy-found", policy
        self._settle(domain, state)
        return state

    async def _parsed(self, stored: Stored) -> Policy | None:
        """The policy that the store holds; None, counted and logged, where it holds none."""
        body = stored.body.encode()
        try:
            return await aside(len(body), lambda: Policy.parse(body, limit=MAX_RENDERED))
        except PolicyError as error:  # somebody else wrote into our file
            self._count("store-invalid")
            _log.error("%s: the policy in the store is not valid: %s", stored.domain, error)
            return None

    def _goes_before(self, stored: Stored, state: _State) -> bool:
        """Whether a policy that another worker or daemon has fetched may be used."""
        now = self._clock()
        live = _live(state, now)
        # Law 1: only what was fetched later replaces an unexpired policy; that it was cannot be
        # told from a time that has not come. Law 2: its life has begun with that fetch.
        if live is not None and stored.fetched_at <= live.fetched_at:
            return False
        return now < stored.expires_at and stored.fetched_at <= now + FUTURE_SECONDS

    def _take_over(self, stored: Stored, policy: Policy | None, state: _State) -> bool:
        """Use a policy that another worker or daemon has fetched, if it may be."""
        if policy is None or not self._goes_before(stored, state):
            return False
        now = self._clock()
        state.stored, state.policy = _slim(stored, stored.domain), policy
        state.reason, state.detail = "policy-found", ""
        state.steps = (
            Step("policy", None, "fetched by another worker, or by a daemon that shares the store"),
        )
        state.failures, state.retry_at, state.unread = 0, 0.0, False
        state.next_check = now + self.settings.recheck_interval
        self._settle(stored.domain, state)
        self._count("policies-shared")
        return True

    async def _turn(self, domain: str, state: _State, record_id: str) -> bool:
        """Whether to fetch, when it is our turn; see `discover`."""
        live = _live(state, self._clock())
        before = live.fetched_at if live is not None else 0.0
        patience = CLAIM_PATIENCE if live is None else REFRESH_PATIENCE
        kept = await self._keeper.claim(domain, patience)
        if kept is not None and self._goes_before(kept, state):
            policy = await self._parsed(kept)
            if self._take_over(kept, policy, state):
                self.on_change(domain)
        live = _live(state, self._clock())
        if live is None or live.fetched_at <= before:
            return True
        return bool(record_id) and live.policy_id != record_id

    def _remember(self, domain: str) -> _State:
        state = self._states[domain] = _State()
        self._settle(domain, state)
        return state

    def _settle(self, domain: str, state: _State) -> None:
        """Note what is known of a domain by now; those asked for longest ago go where it is too
        much for the memory. Their policies are in the store."""
        if self._states.get(domain) is not state:
            return
        before, state.weight = state.weight, _weight(state)
        self._weight += state.weight - before
        while len(self._states) > STATES_LIMIT or self._weight > STATES_BYTES:
            for old, candidate in self._states.items():
                if candidate.task is None and candidate is not state:
                    self._drop(old)
                    break
            else:
                return

    def _cached(self, domain: str, state: _State, stored: Stored, now: float) -> Decision:
        # While a recheck is due or under way the answer is kept for a second only, so that what
        # the recheck finds is used at once.
        until = min(stored.expires_at, max(state.next_check, now + 1.0))
        return self._decision(domain, state, stored, until)

    def _until_next_check(self, domain: str, state: _State, stored: Stored) -> Decision:
        return self._decision(domain, state, stored, min(stored.expires_at, state.next_check))

    def _decision(self, domain: str, state: _State, stored: Stored, until: float) -> Decision:
        """What the cached policy says; `stored` was read without an await since."""
        assert state.policy is not None
        return _decision(domain, state.policy, stored, until, "cache", state.steps)

    def _without(self, domain: str, state: _State, source: Source) -> Decision:
        return Decision(
            domain,
            "no-policy",
            state.reason,
            state.detail,
            source=source,
            valid_until=0.0 if state.unread else state.next_check,
            steps=state.steps,
        )

    def _count_timeout(self, domain: str, reason: str) -> Decision:
        self._count(reason)
        return Decision(domain, "no-policy", reason)

    def _count(self, name: str) -> None:
        self._counts[name] = self._counts.get(name, 0) + 1

    def _learnt(self, domain: str, changed: bool) -> None:
        """DANE is known of a domain."""
        state = self._states.get(domain)
        if state is not None:
            self._settle(domain, state)
        if changed:
            self.on_change(domain)

    # -- discovery ----------------------------------------------------------------------------

    def _start(self, domain: str, state: _State, *, refresh: bool) -> bool:
        if not self._under_way.take(share_key(domain)):
            return False
        state.started = asyncio.get_running_loop().time()
        task = asyncio.create_task(self._discover(domain, state, refresh))
        state.task = task
        self._running.add(task)
        task.add_done_callback(lambda done: self._ended(domain, state, done))
        return True

    def _ended(self, domain: str, state: _State, task: asyncio.Task[Decision]) -> None:
        self._running.discard(task)
        self._under_way.release(share_key(domain))
        state.task = None
        self._settle(domain, state)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A defect of ours must neither repeat at once nor go unseen.
            state.next_check = self._clock() + self.settings.error_ttl
            state.reason, state.detail = "dns-error", f"internal error: {error!r}"
            self._count("internal-errors")
            _log.error("discovery of %s broke", domain, exc_info=error)

    async def _await_discovery(self, domain: str, state: _State) -> Decision:
        task = state.task
        assert task is not None
        # The time counts from the start of the discovery: who asks later does not wait longer.
        left = state.started + self.settings.answer_timeout - asyncio.get_running_loop().time()
        if left > 0:
            await wait_for_work([task], left)
        if not task.done():
            if not isinstance(state.told, tuple):  # once, not with each query
                self._tell_none(domain, state, "discovery-timeout", "it goes on")
            return self._count_timeout(domain, "discovery-timeout")  # law 4: fail open
        if task.cancelled() and self._states.get(domain) is not state:  # purged: begin anew
            return await self._decide(domain, self._states.get(domain) or await self._read(domain))
        if task.cancelled():  # by a drain
            return self._count_timeout(domain, "discovery-timeout")
        if task.exception() is not None:
            return self._without(domain, state, "network")
        return task.result()

    async def _discover(self, domain: str, state: _State, refresh: bool) -> Decision:
        # A place is held for the answer timeout at most: policy hosts that never answer do not
        # keep other domains from being looked up.
        key = share_key(domain)
        await self._places.wait(key)
        loop = asyncio.get_running_loop()
        released = claimed = False

        async def turn(record_id: str) -> bool:
            nonlocal claimed
            claimed = True
            return await self._turn(domain, state, record_id)

        def release() -> None:
            nonlocal released
            if not released:
                released = True
                self._places.release(key)

        timer = loop.call_later(self.settings.answer_timeout, release)
        try:
            found = await self._found(domain, state, refresh, turn)
            if found.result == "unchanged" and _live(state, self._clock()) is None:
                # The policy has expired while its record was looked at: nothing is cached any
                # more that an unchanged id could stand for.
                found = await self._found(domain, state, refresh, turn)
            timer.cancel()
            release()
            if refresh:
                self._count("refresh-good" if found.result == "policy" else "refresh-failed")
            if found.fetch_failed:
                self._count(f"fetch-{found.reason}")
            return await self._take(domain, state, found)
        finally:
            timer.cancel()
            release()
            if claimed:  # behind what was put
                self._keeper.release(domain)

    async def _found(
        self,
        domain: str,
        state: _State,
        refresh: bool,
        turn: Callable[[str], Awaitable[bool]],
    ) -> Found:
        now = self._clock()
        live = _live(state, now)
        return await discover(
            domain,
            self.reach,
            known_id=live.policy_id if live is not None else "",
            refresh=refresh and live is not None,
            may_fetch=now >= state.retry_at,
            turn=turn,
        )

    async def _take(self, domain: str, state: _State, found: Found) -> Decision:
        """Weigh what was found against what is cached: section 5.1, laws 1 and 2."""
        now = self._clock()
        settings = self.settings
        state.steps = found.steps
        if found.result == "policy" and found.policy is not None:
            return await self._adopt(domain, state, found, found.policy, now)
        live = _live(state, now)
        if found.result == "unchanged" and live is not None:
            state.next_check = now + settings.recheck_interval
            return self._until_next_check(domain, state, live)
        if found.result == "unchanged":  # it had no time to live even while it was fetched
            self._count("sts-policy-expired")
            state.next_check = 0.0
            return Decision(domain, "no-policy", "discovery-timeout", steps=found.steps)
        if waits := found.reason == "sts-policy-fetch-error" and not found.fetch_failed:
            # Nothing was fetched, for the last fetch has failed: for its reason there is no policy.
            reason, detail = state.fetch_failed
            found = msgspec.structs.replace(found, reason=reason, detail=detail)
        self._count("fetch-waits" if waits else found.reason)
        state.failed = (now, found.reason, found.detail)
        if found.fetch_failed:
            state.failures += 1
            state.fetch_failed = (found.reason, found.detail)
            wait = settings.retry_interval * 2 ** min(state.failures - 1, BACKOFF_DOUBLINGS)
            state.retry_at = now + (wait if live is not None else settings.retry_interval)
        if live is not None:
            # Law 1; section 3.3: no live policy but a valid cached one: "MUST apply that".
            state.next_check = now + min(settings.error_ttl, settings.recheck_interval)
            if found.fetch_failed:
                state.next_check = max(state.next_check, state.retry_at)
                if state.policy is not None and state.policy.mode != "none":  # sections 3.3, 10.2
                    _log.warning(
                        "%s: refresh failed (%s), the cached policy applies until it expires in "
                        "%d s: %s",
                        domain, found.reason, live.expires_at - now, found.detail,
                        extra={"fields": {
                            "event": "refresh-failed", "domain": domain,
                            "outcome": state.policy.mode, "reason": found.reason,
                            "detail": found.detail, "policy_id": live.policy_id,
                            "failures": state.failures,
                        }},
                    )  # fmt: skip
            decision = self._until_next_check(domain, state, live)
            if found.fetch_failed:  # last: while it is waited for, anything may change
                await self._keeper.postpone(domain, state.retry_at, live.fetched_at)
            return decision
        if state.stored is not None:
            state.stored = state.policy = None
            self.on_change(domain)
        self._tell_none(domain, state, found.reason, found.detail)
        state.reason, state.detail = found.reason, found.detail
        state.next_check = now + (
            settings.error_ttl if found.reason == "dns-error"
            else settings.retry_interval if found.reason not in ("no-record", "sts-record-invalid")
            else settings.negative_ttl
        )  # fmt: skip
        return self._without(domain, state, "network")

    def _tell_none(self, domain: str, state: _State, reason: str, detail: str) -> None:
        """Log that a domain has no policy where that was not so, or for another reason.

        Judged by slugs: a stranger's words that change with each look are no other decision. That
        an unknown domain has no record is what most have, and worth no line.
        """
        slug = detail.partition(":")[0] if reason != "no-record" else ""
        before, state.told = state.told, (reason, slug)
        if before == state.told:
            return
        level = logging.DEBUG if reason == "no-record" and before is None else logging.INFO
        _log.log(
            level, "%s: no policy (%s): %s", domain, reason, detail,
            extra={"fields": {
                "event": "decision", "domain": domain, "outcome": "no-policy", "reason": reason,
                "detail": detail,
            }},
        )  # fmt: skip

    async def _adopt(
        self, domain: str, state: _State, found: Found, policy: Policy, now: float
    ) -> Decision:
        settings = self.settings
        # Refresh about daily, spread by jitter, and in good time before a shorter policy expires.
        spread = random.uniform(0.8, 1.0)
        gap = min(settings.refresh_interval, max(policy.max_age * 0.7, settings.recheck_interval))
        stored = Stored(
            domain=domain,
            policy_id=found.policy_id,
            body=policy.render().decode(),
            fetched_at=now,
            expires_at=now + policy.max_age,
            refresh_at=now + gap * spread,
            used_at=max(state.used_at, state.stored.used_at if state.stored else 0.0) or now,
        )
        state.stored, state.policy = _slim(stored, domain), policy
        state.reason, state.detail = "policy-found", ""
        state.failures, state.retry_at, state.unread = 0, 0.0, False
        state.next_check = now + settings.recheck_interval
        self._count("policies-fetched")
        # The answer follows when the policy is safe on disk; a disk that hangs does not hold it.
        await asyncio.wait([asyncio.ensure_future(self._keeper.put(stored))], timeout=SAVE_TIMEOUT)
        if state.told != policy:
            state.told = policy
            _log.info(
                "%s: policy %s, mode %s, max_age %d", domain, found.policy_id, policy.mode,
                policy.max_age,
                extra={"fields": {
                    "event": "decision", "domain": domain, "outcome": policy.mode,
                    "reason": found.reason, "policy_id": found.policy_id,
                    "max_age": policy.max_age,
                }},
            )  # fmt: skip
        self.on_change(domain)
        # Told of this fetch, whatever has become of the state while it was put.
        until = min(stored.expires_at, now + settings.recheck_interval)
        return _decision(domain, policy, stored, until, "network", found.steps)


def _weight(state: _State) -> int:
    """What a stranger can make large, in bytes: patterns and texts."""
    mx = state.policy.mx if state.policy is not None else ()
    steps = state.steps if state.dane is None else (*state.steps, *state.dane.steps)
    return (
        sum(map(len, mx)) + _STRING * len(mx) + len(state.detail)
        + sum(len(step.text) + 2 * _STRING for step in steps)
    )  # fmt: skip


def _slim(stored: Stored, domain: str) -> Stored:
    """As it is kept in memory: without the text, which the parsed policy stands for."""
    return msgspec.structs.replace(stored, domain=domain, body="")


def _live(state: _State, now: float) -> Stored | None:
    """The cached policy, unless it has expired (section 3.2, max_age)."""
    stored = state.stored
    return stored if stored is not None and now < stored.expires_at else None


def _decision(
    domain: str,
    policy: Policy,
    stored: Stored,
    until: float,
    source: Source,
    steps: tuple[Step, ...],
) -> Decision:
    return Decision(
        policy_domain=domain,
        outcome=policy.mode,
        reason="policy-found",
        policy=policy,
        policy_id=stored.policy_id,
        source=source,
        fetched_at=stored.fetched_at,
        expires_at=stored.expires_at,
        valid_until=until,
        steps=steps,
    )


__all__ = ["Decision", "Keeper", "Reach", "Resolver"]
