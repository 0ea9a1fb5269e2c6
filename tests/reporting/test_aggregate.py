"""Outcomes counted and kept: nothing lost, nothing doubled, bounded however strangers vary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_sts.reporting.aggregate import (
    DAY,
    MAX_EHLO,
    MAX_FAILURES,
    MAX_POLICIES,
    Aggregate,
)
from smtp_sts.reporting.outcome import Outcome, Trouble
from smtp_sts.store import StoreError, open_store
from smtp_sts.store.tallies import Tallies, Tally, open_tallies
from smtp_sts.tlsrpt import AppliedPolicy, Failure, PolicyResult

STS = AppliedPolicy("sts", "bob.example", ("version: STSv1",), ("mx.bob.example",))
EXPIRED = Trouble("certificate-expired", "192.0.2.1", "mx.bob.example", "mx", "192.0.2.2")
TODAY = 20_000


def _outcome(
    trouble: Trouble | None = None,
    *,
    domain: str = "bob.example",
    policy: AppliedPolicy = STS,
    at: float = TODAY * DAY + 5.0,
) -> Outcome:
    troubles = () if trouble is None else (trouble,)
    return Outcome(at, "datagram", domain, trouble is not None, policy, troubles, "v=TLSRPTv1;r")


@pytest.fixture
def tallies(tmp_path: Path) -> Iterator[Tallies]:
    opened = open_tallies(f"sqlite:///{tmp_path}/s.db")
    yield opened
    opened.close()


def test_sessions_are_counted_by_policy_and_failure(tallies: Tallies) -> None:
    aggregate = Aggregate()
    for _ in range(3):
        aggregate.take(_outcome())
        aggregate.take(_outcome(EXPIRED))
    tallies.add(aggregate.drain())
    aggregate.take(_outcome(EXPIRED))
    aggregate.take(_outcome(Trouble("starttls-not-supported")))
    tallies.add(aggregate.drain())
    (result,) = tallies.results(TODAY, "bob.example")
    assert (result.policy, result.successful, result.failed) == (STS, 3, 5)
    assert {(f.result_type, f.failed_session_count) for f in result.failures} == {
        ("certificate-expired", 4),
        ("starttls-not-supported", 1),
    }
    assert tallies.domains(TODAY) == {"bob.example": "v=TLSRPTv1;r"}
    assert aggregate.drain() == []


def test_days_end_at_midnight_utc(tallies: Tallies) -> None:
    aggregate = Aggregate()
    aggregate.take(_outcome(at=TODAY * DAY - 0.001))
    aggregate.take(_outcome(at=TODAY * DAY))
    aggregate.take(_outcome(at=TODAY * DAY + DAY - 0.001))
    tallies.add(aggregate.drain())
    assert tallies.days() == {TODAY - 1: 1, TODAY: 1}
    assert tallies.results(TODAY, "bob.example")[0].successful == 2


def test_a_clock_that_jumps_over_midnight_and_back_loses_nothing(tallies: Tallies) -> None:
    aggregate = Aggregate()
    for at in (TODAY, TODAY + 1, TODAY, TODAY + 1, TODAY - 300):
        aggregate.take(_outcome(at=at * DAY + 1.0))
        aggregate.forget_before(TODAY + 1)
    tallies.add(aggregate.drain())
    counts = {day: tallies.results(day, "bob.example")[0].successful for day in tallies.days()}
    assert counts == {TODAY: 2, TODAY + 1: 2, TODAY - 300: 1}
    aggregate.forget_before(TODAY + 1)
    aggregate.take(_outcome())
    tallies.add(aggregate.drain())
    assert tallies.results(TODAY, "bob.example")[0].successful == 3


def test_an_ehlo_text_that_differs_each_time_does_not_make_a_row_each(tallies: Tallies) -> None:
    aggregate = Aggregate()
    for number in range(1000):
        aggregate.take(
            _outcome(msgspec.structs.replace(EXPIRED, receiving_mx_helo=f"mx{number}.example"))
        )
        if number % 100 == 0:
            tallies.add(aggregate.drain())
    tallies.add(aggregate.drain())
    (result,) = tallies.results(TODAY, "bob.example")
    assert len(result.failures) == MAX_EHLO + 1
    assert sum(f.failed_session_count for f in result.failures) == result.failed == 1000
    assert aggregate.folded == 1000 - MAX_EHLO


def test_reasons_and_policies_that_differ_each_time_are_bounded(tallies: Tallies) -> None:
    aggregate = Aggregate()
    for number in range(2000):
        trouble = msgspec.structs.replace(EXPIRED, failure_reason_code=f"r{number}")
        aggregate.take(_outcome(trouble))
        text = msgspec.structs.replace(STS, policy_string=(f"x{number}",))
        aggregate.take(_outcome(policy=text, domain="p.example"))
        aggregate.take(_outcome(policy=AppliedPolicy("tlsa", f"h{number}.x"), domain="p.example"))
    tallies.add(aggregate.drain())
    (result,) = tallies.results(TODAY, "bob.example")
    assert MAX_FAILURES <= len(result.failures) <= MAX_FAILURES + 11
    assert sum(f.failed_session_count for f in result.failures) == 2000
    results = tallies.results(TODAY, "p.example")
    assert len(results) <= 2 * MAX_POLICIES + 3
    assert sum(r.successful for r in results) == 4000


def test_the_bounds_hold_over_a_restart(tallies: Tallies) -> None:
    for start in range(20):
        aggregate = Aggregate()
        for domain, result in tallies.everything(TODAY):
            aggregate.know(TODAY, domain, result)
        for number in range(100):
            reason = f"{start} {number}"
            aggregate.take(_outcome(msgspec.structs.replace(EXPIRED, failure_reason_code=reason)))
        tallies.add(aggregate.drain())
    (result,) = tallies.results(TODAY, "bob.example")
    assert len(result.failures) <= MAX_FAILURES + 11
    assert sum(f.failed_session_count for f in result.failures) == result.failed == 2000


def test_law_7_texts_of_strangers_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wildcard has as many names as one likes, and each a policy of 64 KiB and other reasons."""
    monkeypatch.setattr("smtp_sts.reporting.aggregate.MAX_TEXT", 1024 * 1024)
    aggregate = Aggregate()
    for number in range(1000):
        name = f"d{number}.example"
        policy = AppliedPolicy("sts", name, tuple(f"mx: {number}.{i}.x" for i in range(100)))
        reason = f"{number}".ljust(256)
        trouble = msgspec.structs.replace(EXPIRED, failure_reason_code=reason)
        aggregate.take(_outcome(trouble, domain=name, policy=policy))
    batch = aggregate.drain()
    kept = sum(len(line) for t in batch for line in t.result.policy.policy_string)
    assert 0 < kept < 1024 * 1024
    assert sum(len(f.failure_reason_code) for t in batch for f in t.result.failures) < 1024 * 1024
    # Nothing is lost but detail, and a new day begins anew.
    assert sum(t.result.failed for t in batch) == 1000
    assert {f.result_type for t in batch for f in t.result.failures} == {"certificate-expired"}
    assert aggregate.folded > 1000
    aggregate.take(_outcome(EXPIRED, at=(TODAY + 1) * DAY))
    assert aggregate.drain()[0].result.policy == STS


