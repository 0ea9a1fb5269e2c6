"""One play of the resolver: what a seed has happen to it, and what must be true whatever happens.

The resolver, its runners and its machine are the real ones; network, store and event loop are those
of a seed (`seeded_world.py`, `seeded_loop.py`). What an answer may say is told by the oracle, which
hears what the runners hear, at the moment they hear it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Final
from unittest import mock

from smtp_sts.config import PolicySection
from smtp_sts.net.places import Places
from smtp_sts.policy import DraftRecord
from smtp_sts.resolver import memory
from smtp_sts.resolver import resolver as resolver_module
from smtp_sts.resolver.decision import Decision
from smtp_sts.resolver.life import events as ev
from smtp_sts.resolver.life.state import Cached
from smtp_sts.resolver.memory import Domain
from smtp_sts.resolver.memory import Life as InMemory
from smtp_sts.resolver.resolver import Resolver
from smtp_sts.resolver.runner import Runner
from smtp_sts.resolver.stored import from_store, key_of, to_store

from .oracle import Life, Oracle
from .seeded_loop import SeededLoop
from .seeded_world import (
    DOMAINS,
    DefectError,
    Delays,
    Draft00,
    Rfc8461,
    SeededNetwork,
    SeededStore,
    of_another,
)

#: Times that fit a play of some minutes (seconds).
SETTINGS: Final = PolicySection(
    answer_timeout=4.0,
    recheck_interval=3.0,
    refresh_interval=20.0,
    retry_interval=5.0,
    negative_ttl=4.0,
    error_ttl=2.0,
    max_lookups=3,
    dane=False,
)
BEGIN: Final = 1_700_000_000.0
#: Law 6 (seconds).
IN_TIME: Final = 5.0
#: Domains that are remembered: less than there are.
STATES: Final = 4
DIALECTS: Final = ("rfc8461", "draft00")
_PAUSES: Final = (0.0, 0.0, 0.0, 0.01, 0.3, 1.0, 1.0, 3.0, 6.0, 30.0)
_ACTIONS: Final = (
    ("ask", 40),
    ("ask_and_leave", 4),
    ("refresh", 10),
    ("renew", 5),
    ("purge", 3),
    ("learn", 8),
    ("set_clock", 3),
    ("replace_store", 2),
    ("mail_failed", 5),
    ("recall", 3),
)


class Past:
    """What was in force for a domain in a dialect, as it changed."""

    def __init__(self) -> None:
        self.oracle = Oracle()
        self.life: InMemory | None = None
        self.lives: list[Life | None] = [None]

    def now(self) -> None:
        """Note what is in force."""
        if self.lives[-1] is not self.oracle.life:
            self.lives.append(self.oracle.life)


class Play:
    """One seed."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.loop = SeededLoop(Random(seed + 1))  # type: ignore[abstract]  # no I/O in it
        self.ahead = 0.0
        #: what the network says is wrong now and then, by a mistake of ours
        self.defects = self.chance.random() < 0.15
        self.counts: dict[str, int] = {}
        self.pasts: dict[tuple[str, int], Past] = {}
        self.dialects = self.chance.choice((DIALECTS, DIALECTS, DIALECTS[:1], DIALECTS[1:]))
        self.networks: list[SeededNetwork] = []
        self.store = SeededStore(
            self.chance, self.clock, Delays(self.chance), lies=self.chance.random() < 0.2
        )
        self.asked: set[asyncio.Task[None]] = set()
        self.resolver: Resolver
        #: how the clock was set: from when to when
        self.jumps: list[tuple[float, float]] = []
        #: domains that an operator has made forgotten
        self.purged: set[str] = set()
        #: keys under which another daemon has put something
        self.foreign: set[str] = set()

    def clock(self) -> float:
        """Seconds since the epoch, by a clock that is set now and then."""
        return BEGIN + self.ahead + self.loop.time()

    # -- the resolver -----------------------------------------------------------------------------

    def begin(self) -> None:
        """A daemon starts."""
        play = self

        class Heard(Runner):
            """A runner that the oracle listens to."""

            def step(self, domain: Domain, life: InMemory, event: ev.Event) -> list[ev.Effect]:
                known = play.resolver.memory.find(domain.name)
                if isinstance(event, ev.StoreReplaced):  # of a forgotten one too
                    return super().step(domain, life, event)
                assert known is domain, "what happens is told to one that was forgotten"
                play.hear(domain, life, event)
                wanted = super().step(domain, life, event)
                play.past(domain, life).now()
                return wanted

        def network(kind: type[SeededNetwork]) -> SeededNetwork:
            made = kind(self.chance, self.clock, Delays(self.chance), defects=self.defects)
            self.networks.append(made)
            return made

        with (
            mock.patch.object(resolver_module, "Runner", Heard),
            mock.patch.object(resolver_module, "Rfc8461Network", lambda *_: network(Rfc8461)),
            mock.patch.object(resolver_module, "Draft00Network", lambda *_, **__: network(Draft00)),
        ):
            self.resolver = Resolver(
                SETTINGS,
                mock.sentinel.reach,
                self.store,
                self.counts,
                clock=self.clock,
                dialects=self.dialects,  # type: ignore[arg-type]
            )

    def past(self, domain: Domain, life: InMemory) -> Past:
        """What was in force in a life; a new one knows nothing before it has asked the store."""
        index = domain.lives.index(life)
        past = self.pasts.setdefault((domain.name, index), Past())
        if past.life is not life:
            past.life, past.oracle = life, Oracle()
            past.now()
        return past

    def hear(self, domain: Domain, life: InMemory, event: ev.Event) -> None:
        """Tell the oracle what the machine is about to be told."""
        past, state, now = self.past(domain, life), life.state, event.now
        oracle = past.oracle
        if isinstance(event, ev.Shared):
            oracle.shared(_life(event.cached), now)
        elif isinstance(event, ev.Purged):
            oracle.purged()
            self.purged.add(domain.name)
        elif isinstance(event, ev.StoreRead):
            if event.number == state.reading and event.cached is not None:
                oracle.stored(_life(event.cached), now)
        elif isinstance(event, ev.Answer):
            number, look, work = event.number, state.look, state.work
            if look is not None and look.number == number:
                if isinstance(event, ev.TurnCame) and event.kept is not None:
                    oracle.shared(_life(event.kept), now)
                elif isinstance(event, ev.PolicyFetched):
                    oracle.fetched(event.policy, now)
                elif isinstance(event, ev.DraftSeen) and event.record is not None:
                    oracle.seen(event.record, now, event.ttl, secure=event.secure)
            elif work is not None and work.number == number:
                record, ttl = work.seen.record, work.seen.ttl
                if isinstance(event, ev.ProofCame) and event.good:
                    oracle.proven(record, work.against, now, ttl)
                elif isinstance(event, ev.MxChecked) and work.replaces:
                    met = event.verdict == "met"
                    oracle.met_after_proof(record, work.against, now, ttl, met=met)
                elif isinstance(event, ev.MxChecked) and event.verdict == "met":
                    oracle.met(record, now)
        for network in self.networks:
            said = (domain.name, event)
            if said in network.said:
                network.said.remove(said)

    # -- what happens -----------------------------------------------------------------------------

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something beside everything else."""
        task = self.loop.create_task(work)
        self.asked.add(task)
        return task

    def domain(self) -> str:
        """Some domain, the first ones more often."""
        return DOMAINS[int(self.chance.random() ** 1.5 * len(DOMAINS))]

    def ask(self) -> None:
        """An MTA asks."""
        self.start(self._ask(self.domain()))

    def ask_and_leave(self) -> None:
        """An MTA asks and hangs up."""
        task = self.start(self._ask(self.domain()))
        self.loop.call_later(self.chance.choice((0.0, 0.1, 2.0)), task.cancel)

    async def _ask(self, name: str) -> None:
        begin, stalled = self.loop.time(), self.loop.stalled
        before = {key: len(past.lives) for key, past in self.pasts.items()}
        jumps, first = len(self.jumps), self.clock()
        decision = await self.resolver.decide(name)
        took = self.loop.time() - begin - (self.loop.stalled - stalled)
        assert took <= IN_TIME, f"law 6: an answer came after {took} s"
        clocks = [first, self.clock()]
        for both in self.jumps[jumps:]:
            clocks += both
        lives: dict[str, list[Life | None]] = {}
        for index, dialect in enumerate(self.dialects):
            past = self.pasts.get((name, index))
            since = before.get((name, index), 1) - 1
            lives[dialect] = past.lives[since:] if past is not None else [None]
        self.judge(decision, lives, min(clocks), max(clocks))

    @staticmethod
    def judge(
        decision: Decision, lives: dict[str, list[Life | None]], least: float, most: float
    ) -> None:
        """Whether an answer is what was in force at some moment since it was asked for."""

        def none(dialect: str) -> bool:
            return any(one is None or one.expires_at <= most for one in lives.get(dialect, [None]))

        if decision.policy is None:
            assert decision.outcome == "no-policy"
            assert decision.reason
            for dialect in lives:
                assert none(dialect), f"law 1: no policy, where one was in force: {dialect}"
            return
        dialect = "draft00" if decision.draft is not None else "rfc8461"
        if dialect == "draft00":
            assert none("rfc8461"), "the first draft goes before a policy of RFC 8461"
        for life in lives[dialect]:
            if life is None or life.expires_at != decision.expires_at:
                continue
            kept = life.policy
            if (kept.mode, kept.mx) != (
                decision.policy.mode,
                decision.policy.mx,
            ):
                continue
            if isinstance(kept, DraftRecord):
                draft = decision.draft
                assert draft is not None
                binds = kept.mode == "enforce" and life.met
                if draft.authenticated != life.proven or binds != (decision.outcome == "enforce"):
                    continue
            assert life.expires_at > least or life.fetched_at >= least, "law 2"
            assert decision.valid_until <= life.expires_at, "law 2"
            return
        raise AssertionError(f"law 1: that was not in force: {decision}")

    def refresh(self) -> None:
        """The time for the daily refresh has come."""
        key = key_of(self.chance.choice(DIALECTS), self.domain())
        self.start(self.resolver.refresh(key))

    def renew(self) -> None:
        """An operator wants a policy fetched."""
        self.start(self._renew(self.domain(), force=self.chance.random() < 0.5))

    async def _renew(self, name: str, *, force: bool) -> None:
        await self.resolver.renew(name, force=force)

    def purge(self) -> None:
        """An operator wants a domain forgotten."""
        self.start(self._purge(self.domain()))

    async def _purge(self, name: str) -> None:
        await self.resolver.purge(name, self.clock())

    def learn(self) -> None:
        """Another worker or daemon has put a policy into the store."""
        dialect, name = self.chance.choice(self.dialects), self.domain()
        stored = to_store(name, of_another(name, dialect, self.chance, self.clock()))
        self.foreign.add(stored.domain)
        if self.store.take(stored):
            self.start(self.resolver.learn(stored))

    def set_clock(self) -> None:
        """Somebody sets the clock, which the daemon sees within a second."""
        by = self.chance.choice((-3.0, 3.0, -40.0, 40.0, 90_000.0, -90_000.0))
        before = self.clock()
        self.ahead += by
        self.jumps.append((before, self.clock()))
        self.loop.call_later(self.chance.random(), self.resolver.clock_set, by)

    def replace_store(self) -> None:
        """Somebody deletes the file of the store."""
        self.store.replaced()
        self.resolver.store_replaced(self.store.caught_up)

    def mail_failed(self) -> None:
        """Mail to a domain met with a failure."""
        self.resolver.failed(self.domain())

    def recall(self) -> None:
        """A report is made of what was in force."""
        self.start(self._recall(self.domain()))

    async def _recall(self, name: str) -> None:
        await self.resolver.recall(name)

    # -- from the beginning to the end ------------------------------------------------------------

    async def whole(self) -> None:
        """All of a play."""
        self.begin()
        chance = self.chance
        names, weights = zip(*_ACTIONS, strict=True)
        for action in chance.choices(names, weights, k=chance.randrange(10, 60)):
            await asyncio.sleep(chance.choice(_PAUSES))
            getattr(self, action)()
        if chance.random() < 0.5:  # else it ends in the middle of everything
            await self.resolver.until_idle()
            while self.asked:
                await self._ended(*self.asked)
                await self.resolver.until_idle()
            await asyncio.sleep(1.0)  # which lets all that is ready run
            self.at_rest()
            self.all_heard()
            await self._ended(self.start(self._ask(self.domain())))
            await self.resolver.until_idle()
            await asyncio.sleep(1.0)
            assert len(self.resolver.memory) <= STATES, "more is remembered than may be"
        await self.resolver.close()
        await self._ended(*self.asked)
        await asyncio.sleep(1.0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"left behind after close: {left}"
        self.at_rest()
        self.lasts()

    async def _ended(self, *tasks: asyncio.Task[None]) -> None:
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            self.asked.discard(task)
            if not task.cancelled():
                task.result()

    def all_heard(self) -> None:
        """Nothing that the network said is lost, but by an operator's purge."""
        for network in self.networks:
            lost = [said for said in network.said if said[0] not in self.purged]
            assert not lost, f"nobody has heard {lost}"

    def lasts(self) -> None:
        """What is in force would be so after a restart, or what goes before it (law 1).

        Not told here of what other daemons have fetched, nor where the clock was set: the store
        goes by the time of a fetch.
        """
        now = self.clock()
        if self.jumps:
            return
        for domain in self.resolver.memory:
            for index, dialect in enumerate(self.dialects):
                key = key_of(dialect, domain.name)  # type: ignore[arg-type]
                past, state = self.pasts.get((domain.name, index)), domain.lives[index].state
                life = past.oracle.applies(now) if past is not None else None
                if life is None or state.unread or key in self.store.lied | self.foreign:
                    continue
                stored = self.store.kept.get(key)
                kept = from_store(stored) if stored is not None else None
                assert kept is not None, f"law 1: a restart forgets {life}"
                anew = Oracle()
                anew.life = life
                anew.stored(_life(kept), now)
                assert anew.life == _life(kept), f"law 1: after a restart {kept}, not {life}"

    def at_rest(self) -> None:
        """Nothing is under way: then nobody waits, and no place is taken."""
        assert self.resolver.running == 0
        assert not any(self.store.claims.values()), "a claim is never given back"
        for place in _places(self.resolver):
            assert (place.taken, place.waiting) == (0, 0), "a place is never given back"
        for domain in self.resolver.memory:
            assert not domain.busy, "somebody waits for nothing"


