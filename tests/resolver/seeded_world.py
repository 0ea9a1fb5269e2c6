"""A network and a store for the runner, which delay, fail and lie by the random numbers of a seed.

Promises: it is known afterwards what was said of which domain, and what the store has taken;
nothing here raises but what the interfaces allow, except for the defects that a seed orders. Must
not: know what the runner makes of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Final, Literal

import msgspec

from smtp_sts.policy import DraftRecord, Policy, find_draft_record
from smtp_sts.resolver.life import events as ev
from smtp_sts.resolver.life.draft00 import DRAFT00
from smtp_sts.resolver.life.rfc8461 import RFC8461
from smtp_sts.resolver.life.state import Cached, Reason
from smtp_sts.resolver.stored import dialect_of, from_store
from smtp_sts.store import Stored, StoreError

#: Three of one organisation, which have one share of the places together.
DOMAINS: Final = (
    "bob.example",
    "a.carol.example",
    "b.carol.example",
    "c.carol.example",
    "dave.example",
    "erin.example",
)
#: Lives of policies, in a world where a look takes seconds (seconds).
LIVES: Final = (0, 1, 5, 5, 30, 30, 600, 86400)
POLICIES: Final = tuple(
    Policy(mode, (f"mx{age}.bob.example",), age)
    for mode in ("enforce", "enforce", "testing", "none")
    for age in LIVES
)
IDS: Final = ("1", "1", "2", "3", "")
#: A fetch that lies further in the future is not known to be later (seconds).
FUTURE: Final = 60.0


@cache
def records(domain: str) -> tuple[DraftRecord, ...]:
    """Records of the first draft that a domain may publish."""
    url = f"webpki:https://policy.{domain}/.well-known/smtp-sts/current"
    texts = (
        f"v=STS1; to={to}; mx=mx.bob.example; {by}c=webpki; e={age}"
        for to in ("true", "false")
        for by in ("", "a=dnssec; ", f"a={url}; ")
        for age in (5, 30, 86400)
    )
    found = (find_draft_record([text.encode()], domain) for text in texts)
    return tuple(record for record in found if record is not None)


class DefectError(RuntimeError):
    """A mistake of ours that a seed orders."""


class Delays:
    """How long something takes: most of it no time, some of it long."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        #: a world of one seed is quick, or slow, or both
        self._long = chance.choice((0.0, 0.05, 0.2, 0.5))

    def one(self) -> float:
        """How long it takes this time (seconds)."""
        chance = self._chance
        if chance.random() < self._long:
            return chance.choice((1.0, 3.0, 6.0, 10.0, 60.0)) * chance.random()
        return chance.choice((0.0, 0.0, 0.01, 0.3))

    async def some(self) -> None:
        """Take some time, or none, not even a turn of the loop."""
        if (seconds := self.one()) or self._chance.random() < 0.7:
            await asyncio.sleep(seconds)


