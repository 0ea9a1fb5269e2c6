"""TLS results in a real PostgreSQL: the daemons of a fleet count into the same rows at once."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

import msgspec
import pytest

from smtp_sts.reporting.aggregate import DAY, Aggregate
from smtp_sts.reporting.outcome import Outcome, Trouble
from smtp_sts.store import StoreError, open_store
from smtp_sts.store.checks import Check
from smtp_sts.store.tallies import Tallies, Tally, open_tallies
from smtp_sts.tlsrpt import AppliedPolicy, Failure, PolicyResult

from .cluster import PASSWORD, ROLE, Cluster

STS = AppliedPolicy("sts", "bob.example", ("version: STSv1",), ("mx.bob.example",))
EXPIRED = Failure("certificate-expired", 2, "192.0.2.1", "mx.bob.example")
MISMATCH = Failure("certificate-host-mismatch", 1, "192.0.2.1", "mx.bob.example")
TODAY = 20_000


def tally(domain: str = "bob.example", *, day: int = TODAY, record: str = "v=TLSRPTv1;r") -> Tally:
    return Tally(day, domain, record, PolicyResult(STS, 5, 3, (EXPIRED, MISMATCH)))


def test_counts_of_two_daemons_are_one_day_s(server: Cluster, database: str) -> None:
    first, second = open_tallies(server.url(database)), open_tallies(server.url(database))
    first.add([tally(), tally(), tally("a.example", record="")], "one")
    second.add([tally(record=""), tally(day=TODAY - 1)], "two")
    (result,) = first.results(TODAY, "bob.example")
    assert (result.policy, result.successful, result.failed) == (STS, 15, 9)
    assert {f.result_type: f.failed_session_count for f in result.failures} == {
        "certificate-expired": 6,
        "certificate-host-mismatch": 3,
    }
    assert second.days() == {TODAY - 1: 1, TODAY: 2}
    assert second.domains(TODAY) == {"bob.example": "v=TLSRPTv1;r", "a.example": ""}
    assert second.sources(TODAY) == {"one": 24, "two": 8}
    assert [domain for domain, _ in second.everything(TODAY)] == ["a.example", "bob.example"]
    first.forget(TODAY, "bob.example")
    assert second.results(TODAY, "bob.example") == []
    assert second.domains(TODAY) == {"a.example": ""}
    first.close()
    second.close()


def test_looks_of_all_machines_add_up_and_go_with_the_counts(
    server: Cluster, database: str
) -> None:
    first, second = open_tallies(server.url(database)), open_tallies(server.url(database))
    look = Check("mx.bob.example", "192.0.2.1", "certificate-expired", "the certificate expired")
    for tallies in (first, second):
        tallies.checks.add(TODAY, "bob.example", [look, look])
    assert second.checks.of(TODAY, "bob.example") == [msgspec.structs.replace(look, looks=4)]
    first.forget(TODAY, "bob.example")
    assert second.checks.of(TODAY, "bob.example") == []
    first.close()
    second.close()


def test_counts_and_policies_share_a_database_whichever_comes_first(
    server: Cluster, database: str
) -> None:
    tallies = open_tallies(server.url(database))
    store = open_store(server.url(database))
    tallies.add([tally()])
    assert store.count() == 0
    store.close()
    tallies.close()


def test_many_daemons_write_at_once_without_deadlock_and_lose_nothing(
    server: Cluster, database: str
) -> None:
    names = [f"d{n}.example" for n in range(40)]
    troubles = [Trouble("certificate-expired", failure_reason_code=f"r{n}") for n in range(5)]
    failed: list[StoreError] = []
    expected: Counter[str] = Counter()

    def daemon(number: int) -> None:
        chance = random.Random(number)
        mine: Counter[str] = Counter()
        tallies, aggregate = open_tallies(server.url(database)), Aggregate()
        try:
            for _ in range(25):
                for domain in chance.sample(names, 30):  # in another order each time
                    trouble = chance.choice(troubles)
                    aggregate.take(Outcome(TODAY * DAY + 1.0, "log", domain, True, STS, (trouble,)))
                    mine[domain] += 1
                if number == 0:  # and reports of the day before go out meanwhile
                    tallies.forget(TODAY - 1, chance.choice(names))
                tallies.add(aggregate.drain(), f"host{number}")
        except StoreError as error:
            failed.append(error)
        finally:
            tallies.close()
        expected.update(mine)

    open_tallies(server.url(database)).close()
    threads = [threading.Thread(target=daemon, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    tallies = open_tallies(server.url(database))
    assert {domain: r.failed for domain, r in tallies.everything(TODAY)} == expected
    assert {
        domain: sum(f.failed_session_count for f in r.failures)
        for domain, r in tallies.everything(TODAY)
    } == expected
    assert sum(tallies.sources(TODAY).values()) == expected.total()
    tallies.close()


def test_tables_are_made_once_whoever_comes_first(server: Cluster, database: str) -> None:
    failed: list[StoreError] = []

    def come() -> None:
        try:
            open_tallies(server.url(database)).close()
        except StoreError as error:
            failed.append(error)

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_a_role_that_may_not_make_tables_uses_those_that_are_there(
    server: Cluster, database: str
) -> None:
    open_tallies(server.url(database)).close()
    server.sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC", database)
    server.sql(f'ALTER DATABASE "{database}" OWNER TO admin', database)
    tallies = open_tallies(server.url(database))
    tallies.add([tally()])
    assert tallies.days() == {TODAY: 1}
    tallies.close()


def test_a_batch_that_fails_adds_nothing_and_can_be_tried_again(
    server: Cluster, database: str
) -> None:
    tallies = open_tallies(server.url(database))
    tallies.add([tally()])
    server.sql("ALTER TABLE tls_failures RENAME TO away", database)
    with pytest.raises(StoreError, match="tls_failures"):
        tallies.add([tally(), tally("c.example")])
    server.sql("ALTER TABLE away RENAME TO tls_failures", database)
    assert tallies.results(TODAY, "bob.example")[0].successful == 5
    tallies.add([tally(), tally("c.example")])
    assert tallies.results(TODAY, "bob.example")[0].successful == 10
    tallies.close()


def test_a_database_that_hangs_costs_seconds_and_comes_back(server: Cluster, database: str) -> None:
    tallies = open_tallies(server.url(database))
    tallies.add([tally()])
    with server.frozen():
        began = time.monotonic()
        with pytest.raises(StoreError) as raised:
            tallies.add([tally()])
        assert raised.value.lost
        assert time.monotonic() - began < 5.0
    tallies.add([tally()])
    assert tallies.results(TODAY, "bob.example")[0].successful == 10
    tallies.close()


def test_no_password_in_an_error(server: Cluster, database: str) -> None:
    with pytest.raises(StoreError) as raised:
        open_tallies(server.url(f"{database}-absent"))
    assert PASSWORD not in str(raised.value)
    assert ROLE in str(raised.value)


def test_a_reader_sees_one_moment(server: Cluster, database: str) -> None:
    """Sums and details agree while others write."""
    url = server.url(database)
    reader, ended = open_tallies(url), threading.Event()

    def write(tallies: Tallies) -> None:
        while not ended.is_set():
            tallies.add([tally()])
        tallies.close()

    writer = threading.Thread(target=write, args=(open_tallies(url),))
    writer.start()
    try:
        for _ in range(60):
            for result in reader.results(TODAY, "bob.example"):
                assert sum(f.failed_session_count for f in result.failures) == result.failed
    finally:
        ended.set()
        writer.join()
        reader.close()