def _places(resolver: Resolver) -> Iterator[Places]:
    runners = vars(resolver)["_runners"].values()
    for owner in (*runners, resolver.looks):
        yield from (one for one in vars(owner).values() if isinstance(one, Places))


def _life(cached: Cached) -> Life:
    return Life(
        cached.policy, cached.fetched_at, cached.expires_at, cached.authenticated, cached.met
    )


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record)


@contextmanager
def _errors() -> Iterator[list[logging.LogRecord]]:
    log, handler = logging.getLogger("smtp_sts"), _Errors()
    log.addHandler(handler)
    try:
        with mock.patch.object(log, "propagate", False):
            yield handler.seen
    finally:
        log.removeHandler(handler)


def play(seed: int) -> Play:
    """Play a seed. Raises AssertionError, or whatever else it finds."""
    made = Play(seed)
    with mock.patch.object(memory, "STATES_LIMIT", STATES), _errors() as errors:
        made.loop.run_until_complete(made.whole())
    broken = sum(network.broken for network in made.networks)
    assert made.counts.get("internal-errors", 0) <= broken, made.counts
    for record in errors:
        cause = record.exc_info[1] if record.exc_info else None
        expected = isinstance(cause, DefectError) or "in the store is not valid" in record.msg
        assert expected, record.getMessage()
    assert not made.loop.troubles, made.loop.troubles
    return made
