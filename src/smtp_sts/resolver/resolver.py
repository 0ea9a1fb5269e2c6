"""The decision for a domain: the operator's rule, the policies of the dialects, DANE.

1. a rule of the operator that decides alone;
2. the cached policy of RFC 8461, or what is found (`runner.py` carries out, `life/` decides);
3. that of the first draft, where it is looked for and no RFC 8461 policy is in force;
4. the rule's changes;
5. DANE, weighed by `precedence.py`.

Promises: an answer within the answer timeout (law 6), whatever the network does. Must not: know of
MTAs, replies or sockets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import MappingProxyType
from typing import Final

import msgspec

from smtp_sts.config import PolicySection
from smtp_sts.policy import DIALECTS, Dialect, NextHop
from smtp_sts.policy.nexthop import UNKNOWN_PORT
from smtp_sts.resolver import overrides
from smtp_sts.resolver.dane_looks import DANE_TTL, DaneLooks
from smtp_sts.resolver.decision import Decision, Step
from smtp_sts.resolver.dialects import Draft00Network, Rfc8461Network
from smtp_sts.resolver.keeper import Keeper
from smtp_sts.resolver.life import events as ev
from smtp_sts.resolver.life.answer import renewal_of, upkeep_of
from smtp_sts.resolver.life.draft00 import DRAFT00
from smtp_sts.resolver.life.rfc8461 import RFC8461
from smtp_sts.resolver.memory import Domain, Memory
from smtp_sts.resolver.overrides import Rules
from smtp_sts.resolver.precedence import of_dialects, weigh
from smtp_sts.resolver.reach import Reach
from smtp_sts.resolver.runner import Runner
from smtp_sts.resolver.stored import dialect_of, domain_of, key_of
from smtp_sts.resolver.surroundings import Keeping, Network, Surroundings
from smtp_sts.resolver.upkeep import Renewal, Upkeep
from smtp_sts.store import Stored, StoreError

#: At the end a store that has lost its policies gets them for so long yet (seconds).
SAVING_SECONDS: Final = 1.0


class Resolver:
    """Decides for the domains of one process."""

    def __init__(
        self,
        settings: PolicySection,
        reach: Reach,
        keeper: Keeping,
        counts: dict[str, int],
        *,
        on_change: Callable[[str], None] = lambda _domain: None,
        rules: Rules = MappingProxyType({}),
        smtp_port: int = 25,
        clock: Callable[[], float] = time.time,
        dialects: tuple[Dialect, ...] = ("rfc8461",),
    ) -> None:
        """`on_change` is called with a domain whose decision has changed."""
        self.settings = settings
        self.reach = reach
        self.on_change = on_change
        self._rules = rules
        self._keeper = keeper
        self._clock = clock
        self.memory = Memory(len(dialects))
        around = Surroundings(settings, keeper, counts, self.memory, clock=clock)
        around.on_change = self._changed
        around.dane = lambda: self.dane
        networks: dict[Dialect, Network] = {
            "rfc8461": Rfc8461Network(lambda: self.reach, clock),
            "draft00": Draft00Network(
                lambda: self.reach, clock, dane=lambda: self.dane, smtp_port=smtp_port
            ),
        }
        tables = {"rfc8461": RFC8461, "draft00": DRAFT00}
        self._runners: dict[Dialect, Runner] = {
            name: Runner(tables[name], index, networks[name], around)
            for index, name in enumerate(dialects)
        }
        self._index = {name: index for index, name in enumerate(dialects)}
        self.looks = DaneLooks(
            settings,
            lambda: self.reach.dns,
            around.count,
            clock,
            learnt=self._learnt,
            smtp_port=smtp_port,
        )
        if isinstance(keeper, Keeper):
            keeper.on_replaced = lambda: self.store_replaced(keeper.caught_up)
        #: what is put into a store again that has lost it
        self._saving: set[asyncio.Future[None]] = set()

    @property
    def dane(self) -> bool:
        """Whether DANE is looked for: without a trusted validating resolver there is none (RFC 7672
        section 2.1)."""
        return self.settings.dane and self.reach.dns.trusts_ad

    async def decide(self, where: NextHop | str) -> Decision:
        """What applies to a next hop now (a string is a mail domain); see `Decision`. Never raises
        for its input.

        The policy is that of its domain (RFC 8461 section 3.4), DANE that of the way there.
        """
        where = _next_hop(where)
        name = where.domain
        rule = overrides.find(self._rules, name)
        decided = overrides.fixed(rule, name, self._clock()) if rule else None
        if decided is not None:
            return decided
        domain = self.memory.of(name)
        dane = self._looks_for_dane(where, rule)
        way = domain.way(where) if dane else domain
        began = asyncio.get_running_loop().time()
        if dane:
            self.looks.start(where, way)
        decision = await self._by_policy(domain)
        if rule:
            decision = overrides.adapt(rule, decision)
        return await self.looks.weighed(decision, way, began) if dane else decision

    def _looks_for_dane(self, where: NextHop, rule: overrides.Rule | None) -> bool:
        return self.dane and where.port != UNKNOWN_PORT and not (rule and rule.never_dane)

    def known(self, where: NextHop | str) -> Decision | None:
        """What an unexpired policy in memory asks for, without any wait; None where none is."""
        where = _next_hop(where)
        name = where.domain
        domain = self.memory.find(name)
        if domain is None:
            return None
        found = (runner.in_force(domain) for runner in self._runners.values())
        decision = next((one for one in found if one is not None), None)
        if decision is None:
            return None
        now, rule = self._clock(), overrides.find(self._rules, name)
        if rule:
            decision = overrides.fixed(rule, name, now) or overrides.adapt(rule, decision)
        if not self._looks_for_dane(where, rule):
            return decision
        dane = domain.way(where).dane
        fresh = dane if dane is not None and now < dane.until else None
        return weigh(decision, fresh, now + 1.0)

    async def recall(self, where: NextHop | str) -> Decision | None:
        """As `known`, of the store too."""
        where = _next_hop(where)
        for runner in self._runners.values():
            await runner.read_kept(where.domain)
        return self.known(where)

    async def _by_policy(self, domain: Domain) -> Decision:
        """What STS says. Both dialects are asked at the same time, and none where a policy of RFC
        8461 is in force."""
        rfc8461, draft = self._runners.get("rfc8461"), self._runners.get("draft00")
        if draft is None or rfc8461 is None:
            alone = rfc8461 or draft
            if alone is None:
                raise ValueError("no dialect is looked for")
            return await alone.decide(domain.name)
        sts = rfc8461.known(domain)
        if sts is not None and sts.policy is not None:
            return sts
        other = draft.known(domain)
        asked = None if other else asyncio.ensure_future(draft.decide(domain.name))
        try:
            sts = sts or await rfc8461.decide(domain.name)
            if sts.policy is not None:
                return sts
            if asked is not None:
                other = await asked
            return of_dialects(sts, other) if other is not None else sts
        finally:
            if asked is not None:
                asked.cancel()  # the look goes on

    # -- upkeep -------------------------------------------------------------------------------

    async def refresh(self, key: str) -> None:
        """Fetch the policy kept under a key anew, as the daily refresh does.

        Returns when that is done. Does nothing where a look runs already or a fetch failed a short
        time ago.
        """
        runner = self._runners.get(dialect_of(key))
        if runner is not None:
            await runner.refresh(domain_of(key))
        else:  # kept from when that dialect was switched on
            now = self._clock()
            await self._keeper.postpone(key, now + self.settings.refresh_interval, now)

    def upkeep(self, key: str) -> Upkeep | None:
        """How the upkeep of the policy under a key goes; None where nothing is known of it."""
        domain, runner = self.memory.find(domain_of(key)), self._runners.get(dialect_of(key))
        if domain is None or runner is None:
            return None
        state = runner.life(domain).state
        return upkeep_of(state) if state.number else None

    async def renew(self, name: str, *, force: bool = False) -> Renewal:
        """Look for the policy of a domain now and fetch it, at an operator's word: that dialect's
        whose policy was fetched, RFC 8461's first.

        RFC 8461 section 3.3 wants five minutes between a failed fetch and the next: only `force`
        does not wait for them. A look that runs already is waited for.
        """
        first: Renewal | None = None
        for dialect in self._runners:
            renewal = await self._renew(dialect, name, force=force)
            if renewal.result == "fetched":
                return renewal
            first = first or renewal
        return first or Renewal("failed")

    async def _renew(self, dialect: Dialect, name: str, *, force: bool) -> Renewal:
        runner = self._runners[dialect]
        await runner.until_idle(runner.life(self.memory.of(name)))
        now, state = self._clock(), runner.life(self.memory.of(name)).state
        if now < state.retry_at and not force:
            reason = state.last_failure.reason
            return Renewal("waits", reason.code, reason.detail, state.retry_at)
        return renewal_of((await runner.renew(name)).state, now)

    async def purge(self, name: str, before: float) -> bool:
        """Forget everything of a domain that was learnt at a time or before.

        Law 1 is the operator's to break: until the next fetch nothing protects the domain. False
        where the store has refused, so that a restart brings the policy back.
        """
        lasting = [await one.purge(name, before) for one in self._runners.values()]
        for dialect in DIALECTS.keys() - self._runners.keys():
            lasting.append(await self._keeper.purge(key_of(dialect, name), before))
        if (domain := self.memory.find(name)) is not None:
            for way in domain.ways():
                way.dane = None
        return all(lasting)

    async def learn(self, stored: Stored) -> None:
        """The store holds this policy now: another worker or daemon may have fetched it."""
        runner = self._runners.get(dialect_of(stored.domain))
        name = domain_of(stored.domain)
        if runner is None:
            return
        if self.memory.find(name) is None:
            # Of a domain that was forgotten there may be replies that were made ready.
            self.on_change(name)
        else:
            await runner.learn(name, stored)

    async def holds(self, name: str) -> bool:
        """Whether the store holds a policy in force: then its owner answers without the network."""
        now = self._clock()
        return any(now < stored.expires_at for stored in await self.kept(name))

    async def kept(self, name: str) -> list[Stored]:
        """What the store holds for a domain, whoever put it there; nothing where it cannot tell."""
        found = []
        for dialect in self._runners:
            try:
                stored = await self._keeper.get(key_of(dialect, name))
            except StoreError:
                continue
            if stored is not None:
                found.append(stored)
        return found

    def failed(self, name: str) -> None:
        """Mail to a domain met with a failure."""
        domain = self.memory.find(name)
        if domain is not None:
            event = ev.MailFailed(now=self._clock())
            for runner in self._runners.values():
                runner.happens_to(domain, event)

    def clock_set(self, seconds: float) -> None:
        """The clock was set forward or, below 0, back."""
        for runner in self._runners.values():
            runner.clock_set(seconds)
        latest = self._clock() + DANE_TTL[1]
        for domain in self.memory:
            for way in domain.ways():
                if way.dane is not None:
                    until = min(way.dane.until + seconds, latest)
                    way.dane = msgspec.structs.replace(way.dane, until=until)

    def _changed(self, name: str) -> None:
        self.on_change(name)  # which is set anew when there are peers to tell

    def store_replaced(self, caught_up: Callable[[], Awaitable[None]]) -> None:
        """The store has lost what it had: what is in force is to outlive a restart again.
        `caught_up` returns when the store has taken what was put until then."""
        for runner in self._runners.values():
            task = asyncio.ensure_future(runner.store_replaced(caught_up))
            self._saving.add(task)
            task.add_done_callback(self._saving.discard)

    def _learnt(self, name: str, changed: bool) -> None:
        """DANE is known of a domain."""
        domain = self.memory.find(name)
        if domain is not None:
            self.memory.weigh(domain)
        if changed:
            self.on_change(name)

    def steps_beside(self, decision: Decision) -> tuple[Step, ...]:
        """What was seen in the dialects that the decision does not go by."""
        domain = self.memory.find(decision.policy_domain)
        if domain is None or decision.policy is None:
            return ()
        others = (index for name, index in self._index.items() if name != decision.dialect)
        return tuple(step for index in others for step in domain.lives[index].state.steps)

    # -- figures ------------------------------------------------------------------------------

    @property
    def states(self) -> int:
        """Domains that this process knows something of."""
        return len(self.memory)

    @property
    def running(self) -> int:
        """Looks, proofs and checks under way."""
        return sum(len(runner.tasks) for runner in self._runners.values())

    async def until_idle(self) -> None:
        """Wait until nothing is looked up behind an answer."""
        while tasks := [t for runner in self._runners.values() for t in runner.tasks]:
            await asyncio.wait(tasks)
        while self.looks.running:
            await asyncio.wait(set(self.looks.running))

    async def close(self) -> None:
        """End what still runs."""
        if self._saving:
            await asyncio.wait(self._saving, timeout=SAVING_SECONDS)
        for task in self._saving:
            task.cancel()
        await asyncio.gather(*self._saving, return_exceptions=True)
        for runner in self._runners.values():
            await runner.close()
        await self.looks.close()


def _next_hop(where: NextHop | str) -> NextHop:
    return where if isinstance(where, NextHop) else NextHop(where)
