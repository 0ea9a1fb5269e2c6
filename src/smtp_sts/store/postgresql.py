"""The store of a fleet: policies in PostgreSQL, shared by the daemons of many machines.

Promises:
* A database that is down, hangs or cannot be reached costs seconds, not more: connecting, every
  statement and the wait for its answer have an end, and then comes a `StoreError` that is `lost`.
* A later fetch is never replaced by an earlier one (law 1), whichever daemon writes last.
* Times in the database are the database's. Each daemon measures how far its own clock is from that
  and converts, so that machines whose clocks differ agree on which fetch came later and when a
  policy expires (law 2). Differences up to `SAME_TIME` are taken for none.
* A claim ends by itself, by the clock of the database, whatever became of who made it.
* No password in an error.
Must not: use more than one connection, or be called on an event loop (it blocks).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    MetaData,
    TextClause,
    column,
    create_engine,
    inspect,
    literal_column,
    text,
)
from sqlalchemy.exc import SQLAlchemyError

from smtp_sts.store import FUTURE_SECONDS, Store, Stored, StoreError, clock_watch, room
from smtp_sts.store.replacing import replaces

try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict
except ImportError as missing:
    raise StoreError(
        "store.url: PostgreSQL needs a driver that is not installed: "
        "pip install 'smtp-sts[postgresql]', in the environment of smtp-sts"
    ) from missing

SCHEMA_VERSION: Final = 1
#: Seconds; those of libpq are two at least. A client waits a little longer than the server works.
CONNECT_SECONDS: Final = 2
STATEMENT_SECONDS: Final = 2.0
ANSWER_SECONDS: Final = 3.0
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
#: For the one who makes the tables, among all users of the database.
_ADVISORY_LOCK: Final = 0x736D7470_737473  # "smtpsts"

#: Seconds since the epoch by the clock of the database, as SQL.
NOW: Final = "CAST(extract(epoch FROM clock_timestamp()) AS float8)"
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

#: Parameters that may look like anything, and a keyword of libpq's other form within another.
_FREE: Final = {"options", "password", "sslpassword"}
_KEYWORD: Final = re.compile(r"(^|\s)\w+\s*=|(pass|pwd)\w*\s*=", re.IGNORECASE)

_log = logging.getLogger(__name__)
T = TypeVar("T")


class _Bounded(psycopg.Connection[Any]):
    """A connection on which nothing is waited for without end, whatever the network does."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """As psycopg's, but with an end: then the connection is closed."""
        try:
            return super().wait(gen, interval, ANSWER_SECONDS if timeout is None else timeout)
        except psycopg.OperationalError as error:
            if error.sqlstate is not None:
                raise
            self.close()  # no answer, or half of one: of no more use
            raise


def check(url: str) -> None:
    """Raise StoreError for a URL that libpq cannot read. Nothing is connected to."""
    _parameters(url)


def _parameters(url: str) -> dict[str, Any]:
    """A URL as libpq reads it, with our limits added."""
    try:
        found = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise StoreError(f"store.url: {_fault(url)}") from None
    parameters = {name: str(value) for name, value in found.items() if value is not None}
    # Keywords behind a URL: libpq takes them for a part of what stands before, and would show them.
    if any(_KEYWORD.search(parameters[name]) for name in parameters.keys() - _FREE):
        raise StoreError(
            "store.url: keywords such as password=... do not follow a URL with a blank; write "
            "postgresql://user:password@host/database?keyword=value&keyword=value"
        )
    if "@" in parameters.get("host", "") + parameters.get("dbname", ""):
        raise StoreError(
            "store.url: in the user and the password, write @ as %40, / as %2F and : as %3A"
        )
    for port in parameters.get("port", "").split(","):
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise StoreError("store.url: the port is not a number from 1 to 65535")
    if not _is_local(parameters) and "PGSSLMODE" not in os.environ:
        # Law 1: who can pose as the database can weaken every policy.
        parameters.setdefault("sslmode", "verify-full")
    parameters.setdefault("connect_timeout", str(CONNECT_SECONDS))
    parameters.setdefault("application_name", "smtp-sts")
    limits = (
        f"-c statement_timeout={STATEMENT_SECONDS * 1000:.0f} "
        f"-c idle_in_transaction_session_timeout={ANSWER_SECONDS * 1000:.0f}"
    )
    parameters["options"] = f"{limits} {parameters.get('options', '')}".strip()
    return parameters


