"""One domain's history: the machine, a network and a store that answer late, twice or never, a
clock that is set, and the oracle beside it. After each event the answer must be what the
oracle allows.

Virtual time, no I/O. Driven by hypothesis (`test_life_model.py`), for a minute or for as long as
one likes (`make model`).
"""

from __future__ import annotations

import msgspec

from smtp_sts.config import PolicySection
from smtp_sts.policy import Authentication, DraftRecord, Policy
from smtp_sts.resolver.life import events as ev
from smtp_sts.resolver.life.answer import answer, overdue
from smtp_sts.resolver.life.draft00 import DRAFT00
from smtp_sts.resolver.life.machine import Table, step
from smtp_sts.resolver.life.rfc8461 import RFC8461
from smtp_sts.resolver.life.state import NEW, Cached, Reason, State

from .oracle import Life, Oracle

SETTINGS = PolicySection()
BEGIN = 1_700_000_000.0
FAILED = Reason("sts-policy-fetch-error", "tcp-timeout", "nobody answers")
#: Steps of all histories, for `make model`.
taken = 0

POLICIES = tuple(
    Policy(mode, ("mx.bob.example",), max_age)
    for mode in ("enforce", "testing", "none")
    for max_age in (0, 600, 86400, 31557600)
)
_WAYS = (
    None,
    Authentication("dnssec"),
    Authentication("webpki", "bob.example"),
    Authentication("webpki", "policy.bob.example"),
)
RECORDS = tuple(
    DraftRecord(mode, ("mx.bob.example",), by, lifetime=lifetime, text=f"{mode} {by} {lifetime}")
    for mode in ("enforce", "testing")
    for by in _WAYS
    for lifetime in (600, 86400)
)


