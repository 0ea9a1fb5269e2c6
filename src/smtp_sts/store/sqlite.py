"""The store of one machine: policies in a file of SQLite.

Promises: as `interface.Store`; a store that is newer than this program, or cannot be written, is
left as it is, and used to read where it can be. Must not: share the file with another machine.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy import Connection, Engine, inspect, literal, select
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from smtp_sts.store import clock_watch, policy_table, room
from smtp_sts.store.errors import StoreError
from smtp_sts.store.interface import FUTURE_SECONDS, Figures, Stored
from smtp_sts.store.past import past
from smtp_sts.store.policy_table import metadata, policies
from smtp_sts.store.replacing import replaces
from smtp_sts.store.room import ROW_BYTES
from smtp_sts.store.sqlite_file import BUSY_SECONDS, explain, file_id, make_engine

SCHEMA_VERSION: Final = 1
#: What SQLite says of a file that it cannot write, but may be able to read.
_UNWRITABLE: Final = ("readonly", "unable to open", "disk I/O", "full")
#: The write of a policy looks so often whether those of others are done (milliseconds).
BUSY_POLL_MS: Final = 1
_BY_END: Final = "CREATE INDEX IF NOT EXISTS policies_expires ON policies (expires_at)"
#: What a row takes, by `room.size_of`; `CAST`: bytes, not characters.
_BYTES: Final = f"(length(CAST(body AS BLOB)) + length(domain) + {ROW_BYTES})"


def _of(row: str) -> str:
    return _BYTES.replace("body", f"{row}.body").replace("domain", f"{row}.domain")


#: What the policies take, counted by SQLite itself with each of its writes: old daemons' too.
SIZE_SCHEMA: Final = (
    "CREATE TABLE policies_size (policies INTEGER NOT NULL, bytes INTEGER NOT NULL)",
    f"INSERT INTO policies_size SELECT count(*), coalesce(sum({_BYTES}), 0) FROM policies",
    f"""CREATE TRIGGER policies_more AFTER INSERT ON policies BEGIN
      UPDATE policies_size SET policies = policies + 1, bytes = bytes + {_of("new")}; END""",
    f"""CREATE TRIGGER policies_less AFTER DELETE ON policies BEGIN
      UPDATE policies_size SET policies = policies - 1, bytes = bytes - {_of("old")}; END""",
    f"""CREATE TRIGGER policies_other AFTER UPDATE OF body ON policies BEGIN
      UPDATE policies_size SET bytes = bytes + {_of("new")} - {_of("old")}; END""",
)

# The two statements that each new domain costs go to SQLite directly: SQLAlchemy around them would
# cost 0.4 ms of CPU a domain.
_COLUMNS: Final = Stored.__struct_fields__
_GET: Final = f"SELECT {', '.join(_COLUMNS)} FROM policies WHERE domain = ?"
_PUT: Final = (
    f"INSERT INTO policies ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "
    "ON CONFLICT (domain) DO UPDATE SET used_at = max(policies.used_at, excluded.used_at), "
    f"{', '.join(f'{c} = excluded.{c}' for c in _COLUMNS[1:-1])} WHERE {replaces('?')}"
)


class SqliteStore:
    """See `interface.Store`."""

    def __init__(self, engine: Engine, path: Path, *, read_only: bool = False) -> None:
        self._engine = engine
        self._connection: sqlite3.Connection | None = None
        self.path = path
        #: what another process writes is not seen: to be opened anew now and then
        self.read_only = read_only
        #: what the policies may take, bytes; 0 is without a limit
        self.limit = 0
        self._id = file_id(path)

    @property
    def place(self) -> str:
        """Where the policies are, for people."""
        return str(self.path)

    def moved(self) -> bool:
        """Whether another file, or none, is by now where this one was: what is written is lost."""
        return file_id(self.path) != self._id

    @contextlib.contextmanager
    def _begin(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreError(explain(error, self.path)) from error

    @contextlib.contextmanager
    def _direct(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._connection is None:  # StaticPool: there is only the one
                self._connection = self._engine.raw_connection().driver_connection
            assert self._connection is not None
            with self._connection:  # one transaction
                yield self._connection
        except SQLAlchemyError as error:
            raise StoreError(explain(error, self.path)) from error
        except sqlite3.Error as error:
            raise StoreError(explain(error, self.path)) from error

    def get(self, domains: Iterable[str]) -> dict[str, Stored]:
        """The stored policies of these domains, expired ones among them."""
        found: dict[str, Stored] = {}
        with self._direct() as connection:
            for domain in domains:
                for row in connection.execute(_GET, (domain,)):
                    found[domain] = Stored(*row)
        return found

    def put(self, policies: Sequence[Stored]) -> list[str]:
        """Keep these policies, each in place of what its domain had.

        Returns the domains that there is no room for (`room.py`).
        """
        if not policies:
            return []
        until = time.monotonic() + BUSY_SECONDS
        while (without := self._put(policies, until)) is None:
            pass
        return without

    def _put(self, policies: Sequence[Stored], until: float) -> list[str] | None:
        """None where another worker is writing, who will be done in a moment.

        SQLite itself would wait up to 25 ms before it looks again, longer than that write takes.
        """
        latest = time.time() + FUTURE_SECONDS
        with self._direct() as connection:
            connection.execute(f"PRAGMA busy_timeout = {BUSY_POLL_MS}")
            try:
                without = self._refused(connection, policies) if self.limit else []
                rows = [
                    (*msgspec.structs.astuple(policy), latest)
                    for policy in policies
                    if policy.domain not in without
                ]
                connection.executemany(_PUT, rows)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                connection.rollback()
                return None
            finally:
                connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")
        return without

    def _refused(self, connection: sqlite3.Connection, policies: Sequence[Stored]) -> list[str]:
        ((size,),) = connection.execute("SELECT bytes FROM policies_size")
        if size + sum(map(room.size_of, policies)) <= self.limit:
            return []
        query = f"SELECT {_BYTES} FROM policies WHERE domain = ?"
        kept = {
            policy.domain: row[0]
            for policy in policies
            for row in connection.execute(query, (policy.domain,))
        }
        return room.refused(policies, kept, size, self.limit)

    def touch(self, used: dict[str, float]) -> None:
        """Note when domains were last asked for."""
        with self._begin() as connection:
            policy_table.touch(connection, used)

    def postpone(self, domain: str, refresh_at: float, before: float) -> None:
        """The next refresh of a domain, after one that failed."""
        with self._begin() as connection:
            policy_table.postpone(connection, domain, refresh_at, before)

    def due(self, now: float, limit: int, unused_since: float = 0.0) -> list[str]:
        """Unexpired domains whose refresh is due, the longest waiting first, but none that nobody
        has asked for since a time."""
        query = (
            select(policies.c.domain)
            .where(
                policies.c.refresh_at <= now,
                policies.c.expires_at > now,
                policies.c.used_at >= unused_since,
            )
            .order_by(policies.c.refresh_at)
            .limit(limit)
        )
        with self._begin() as connection:
            return list(connection.execute(query).scalars())

    def page(self, after: str, limit: int) -> list[Stored]:
        """The next policies behind a domain, in the order of their names."""
        with self._begin() as connection:
            return policy_table.page(connection, after, limit)

    def delete(self, domains: dict[str, float]) -> None:
        """Forget the policies of domains that were fetched at a time or before."""
        with self._begin() as connection:
            policy_table.forget(connection, domains, time.time() + FUTURE_SECONDS)

    def look_at_clock(self) -> float:
        """Look at the clock, every few minutes; the latest time of day that is certainly past."""
        with self._begin() as connection:
            return past(clock_watch.look(connection).watch)

    def prune(self, past: float) -> int:
        """Delete what was expired for long at a time that is certainly past; how many."""
        with self._begin() as connection:
            return policy_table.prune(connection, past, literal(time.time()))

    def make_room(self, past: float, unused_seconds: float, after: str) -> tuple[int, str]:
        """Delete what was expired or unused at a time that is certainly past, piece by piece."""
        with self._begin() as connection:
            now = literal(time.time())
            return policy_table.make_room(connection, past, unused_seconds, after, now)

    def size(self) -> int:
        """What the policies take (bytes, about)."""
        query = "SELECT bytes FROM policies_size"
        with self._begin() as connection:
            if not inspect(connection).has_table("policies_size"):  # not opened to write yet
                query = f"SELECT coalesce(sum({_BYTES}), 0) FROM policies"
            size: int = connection.exec_driver_sql(query).scalar_one()
            return size

    def count(self) -> int:
        """How many policies are kept."""
        with self._begin() as connection:
            return policy_table.count(connection)

    def claim(self, domains: Sequence[str], holder: str) -> dict[str, Stored | None]:
        """Those of these domains that `holder` may fetch now, with what is kept of each.

        All of them: only a store that machines share has others to wait for.
        """
        kept = self.get(domains)
        return {domain: kept.get(domain) for domain in domains}

    def release(self, domains: Sequence[str], holder: str) -> None:
        """Give claims back."""

    def changes(self, seconds: float) -> dict[str, float]:
        """What others may have written in the last so many seconds: domain -> a mark that changes
        with each write. Nothing, where nobody else writes."""
        return {}

    def figures(self, now: float, unused_since: float = 0.0) -> Figures:
        """How many there are, and how old."""
        with self._begin() as connection:
            count = policy_table.count(connection)
            earliest = policy_table.earliest(connection, now, unused_since)
        return Figures(count, *earliest, self.size())

    def close(self) -> None:
        """Give the file back."""
        self._engine.dispose()


def open_sqlite(path: Path) -> SqliteStore:
    """Open or make the store, read-only where it cannot be written. Raises StoreError."""
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"store {path}: folder cannot be made: {error.strerror}; "
            "make it, writable for the daemon's user, or set store.url"
        ) from error
    engine = make_engine(path)
    try:
        with engine.begin() as connection:
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if version == 0:
                metadata.create_all(connection)
                connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA_VERSION}")
            if version <= SCHEMA_VERSION and not inspect(connection).has_table("policies_size"):
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # of many that come, one does it
                if not inspect(connection).has_table("policies_size"):
                    for statement in (_BY_END, *SIZE_SCHEMA):
                        connection.exec_driver_sql(statement)
    except OperationalError as error:
        engine.dispose()
        if path.exists() and any(words in str(error.orig) for words in _UNWRITABLE):
            return _open_read_only(path)
        raise StoreError(explain(error, path)) from error
    except SQLAlchemyError as error:
        engine.dispose()
        raise StoreError(explain(error, path)) from error
    _refuse_newer(engine, version, path)
    return SqliteStore(engine, path)


def open_sqlite_to_read(path: Path) -> SqliteStore:
    """Open a store that is there, without making or changing anything. Raises StoreError."""
    if not path.exists():
        raise StoreError(f"store {path}: there is none; see store.url")
    engine = make_engine(path, mode="ro")
    try:
        with engine.begin() as connection:
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            connection.execute(select(policies).limit(1))
    except SQLAlchemyError:
        # A folder that cannot be written to; and what a dead daemon left in its log is not seen.
        engine.dispose()
        return _open_read_only(path)
    _refuse_newer(engine, version, path)
    return SqliteStore(engine, path, read_only=True)


def open_sqlite_beside(path: Path) -> SqliteStore | None:
    """Another connection to a file that is written to, to read what lasts; None where that cannot
    be, as in a folder that nothing can be made in."""
    engine = make_engine(path, mode="ro")
    try:
        with engine.begin() as connection:
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
            connection.execute(select(policies).limit(1))
    except SQLAlchemyError:
        engine.dispose()
        return None
    if version != SCHEMA_VERSION or journal != "wal":
        engine.dispose()
        return None
    return SqliteStore(engine, path, read_only=True)


def _open_read_only(path: Path) -> SqliteStore:
    engine = make_engine(path, mode="ro&immutable=1")
    try:
        with engine.begin() as connection:
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            connection.execute(select(policies).limit(1))
    except SQLAlchemyError as error:
        engine.dispose()
        raise StoreError(explain(error, path)) from error
    _refuse_newer(engine, version, path)
    return SqliteStore(engine, path, read_only=True)


def _refuse_newer(engine: Engine, version: int, path: Path) -> None:
    if version > SCHEMA_VERSION:
        engine.dispose()
        raise StoreError(
            f"store {path}: written by a newer smtp-sts (schema {version}, this one knows "
            f"{SCHEMA_VERSION}); install that version again, or set store.url to another file"
        )
