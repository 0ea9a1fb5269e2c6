"""Counts that are handed over are written once, however often either side begins anew."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from smtp_sts.reporting.aggregate import DAY, Aggregate
from smtp_sts.reporting.handover import PORTION, Ask, Giver
from smtp_sts.reporting.outcome import Outcome
from smtp_sts.tlsrpt import AppliedPolicy

TODAY = 20_000


def _outcome(number: int) -> Outcome:
    domain = f"d{number}.example"
    policy = AppliedPolicy("sts", domain)
    return Outcome(TODAY * DAY + 1.0, "datagram", domain, False, policy, (), "v=TLSRPTv1;r")


class Writer:
    """What the reporter does, with the store's transaction as one assignment."""

    def __init__(self, giver: Giver) -> None:
        self.giver = giver
        self.rows: Counter[str] = Counter()
        self.mark = ("", 0)
        self.begin()

    def begin(self) -> None:
        """A new reporter, which knows what the store knows."""
        self.name, self.written = self.mark
        self.after = self.written
        self.batch: list[tuple[str, int]] = []

    def ask(self) -> bool:
        portion = self.giver.answer(Ask(self.name, self.written, self.after), {}, [])
        if portion.giver != self.name:
            self.name, self.written, self.after = portion.giver, 0, 0
        self.batch += [(t.domain, t.result.successful) for t in portion.batch]
        if portion.batch:
            self.after = portion.number
        return portion.more

    def write(self) -> None:
        for domain, number in self.batch:
            self.rows[domain] += number
        self.mark = (self.name, self.after)
        self.batch, self.written = [], self.after


@given(
    st.lists(
        st.one_of(
            st.integers(0, 5 * PORTION),
            st.sampled_from(["ask", "write", "die", "die after writing"]),
        ),
        max_size=40,
    )
)
def test_every_session_is_written_once(steps: list[int | str]) -> None:
    aggregate = Aggregate()
    giver = Giver(aggregate)
    writer = Writer(giver)
    counted: Counter[str] = Counter()
    for step in steps:
        if isinstance(step, int):
            for number in range(step):
                aggregate.take(_outcome(number))
                counted[f"d{number}.example"] += 1
        elif step == "ask":
            writer.ask()
        elif step == "write":
            writer.write()
        else:
            if step == "die after writing":
                writer.write()
            writer.begin()
    while writer.ask():
        pass
    writer.write()
    writer.ask()
    assert writer.rows == counted
    assert giver.empty


def test_another_giver_begins_with_its_own_numbers() -> None:
    first, second = Aggregate(), Aggregate()
    writer = Writer(Giver(first))
    for number in range(3):
        first.take(_outcome(number))
    writer.ask()
    writer.write()
    second.take(_outcome(1))
    writer.giver = Giver(second)
    writer.ask()
    writer.write()
    assert writer.rows == {"d0.example": 1, "d1.example": 2, "d2.example": 1}