class History:
    """Events in, checks after each."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.state: State = NEW
        self.now = BEGIN
        self.oracle = Oracle()
        #: what was asked for and has not been answered
        self.pending: dict[int, ev.Effect] = {}
        #: every answer that was given, to be given again
        self.given: list[ev.Answer] = []
        self.disk: Cached | None = None
        self.unsaved: Cached | None = None
        self.store_works = True
        #: since when no fetch may follow, by a clock that nobody sets: None where one may
        self.failed_at: float | None = None
        self.uptime = 0.0
        #: the policy that was cached when a proof began, by its number
        self.against: dict[int, DraftRecord] = {}
        #: proofs and checks that are for another record than the cached policy's
        self.replaces: dict[int, bool] = {}
        #: what was in force when the store last took everything: it must survive a restart
        self.lasts: Life | None = None
        self.known: Life | None = None

    # -- events -------------------------------------------------------------------------------

    def feed(self, event: ev.Event) -> None:
        """One event: the next state, its effects, and the answer held against the oracle."""
        global taken  # noqa: PLW0603
        taken += 1
        before = self.state
        self.state, effects = step(self.table, before, event, SETTINGS)
        for effect in effects:
            self._wanted(effect)
        if isinstance(event, ev.Answer):
            self.given.append(event)
        if self.oracle.life != self.known and self.store_works and not self.state.unread:
            self.lasts = self.oracle.life
        self.known = self.oracle.life
        self.check()

    def _wanted(self, effect: ev.Effect) -> None:
        if isinstance(effect, ev.Save | ev.SaveAgain):
            if self.store_works:
                self.disk, self.unsaved = effect.cached, None
                self.lasts = _life(effect.cached)
            else:
                self.unsaved = effect.cached
        elif isinstance(effect, ev.Touch):
            assert effect.when == self.now
        elif isinstance(effect, ev.Postpone):
            assert effect.until > self.now, (
                "a refresh that is put off into the past repeats at once"
            )
        elif isinstance(effect, ev.Fetch):
            assert self.failed_at is None or (
                self.uptime - self.failed_at >= SETTINGS.retry_interval - 0.001
            ), "RFC 8461 section 3.3: five minutes between a failed fetch and the next"
            self.pending[effect.number] = effect
        elif isinstance(effect, ev.Prove | ev.CheckMx):
            work = self.state.work
            assert work is not None
            assert work.number == effect.number
            self.against[effect.number] = work.against
            self.replaces[effect.number] = work.replaces
            self.pending[effect.number] = effect
        elif isinstance(effect, ev.Read | ev.LookUp | ev.AwaitTurn):
            self.pending[effect.number] = effect

    def check(self) -> None:
        """The laws, at this moment."""
        life = self.oracle.applies(self.now)
        for found in (
            answer("bob.example", self.state, self.now, "cache", dane=True),
            overdue("bob.example", self.state, self.now, "discovery-timeout", dane=True),
        ):
            if found is None:
                continue
            if life is None:
                assert found.policy is None, "law 2: a policy outlives its time"
                assert found.outcome == "no-policy"
                assert found.reason
                continue
            assert found.policy is not None, "law 1: an unexpired policy does not apply"
            kept = life.policy
            assert (found.policy.mode, found.policy.mx) == (kept.mode, kept.mx), "law 1"
            assert found.expires_at == life.expires_at, "law 2"
            assert found.valid_until <= life.expires_at, "law 2: ready replies outlive the policy"
            if isinstance(kept, DraftRecord):
                assert (found.outcome == "enforce") == (kept.mode == "enforce" and life.met)
                assert found.draft is not None
                assert found.draft.authenticated == life.proven
            else:
                assert found.outcome == kept.mode
        self._someone_answers()

    def _someone_answers(self) -> None:
        """Law 4: where there is no answer, one is being looked for, or the next question looks."""
        state = self.state
        waits = {number for number in (state.reading,) if number}
        waits |= {work.number for work in (state.look, state.work) if work is not None}
        assert waits <= self.pending.keys(), "it waits for what nobody was asked for"
        probe, effects = step(self.table, state, ev.Asked(now=self.now), SETTINGS)
        said = answer("bob.example", probe, self.now, "cache", dane=True)
        assert said is not None or probe.reading or probe.look is not None
        assert not any(isinstance(effect, ev.Fetch) for effect in effects)

    # -- what the network and the store say ---------------------------------------------------

    def waiting(self, kind: type[ev.Effect]) -> int | None:
        """The number of something that was asked for and is still wanted."""
        return next((n for n, effect in self.pending.items() if isinstance(effect, kind)), None)

    def store_answers(self) -> None:
        """The store answers a read: with what it holds, or not at all."""
        if (number := self.waiting(ev.Read)) is None:
            return
        del self.pending[number]
        if not self.store_works and self.unsaved is None:
            self.feed(ev.StoreFailed(now=self.now, number=number))
            return
        kept = self.unsaved or self.disk
        if kept is not None:
            self.oracle.stored(_life(kept), self.now)
        self.feed(ev.StoreRead(now=self.now, number=number, cached=kept))

    def record(self, record_id: str, reason: str) -> None:
        """The TXT record of RFC 8461 is seen, or, with an id of "", it is not."""
        if (number := self.waiting(ev.LookUp)) is not None:
            del self.pending[number]
            why = Reason("" if record_id else reason)
            self.feed(ev.RecordSeen(now=self.now, number=number, id=record_id, reason=why))

    def turn(self, kept: Cached | None) -> None:
        """No other daemon fetches; `kept` is what the store holds then."""
        if (number := self.waiting(ev.AwaitTurn)) is not None:
            del self.pending[number]
            if kept is not None:
                self._another_put(kept)
                self._learnt(kept)
            self.feed(ev.TurnCame(now=self.now, number=number, kept=kept))

    def fetched(self, policy: Policy | None) -> None:
        """The policy host gives this policy, or none."""
        if (number := self.waiting(ev.Fetch)) is None:
            return
        del self.pending[number]
        if policy is None:
            self.failed_at = self.uptime
            self.feed(ev.FetchFailed(now=self.now, number=number, reason=FAILED))
            return
        self.failed_at = None
        self.oracle.fetched(policy, self.now)
        self.feed(ev.PolicyFetched(now=self.now, number=number, policy=policy, spread=0.5))

    def draft_seen(self, record: DraftRecord | None, *, secure: bool) -> None:
        """The TXT record of the first draft is seen, or there is none."""
        if (number := self.waiting(ev.LookUp)) is None:
            return
        del self.pending[number]
        if record is not None:
            self.oracle.seen(record, self.now, 300, secure=secure)
        seen = ev.DraftSeen(
            now=self.now,
            number=number,
            record=record,
            spread=0.5,
            secure=secure,
            ttl=300,
            reason=Reason("" if record is not None else "no-record"),
        )
        self.feed(seen)

    def proof(self, *, good: bool) -> None:
        """A record has proven to be the domain's, or not."""
        if (number := self.waiting(ev.Prove)) is None:
            return
        effect = self.pending.pop(number)
        assert isinstance(effect, ev.Prove)
        if good and effect.by is not None:
            self.oracle.proven(effect.record, self.against[number], self.now, 300)
        good = good and effect.by is not None
        why = Reason("" if good else "body-differs")
        came = ev.ProofCame(
            now=self.now, number=number, good=good, spread=0.5, reason=why, fetched=True
        )
        self.feed(came)

    def mx_checked(self, verdict: str) -> None:
        """The MX hosts were held against a record."""
        if (number := self.waiting(ev.CheckMx)) is None:
            return
        effect = self.pending.pop(number)
        assert isinstance(effect, ev.CheckMx)
        if self.replaces[number]:
            against, met = self.against[number], verdict == "met"
            self.oracle.met_after_proof(effect.record, against, self.now, 300, met=met)
        elif verdict == "met":
            self.oracle.met(effect.record, self.now)
        found = msgspec.convert(
            {"now": self.now, "number": number, "verdict": verdict, "spread": 0.5}, ev.MxChecked
        )
        self.feed(found)

    def breaks(self, error: str) -> None:
        """What was asked for will not come."""
        if self.pending:
            number = next(iter(self.pending))
            del self.pending[number]
            self.feed(ev.Broke(now=self.now, number=number, error=error))

    def again(self, index: int) -> None:
        """An answer comes a second time, or one that was given up comes after all."""
        if self.given:
            event = self.given[index % len(self.given)]
            if event.number not in self.pending:
                self.feed(msgspec.structs.replace(event, now=self.now))

    # -- others -------------------------------------------------------------------------------

    def shared(self, cached: Cached) -> None:
        """Another daemon has put a policy into the store."""
        self._another_put(cached)
        self._learnt(cached)
        self.feed(ev.Shared(now=self.now, cached=cached))

    def _another_put(self, cached: Cached) -> None:
        """As the statement in the store does: never over one that is later or better known."""
        held = self.disk
        replaceable = (
            held is None
            or held.expires_at <= self.now
            or held.fetched_at > self.now + 60.0
            or self.table.replaces(cached, held)
        )
        if replaceable:
            self.disk, self.lasts = cached, _life(cached)

    def _learnt(self, cached: Cached) -> None:
        before = self.oracle.life
        self.oracle.shared(_life(cached), self.now)
        if self.oracle.life is not before:
            self.failed_at = None

    def clock(self, seconds: float) -> None:
        """Somebody sets the clock."""
        self.now += seconds
        self.feed(ev.ClockSet(now=self.now, seconds=seconds))

    def passes(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self.uptime += seconds
        self.check()

    def purge(self) -> None:
        """An operator makes everything forgotten."""
        self.disk = self.unsaved = self.lasts = None
        self.failed_at = None
        self.pending.clear()
        self.oracle.purged()
        self.feed(ev.Purged(now=self.now))

    def restart(self) -> None:
        """The daemon is killed and started anew; or the state goes for want of memory."""
        self.state = NEW
        self.unsaved = None
        self.failed_at = None
        self.pending.clear()
        self.given.clear()
        self.oracle.purged()  # until the store has been read
        before, self.store_works = self.store_works, True
        lasts = self.lasts
        self.feed(ev.Asked(now=self.now))
        assert answer("bob.example", self.state, self.now, "cache", dane=True) is None
        self.store_answers()
        if lasts is not None and self.now < lasts.expires_at:
            assert self.oracle.life == lasts, "law 1: it was fetched, and lost by a restart"
        self.store_works = before

    def store(self, *, works: bool) -> None:
        """The store begins or ceases to work."""
        self.store_works = works
        if works and self.unsaved is not None:
            self._another_put(self.unsaved)
            self.unsaved = None

    def store_replaced(self) -> None:
        """Somebody deletes the file."""
        self.disk = self.lasts = None
        self.feed(ev.StoreReplaced(now=self.now))

    def all_goes_well(self) -> None:
        """Somebody asks, and everything that is asked for comes at once: then there is an answer,
        and where nothing was in force, and no fetch has to wait, it is the policy (law 4)."""
        waits = self.failed_at is not None and self.table is RFC8461
        for _ in range(2):  # what was under way may have to end first
            self.feed(ev.Asked(now=self.now))
            for _ in range(12):
                if not self.pending:
                    break
                self._comes()
        said = answer("bob.example", self.state, self.now, "network", dane=True)
        assert said is not None, "law 4: it is looked for again and again, and never found"
        assert said.policy is not None or waits or not self.pending

    def _comes(self) -> None:
        self.store_answers()
        if self.table is RFC8461:
            self.record("9", "")
            self.turn(None)
            self.fetched(POLICIES[2])
        else:
            self.draft_seen(RECORDS[7], secure=True)
            self.proof(good=True)
            self.mx_checked("met")


def _life(cached: Cached) -> Life:
    return Life(
        cached.policy, cached.fetched_at, cached.expires_at, cached.authenticated, cached.met
    )


__all__ = ["BEGIN", "DRAFT00", "POLICIES", "RECORDS", "RFC8461", "History"]
