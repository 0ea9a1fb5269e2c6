"""What must last: policies with their id, fetch time and expiry, in SQLite by SQLAlchemy Core.

What many machines share is in PostgreSQL instead: `postgresql.py`, behind the same interface.
Promises: a policy that `put` returned from survives `kill -9`; trouble of any kind (missing, read
only, corrupt, newer, full) comes out as `StoreError` with a sentence that says what to do; a file
that is corrupt is set aside, never deleted, and what can still be read of it is kept.
Must not: decide anything about a policy, or be called on an event loop (it blocks).
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Float,
    Index,
    MetaData,
    String,
    Table,
    create_engine,
    delete,
    event,
    func,
    inspect,
    select,
    true,
    update,
)
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from smtp_sts.store import clock_watch, room
from smtp_sts.store.past import past
from smtp_sts.store.replacing import SAME_FETCH, replaces
from smtp_sts.store.room import ROW_BYTES

SCHEMA_VERSION: Final = 1
#: A fetch that lies further in the future was written with a wrong clock (seconds).
FUTURE_SECONDS: Final = 60.0
#: What SQLite says of a file that it cannot write, but may be able to read.
_UNWRITABLE: Final = ("readonly", "unable to open", "disk I/O", "full")

#: Policies that are expired are kept for so long: a clock that was ahead for a day is found out by
#: then, mostly (seconds).
EXPIRED_SECONDS: Final = 30 * 86400.0
#: Policies that one call of `prune` and `make_room` look at: who asks meanwhile does not wait long.
PRUNED_AT_ONCE: Final = 1000

_metadata = MetaData()
_policies = Table(
    "policies",
    _metadata,
    Column("domain", String(253), primary_key=True),
    Column("policy_id", String(32), nullable=False),
    Column("body", String, nullable=False),
    Column("fetched_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("refresh_at", Float, nullable=False),
    Column("used_at", Float, nullable=False),
    Index("policies_refresh", "refresh_at"),
    Index("policies_expires", "expires_at"),
)
_BY_END: Final = "CREATE INDEX IF NOT EXISTS policies_expires ON policies (expires_at)"
#: What a row takes, by `room.size_of`; `CAST`: bytes, not characters.
_BYTES: Final = f"(length(CAST(body AS BLOB)) + length(domain) + {ROW_BYTES})"


def _of(row: str) -> str:
    return _BYTES.replace("body", f"{row}.body").replace("domain", f"{row}.domain")


#: What the policies take, counted by SQLite itself with each of its writes: old daemons' too.
_SIZE: Final = (
    "CREATE TABLE policies_size (policies INTEGER NOT NULL, bytes INTEGER NOT NULL)",
    f"INSERT INTO policies_size SELECT count(*), coalesce(sum({_BYTES}), 0) FROM policies",
    f"""CREATE TRIGGER policies_more AFTER INSERT ON policies BEGIN
      UPDATE policies_size SET policies = policies + 1, bytes = bytes + {_of("new")}; END""",
    f"""CREATE TRIGGER policies_less AFTER DELETE ON policies BEGIN
      UPDATE policies_size SET policies = policies - 1, bytes = bytes - {_of("old")}; END""",
    f"""CREATE TRIGGER policies_other AFTER UPDATE OF body ON policies BEGIN
      UPDATE policies_size SET bytes = bytes + {_of("new")} - {_of("old")}; END""",
)


#: How the URL of a store begins that many machines share.
_SHARED: Final = "postgresql://"


class StoreError(Exception):
    """The store cannot be used now; the message says why and what to do.

    `lost` tells that it cannot be reached: it is to be opened anew.
    """

    def __init__(self, message: str, *, lost: bool = False) -> None:
        super().__init__(message)
        self.lost = lost


class Stored(msgspec.Struct, frozen=True):
    """A policy as it lasts. `body` is the rendered policy; times are seconds since the epoch."""

    domain: str
    policy_id: str
    body: str
    fetched_at: float
    expires_at: float
    refresh_at: float
    used_at: float


#: A write waits so long for those of others (seconds), and that of a policy looks so often whether
#: they are done (milliseconds).
BUSY_SECONDS: Final = 2.0
BUSY_POLL_MS: Final = 1

# The two statements that each new domain costs go to SQLite directly: SQLAlchemy around them would
# cost 0.4 ms of CPU a domain.
_COLUMNS: Final = Stored.__struct_fields__
_GET: Final = f"SELECT {', '.join(_COLUMNS)} FROM policies WHERE domain = ?"
_PUT: Final = (
    f"INSERT INTO policies ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "
    "ON CONFLICT (domain) DO UPDATE SET used_at = max(policies.used_at, excluded.used_at), "
    f"{', '.join(f'{c} = excluded.{c}' for c in _COLUMNS[1:-1])} WHERE {replaces('?')}"
)


def _path_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def _mark(path: Path) -> tuple[int, int] | None:
    """Which file that is, whatever stands in it."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _engine(path: Path, *, mode: str = "rwc") -> Engine:
    def connect() -> sqlite3.Connection:
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        # One thread uses a store at a time, though not always the same one.
        return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, check_same_thread=False)

    engine = create_engine("sqlite://", creator=connect, poolclass=StaticPool)

    @event.listens_for(engine, "connect")
    def _tune(connection: sqlite3.Connection, _record: Any) -> None:
        if mode == "rwc":
            connection.execute("PRAGMA journal_mode=WAL")
        # FULL: a policy that was answered with survives a power cut too; commits are grouped.
        connection.execute("PRAGMA synchronous=FULL")

    return engine


