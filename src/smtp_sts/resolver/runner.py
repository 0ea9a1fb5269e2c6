"""Carries out what the life of a policy asks for, of one dialect, for the domains of one process.

Promises: for each domain one look at a time, however many ask; an answer is made from the state of
the moment in which it is given, and comes within the answer timeout (law 6); a stranger's domains
take his share of the places and no more; what breaks is counted, logged, and does not repeat at
once (law 7); nothing is left running after `close`. Must not: decide anything (`life/` does), or go
on with a `Domain` after waiting for something that does not make it busy: it may be forgotten by
then, and another one remembered in its place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import msgspec

from smtp_sts.net.aside import aside
from smtp_sts.net.places import Places
from smtp_sts.policy.organisation import share_key
from smtp_sts.resolver.dane_looks import SLOW_FACTOR
from smtp_sts.resolver.decision import Decision
from smtp_sts.resolver.life import events as ev
from smtp_sts.resolver.life.answer import answer, answerable, applies, just_fetched, overdue
from smtp_sts.resolver.life.machine import Table
from smtp_sts.resolver.life.machine import step as next_state
from smtp_sts.resolver.life.state import Cached
from smtp_sts.resolver.memory import Domain, Life
from smtp_sts.resolver.stored import from_store, key_of, to_store
from smtp_sts.resolver.surroundings import Network, Surroundings
from smtp_sts.resolver.telling import tell
from smtp_sts.resolver.waiting import wait_for_work
from smtp_sts.store import Stored, StoreError

#: An answer waits no longer than this for its policy to be safe on disk (seconds).
SAVE_TIMEOUT: Final = 1.0
#: What concerns every domain is done for so long at a time (seconds).
PORTION_SECONDS: Final = 0.002
#: Proofs under way, checks of MX hosts under way, and of both together those that wait in line.
PROOFS: Final = 50
CHECKS: Final = 10
WORK_LIMIT: Final = 2000

#: What one errand does one after the other: a look, or what no answer waits for.
_LOOK: Final = (ev.Read, ev.LookUp, ev.AwaitTurn, ev.Fetch)
_WORK: Final = (ev.Prove, ev.CheckMx)

_log = logging.getLogger(__name__)


class Runner:
    """The policies of one dialect. `index` is the place of its lives in `Domain.lives`."""

    def __init__(self, table: Table, index: int, network: Network, around: Surroundings) -> None:
        self._table = table
        self._index = index
        self._network = network
        self._around = around
        self.keeper = around.keeper
        limit = around.settings.max_lookups
        #: looks, by organisational domain: those that hold a place, and all under way
        self.places = Places(limit)
        self.under_way = Places(limit * SLOW_FACTOR)
        self._proofs = Places(PROOFS)
        self._checks = Places(CHECKS)
        self.lines = Places(WORK_LIMIT)
        self._purges = 0
        #: how far the clock was set forward in all, since the start (seconds)
        self._clock_moved = 0.0
        self.closing = False
        self.answer_timeout = around.settings.answer_timeout
        self.tasks: set[asyncio.Task[None]] = set()

    # -- what is asked ------------------------------------------------------------------------

    def known(self, domain: Domain) -> Decision | None:
        """What applies where that is known without waiting; starts what is due behind it."""
        life = self.life(domain)
        self.happens(domain, life, ev.Asked(now=self._around.clock()))
        return self._answer(domain, life, "cache")

    async def decide(self, name: str) -> Decision:
        """What applies now; after the answer timeout what is known by then."""
        domain = self._around.memory.of(name)
        decision = self.known(domain)
        if decision is not None:
            return decision
        life, asked = self.life(domain), self._around.clock()
        loop = asyncio.get_running_loop()
        until = (life.began if life.tasks else loop.time()) + self.answer_timeout
        while decision is None:
            if life.state.idle and not life.state.reading:
                ending = "discovery-timeout" if self.closing else "overloaded"
                return self._overdue(domain, life, ending)
            if not await self._changed(life, until):
                now = self._around.clock()
                self.happens(domain, life, ev.AnswerOverdue(now=now))
                return self._overdue(domain, life, "discovery-timeout")
            decision = self._answer(domain, life, "network")
            decision = decision or just_fetched(
                domain.name, life.state, asked, dane=self._around.dane()
            )
            idle = life.state.idle and not life.state.reading
            if decision is None and idle and not self.closing:
                # Purged, expired or forgotten in the very moment in which it was found: once more.
                domain = self._around.memory.of(name)
                life = self.life(domain)
                self.happens(domain, life, ev.Asked(now=self._around.clock()))
                decision = self._answer(domain, life, "network")
        if decision.fetched_at is not None and decision.fetched_at != life.fetched_at:
            return msgspec.structs.replace(decision, source="cache")  # out of the store
        return decision

    def in_force(self, domain: Domain) -> Decision | None:
        """What an unexpired policy in memory asks for; nothing is waited for, nothing started."""
        life, around = self.life(domain), self._around
        return applies(domain.name, life.state, around.clock(), "cache", dane=around.dane())

    async def refresh(self, name: str) -> None:
        """Fetch the policy of a domain anew, as the daily refresh does; returns when it is done."""
        domain = await self.read_kept(name)
        life = self.life(domain)
        self.happens(domain, life, ev.RefreshDue(now=self._around.clock()))
        await self.until_idle(life)

    async def renew(self, name: str) -> Life:
        """Fetch the policy of a domain at an operator's word; returns when that is done, with what
        is known by then."""
        await self.until_idle(self.life(await self.read_kept(name)))
        domain = self._around.memory.of(name)
        life = self.life(domain)
        self.happens(domain, life, ev.RenewalWanted(now=self._around.clock()))
        await self.until_idle(life)
        return life

    async def read_kept(self, name: str) -> Domain:
        """What is remembered of a domain, once the store has been asked."""
        while True:
            domain = self._around.memory.of(name)
            life = self.life(domain)
            if life.state.unread:
                self.happens(domain, life, ev.UpkeepBegins(now=self._around.clock()))
                while life.state.reading and life.tasks:
                    await asyncio.wait(life.tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._around.memory.find(name) is domain:
                return domain

    async def purge(self, name: str, before: float) -> bool:
        """Forget what was learnt of a domain at a time or before; False where the store refuses."""
        self._purges += 1
        self._forget(name)
        lasting = await self.keeper.purge(key_of(self._table.dialect, name), before)
        self._purges += 1
        self._forget(name)  # what a query has read meanwhile
        return lasting

    def _forget(self, name: str) -> None:
        domain = self._around.memory.find(name)
        if domain is None:
            return
        life = self.life(domain)
        for task in life.tasks:
            task.cancel()
        life.tasks = ()
        self.happens(domain, life, ev.Purged(now=self._around.clock()))

    async def learn(self, name: str, stored: Stored) -> None:
        """The store holds this policy now: another worker or daemon may have put it there."""
        domain, purges = self._around.memory.find(name), self._purges
        held = self.life(domain).state.cached if domain is not None else None
        if held is not None and held.fetched_at == stored.fetched_at and held.authenticated:
            return  # our own, most likely: not worth reading
        cached = await self.cached(stored)
        while purges != self._purges:  # perhaps what we were told is
            purges = self._purges
            again = await self._kept(name)
            cached = await self.cached(again) if again is not None else None
        domain = self._around.memory.find(name)
        if cached is not None and domain is not None:  # else the next question reads the store
            self.happens_to(domain, ev.Shared(now=self._around.clock(), cached=cached))

    async def _kept(self, name: str) -> Stored | None:
        try:
            return await self.keeper.get(key_of(self._table.dialect, name))
        except StoreError:
            return None

    def clock_set(self, seconds: float) -> None:
        """The clock was set forward or, below 0, back.

        Each domain is told before the next that happens to it: telling all of them at once would
        hold up every answer for seconds, and whoever can set clocks could do that (law 6).
        """
        self._clock_moved += seconds

    def life(self, domain: Domain) -> Life:
        """The life of a domain, by the clock as it goes now."""
        life = domain.lives[self._index]
        if life.clock_moved != self._clock_moved:
            seconds = self._clock_moved - life.clock_moved
            life.clock_moved = self._clock_moved
            event = ev.ClockSet(now=self.now(), seconds=seconds)
            life.state, _ = next_state(self._table, life.state, event, self._around.settings)
        return life

    async def store_replaced(self, caught_up: Callable[[], Awaitable[None]]) -> None:
        """The store has lost what it had: all policies in force are put there again.

        In portions, for the texts of all of them take long to write (law 6); `caught_up` returns
        when the store has taken one, so that no more than one waits in memory.
        """
        loop = asyncio.get_running_loop()
        until, purges = loop.time() + PORTION_SECONDS, self._purges
        for domain in list(self._around.memory):
            if self._around.memory.find(domain.name) is domain or purges == self._purges:
                self.happens_to(domain, ev.StoreReplaced(now=self.now()))
            if loop.time() >= until:
                await caught_up()
                until = loop.time() + PORTION_SECONDS

    def happens_to(self, domain: Domain, event: ev.Event) -> None:
        """Something that concerns one domain, and that nobody waits for."""
        self.happens(domain, self.life(domain), event)

    async def until_idle(self, life: Life) -> None:
        """Wait until nothing is under way for a domain."""
        while life.tasks:
            await asyncio.wait(life.tasks)

    async def close(self) -> None:
        """End what still runs."""
        self.closing = True
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- answers ------------------------------------------------------------------------------

    def _answer(
        self, domain: Domain, life: Life, source: Literal["cache", "network"]
    ) -> Decision | None:
        around = self._around
        return answer(domain.name, life.state, around.clock(), source, dane=around.dane())

    def _overdue(self, domain: Domain, life: Life, reason: str) -> Decision:
        around = self._around
        around.count(reason if self._table.dialect == "rfc8461" else f"draft-{reason}")
        return overdue(domain.name, life.state, around.clock(), reason, dane=around.dane())

    async def _changed(self, life: Life, until: float) -> bool:
        """Wait until something may have changed; False where it has not by a time of the loop."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        if life.waiters is None:
            life.waiters = []
        life.waiters.append(waiter)
        try:
            await wait_for_work([waiter], until - loop.time())
        finally:
            if life.waiters is not None and waiter in life.waiters:
                life.waiters.remove(waiter)
        return waiter.done() or answerable(life.state, self.now())

    def tell_waiters(self, life: Life) -> None:
        """Wake who waits, if there is an answer, or nothing more to wait for."""
        if not life.waiters:
            return
        state = life.state
        if answerable(life.state, self.now()) or (state.idle and not state.reading):
            waiters, life.waiters = life.waiters, None
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    # -- what happens -------------------------------------------------------------------------

    def happens(self, domain: Domain, life: Life, event: ev.Event) -> None:
        """An event that nothing of ours has asked for."""
        before = life.state
        wanted = self.step(domain, life, event)
        for effect in wanted:
            self.begin(domain, life, effect)
        if life.state is not before:
            self.tell_waiters(life)

    def step(self, domain: Domain, life: Life, event: ev.Event) -> list[ev.Effect]:
        """The next state; what can be done at once is done, the rest is returned."""
        around, before = self._around, self.life(domain).state
        life.state, effects = next_state(self._table, before, event, around.settings)
        rest: list[ev.Effect] = []
        for effect in effects:
            if isinstance(effect, ev.Count):
                around.count(effect.name)
            elif isinstance(effect, ev.Tell):
                tell(domain.name, effect, event.now)
            elif isinstance(effect, ev.Touch):
                self.keeper.touch(self.key(domain), effect.when)
            elif isinstance(effect, ev.SaveAgain):
                self.keeper.keep_again([to_store(domain.name, effect.cached)])
            else:
                rest.append(effect)
        if life.state.cached is not before.cached or life.state.idle:
            around.memory.weigh(domain)
        return rest

    def key(self, domain: Domain) -> str:
        """Under what name the store keeps the policy of a domain."""
        return key_of(self._table.dialect, domain.name)

    def begin(self, domain: Domain, life: Life, effect: ev.Effect) -> None:
        """Do what takes its time, beside everything else."""
        if isinstance(effect, ev.RepliesAreStale):
            self._around.on_change(domain.name)
            return
        pool = self.pool_of(effect)
        if self.closing or (pool is not None and not pool.take(share_key(domain.name))):
            refused = ev.Broke(now=self.now(), number=getattr(effect, "number", 0))
            self.happens(domain, life, refused)
            return
        loop = asyncio.get_running_loop()
        errand = _Errand(self, domain, life, effect)
        task = loop.create_task(errand.run())
        self.tasks.add(task)
        if isinstance(effect, _LOOK):  # not a postponement that hangs, or a check of MX hosts
            life.began = loop.time()
        life.tasks = (*life.tasks, task)
        task.add_done_callback(errand.ended)

    def pool_of(self, effect: ev.Effect) -> Places | None:
        """In which pool something counts as under way."""
        if isinstance(effect, _WORK):
            return self.lines
        return self.under_way if isinstance(effect, ev.LookUp) else None

    def will_not_come(self, domain: Domain, life: Life, number: int, error: str = "") -> None:
        """What was asked for with a number will not come: for want of a place, or by a defect of
        ours, which `error` tells. With nobody at work any more, nor will anything else."""
        numbers = [number]
        if not life.tasks:
            state = life.state
            numbers += [work.number for work in (state.look, state.work) if work is not None]
            numbers.append(state.reading)
        for one in dict.fromkeys(numbers):
            self.happens(domain, life, ev.Broke(now=self.now(), number=one, error=error))

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._around.clock()

    async def read(self, domain: Domain, effect: ev.Read) -> ev.Answer:
        """Ask the store."""
        try:
            stored = await self.keeper.get(self.key(domain))
        except StoreError:
            return ev.StoreFailed(now=self.now(), number=effect.number)
        kept = await self.cached(stored) if stored is not None else None
        return ev.StoreRead(now=self.now(), number=effect.number, cached=kept)

    async def from_network(self, domain: Domain, effect: ev.Effect) -> ev.Answer:
        """What comes of a look, a fetch, a proof or a check."""
        pool = {ev.Prove: self._proofs, ev.CheckMx: self._checks}.get(type(effect))
        if pool is None:
            return await self._network.answer(domain.name, effect)
        async with pool.of(share_key(domain.name)):
            return await self._network.answer(domain.name, effect)

    async def cached(self, stored: Stored) -> Cached | None:
        """What the store holds; None, counted and logged, where somebody else wrote it."""
        cached = await aside(len(stored.body), lambda: from_store(stored))
        if cached is None:
            self._around.count("store-invalid")
            _log.error("%s: the policy in the store is not valid", stored.domain)
        return cached