def _fault(url: str) -> str:
    """What libpq has against a URL. It quotes what it does not understand: secrets go first."""
    bare = re.sub(r"//[^/?#]*@", "//", url, count=1)
    bare = re.sub(r"((?:pass|pwd)\w*\s*(?:=|%3d)\s*)[^&]*", r"\1", bare, flags=re.IGNORECASE)
    try:
        conninfo_to_dict(bare)
    except psycopg.ProgrammingError as error:
        return str(error).strip()
    return "user or password cannot be read: write % as %25, @ as %40, / as %2F and : as %3A"


def _is_local(parameters: dict[str, Any]) -> bool:
    hosts = parameters.get("hostaddr") or parameters.get("host") or os.environ.get("PGHOST", "")
    return all(
        not host or host.startswith(("/", "@", "127.")) or host in ("localhost", "::1")
        for host in hosts.split(",")
    )


def _place(parameters: dict[str, Any]) -> str:
    """The URL for people: without the password and the options."""
    user = f"{parameters['user']}@" if "user" in parameters else ""
    port = f":{parameters['port']}" if "port" in parameters else ""
    host = parameters.get("host") or parameters.get("hostaddr", "")
    return f"postgresql://{user}{host}{port}/{parameters.get('dbname', '')}"


def make_engine(url: str) -> tuple[Engine, str]:
    """An engine of one connection, and the URL for people. Raises StoreError."""
    parameters = _parameters(url)

    def connect() -> psycopg.Connection[Any]:
        # Without prepared statements: a pooler between us and the server may not have them.
        return _Bounded.connect(**parameters, prepare_threshold=None)

    engine = create_engine("postgresql+psycopg://", creator=connect, pool_size=1, max_overflow=0)
    return engine, _place(parameters)


def make_tables(engine: Engine, metadata: MetaData, place: str) -> None:
    """Make those tables that are not there yet; one daemon of the fleet does. Raises StoreError."""
    with told(place), engine.begin() as connection:
        if set(metadata.tables) <= set(inspect(connection).get_table_names()):
            return  # a role that may not lock or make anything is enough then
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        metadata.create_all(connection)


@contextlib.contextmanager
def told(place: str) -> Iterator[None]:
    """What goes wrong in here comes out as StoreError with advice."""
    try:
        yield
    except SQLAlchemyError as error:
        raise trouble(error, place) from error