class Store:
    """The policies on disk. Blocking; use it from one thread at a time."""

    def __init__(self, engine: Engine, path: Path, *, read_only: bool = False) -> None:
        self._engine = engine
        self._connection: sqlite3.Connection | None = None
        self.path = path
        #: what another process writes is not seen: to be opened anew now and then
        self.read_only = read_only
        #: what the policies may take, bytes; 0 is without a limit
        self.limit = 0
        self._mark = _mark(path)

    @property
    def place(self) -> str:
        """Where the policies are, for people."""
        return str(self.path)

    def moved(self) -> bool:
        """Whether another file, or none, is by now where this one was: what is written is lost."""
        return _mark(self.path) != self._mark

    @contextlib.contextmanager
    def _begin(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreError(_explain(error, self.path)) from error

    @contextlib.contextmanager
    def _direct(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._connection is None:  # StaticPool: there is only the one
                self._connection = self._engine.raw_connection().driver_connection
            assert self._connection is not None
            with self._connection:  # one transaction
                yield self._connection
        except SQLAlchemyError as error:
            raise StoreError(_explain(error, self.path)) from error
        except sqlite3.Error as error:
            raise StoreError(_explain(error, self.path)) from error

    def get(self, domains: Iterable[str]) -> dict[str, Stored]:
        """The stored policies of these domains, expired ones among them. Raises StoreError."""
        found: dict[str, Stored] = {}
        with self._direct() as connection:
            for domain in domains:
                for row in connection.execute(_GET, (domain,)):
                    found[domain] = Stored(*row)
        return found

    def put(self, policies: Sequence[Stored]) -> list[str]:
        """Keep these policies, each in place of what its domain had.

        Returns the domains that there is no room for (`room.py`). Raises StoreError.
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
        """Note when domains were last asked for. Raises StoreError."""
        with self._begin() as connection:
            for domain, when in used.items():
                older = (_policies.c.domain == domain) & (_policies.c.used_at < when)
                connection.execute(update(_policies).where(older).values(used_at=when))

    def postpone(self, domain: str, refresh_at: float, before: float) -> None:
        """The next refresh of a domain, after one that failed. Raises StoreError.

        A policy that was fetched later than `before` is another one, and stays as it is.
        """
        here = _policies.c.domain == domain
        here &= _policies.c.fetched_at < before + SAME_FETCH
        with self._begin() as connection:
            connection.execute(update(_policies).where(here).values(refresh_at=refresh_at))

    def due(self, now: float, limit: int, unused_since: float = 0.0) -> list[str]:
        """Unexpired domains whose refresh is due, the longest waiting first, but none that nobody
        has asked for since a time. Raises StoreError."""
        query = (
            select(_policies.c.domain)
            .where(
                _policies.c.refresh_at <= now,
                _policies.c.expires_at > now,
                _policies.c.used_at >= unused_since,
            )
            .order_by(_policies.c.refresh_at)
            .limit(limit)
        )
        with self._begin() as connection:
            return list(connection.execute(query).scalars())

    def page(self, after: str, limit: int) -> list[Stored]:
        """The next policies behind a domain, in the order of their names. Raises StoreError.

        "" begins at the front; so a whole store is read piece by piece, and nothing is held open.
        """
        query = (
            select(_policies)
            .where(_policies.c.domain > after)
            .order_by(_policies.c.domain)
            .limit(limit)
        )
        with self._begin() as connection:
            return [Stored(*row) for row in connection.execute(query)]

    def delete(self, domains: dict[str, float]) -> None:
        """Forget the policies of domains that were fetched at a time or before. Raises StoreError.

        What was fetched later is another policy, and stays, unless by a wrong clock.
        """
        future = time.time() + FUTURE_SECONDS
        with self._begin() as connection:
            for domain, before in domains.items():
                connection.execute(
                    delete(_policies).where(
                        (_policies.c.domain == domain)
                        & ((_policies.c.fetched_at <= before) | (_policies.c.fetched_at > future))
                    )
                )

    def look_at_clock(self) -> float:
        """Look at the clock, every few minutes; the latest time of day that is certainly past.

        Raises StoreError.
        """
        with self._begin() as connection:
            return past(clock_watch.look(connection).watch)

    def prune(self, past: float) -> int:
        """Delete policies that were expired for `EXPIRED_SECONDS` at a time that is certainly past
        (`past.py`), `PRUNED_AT_ONCE` at most; how many. Raises StoreError."""
        gone = _policies.c.expires_at <= past - EXPIRED_SECONDS
        some = select(_policies.c.domain).where(gone).limit(PRUNED_AT_ONCE)
        return self._destroy(_policies.c.domain.in_(some) & gone, EXPIRED_SECONDS)

    def make_room(self, past: float, unused_seconds: float, after: str) -> tuple[int, str]:
        """Look through the policies behind a domain ("" begins), and delete those that are expired,
        or that nobody has asked for in so many seconds, at a time that is certainly past.

        `PRUNED_AT_ONCE` are looked at: how many are gone, and behind which to go on ("" at the
        end). Raises StoreError.
        """
        domain = _policies.c.domain
        query = select(domain).where(domain > after).order_by(domain)
        query = query.offset(PRUNED_AT_ONCE - 1).limit(1)
        with self._begin() as connection:
            last: str | None = connection.execute(query).scalar()
        here = (domain > after) & (domain <= last if last is not None else true())
        gone = self._destroy(here & (_policies.c.expires_at <= past), 0.0)
        unused = here & (_policies.c.used_at <= past - unused_seconds)
        return gone + self._destroy(unused, None), last or ""

    def _destroy(self, condition: ColumnElement[bool], expired: float | None) -> int:
        """Delete policies, expired for so many seconds; None: whether they are or not."""
        with self._begin() as connection:
            return connection.execute(delete(_policies).where(condition)).rowcount

    def size(self) -> int:
        """What the policies take (bytes, about). Raises StoreError."""
        query = "SELECT bytes FROM policies_size"
        with self._begin() as connection:
            if not inspect(connection).has_table("policies_size"):  # not opened to write yet
                query = f"SELECT coalesce(sum({_BYTES}), 0) FROM policies"
            size: int = connection.exec_driver_sql(query).scalar_one()
            return size

    def count(self) -> int:
        """How many policies are kept. Raises StoreError."""
        with self._begin() as connection:
            return connection.execute(select(func.count()).select_from(_policies)).scalar_one()

    def claim(self, domains: Sequence[str], holder: str) -> dict[str, Stored | None]:
        """Those of these domains that `holder` may fetch now, with what is kept of each.

        All of them: only a store that machines share has others to wait for. Raises StoreError.
        """
        kept = self.get(domains)
        return {domain: kept.get(domain) for domain in domains}

    def release(self, domains: Sequence[str], holder: str) -> None:
        """Give claims back. Raises StoreError."""

    def changes(self, seconds: float) -> dict[str, float]:
        """What others may have written in the last so many seconds: domain -> a mark that changes
        with each write. Nothing, where nobody else writes. Raises StoreError."""
        return {}

    def figures(
        self, now: float, unused_since: float = 0.0
    ) -> tuple[int, float | None, float | None, int]:
        """How many policies are kept; of the unexpired ones that somebody has asked for since a
        time the earliest refresh and fetch; and what all take (bytes, about). Raises StoreError.
        """
        first = select(func.min(_policies.c.refresh_at), func.min(_policies.c.fetched_at))
        used = (_policies.c.expires_at > now) & (_policies.c.used_at >= unused_since)
        with self._begin() as connection:
            count = connection.execute(select(func.count()).select_from(_policies)).scalar_one()
            refresh_at, fetched_at = connection.execute(first.where(used)).one()
        return count, refresh_at, fetched_at, self.size()

    def close(self) -> None:
        """Give the file back."""
        self._engine.dispose()


def _explain(error: Exception, path: Path) -> str:
    cause = str(getattr(error, "orig", None) or error)
    advice = {
        "readonly": "make the file and its folder writable for the daemon's user",
        "unable to open": "create its folder and make it writable for the daemon's user",
        "full": "free space on its file system",
        "disk I/O": "check the disk and free space on its file system",
        "locked": "find the process that holds it (fuser)",
        "malformed": "stop the daemon and start it again: the file is then set aside and rebuilt",
        "not a database": "stop the daemon and start it again: the file is then set aside",
    }
    for word, hint in advice.items():
        if word in cause:
            return f"store {path}: {cause}; {hint}"
    return f"store {path}: {cause}"


def is_shared(url: str) -> bool:
    """Whether daemons of many machines keep their policies in this store."""
    return url.startswith(_SHARED)


def check(url: str) -> None:
    """Raise StoreError for a URL that can never be opened here; nothing is opened."""
    if is_shared(url):
        from smtp_sts.store import postgresql

        postgresql.check(url)


def missing(url: str) -> str:
    """Where a store of one machine will be made, if it is not there; else ""."""
    if is_shared(url) or _path_of(url).exists():
        return ""
    return str(_path_of(url))


def open_store(url: str) -> Store:
    """Open or make the store, read-only where it cannot be written. Raises StoreError."""
    if is_shared(url):
        from smtp_sts.store.postgresql import PostgresqlStore

        return PostgresqlStore(url)
    path = _path_of(url)
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"store {path}: folder cannot be made: {error.strerror}; "
            "make it, writable for the daemon's user, or set store.url"
        ) from error
    engine = _engine(path)
    try:
        with engine.begin() as connection:
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if version == 0:
                _metadata.create_all(connection)
                connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA_VERSION}")
            if version <= SCHEMA_VERSION and not inspect(connection).has_table("policies_size"):
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # of many that come, one does it
                if not inspect(connection).has_table("policies_size"):
                    for statement in (_BY_END, *_SIZE):
                        connection.exec_driver_sql(statement)
    except OperationalError as error:
        engine.dispose()
        if path.exists() and any(words in str(error.orig) for words in _UNWRITABLE):
            return _open_read_only(path)
        raise StoreError(_explain(error, path)) from error
    except SQLAlchemyError as error:
        engine.dispose()
        raise StoreError(_explain(error, path)) from error
    _refuse_newer(engine, version, path)
    return Store(engine, path)


def open_to_read(url: str) -> Store:
    """Open a store that is there, without making or changing anything. Raises StoreError."""
    if is_shared(url):
        from smtp_sts.store.postgresql import PostgresqlStore

        return PostgresqlStore(url, make=False)
    path = _path_of(url)
    if not path.exists():
        raise StoreError(f"store {path}: there is none; see store.url")
    engine = _engine(path, mode="ro")
    try:
        with engine.begin() as connection:
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            connection.execute(select(_policies).limit(1))
    except SQLAlchemyError:
        # A folder that cannot be written to; and what a dead daemon left in its log is not seen.
        engine.dispose()
        return _open_read_only(path)
    _refuse_newer(engine, version, path)
    return Store(engine, path, read_only=True)


def open_beside(url: str) -> Store | None:
    """Another connection to a file that is written to, to read what lasts; None where that cannot
    be, as in a folder that nothing can be made in."""
    path = _path_of(url)
    engine = _engine(path, mode="ro")
    try:
        with engine.begin() as connection:
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
            connection.execute(select(_policies).limit(1))
    except SQLAlchemyError:
        engine.dispose()
        return None
    if version != SCHEMA_VERSION or journal != "wal":
        engine.dispose()
        return None
    return Store(engine, path, read_only=True)


def _open_read_only(path: Path) -> Store:
    engine = _engine(path, mode="ro&immutable=1")
    try:
        with engine.begin() as connection:
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            connection.execute(select(_policies).limit(1))
    except SQLAlchemyError as error:
        engine.dispose()
        raise StoreError(_explain(error, path)) from error
    _refuse_newer(engine, version, path)
    return Store(engine, path, read_only=True)


def _refuse_newer(engine: Engine, version: int, path: Path) -> None:
    if version > SCHEMA_VERSION:
        engine.dispose()
        raise StoreError(
            f"store {path}: written by a newer smtp-sts (schema {version}, this one knows "
            f"{SCHEMA_VERSION}); install that version again, or set store.url to another file"
        )


def repair(url: str) -> str | None:
    """Before the first worker opens it: set a corrupt store aside and keep what can be read of it.

    Returns a sentence for the log where something was done, else None. Raises StoreError where the
    store is in trouble of another kind.
    """
    if is_shared(url):  # the database looks after itself
        return None
    path = _path_of(url)
    try:
        if _is_sound(path):
            return None
    except DatabaseError as error:
        if isinstance(error, OperationalError):
            raise StoreError(_explain(error, path)) from error
    aside = path.with_name(f"{path.name}.corrupt-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
    saved = _salvage(path)
    try:
        for suffix in ("-wal", "-shm", ""):
            piece = path.with_name(path.name + suffix)
            if piece.exists():
                piece.rename(aside.with_name(aside.name + suffix))
    except OSError as error:
        raise StoreError(f"store {path}: corrupt, and cannot be set aside: {error}") from error
    fresh = open_store(url)
    fresh.put(saved)
    fresh.close()
    return f"store {path} was corrupt: set aside as {aside}, {len(saved)} policies saved from it"


def _is_sound(path: Path) -> bool:
    """Walk the whole file once: 100,000 policies take about 0.1 s. Raises DatabaseError."""
    if not path.exists():
        return True
    engine = _engine(path)
    try:
        with engine.begin() as connection:
            verdict: str = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
            return verdict == "ok"
    finally:
        engine.dispose()


def _salvage(path: Path) -> list[Stored]:
    """Every row that can still be read: from the front up to the damage, and from the back."""
    saved: dict[str, Stored] = {}
    names = Stored.__struct_fields__
    for order in ("ASC", "DESC"):
        # A store in ruins may fail at any step; what was read until then is kept.
        with (
            contextlib.suppress(sqlite3.Error, msgspec.ValidationError),
            contextlib.closing(sqlite3.connect(path)) as raw,
        ):
            query = f"SELECT {', '.join(names)} FROM policies ORDER BY rowid {order}"
            for row in raw.execute(query):
                stored = msgspec.convert(dict(zip(names, row, strict=True)), Stored)
                saved[stored.domain] = stored
    return list(saved.values())


__all__ = [
    "SCHEMA_VERSION",
    "Store",
    "StoreError",
    "Stored",
    "check",
    "is_shared",
    "missing",
    "open_beside",
    "open_store",
    "open_to_read",
    "repair",
]