def test_texts_of_one_stranger_take_no_details_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("smtp_sts.reporting.aggregate.MAX_TEXT", 1024 * 1024)
    aggregate = Aggregate()
    for number in range(1000):
        name = f"d{number}.mallory.example"
        policy = AppliedPolicy("sts", name, tuple(f"mx: {number}.{i}.x" for i in range(100)))
        aggregate.take(_outcome(domain=name, policy=policy))
    assert aggregate.folded > 900
    folded = aggregate.folded
    aggregate.take(_outcome(EXPIRED))
    assert aggregate.folded == folded
    last = aggregate.drain(2000)[-1].result
    assert last.policy == STS
    assert last.failures[0].receiving_mx_hostname == EXPIRED.receiving_mx_hostname


def test_domains_beyond_the_bound_are_refused_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtp_sts.reporting.aggregate.MAX_DOMAINS", 3)
    aggregate = Aggregate()
    for number in range(5):
        aggregate.take(_outcome(domain=f"d{number}.example"))
    assert (aggregate.refused, aggregate.waiting) == (2, 3)


def test_drain_is_bounded() -> None:
    aggregate = Aggregate()
    for number in range(25):
        aggregate.take(_outcome(domain=f"d{number}.example"))
    assert [len(aggregate.drain(limit=10)) for _ in range(4)] == [10, 10, 5, 0]