class SeededNetwork:
    """What the hosts of a dialect answer."""

    def __init__(
        self,
        chance: Random,
        clock: Callable[[], float],
        delays: Delays,
        *,
        defects: bool,
    ) -> None:
        self._chance = chance
        self._clock = clock
        self._delays = delays
        self._defects = defects
        self._dead = False
        #: mistakes that were ordered
        self.broken = 0
        #: what was said of whom, until somebody has heard it: domain and answer
        self.said: list[tuple[str, ev.Answer]] = []
        #: errands under way, by domain and kind
        self.under_way: dict[tuple[str, type[ev.Effect]], int] = {}

    def die(self) -> None:
        """From now on everything fails, at once."""
        self._dead = True

    async def answer(self, domain: str, effect: ev.Effect) -> ev.Answer:
        """As `surroundings.Network` has it."""
        kind = (domain, type(effect))
        self.under_way[kind] = self.under_way.get(kind, 0) + 1
        try:
            assert self.under_way[kind] == 1, "two errands of a kind for a domain at once"
            if not self._dead:
                await self._delays.some()
            answer = self._answer(domain, effect)
        finally:
            self.under_way[kind] -= 1
        self.said.append((domain, answer))
        return answer

    def _answer(self, domain: str, effect: ev.Effect) -> ev.Answer:
        chance = self._chance
        if self._defects and chance.random() < 0.1:
            self.broken += 1
            raise DefectError(domain)
        now, good = self._clock(), not self._dead and chance.random() < 0.7
        if isinstance(effect, ev.Fetch):
            if not good:
                reason = Reason("sts-policy-fetch-error", "tcp-timeout", "nobody answers")
                return ev.FetchFailed(now=now, number=effect.number, reason=reason)
            policy, spread = chance.choice(POLICIES), chance.random()
            return ev.PolicyFetched(now=now, number=effect.number, policy=policy, spread=spread)
        if isinstance(effect, ev.Prove):
            good = good and effect.by is not None
            reason = Reason("" if good else "body-differs")
            return ev.ProofCame(
                now=now, number=effect.number, good=good, spread=0.5, reason=reason, fetched=True
            )
        if isinstance(effect, ev.CheckMx):
            verdict: Literal["met", "failed", "unknown"] = "met"
            if not good:
                verdict = "failed" if chance.random() < 0.5 else "unknown"
            return ev.MxChecked(now=now, number=effect.number, verdict=verdict, spread=0.5)
        raise ValueError(f"nobody asks this of a network: {effect!r}")

    def _no_record(self) -> Reason:
        return Reason(self._chance.choice(("no-record", "dns-error", "sts-record-invalid")))


class Rfc8461(SeededNetwork):
    """Records and policy hosts of RFC 8461."""

    def _answer(self, domain: str, effect: ev.Effect) -> ev.Answer:
        if not isinstance(effect, ev.LookUp):
            return super()._answer(domain, effect)
        found = "" if self._dead else self._chance.choice(IDS)
        reason = Reason("") if found else self._no_record()
        return ev.RecordSeen(now=self._clock(), number=effect.number, id=found, reason=reason)


class Draft00(SeededNetwork):
    """Records, proofs and MX hosts of the first draft."""

    def _answer(self, domain: str, effect: ev.Effect) -> ev.Answer:
        if not isinstance(effect, ev.LookUp):
            return super()._answer(domain, effect)
        chance = self._chance
        there = not self._dead and chance.random() < 0.75
        # Mostly one of two, so that it is often the same one again.
        some = records(domain)
        record = some[int(chance.random() ** 2 * len(some))] if there else None
        return ev.DraftSeen(
            now=self._clock(),
            number=effect.number,
            record=record,
            spread=chance.random(),
            secure=chance.random() < 0.3,
            ttl=30,
            reason=Reason("") if there else self._no_record(),
        )


