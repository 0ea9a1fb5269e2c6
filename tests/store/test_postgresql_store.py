"""Policies in a real PostgreSQL: what lasts, who may write, and what is said where it cannot."""

from __future__ import annotations

import builtins
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from smtp_sts.config import ConfigError, parse
from smtp_sts.store import (
    EXPIRED_SECONDS,
    Store,
    Stored,
    StoreError,
    check,
    open_store,
    open_to_read,
)

from .cluster import PASSWORD, Cluster
from .old import DAY, fill, watched


def stored(domain: str = "bob.example", fetched_at: float = 1000.0, id: str = "1") -> Stored:
    return Stored(domain, id, "version: STSv1\r\n", fetched_at, 2000.0, 1500.0, fetched_at)


def test_law_1_policies_last_and_the_later_fetch_wins(server: Cluster, database: str) -> None:
    first, second = open_store(server.url(database)), open_store(server.url(database))
    first.put([stored(), stored("b.example")])
    second.put([stored(fetched_at=900.0, id="old")])
    assert second.get(["bob.example", "c.example"]) == {"bob.example": stored()}
    second.put([stored(fetched_at=1100.0, id="2")])
    assert first.get(["bob.example"])["bob.example"].policy_id == "2"
    first.postpone("b.example", 1700.0, 1000.0)
    assert first.due(1600.0, 10) == ["bob.example"]
    second.touch({"bob.example": 1900.0})
    assert first.due(1800.0, 10, unused_since=1800.0) == ["bob.example"]  # nobody wants the other
    assert first.prune(1999.0 + EXPIRED_SECONDS) == 0
    assert first.prune(2000.0 + EXPIRED_SECONDS) == 2
    first.close()
    second.close()


def test_what_is_learnt_of_a_policy_of_the_first_draft_is_kept_beside_that_of_rfc_8461(
    server: Cluster, database: str
) -> None:
    key = "_smtp_sts.bob.example"
    found = Stored(key, "digest", '{"text":"v=STS1; to=false"}', 1000.0, 2000.0, 1500.0, 1000.0)
    store = open_store(server.url(database))
    store.put([stored(), found])
    # The same fetch: an MX host has met the policy since.
    met = msgspec.structs.replace(found, body='{"text":"v=STS1; to=false","applied":true}')
    store.put([met])
    assert store.get([key, "bob.example"]) == {key: met, "bob.example": stored()}
    store.delete({key: 1000.0})
    assert set(store.get([key, "bob.example"])) == {"bob.example"}
    store.close()


def test_a_store_is_read_page_by_page_and_policies_are_forgotten(
    server: Cluster, database: str
) -> None:
    url = server.url(database)
    with pytest.raises(StoreError, match="nothing was kept"):
        open_to_read(url)
    assert server.sql("SELECT tablename FROM pg_tables WHERE tablename = 'claims'", database) == []
    names = [f"{letter}.example" for letter in "edcba-"]
    open_store(url).put([stored(name) for name in names])
    store = open_to_read(url)
    assert [s.domain for s in store.page("", 4)] == sorted(names)[:4]
    assert [s.domain for s in store.page(sorted(names)[3], 4)] == sorted(names)[4:]
    store.delete({"a.example": 999.0, "b.example": 1000.0})
    assert set(store.get(names)) == {*names} - {"b.example"}
    store.close()