class PostgresqlStore(Store):
    """The policies of a fleet. Blocking; use it from one thread at a time."""

    def __init__(self, url: str, *, make: bool = True) -> None:
        """Connect, and `make` the tables where there are none. Raises StoreError."""
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

    def get(self, domains: Iterable[str]) -> dict[str, Stored]:
        """The stored policies of these domains, expired ones among them. Raises StoreError."""
        with self._begin() as connection:
            rows = connection.execute(_GET, {"domains": list(domains)})
            return {row.domain: _moved(Stored(*row), -self._ahead) for row in rows}

    def put(self, policies: Sequence[Stored]) -> list[str]:
        """Keep these policies, each in place of an earlier fetch.

        Returns the domains that there is no room for (`room.py`). Raises StoreError.
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
        """Note when domains were last asked for. Raises StoreError."""
        super().touch({domain: when + self._ahead for domain, when in used.items()})

    def postpone(self, domain: str, refresh_at: float, before: float) -> None:
        """The next refresh of a domain, after one that failed. Raises StoreError.

        A policy that was fetched later than `before` is another one, and stays as it is.
        """
        super().postpone(domain, refresh_at + self._ahead, before + self._ahead)

    def due(self, now: float, limit: int, unused_since: float = 0.0) -> list[str]:
        """Unexpired domains whose refresh is due, the longest waiting first, but none that nobody
        has asked for since a time. Raises StoreError.

        What one daemon is given no other is, for `LEASE_SECONDS`.
        """
        now += self._ahead
        with self._begin() as connection:
            values = {
                "now": now, "limit": limit, "again": now + LEASE_SECONDS,
                "used": unused_since + self._ahead,
            }  # fmt: skip
            return list(connection.execute(_DUE, values).scalars())

    def page(self, after: str, limit: int) -> list[Stored]:
        """The next policies behind a domain, in the order of their names. Raises StoreError."""
        return [_moved(stored, -self._ahead) for stored in super().page(after, limit)]

    def delete(self, domains: dict[str, float]) -> None:
        """Forget the policies of domains that were fetched at a time or before. Raises StoreError.

        Here only: other daemons go on with what they have in memory.
        """
        super().delete({domain: before + self._ahead for domain, before in domains.items()})

    def prune(self, past: float) -> int:
        """As `Store.prune`; `past` is by the clock of the database. Raises StoreError."""
        self._begin_with(_FORGOTTEN)
        return super().prune(past)

    def _destroy(self, condition: ColumnElement[bool], expired: float | None) -> int:
        # By the clock of the database at that moment, too.
        if expired is not None:
            condition &= column("expires_at") <= literal_column(NOW) - expired
        return super()._destroy(condition, expired)

    def size(self) -> int:
        """What the policies take (bytes, about). Raises StoreError."""
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
        """Give claims back. Raises StoreError."""
        self._begin_with(_RELEASE, domains=list(domains), holder=holder)

    def changes(self, seconds: float) -> dict[str, float]:
        """What was written in the last so many seconds: domain -> a mark that changes with each
        write. Raises StoreError."""
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
                connection.execute(lock, {"key": _ADVISORY_LOCK})
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


#: SQLSTATE (PostgreSQL appendix A) or its class -> what to do.
_ADVICE: Final = {
    "42501": "let the role own the database, or grant what docs/fleet.md lists",
    "53100": "free space on the disk of the database server",
    "25006": "name the primary, or add target_session_attrs=read-write to store.url",
    "42P01": "its tables are gone: restore them, or drop smtp_sts_schema to have them made anew",
}
#: What libpq says of a connection that was refused, for which it gives no SQLSTATE.
_REFUSED: Final = {
    "authentication failed": "check user and password (store.url or a .pgpass file)",
    "pg_hba.conf": "let the server take the role from this machine in pg_hba.conf",
    "does not exist": "create the database: createdb --owner=ROLE NAME",
    "too many": "each worker of each daemon needs one connection: raise max_connections",
    "root certificate": "see docs/fleet.md on TLS",
}


def trouble(error: SQLAlchemyError, place: str) -> StoreError:
    """What the database said, as a sentence with advice."""
    cause = getattr(error, "orig", None)
    state = getattr(cause, "sqlstate", None) or ""
    said = " ".join(str(cause or error).split())
    hint = _ADVICE.get(state, "")
    if not state:
        hint = next((advice for words, advice in _REFUSED.items() if words in said), "")
    # Without a state no server has spoken; class 57: shut down, starting up, or too slow.
    lost = isinstance(cause, psycopg.Error) and (not state or state[:2] in ("08", "57"))
    return StoreError(f"store {place}: {said}{'; ' if hint else ''}{hint}", lost=lost)


__all__ = [
    "CLAIM_SECONDS",
    "NOW",
    "PostgresqlStore",
    "check",
    "make_engine",
    "make_tables",
    "told",
    "trouble",
]