class _Errand:
    """What is done for a domain, one thing after the other, as long as each brings the next.

    A look and what it fetches are one errand; a proof and a check are another, for which no answer
    waits.
    """

    __slots__ = (
        "_claimed",
        "_counted",
        "_domain",
        "_effect",
        "_life",
        "_number",
        "_place",
        "_runner",
    )

    def __init__(self, runner: Runner, domain: Domain, life: Life, effect: ev.Effect) -> None:
        self._runner = runner
        self._domain = domain
        self._life = life
        self._effect: ev.Effect | None = effect
        self._number = 0
        #: the pool in which it counts as under way
        self._counted = runner.pool_of(effect)
        #: gives back the place that a look holds
        self._place: asyncio.TimerHandle | None = None
        self._claimed = False

    async def run(self) -> None:
        """Do all of it."""
        try:
            while (effect := self._effect) is not None:
                self._number = effect.number if isinstance(effect, ev.Errand) else 0
                event = await self._done(effect)
                self._effect = None
                if event is not None:
                    await self._follow(event, _LOOK if isinstance(effect, _LOOK) else _WORK)
        finally:
            self._give_back()
            if self._claimed:  # behind what was put
                self._runner.keeper.release(self._runner.key(self._domain))

    async def _follow(self, event: ev.Answer, mine: tuple[type[ev.Effect], ...]) -> None:
        runner = self._runner
        saves: list[asyncio.Future[None]] = []
        later: list[ev.Effect] = []
        if isinstance(event, ev.PolicyFetched | ev.DraftSeen):
            self._life.fetched_at = event.now
        for effect in runner.step(self._domain, self._life, event):
            if isinstance(effect, ev.Save):
                stored = to_store(self._domain.name, effect.cached, effect.text)
                # No task is made of a write: the keeper has it already, and it may outlast our end.
                saves.append(asyncio.ensure_future(runner.keeper.put(stored)))
            elif self._effect is None and isinstance(effect, mine):
                self._effect = effect
            else:
                later.append(effect)
        if saves:
            # The answer follows when the policy is safe on disk; a disk that hangs holds nothing.
            await asyncio.wait(saves, timeout=SAVE_TIMEOUT)
        for effect in later:  # who is told that replies are stale reads the store
            runner.begin(self._domain, self._life, effect)
        runner.tell_waiters(self._life)

    async def _done(self, effect: ev.Effect) -> ev.Answer | None:
        """Do one thing; the event that answers it, None where none does."""
        runner = self._runner
        if isinstance(effect, ev.Read):
            return await runner.read(self._domain, effect)
        if isinstance(effect, ev.AwaitTurn):
            self._claimed = True
            kept = await runner.keeper.claim(runner.key(self._domain), effect.patience)
            cached = await runner.cached(kept) if kept is not None else None
            return ev.TurnCame(now=runner.now(), number=effect.number, kept=cached)
        if isinstance(effect, ev.LookUp) and not await self._admit():
            return ev.Broke(now=runner.now(), number=effect.number)
        if isinstance(effect, ev.Postpone):
            await runner.keeper.postpone(runner.key(self._domain), effect.until, effect.before)
            return None
        return await runner.from_network(self._domain, effect)

    async def _admit(self) -> bool:
        """Whether a look may begin; waits for its place.

        A place is held for the answer timeout at most: policy hosts that never answer do not keep
        other domains from being looked up.
        """
        runner, key = self._runner, share_key(self._domain.name)
        if self._counted is None:
            if not runner.under_way.take(key):
                return False
            self._counted = runner.under_way
        await runner.places.wait(key)
        loop = asyncio.get_running_loop()
        self._place = loop.call_later(runner.answer_timeout, self._give_back)
        return True

    def _give_back(self) -> None:
        if self._place is not None:
            self._place.cancel()
            self._place = None
            self._runner.places.release(share_key(self._domain.name))

    def ended(self, task: asyncio.Task[None]) -> None:
        """The task has ended, well or not."""
        runner, life = self._runner, self._life
        runner.tasks.discard(task)
        life.tasks = tuple(one for one in life.tasks if one is not task)
        if self._counted is not None:
            self._counted.release(share_key(self._domain.name))
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("looking after %s broke", self._domain.name, exc_info=error)
            runner.will_not_come(self._domain, life, self._number, repr(error))
        elif task.cancelled() and runner.closing:
            runner.will_not_come(self._domain, life, self._number)
        runner.tell_waiters(life)