def test_due_policies_are_given_to_one_daemon_only(server: Cluster, database: str) -> None:
    names = {f"d{n}.example" for n in range(200)}
    stores = [open_store(server.url(database)) for _ in range(4)]
    stores[0].put([stored(name) for name in names])
    given: list[str] = []

    def take(store: Store) -> None:
        while some := store.due(1600.0, 7):
            given.extend(some)

    threads = [threading.Thread(target=take, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(given) == sorted(names)
    assert stores[0].due(1600.0 + 59.0, 10) == []
    assert len(stores[0].due(1600.0 + 61.0, 500)) == 200  # whoever took them has died
    for store in stores:
        store.close()


def test_a_claim_is_one_holder_s_until_it_is_released_or_its_time_is_over(
    server: Cluster, database: str
) -> None:
    store = open_store(server.url(database))
    store.put([stored()])
    assert store.claim(["bob.example", "c.example"], "one") == {
        "bob.example": stored(),
        "c.example": None,
    }
    assert store.claim(["bob.example"], "two") == {}
    store.release(["bob.example"], "two")  # not its own
    assert store.claim(["bob.example"], "two") == {}
    store.release(["bob.example"], "one")
    assert list(store.claim(["bob.example"], "two")) == ["bob.example"]
    left = server.sql("SELECT until - extract(epoch FROM now()) FROM claims", database)
    assert all(0 < float(seconds) < 60 for seconds in left)  # what kill -9 leaves
    server.sql("UPDATE claims SET until = 0", database)
    assert list(store.claim(["c.example"], "three")) == ["c.example"]
    store.close()


def test_many_that_come_at_once_make_the_tables_once(server: Cluster, database: str) -> None:
    failed: list[Exception] = []

    def come() -> None:
        try:
            open_store(server.url(database)).close()
        except StoreError as error:
            failed.append(error)

    threads = [threading.Thread(target=come) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert server.sql("SELECT version FROM smtp_sts_schema", database) == ["1"]


def test_a_store_holds_one_connection(server: Cluster, database: str) -> None:
    store = open_store(server.url(database))
    for _ in range(3):
        store.count()
        store.put([stored()])
    query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"
    assert server.sql(query) == ["1"]
    store.close()


def test_law_2_machines_whose_clocks_differ_agree_on_what_is_later_and_when_it_expires(
    server: Cluster, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    right = open_store(server.url(database))
    right.put([msgspec.structs.replace(stored(fetched_at=now), expires_at=now + 500.0)])
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() - 3600.0)
    slow = open_store(server.url(database))
    kept = slow.get(["bob.example"])["bob.example"]
    assert kept.expires_at - time.time() == pytest.approx(500.0, abs=3.0)
    at = time.time() + 10.0  # ten seconds later, by a clock that is an hour behind
    slow.put([stored(fetched_at=at, id="2")])
    monkeypatch.undo()
    found = right.get(["bob.example"])["bob.example"]
    assert found.policy_id == "2"
    assert found.fetched_at == pytest.approx(now + 10.0, abs=3.0)
    right.close()
    slow.close()


@pytest.mark.parametrize("seconds", [40 * DAY, -40 * DAY])
def test_law_1_a_clock_that_jumps_between_two_measurements_deletes_and_prolongs_nothing(
    server: Cluster, database: str, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """One machine's clock jumps, and its measure of the database's is a minute old at most."""
    now = time.time()
    fleet, jumping = open_store(server.url(database)), open_store(server.url(database))
    kept = msgspec.structs.replace(stored(fetched_at=now), expires_at=now + DAY, used_at=now)
    fleet.put([kept])
    assert jumping.get(["bob.example"])
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + seconds)
    fetched = msgspec.structs.replace(
        kept, domain="c.example", fetched_at=time.time(), expires_at=time.time() + DAY
    )
    jumping.put([fetched])
    for _ in range(2):
        assert jumping.prune(jumping.look_at_clock()) == 0
        assert jumping.prune(time.time()) == 0  # whatever it took for past
    monkeypatch.undo()
    found = fleet.get(["bob.example", "c.example"])
    assert found["bob.example"] == kept
    assert found["c.example"].expires_at == pytest.approx(now + DAY, abs=5.0)
    fleet.close()
    jumping.close()


def test_what_was_expired_for_long_is_deleted_once_that_is_certain(
    server: Cluster, database: str
) -> None:
    now = time.time()
    store = open_store(server.url(database))
    old = msgspec.structs.replace(stored(), expires_at=now - EXPIRED_SECONDS - 1.5 * DAY)
    store.put([old, msgspec.structs.replace(stored("b.example"), expires_at=now - DAY)])
    assert store.prune(store.look_at_clock()) == 0
    # A machine of the fleet has watched the database's clock for a day.
    watched(server.url(database), now)
    assert store.prune(store.look_at_clock()) == 1
    assert set(store.get(["bob.example", "b.example"])) == {"b.example"}
    store.close()


def test_law_1_a_full_store_keeps_what_it_has_and_renews_it(server: Cluster, database: str) -> None:
    store = open_store(server.url(database))
    fill(store)
    store.close()


def test_a_fetch_from_the_future_keeps_no_later_one_out(server: Cluster, database: str) -> None:
    store = open_store(server.url(database))
    now = time.time()
    store.put([stored(fetched_at=now + 86400.0, id="future")])
    store.put([stored(fetched_at=now, id="now")])
    assert store.get(["bob.example"])["bob.example"].policy_id == "now"
    store.close()


def test_changes_are_told_by_the_clock_of_the_database(server: Cluster, database: str) -> None:
    store = open_store(server.url(database))
    store.put([stored(), stored("b.example")])
    first = store.changes(30.0)
    assert set(first) == {"bob.example", "b.example"}
    store.put([stored(fetched_at=1100.0)])
    second = store.changes(30.0)
    assert second["bob.example"] > first["bob.example"]
    assert second["b.example"] == first["b.example"]
    server.sql("UPDATE policies SET changed_at = changed_at - 40", database)
    assert store.changes(30.0) == {}
    store.close()


def test_a_database_that_hangs_or_stops_costs_seconds_and_is_used_again(
    server: Cluster, database: str
) -> None:
    store = open_store(server.url(database))
    store.put([stored()])
    with server.frozen():
        for _ in range(2):  # on a connection, and on the way to one
            began = time.monotonic()
            with pytest.raises(StoreError) as raised:
                store.count()
            assert raised.value.lost
            assert time.monotonic() - began < 4.0
    assert store.count() == 1
    server.stop()
    with pytest.raises(StoreError) as raised:
        store.count()
    assert raised.value.lost
    server.start()
    assert store.count() == 1
    store.close()


def newer(server: Cluster, database: str) -> str:
    open_store(server.url(database)).close()
    server.sql("UPDATE smtp_sts_schema SET version = 99", database)
    return server.url(database)


def no_right(server: Cluster, database: str) -> str:
    server.sql(f'ALTER DATABASE "{database}" OWNER TO admin')
    return server.url(database)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (newer, "written by a newer smtp-sts"),
        (no_right, "docs/fleet.md"),
        (lambda server, _: server.url("nowhere"), "createdb"),
        (lambda server, name: server.url(name, user="eve"), "check user and password"),
        (lambda server, name: server.tcp_url(name, 1), "Connection refused"),
    ],
)
def test_a_database_that_cannot_be_used_says_why(
    server: Cluster, database: str, url: Callable[[Cluster, str], str], says: str
) -> None:
    with pytest.raises(StoreError) as raised:
        open_store(url(server, database))
    assert says in str(raised.value)
    assert PASSWORD not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://me:sec%zzret@db/x", "write % as %25"),
        ("postgresql://me:sec@ret@db/x", "write @ as %40"),
        ("postgresql://me:sec/ret@db/x", "write @ as %40"),
        ("postgresql://me:secret@db:port/x", "port"),
        ("postgresql://me:secret@db:99999/x", "port"),
        ("postgresql://me:secret@db/x?passwort=secret", "passwort"),
        ("postgresql://me:secret@[::1/x", "]"),
        ("postgresql://db/x?password=secret&nonsense=1", "nonsense"),
        ("postgresql://db/x password=secret", "%20"),
        ("postgresql://db password = 'secret word'", "%20"),
        ("postgresql://db/x?sslmode=require password=secret", "sslmode"),
        ("postgresql://db:5432 PASSWORD=secret/x", "%20"),
        ("postgresql://db/x%20password%3Dsecret", "keyword=value"),
        ("postgresql://db/x%20user=me%20passwd%3Dsecret", "keyword=value"),
        ("postgresql:// password=secret", "keyword=value"),
    ],
)
def test_a_bad_url_is_told_without_its_password(url: str, says: str) -> None:
    with pytest.raises(StoreError) as raised:
        check(url)
    assert says in str(raised.value)
    assert "sec" not in str(raised.value).replace("passwort", "")


@pytest.mark.parametrize("url", ["postgres:/me:secret@db/x", "mysql://me:secret@db/x"])
def test_a_store_of_another_kind_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(f'[store]\nurl = "{url}"\n')
    assert "line 2" in str(raised.value)
    assert "postgresql://" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_law_1_a_database_on_the_network_must_prove_who_it_is() -> None:
    from smtp_sts.store.postgresql_server import parameters_of

    assert parameters_of("postgresql://db.example/x")["sslmode"] == "verify-full"
    assert "sslmode" not in parameters_of("postgresql:///x?host=/run/postgresql")
    assert "sslmode" not in parameters_of("postgresql://127.0.0.1/x")
    assert parameters_of("postgresql://db.example/x?sslmode=require")["sslmode"] == "require"


def test_a_missing_driver_is_told_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == "psycopg":
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.delitem(sys.modules, "smtp_sts.store.postgresql_server", raising=False)
    monkeypatch.delattr("smtp_sts.store.postgresql_server", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(StoreError, match=r"pip install 'smtp-sts\[postgresql\]'"):
        check("postgresql://db/x")
