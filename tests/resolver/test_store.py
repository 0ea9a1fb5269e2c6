"""The store in good days and bad: what lasts, and what is said where it cannot."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from smtp_sts.store import EXPIRED_SECONDS, Stored, StoreError, open_store, repair
from smtp_sts.store.sqlite import SqliteStore

from ..store.old import fill


def stored(domain: str = "bob.example", fetched_at: float = 1000.0) -> Stored:
    return Stored(domain, "1", "version: STSv1\r\n", fetched_at, 2000.0, 1500.0, fetched_at)


def test_policies_last_and_the_later_fetch_wins(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'deep' / 's.db'}"
    store = open_store(url)
    store.put([stored(fetched_at=1000.0), stored("b.example")])
    store.put([stored(fetched_at=900.0)])
    store.close()
    store = open_store(url)
    assert store.get(["bob.example", "c.example"]) == {"bob.example": stored()}
    assert store.due(1600.0, 10) == ["bob.example", "b.example"]
    store.postpone("b.example", 1700.0, 1000.0)
    assert store.due(1600.0, 10) == ["bob.example"]
    store.touch({"bob.example": 1900.0})
    assert store.due(1800.0, 10, unused_since=1800.0) == ["bob.example"]  # nobody wants the other
    assert store.prune(1999.0 + EXPIRED_SECONDS) == 0
    assert store.prune(2000.0 + EXPIRED_SECONDS) == 2
    store.close()


def test_a_store_from_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    open_store(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA user_version=99")
    raw.close()
    with pytest.raises(StoreError, match="newer smtp-sts"):
        open_store(f"sqlite:///{path}")
    assert repair(f"sqlite:///{path}") is None


def test_a_corrupt_store_is_set_aside_and_what_can_be_read_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    url = f"sqlite:///{path}"
    store = open_store(url)
    store.put([stored(f"d{n:04}.example") for n in range(2000)])
    store.close()
    data = bytearray(path.read_bytes())
    first, last = (len(data) * part // 8 // 4096 * 4096 for part in (2, 3))
    data[first:last] = b"\xff" * (last - first)
    path.write_bytes(data)
    told = repair(url)
    assert told is not None and "set aside" in told
    store = open_store(url)
    assert 0 < store.count() < 2000
    store.close()
    assert len(list(tmp_path.glob("s.db.corrupt-*"))) == 1


def test_a_file_that_is_no_store_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(b"garbage" * 1000)
    with pytest.raises(StoreError, match="not a database"):
        open_store(f"sqlite:///{path}")
    told = repair(f"sqlite:///{path}")
    assert told is not None and "0 policies saved" in told
    store = open_store(f"sqlite:///{path}")
    store.put([stored()])
    store.close()


def test_a_store_on_a_full_disk_says_so(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 's.db'}")
    assert isinstance(store, SqliteStore)
    with store._direct() as connection:  # a full disk as SQLite sees one
        connection.execute("PRAGMA max_page_count=10")
    with pytest.raises(StoreError, match="free space"):
        store.put([stored(f"d{n}.example") for n in range(5000)])
    assert store.count() == 0
    store.close()


def test_a_write_waits_for_that_of_another_worker_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(f"sqlite:///{tmp_path / 's.db'}")
    other = sqlite3.connect(tmp_path / "s.db", check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.1, other.rollback)
    timer.start()
    store.put([stored("a.example")])
    timer.join()
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr("smtp_sts.store.sqlite.BUSY_SECONDS", 0.05)
    with pytest.raises(StoreError, match="locked"):
        store.put([stored("b.example")])
    other.close()
    store.put([stored("c.example")])
    assert sorted(store.get(["a.example", "b.example", "c.example"])) == ["a.example", "c.example"]
    store.close()


def test_law_1_a_full_store_keeps_what_it_has_and_renews_it(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 's.db'}")
    fill(store)
    store.close()
