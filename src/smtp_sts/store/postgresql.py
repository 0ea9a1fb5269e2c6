"""The store of a fleet: policies in PostgreSQL, shared by the daemons of many machines.

Promises:
* A database that is down, hangs or cannot be reached costs seconds, not more
  (`postgresql_server.py`); then comes a `StoreError` that is `lost`.
* A later fetch is never replaced by an earlier one (law 1), whichever daemon writes last.
* Times in the database are the database's. Each daemon measures how far its own clock is from that
  and converts, so that machines whose clocks differ agree on which fetch came later and when a
  policy expires (law 2). Differences up to `SAME_TIME` are taken for none.
* A claim ends by itself, by the clock of the database, whatever became of who made it.
Must not: use more than one connection, or be called on an event loop (it blocks).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeVar

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    TextClause,
    literal_column,
    text,
)
from sqlalchemy.exc import SQLAlchemyError

from smtp_sts.store import clock_watch, policy_table, room
from smtp_sts.store.errors import StoreError
from smtp_sts.store.interface import FUTURE_SECONDS, Figures, Stored
from smtp_sts.store.past import past
from smtp_sts.store.postgresql_server import ADVISORY_LOCK, NOW, make_engine, told
from smtp_sts.store.replacing import replaces

SCHEMA_VERSION: Final = 1
#: A claim ends after so long, and what `due` gave out is due again (seconds).
CLAIM_SECONDS: Final = 15.0
LEASE_SECONDS: Final = 60.0
#: Clocks that are no further apart are the same clock (seconds), and how often that is measured.
SAME_TIME: Final = 1.0
MEASURE_SECONDS: Final = 60.0
#: How often it is measured what all policies take, besides when the limit seems near (seconds).
SIZE_SECONDS: Final = 60.0
#: Policies that are written in one transaction.
BATCH: Final = 500
_SCHEMA: Final = (
    """CREATE TABLE policies (
      domain varchar(253) COLLATE "C" PRIMARY KEY,
      policy_id varchar(32) NOT NULL,
      body text NOT NULL,
      fetched_at float8 NOT NULL,
      expires_at float8 NOT NULL,
      refresh_at float8 NOT NULL,
      used_at float8 NOT NULL,
      changed_at float8 NOT NULL
    )""",
    "CREATE INDEX policies_refresh ON policies (refresh_at)",
    "CREATE INDEX policies_changed ON policies (changed_at)",
    """CREATE TABLE claims (
      domain varchar(253) COLLATE "C" PRIMARY KEY,
      holder text NOT NULL,
      until float8 NOT NULL
    )""",
    "CREATE TABLE smtp_sts_schema (version integer NOT NULL)",
    f"INSERT INTO smtp_sts_schema VALUES ({SCHEMA_VERSION})",
)
_GET: Final = text(
    f"SELECT {', '.join(Stored.__struct_fields__)} FROM policies WHERE domain = ANY(:domains)"
)
# ":" would begin a parameter.
_REPLACES: Final = replaces(f"{NOW} + {FUTURE_SECONDS}").replace(":", r"\:")
_PUT: Final = text(f"""
    INSERT INTO policies
    VALUES (:domain, :policy_id, :body, :fetched_at, :expires_at, :refresh_at, :used_at, {NOW})
    ON CONFLICT (domain) DO UPDATE SET
      policy_id = excluded.policy_id, body = excluded.body, fetched_at = excluded.fetched_at,
      expires_at = excluded.expires_at, refresh_at = excluded.refresh_at,
      used_at = greatest(policies.used_at, excluded.used_at), changed_at = excluded.changed_at
    WHERE {_REPLACES}""")
_DUE: Final = text("""
    WITH due AS MATERIALIZED (
      SELECT domain FROM policies
      WHERE refresh_at <= :now AND expires_at > :now AND used_at >= :used
      ORDER BY refresh_at LIMIT :limit FOR UPDATE SKIP LOCKED)
    UPDATE policies SET refresh_at = :again FROM due WHERE policies.domain = due.domain
    RETURNING policies.domain""")
_CLAIM: Final = text(f"""
    INSERT INTO claims SELECT wanted, :holder, {NOW} + {CLAIM_SECONDS}
    FROM unnest(CAST(:domains AS text[])) AS wanted ORDER BY wanted
    ON CONFLICT (domain) DO UPDATE SET holder = excluded.holder, until = excluded.until
    WHERE claims.until <= {NOW} OR claims.holder = excluded.holder
    RETURNING domain""")
_RELEASE: Final = text("DELETE FROM claims WHERE domain = ANY(:domains) AND holder = :holder")
_FORGOTTEN: Final = text(f"DELETE FROM claims WHERE until <= {NOW}")
_CHANGES: Final = text(
    f"SELECT domain, changed_at FROM policies WHERE changed_at > {NOW} - :seconds"
)
_CLOCK: Final = text(f"SELECT {NOW}")
_BYTES: Final = f"octet_length(body) + octet_length(domain) + {room.ROW_BYTES}"
_SIZE: Final = text(f"SELECT coalesce(sum({_BYTES}), 0) FROM policies")
_SIZES: Final = text(f"SELECT domain, {_BYTES} AS bytes FROM policies WHERE domain = ANY(:domains)")
# Not to_regclass(): it may answer from a cache, of before the wait for the advisory lock.
_HAS_SCHEMA: Final = text("""
    SELECT EXISTS (SELECT FROM pg_catalog.pg_tables
      WHERE tablename = 'smtp_sts_schema' AND schemaname = ANY(current_schemas(false)))""")

_log = logging.getLogger(__name__)
T = TypeVar("T")


class PostgresqlStore:
    """The policies of a fleet. See `interface.Store`."""

    def __init__(self, url: str, *, make: bool = True) -> None:
        """Connect, and `make` the tables where there are none."""
        self._engine, self._place = make_engine(url)
        self._single = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self.read_only = False
        #: how far the clock of the database is ahead of ours (seconds)
        self._ahead = 0.0
        #: when that was measured, and how far our clock was ahead of the one that nobody sets then
        self._measured = self._set = float("-inf")
        #: what the policies may take, bytes; 0 is without a limit
        self.limit = 0
        self._size = 0
        self._sized = float("-inf")
        try:
            self._find_schema(make)
        except StoreError:
            self.close()
            raise

    @property
    def place(self) -> str:
        """The database, for people."""
        return self._place

    def moved(self) -> bool:
        """Never: another server in its place is another connection."""
        return False

    def get(self, domains: Iterable[str]) -> dict[str, Stored]:
        """The stored policies of these domains, expired ones among them."""
        with self._begin() as connection:
            rows = connection.execute(_GET, {"domains": list(domains)})
            return {row.domain: _moved(Stored(*row), -self._ahead) for row in rows}

    def put(self, policies: Sequence[Stored]) -> list[str]:
        """Keep these policies, each in place of an earlier fetch.

        Returns the domains that there is no room for (`room.py`).
        """
        self._begin_with(_CLOCK)
        without = set(self._without_room(policies)) if self.limit else set()
        # In one order for all: two daemons that write the same policies do not block each other.
        rows = [
            msgspec.structs.asdict(_moved(stored, self._ahead))
            for stored in sorted(policies, key=lambda stored: stored.domain)
            if stored.domain not in without
        ]
        for start in range(0, len(rows), BATCH):
            with told(self.place), self._engine.begin() as connection:
                connection.execute(_PUT, rows[start : start + BATCH])
        return sorted(without)

    def _without_room(self, policies: Sequence[Stored]) -> list[str]:
        """The domains that there is no room for. What all take is measured now and then."""
        if time.monotonic() - self._sized > SIZE_SECONDS:
            self.size()
            self._sized = time.monotonic()
        more = sum(map(room.size_of, policies))
        if self._size + more <= self.limit:
            self._size += more
            return []
        self.size()
        with self._begin() as connection:
            values = {"domains": [policy.domain for policy in policies]}
            kept = {row.domain: row.bytes for row in connection.execute(_SIZES, values)}
        return room.refused(policies, kept, self._size, self.limit)

    def touch(self, used: dict[str, float]) -> None:
        """Note when domains were last asked for."""
        with self._begin() as connection:
            moved = {domain: when + self._ahead for domain, when in used.items()}
            policy_table.touch(connection, moved)

    def postpone(self, domain: str, refresh_at: float, before: float) -> None:
        """The next refresh of a domain, after one that failed."""
        with self._begin() as connection:
            ahead = self._ahead
            policy_table.postpone(connection, domain, refresh_at + ahead, before + ahead)

    def due(self, now: float, limit: int, unused_since: float = 0.0) -> list[str]:
        """Unexpired domains whose refresh is due, the longest waiting first, but none that nobody
        has asked for since a time. Raises StoreError.

        What one daemon is given no other is, for `LEASE_SECONDS`.
        """
        with self._begin() as connection:
            now += self._ahead
            values = {
                "now": now, "limit": limit, "again": now + LEASE_SECONDS,
                "used": unused_since + self._ahead,
            }  # fmt: skip
            return list(connection.execute(_DUE, values).scalars())

    def page(self, after: str, limit: int) -> list[Stored]:
        """The next policies behind a domain, in the order of their names."""
        with self._begin() as connection:
            found = policy_table.page(connection, after, limit)
        return [_moved(stored, -self._ahead) for stored in found]

    def delete(self, domains: dict[str, float]) -> None:
        """Forget the policies of domains that were fetched at a time or before."""
        with self._begin() as connection:
            before = {domain: when + self._ahead for domain, when in domains.items()}
            future = time.time() + self._ahead + FUTURE_SECONDS
            policy_table.forget(connection, before, future)

    def look_at_clock(self) -> float:
        """Look at the clock of the database; the latest time of day that is certainly past."""
        with self._begin() as connection:
            return past(clock_watch.look(connection).watch)

    def prune(self, past: float) -> int:
        """Delete what was expired for long at a time that is certainly past; how many."""
        with self._begin() as connection:
            connection.execute(_FORGOTTEN)
            return policy_table.prune(connection, past, literal_column(NOW))

    def make_room(self, past: float, unused_seconds: float, after: str) -> tuple[int, str]:
        """Delete what was expired or unused at a time that is certainly past, piece by piece."""
        with self._begin() as connection:
            now: ColumnElement[float] = literal_column(NOW)
            return policy_table.make_room(connection, past, unused_seconds, after, now)

    def count(self) -> int:
        """How many policies are kept."""
        with self._begin() as connection:
            return policy_table.count(connection)

    def figures(self, now: float, unused_since: float = 0.0) -> Figures:
        """How many there are, and how old."""
        with self._begin() as connection:
            ahead = self._ahead
            count = policy_table.count(connection)
            first = policy_table.earliest(connection, now + ahead, unused_since + ahead)
        refresh_at, fetched_at = (None if when is None else when - ahead for when in first)
        return Figures(count, refresh_at, fetched_at, self.size())

    def size(self) -> int:
        """What the policies take (bytes, about)."""
        with self._begin() as connection:
            self._size = int(connection.execute(_SIZE).scalar_one())
        return self._size

    def claim(self, domains: Sequence[str], holder: str) -> dict[str, Stored | None]:
        """Those of these domains that `holder` may fetch now, with what is kept of each.

        Nobody else may until `release`, for `CLAIM_SECONDS` at most. Raises StoreError.
        """
        with self._begin() as connection:
            values = {"domains": list(domains), "holder": holder}
            granted = list(connection.execute(_CLAIM, values).scalars())
        # Read after the claim: what another daemon wrote before it released its own is seen.
        kept = self.get(granted)
        return {domain: kept.get(domain) for domain in granted}

    def release(self, domains: Sequence[str], holder: str) -> None:
        """Give claims back."""
        self._begin_with(_RELEASE, domains=list(domains), holder=holder)

    def changes(self, seconds: float) -> dict[str, float]:
        """What was written in the last so many seconds: domain -> a mark that changes with each
        write."""
        with self._begin() as connection:
            return {
                row.domain: row.changed_at
                for row in connection.execute(_CHANGES, {"seconds": seconds})
            }

    def close(self) -> None:
        """Close the connection."""
        self._engine.dispose()

    def _find_schema(self, make: bool) -> None:
        with told(self.place), self._engine.begin() as connection:
            if not connection.execute(_HAS_SCHEMA).scalar_one():
                if not make:
                    raise StoreError(f"store {self.place}: nothing was kept there yet")
                lock = text("SELECT pg_advisory_xact_lock(:key)")
                connection.execute(lock, {"key": ADVISORY_LOCK})
                if not connection.execute(_HAS_SCHEMA).scalar_one():  # nobody was quicker
                    for statement in _SCHEMA:
                        connection.exec_driver_sql(statement)
            version: int = connection.execute(
                text("SELECT max(version) FROM smtp_sts_schema")
            ).scalar_one()
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"store {self.place}: written by a newer smtp-sts (schema {version}, this one "
                f"knows {SCHEMA_VERSION}); install that version on this machine too"
            )
        if make:  # who may not is told so where it is needed
            with contextlib.suppress(SQLAlchemyError), self._engine.begin() as connection:
                clock_watch.make(connection)

    @contextlib.contextmanager
    def _begin(self) -> Iterator[Connection]:
        """For single statements: each lasts by itself."""
        with told(self.place), self._single.connect() as connection:
            # Our clock may have been set just now: nothing is converted by a measure of before.
            moved = abs(_ahead_of_boot() - self._set) > SAME_TIME
            if moved or time.monotonic() - self._measured > MEASURE_SECONDS:
                self._measure(connection, at_once=moved)
            yield connection

    def _begin_with(self, statement: TextClause, **values: object) -> None:
        with self._begin() as connection:
            connection.execute(statement, values)

    def _measure(self, connection: Connection, *, at_once: bool) -> None:
        began, ours = time.monotonic(), time.time()
        theirs: float = connection.execute(_CLOCK).scalar_one()
        took = time.monotonic() - began
        if took > SAME_TIME:  # too slow an answer to tell
            if at_once and self._set > float("-inf"):
                raise StoreError(
                    f"store {self.place}: this machine's clock was set, and the database is too "
                    "slow to compare it with its own"
                )
            return
        self._measured, self._set = time.monotonic(), _ahead_of_boot()
        ahead = theirs - (ours + took / 2)
        if abs(ahead - self._ahead) <= SAME_TIME:
            return
        self._ahead = ahead if abs(ahead) > SAME_TIME else 0.0
        if self._ahead:
            _log.warning(
                "store %s: its clock is %.1f s %s of this machine's; times are converted, but "
                "check that both keep time (NTP)",
                self.place, abs(ahead), "ahead" if ahead > 0 else "behind",
            )  # fmt: skip


def _ahead_of_boot() -> float:
    """How far our time of day is ahead of a clock that nobody sets (seconds)."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _moved(stored: Stored, seconds: float) -> Stored:
    """A policy whose times are read from another clock."""
    if not seconds:
        return stored
    return msgspec.structs.replace(
        stored,
        fetched_at=stored.fetched_at + seconds,
        expires_at=stored.expires_at + seconds,
        refresh_at=stored.refresh_at + seconds,
        used_at=stored.used_at + seconds,
    )