class SeededStore:
    """A store that keeps what was put, as `keeper.Keeper` lets its callers see it."""

    def __init__(
        self, chance: Random, clock: Callable[[], float], delays: Delays, *, lies: bool
    ) -> None:
        self._chance = chance
        self._clock = clock
        self._delays = delays
        self._lies = lies
        #: how often a read fails
        self._fails = chance.choice((0.0, 0.0, 0.2, 0.8))
        self.kept: dict[str, Stored] = {}
        #: keys of which something was said that was never put
        self.lied: set[str] = set()
        #: purges under way or done, by key: what is put behind them is older, and gone
        self._purged: dict[str, float] = {}
        self.claims: dict[str, int] = {}

    def heal(self) -> None:
        """From now on everything works, and nothing but the truth is told."""
        self._fails, self._lies = 0.0, False

    def replaced(self) -> None:
        """Somebody deletes the file."""
        self.kept.clear()

    async def get(self, domain: str) -> Stored | None:
        """As `surroundings.Keeping` has it."""
        await self._delays.some()
        if self._chance.random() < self._fails:
            raise StoreError("the disk is gone")
        found = self.kept.get(domain)
        if self._lies and self._chance.random() < 0.2:
            found = self._lie(domain, found)
        return found

    def _lie(self, domain: str, found: Stored | None) -> Stored | None:
        self.lied.add(domain)
        if found is None or self._chance.random() < 0.3:
            return Stored(domain, "1", "no policy at all", self._clock(), 9e9, 9e9, 0.0)
        ahead = self._chance.choice((-1000.0, -3.0, 3.0, 1000.0))
        return msgspec.structs.replace(
            found, fetched_at=found.fetched_at + ahead, expires_at=found.expires_at + ahead
        )

    def put(self, stored: Stored) -> asyncio.Future[None]:
        """As `surroundings.Keeping` has it."""
        self.take(stored)
        loop = asyncio.get_running_loop()
        lasts: asyncio.Future[None] = loop.create_future()
        loop.call_later(self._delays.one(), _lasts, lasts)
        return lasts

    async def caught_up(self) -> None:
        """As `keeper.Keeper` has it."""
        await self._delays.some()

    def keep_again(self, policies: list[Stored]) -> None:
        """As `surroundings.Keeping` has it."""
        for stored in policies:
            self.take(stored)

    def take(self, new: Stored) -> bool:
        """Keep a policy, unless one is kept that goes before it; whether it is."""
        now, old = self._clock(), self.kept.get(new.domain)
        table = DRAFT00 if dialect_of(new.domain) == "draft00" else RFC8461
        if old is not None and old.expires_at > now and old.fetched_at <= now + FUTURE:
            held, cached = from_store(old), from_store(new)
            if held is None or cached is None:
                raise ValueError(f"no policy was put: {old!r}, {new!r}")
            if held != cached and not table.replaces(cached, held):
                return False
        self.kept[new.domain] = new
        return True

    async def purge(self, domain: str, before: float) -> bool:
        """As `surroundings.Keeping` has it."""
        held = self.kept.get(domain)
        if held is not None and held.fetched_at <= before:
            del self.kept[domain]
        await self._delays.some()
        return self._chance.random() < 0.8

    def touch(self, domain: str, when: float) -> None:
        """As `surroundings.Keeping` has it."""
        if domain in self.kept:
            self.kept[domain] = msgspec.structs.replace(self.kept[domain], used_at=when)

    async def claim(self, domain: str, patience: float) -> Stored | None:
        """As `surroundings.Keeping` has it."""
        self.claims[domain] = self.claims.get(domain, 0) + 1
        await asyncio.sleep(self._chance.choice((0.0, 0.0, 0.0, patience)))
        return self.kept.get(domain)

    def release(self, domain: str) -> None:
        """As `surroundings.Keeping` has it."""
        assert self.claims[domain] > 0, "given back, and never claimed"
        self.claims[domain] -= 1

    async def postpone(self, domain: str, refresh_at: float, before: float) -> None:
        """As `surroundings.Keeping` has it."""
        await self._delays.some()


def _lasts(put: asyncio.Future[None]) -> None:
    if not put.done():
        put.set_result(None)


def of_another(domain: str, dialect: str, chance: Random, now: float) -> Cached:
    """What another daemon has fetched, some time ago, or by a clock that is ahead."""
    at = now - chance.choice((0.0, 0.5, 3.0, 20.0, -3.0, -500.0))
    policy: Policy | DraftRecord
    if dialect == "rfc8461":
        policy = chance.choice(POLICIES)
        return Cached(policy, chance.choice("123"), at, at + policy.max_age, at + 20.0, at)
    policy = chance.choice(records(domain))
    end = at + policy.lifetime
    proven = policy.authentication is not None and chance.random() < 0.5
    return Cached(policy, "digest", at, end, at + 20.0, at, proven, chance.random() < 0.5)
