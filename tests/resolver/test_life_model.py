"""The life of a policy through random histories: each answer is what the laws allow."""

from __future__ import annotations

import os
from dataclasses import dataclass

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from smtp_sts.policy import DraftRecord, Policy
from smtp_sts.resolver.life import events as ev
from smtp_sts.resolver.life.state import Cached

from .history import DRAFT00, POLICIES, RECORDS, RFC8461, History

#: `make model` sets more; these take about half a minute together.
EXAMPLES = int(os.environ.get("SMTP_STS_MODEL_EXAMPLES", "300"))
STEPS = int(os.environ.get("SMTP_STS_MODEL_STEPS", "60"))

seconds = st.sampled_from((0.5, 30.0, 61.0, 299.0, 301.0, 1800.0, 3700.0, 86401.0, 40_000_000.0))
jumps = st.sampled_from((6.0, -6.0, 400.0, -400.0, 90_000.0, -90_000.0, 3e7, -3e7))


@dataclass(frozen=True)
class _Reply:
    """What the network says to whatever is asked of it next, by RFC 8461."""

    record_id: str
    reason: str
    policy: Policy | None
    another: Policy | None
    ago: float


replies = st.builds(
    _Reply,
    record_id=st.sampled_from(("1", "1", "1", "2", "3", "")),
    reason=st.sampled_from(("no-record", "dns-error", "sts-record-invalid")),
    policy=st.sampled_from((*POLICIES, None, None, None)),
    another=st.sampled_from((None, None, None, None, *POLICIES)),
    ago=seconds,
)


class _Domain(RuleBasedStateMachine):
    history: History

    @rule()
    def asked(self) -> None:
        self.history.feed(ev.Asked(now=self.history.now))

    @rule()
    def store_answers(self) -> None:
        self.history.store_answers()

    @rule(error=st.sampled_from(("", "", "a defect")))
    def breaks(self, error: str) -> None:
        self.history.breaks(error)

    @rule(index=st.integers(0, 50))
    def again(self, index: int) -> None:
        self.history.again(index)

    @rule(by=seconds)
    def passes(self, by: float) -> None:
        self.history.passes(by)

    @rule(by=jumps)
    def clock(self, by: float) -> None:
        self.history.clock(by)

    @rule(works=st.booleans())
    def store(self, works: bool) -> None:
        self.history.store(works=works)

    @rule()
    def upkeep_begins(self) -> None:
        self.history.feed(ev.UpkeepBegins(now=self.history.now))

    @rule()
    def refresh_due(self) -> None:
        self.history.feed(ev.RefreshDue(now=self.history.now))

    @rule()
    def renewal_wanted(self) -> None:
        self.history.failed_at = None
        self.history.feed(ev.RenewalWanted(now=self.history.now))

    @rule()
    def mail_failed(self) -> None:
        if self.history.table is DRAFT00:  # whose section 3.5 shortens what waits
            self.history.failed_at = None
        self.history.feed(ev.MailFailed(now=self.history.now))

    @rule()
    def answer_overdue(self) -> None:
        self.history.feed(ev.AnswerOverdue(now=self.history.now))

    @rule()
    def all_goes_well(self) -> None:
        self.history.all_goes_well()

    @rule()
    def restart(self) -> None:
        self.history.restart()

    @rule(really=st.sampled_from((True, False, False, False)))
    def purge(self, really: bool) -> None:
        if really:
            self.history.purge()

    @rule()
    def store_replaced(self) -> None:
        self.history.store_replaced()

    def teardown(self) -> None:
        """Whatever happened: when nothing answers any more, everybody who asks gets an answer."""
        story = self.history
        story.store(works=False)
        story.feed(ev.Asked(now=story.now))
        for _ in range(20):
            if not story.pending:
                break
            story.breaks("everything fails")
        story.feed(ev.Asked(now=story.now))
        story.store_answers()
        while story.pending:
            story.breaks("everything fails")
        assert story.state.idle


class Rfc8461(_Domain):
    """A domain with a policy by RFC 8461."""

    def __init__(self) -> None:
        super().__init__()
        self.history = History(RFC8461)

    @rule(reply=replies)
    def reply(self, reply: _Reply) -> None:
        story = self.history
        another = reply.another
        kept = _of_another(story, another, reply.ago, reply.record_id) if another else None
        story.store_answers()
        if story.waiting(ev.LookUp):
            story.record(reply.record_id, reply.reason)
        elif story.waiting(ev.AwaitTurn):
            story.turn(kept)
        else:
            story.fetched(reply.policy)

    @rule(reply=replies)
    def reply_and_ask(self, reply: _Reply) -> None:
        self.reply(reply)
        self.asked()

    @rule(reply=replies)
    def reply_twice(self, reply: _Reply) -> None:
        self.reply(reply)
        self.reply(reply)

    @rule(
        policy=st.sampled_from(POLICIES),
        ago=seconds | st.just(-500.0),
        record_id=st.sampled_from("12"),
    )
    def shared(self, policy: Policy, ago: float, record_id: str) -> None:
        self.history.shared(_of_another(self.history, policy, ago, record_id))


class Draft00(_Domain):
    """A domain with a policy of the first draft."""

    def __init__(self) -> None:
        super().__init__()
        self.history = History(DRAFT00)

    @rule(record=st.sampled_from(RECORDS) | st.none(), secure=st.booleans(), good=st.booleans(),
          verdict=st.sampled_from(("met", "failed", "unknown")))  # fmt: skip
    def reply(self, record: DraftRecord | None, secure: bool, good: bool, verdict: str) -> None:
        story = self.history
        story.store_answers()
        if story.waiting(ev.LookUp):
            story.draft_seen(record, secure=secure)
        elif story.waiting(ev.Prove):
            story.proof(good=good)
        else:
            story.mx_checked(verdict)

    @rule(record=st.sampled_from(RECORDS), secure=st.booleans())
    def another_record(self, record: DraftRecord, secure: bool) -> None:
        self.history.feed(ev.RenewalWanted(now=self.history.now))
        self.reply(record, secure, True, "met")

    @rule(good=st.sampled_from((True, True, False)))
    def proof(self, good: bool) -> None:
        self.history.proof(good=good)

    @rule(verdict=st.sampled_from(("met", "met", "failed", "unknown")))
    def mx_checked(self, verdict: str) -> None:
        self.history.mx_checked(verdict)

    @rule(record=st.sampled_from(RECORDS), ago=seconds | st.just(-500.0), proven=st.booleans(),
          met=st.booleans())  # fmt: skip
    def shared(self, record: DraftRecord, ago: float, proven: bool, met: bool) -> None:
        at = self.history.now - ago
        end = at + record.lifetime
        self.history.shared(Cached(record, "digest", at, end, at + 300.0, at, proven, met))


def _of_another(story: History, policy: Policy, ago: float, record_id: str) -> Cached:
    at = story.now - ago
    return Cached(policy, record_id, at, at + policy.max_age, at + 300.0, at)


_SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestRfc8461 = Rfc8461.TestCase
TestRfc8461.settings = _SETTINGS
TestDraft00 = Draft00.TestCase
TestDraft00.settings = _SETTINGS