def test_what_could_not_be_written_comes_back(tmp_path: Path) -> None:
    aggregate = Aggregate()
    aggregate.take(_outcome(EXPIRED))
    tallies = open_tallies(f"sqlite:///{tmp_path}/s.db")
    tallies._database.engine.connect().exec_driver_sql("PRAGMA query_only=1")
    batch = aggregate.drain()
    aggregate.take(_outcome(EXPIRED))
    with pytest.raises(StoreError, match="readonly"):
        tallies.add(batch)
    aggregate.restore(batch)
    tallies._database.engine.connect().exec_driver_sql("PRAGMA query_only=0")
    tallies.add(aggregate.drain())
    (result,) = tallies.results(TODAY, "bob.example")
    assert (result.failed, result.failures[0].failed_session_count) == (2, 2)
    tallies.close()


def test_what_was_delivered_is_forgotten(tallies: Tallies) -> None:
    aggregate = Aggregate()
    for domain in ("a.example", "b.example"):
        aggregate.take(_outcome(EXPIRED, domain=domain))
    tallies.add(aggregate.drain())
    tallies.forget(TODAY, "a.example")
    assert tallies.results(TODAY, "a.example") == []
    assert list(tallies.domains(TODAY)) == ["b.example"]


def test_a_store_that_cannot_be_opened_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match="set aside"):
        open_tallies(f"sqlite:///{tmp_path}/s.db")
    with pytest.raises(StoreError, match="create its folder"):
        open_tallies(f"sqlite:///{tmp_path}/absent/s.db")


def test_policies_and_counts_share_a_store(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    store = open_store(url)
    tallies = open_tallies(url)
    tallies.add([Tally(TODAY, "a.example", "", PolicyResult(STS, 1, 0))])
    assert store.count() == 0
    tallies.close()
    store.close()
    again = open_tallies(url)
    assert again.days() == {TODAY: 1}
    again.close()


_troubles = st.builds(
    Trouble,
    st.sampled_from(["certificate-expired", "tlsa-invalid"]),
    receiving_mx_helo=st.sampled_from([f"h{n}" for n in range(8)]),
    failure_reason_code=st.sampled_from([f"r{n}" for n in range(3)]),
)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.sampled_from(["a.example", "b.example"]),
            st.one_of(st.none(), _troubles), st.sampled_from(["", "drain", "restore"]),
        ),
        max_size=60,
    )
)  # fmt: skip
def test_whatever_comes_the_sums_are_right(
    steps: list[tuple[int, str, Trouble | None, str]],
) -> None:
    aggregate = Aggregate()
    expected: Counter[tuple[int, str, bool]] = Counter()
    written: Counter[tuple[int, str, bool]] = Counter()
    details: Counter[tuple[int, str]] = Counter()
    for day, domain, trouble, then in [*steps, (0, "a.example", None, "drain")]:
        aggregate.take(_outcome(trouble, domain=domain, at=day * DAY + 1.0))
        expected[day, domain, trouble is None] += 1
        if then == "restore":
            aggregate.restore(aggregate.drain())
        elif then == "drain":
            for tally in aggregate.drain():
                written[tally.day, tally.domain, True] += tally.result.successful
                written[tally.day, tally.domain, False] += tally.result.failed
                for failure in tally.result.failures:
                    details[tally.day, tally.domain] += failure.failed_session_count
    assert +written == +expected
    assert +details == Counter(
        {(day, domain): n for (day, domain, good), n in expected.items() if not good}
    )


def test_a_failure_without_a_known_reason_counts_in_the_summary(tallies: Tallies) -> None:
    aggregate = Aggregate()
    aggregate.take(msgspec.structs.replace(_outcome(EXPIRED), troubles=()))
    tallies.add(aggregate.drain())
    (result,) = tallies.results(TODAY, "bob.example")
    assert (result.failed, result.failures) == (1, ())


def test_failures_have_the_fields_of_the_report() -> None:
    aggregate = Aggregate()
    aggregate.take(_outcome(EXPIRED))
    (tally,) = aggregate.drain()
    assert tally.result.failures == (
        Failure("certificate-expired", 1, "192.0.2.1", "mx.bob.example", "mx", "192.0.2.2"),
    )


def test_how_far_a_reader_has_come_is_kept_with_what_it_counted(tallies: Tallies) -> None:
    aggregate = Aggregate()
    aggregate.take(_outcome())
    assert tallies.mark("mail.log") == ""
    tallies.add(aggregate.drain(), "us", {"mail.log": "7:100", "journal": "s=1"})
    tallies.add([], "us", {"mail.log": "7:200"})
    assert (tallies.mark("mail.log"), tallies.mark("journal")) == ("7:200", "s=1")
    (result,) = tallies.results(TODAY, "bob.example")
    assert result.successful == 1
