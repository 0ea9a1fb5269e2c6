"""Reports on their way: made once, claimed by one, never lost and never sent after they arrived.

Each promise is held on SQLite and on PostgreSQL.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from smtp_sts.store import StoreError
from smtp_sts.store.outbox import (
    LEASE_SECONDS,
    Delivery,
    Outbox,
    Part,
    Pending,
    Planned,
    open_outbox,
)

from .cluster import Cluster

T = TypeVar("T")
DAY = 20_544
NOW = 1_775_100_000.0
A = Planned("mailto:a@bob.example", "")
B = Planned("https://b.bob.example/", "b.bob.example")
PART = Part("20260401.1@alice.example", b"packed")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/s.db"
    server: Cluster = request.getfixturevalue("server")
    return server.url(request.getfixturevalue("database"))


@pytest.fixture
def outbox(url: str) -> Iterator[Outbox]:
    opened = open_outbox(url)
    yield opened
    opened.close()


def wait_for_claims(outbox: Outbox, now: float) -> float:
    """The moment when all claims have ended; on PostgreSQL, whose clock nobody moves, they are
    made older instead."""
    if outbox._database.shared:
        with outbox._begin() as connection:
            for table in ("tls_reports", "tls_deliveries"):
                connection.exec_driver_sql(
                    f"UPDATE {table} SET until = until - {LEASE_SECONDS + 1} WHERE until > 0"
                )
    return now + LEASE_SECONDS + 1


def made(
    outbox: Outbox, *destinations: Planned, parts: int = 1, domain: str = "bob.example"
) -> None:
    outbox.plan(DAY, {domain: NOW})
    (pending,) = outbox.claim_reports(NOW, "maker", 1)
    bodies = [Part(f"{n}.{PART.report_id}", PART.body) for n in range(1, parts + 1)]
    assert outbox.make(pending, "maker", bodies, destinations, now=NOW, give_up_at=NOW + 86400)


def test_a_report_is_planned_once_and_made_once(outbox: Outbox) -> None:
    assert outbox.plan(DAY, {"bob.example": NOW + 60, "carol.example": NOW + 90}) == 2
    assert outbox.plan(DAY, {"bob.example": NOW, "dave.example": NOW + 120}) == 1
    assert outbox.planned(DAY) == {"bob.example", "carol.example", "dave.example"}
    assert outbox.next_due() == NOW + 60
    assert outbox.claim_reports(NOW + 59, "one", 9) == []
    (bob,) = outbox.claim_reports(NOW + 61, "one", 9)
    assert (bob.day, bob.domain, bob.tries, bob.send_at) == (DAY, "bob.example", 0, NOW + 60)
    assert outbox.claim_reports(NOW + 61, "two", 9) == []
    assert not outbox.make(bob, "two", [PART], [A], now=NOW, give_up_at=NOW)
    assert outbox.make(bob, "one", [PART], [A], now=NOW + 61, give_up_at=NOW + 86400)
    assert not outbox.make(bob, "one", [PART], [A], now=NOW + 61, give_up_at=NOW + 86400)
    assert outbox.plan(DAY, {"bob.example": NOW}) == 0
    (delivery,) = outbox.claim(NOW + 61, "one", 9)
    assert (delivery.report_id, delivery.body, delivery.uri) == (PART.report_id, b"packed", A.uri)
    assert delivery.made_at == NOW + 61


def test_a_claim_ends_by_itself(outbox: Outbox) -> None:
    made(outbox, A)
    (first,) = outbox.claim(NOW, "one", 9)
    assert outbox.claim(NOW + 1, "two", 9) == []
    later = wait_for_claims(outbox, NOW)
    (again,) = outbox.claim(later, "two", 9)
    assert again.id == first.id
    # The first is not dead but slow: it cannot put off what another sends ...
    outbox.put_off(again, "one", later + 5000, "too late")
    assert outbox.claim(later + 1, "three", 9) == []
    # ... but what was accepted was accepted.
    outbox.settle(first, "delivered", "250 ok", now=later + 2)
    assert outbox.claim(wait_for_claims(outbox, later), "three", 9) == []


def test_a_clock_that_was_set_back_does_not_make_claims_last(tmp_path: Path) -> None:
    outbox = open_outbox(f"sqlite:///{tmp_path}/s.db")
    made(outbox, A)
    assert outbox.claim(NOW + 86400, "one", 9)
    assert outbox.claim(NOW, "two", 9)
    assert outbox.claim(NOW + 1, "three", 9) == []
    outbox.close()


def test_what_was_delivered_is_never_claimed_again(outbox: Outbox) -> None:
    made(outbox, A, B)
    first, second = outbox.claim(NOW, "one", 9)
    outbox.settle(first, "delivered", "250 2.0.0 queued", now=NOW + 1)
    outbox.settle(first, "given-up", "somebody slow", now=NOW + 2)
    (report,) = outbox.reports(DAY)
    assert report.settled_at is None  # the other is under way
    later = wait_for_claims(outbox, NOW)
    (left,) = outbox.claim(later, "two", 9)
    assert left.id == second.id
    outbox.settle(left, "given-up", "500 no", now=later)
    (report,) = outbox.reports(DAY)
    assert (report.state, report.settled_at) == ("made", later)
    assert [(d.uri, d.state, d.tries, d.answer) for d in outbox.deliveries(DAY)] == [
        (A.uri, "delivered", 1, "250 2.0.0 queued"),
        (B.uri, "given-up", 1, "500 no"),
    ]
    assert outbox.next_due() is None


def test_each_part_goes_to_each_destination_and_what_is_skipped_is_said(outbox: Outbox) -> None:
    suppressed = Planned("mailto:c@bob.example", "", "suppressed: c@bob.example")
    made(outbox, A, B, suppressed, parts=2)
    assert sorted((d.part, d.uri) for d in outbox.claim(NOW, "one", 9)) == [
        (1, B.uri), (1, A.uri), (2, B.uri), (2, A.uri),
    ]  # fmt: skip
    skipped = [d for d in outbox.deliveries(DAY) if d.state == "skipped"]
    assert [(d.part, d.answer) for d in skipped] == [
        (1, suppressed.skipped),
        (2, suppressed.skipped),
    ]


def test_a_report_whose_destinations_are_all_skipped_is_settled(outbox: Outbox) -> None:
    made(outbox, Planned("mailto:c@bob.example", "", "suppressed"))
    assert outbox.reports(DAY)[0].settled_at == NOW
    assert outbox.next_due() is None


def test_put_off_is_due_again_at_its_time(outbox: Outbox) -> None:
    made(outbox, A)
    (delivery,) = outbox.claim(NOW, "one", 9)
    outbox.put_off(delivery, "one", NOW + 300, "451 later")
    assert outbox.claim(NOW + 299, "one", 9) == []
    assert outbox.next_due() == NOW + 300
    (again,) = outbox.claim(NOW + 300, "one", 9)
    assert again.tries == 1
    outbox.put_off(again, "one", NOW + 400, "its host rests", tried=False)
    assert outbox.deliveries(DAY)[0].tries == 1


def test_busy_hosts_are_passed_over_and_claims_can_be_given_back(outbox: Outbox) -> None:
    made(outbox, A, B)
    assert [d.uri for d in outbox.claim(NOW, "one", 9, busy=["b.bob.example"])] == [A.uri]
    assert outbox.next_due(busy=["b.bob.example"]) is not None
    (delivery,) = outbox.claim(NOW, "one", 9)
    outbox.release([delivery], "two")  # not theirs
    assert outbox.claim(NOW, "two", 9) == []
    outbox.release([delivery], "one")
    assert [d.uri for d in outbox.claim(NOW, "two", 9)] == [B.uri]


def test_claims_whose_answer_was_lost_are_given_back(outbox: Outbox) -> None:
    made(outbox, A, B)
    outbox.plan(DAY, {"carol.example": NOW})
    outbox.claim_reports(NOW, "one", 9)
    first, _ = outbox.claim(NOW, "one", 9)
    outbox.release_lost("two", [])
    assert (outbox.claim_reports(NOW, "two", 9), outbox.claim(NOW, "two", 9)) == ([], [])
    outbox.release_lost("one", [first.id])
    assert len(outbox.claim_reports(NOW, "two", 9)) == 1
    assert [d.uri for d in outbox.claim(NOW, "two", 9)] == [B.uri]


def test_a_day_and_domains_can_be_taken_before_their_time(outbox: Outbox) -> None:
    outbox.plan(DAY, {"bob.example": NOW + 9000, "carol.example": NOW + 9000})
    outbox.plan(DAY + 1, {"bob.example": NOW + 9000})
    assert outbox.claim_reports(NOW, "one", 9, day=DAY, domains=["bob.example"]) == []
    outbox.hasten(DAY, ["bob.example"], NOW)
    (pending,) = outbox.claim_reports(NOW, "one", 9, day=DAY)
    assert (pending.day, pending.domain) == (DAY, "bob.example")
    outbox.make(pending, "one", [PART], [A], now=NOW, give_up_at=NOW + 1)
    assert outbox.claim(NOW, "one", 9, day=DAY + 1) == []
    assert outbox.claim(NOW, "one", 9, day=DAY, domains=["carol.example"]) == []
    (delivery,) = outbox.claim(NOW, "one", 9, day=DAY, domains=["bob.example"])
    outbox.put_off(delivery, "one", NOW + 300, "451 later")
    assert outbox.claim(NOW, "one", 9, day=DAY) == []
    outbox.hasten(DAY, [], NOW)
    assert len(outbox.claim(NOW, "one", 9, day=DAY)) == 1


def test_making_is_put_off_and_given_up_with_a_reason(outbox: Outbox) -> None:
    outbox.plan(DAY, {"bob.example": NOW})
    (pending,) = outbox.claim_reports(NOW, "one", 9)
    outbox.put_off_report(pending, "one", NOW + 600, "dns-timeout")
    assert outbox.claim_reports(NOW + 1, "one", 9) == []
    (pending,) = outbox.claim_reports(NOW + 600, "one", 9)
    assert pending.tries == 1
    assert not outbox.drop(pending, "two", "unwanted", "no record", now=NOW)
    assert outbox.drop(pending, "one", "unwanted", "no record", now=NOW + 601)
    (report,) = outbox.reports(DAY)
    assert (report.state, report.why, report.settled_at) == ("unwanted", "no record", NOW + 601)


def test_what_is_settled_is_forgotten_in_two_steps(outbox: Outbox) -> None:
    made(outbox, A)
    made(outbox, B, domain="carol.example")
    (bob,) = outbox.claim(NOW, "one", 9, busy=["b.bob.example"])
    outbox.settle(bob, "delivered", "250 ok", now=NOW + 10)
    assert outbox.settled(NOW + 10) == []
    assert outbox.settled(NOW + 11) == [(DAY, "bob.example")]
    outbox.forget_bodies(NOW + 11)
    assert len(outbox.claim(NOW, "one", 9)) == 1  # carol's lies here still
    assert len(outbox.deliveries(DAY)) == 2
    outbox.forget(DAY)
    assert len(outbox.reports(0)) == 2
    outbox.forget(DAY + 1)
    assert (outbox.reports(0), outbox.deliveries(0)) == ([], [])


def patient(work: Callable[[], T]) -> T:
    """As the courier: a SQLite that others keep locked is asked again."""
    while True:
        try:
            return work()
        except StoreError as error:
            assert "locked" in str(error)


def test_many_that_claim_at_once_never_get_the_same(url: str) -> None:
    """A fleet: each has a connection of its own."""
    opened = open_outbox(url)
    opened.plan(DAY, {f"d{n}.example": NOW for n in range(60)})
    opened.close()
    got: list[Pending | Delivery] = []
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            outbox = open_outbox(url)
            while pending := patient(lambda: outbox.claim_reports(NOW, name, 3)):
                got.extend(pending)
                for one in pending:
                    make = partial(outbox.make, one, name, [PART], [A])
                    assert patient(partial(make, now=NOW, give_up_at=NOW + 1))
            while deliveries := patient(lambda: outbox.claim(NOW, name, 3)):
                got.extend(deliveries)
                for delivery in deliveries:
                    patient(partial(outbox.settle, delivery, "delivered", "250", now=NOW))
            outbox.close()
        except BaseException as error:  # noqa: BLE001 - shown by the main thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"h{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    made_ones = [p.domain for p in got if isinstance(p, Pending)]
    sent = [d.domain for d in got if isinstance(d, Delivery)]
    assert sorted(made_ones) == sorted(set(made_ones)) == sorted(sent)
    assert len(sent) == len(set(sent)) == 60


def test_a_full_disk_is_said_and_nothing_is_claimed(tmp_path: Path) -> None:
    outbox = open_outbox(f"sqlite:///{tmp_path}/s.db")
    made(outbox, A)
    with outbox._begin() as connection:  # a full disk as SQLite sees one
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StoreError, match="free space"):
        outbox.plan(DAY, {f"d{n}.example": NOW for n in range(5000)})
    with outbox._begin() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")
    assert outbox.plan(DAY, {"carol.example": NOW}) == 1
    outbox.close()


@contextmanager
def _opened_twice(url: str) -> Iterator[tuple[Outbox, Outbox]]:
    one, two = open_outbox(url), open_outbox(url)
    try:
        yield one, two
    finally:
        one.close()
        two.close()


def test_two_see_what_the_other_did(url: str) -> None:
    with _opened_twice(url) as (one, two):
        made(one, A)
        (delivery,) = one.claim(NOW, "one", 9)
        assert two.claim(NOW, "two", 9) == []
        assert two.deliveries(DAY, now=NOW)[0].sending
        one.settle(delivery, "delivered", "250", now=NOW)
        assert two.deliveries(DAY, now=NOW)[0].state == "delivered"
