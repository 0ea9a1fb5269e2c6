"""What was collected for TLS reports, by UTC day, domain, policy and failure, until delivered.

Promises: `add` adds a whole batch or nothing of it; trouble comes out as `StoreError` with a
sentence that says what to do. It stands in the same store as the policies; a batch is small enough
not to keep those waiting. Daemons of a fleet add to the same rows at once without waiting for each
other in a circle: rows are always taken in the order of their keys, a domain's own row first.
Must not: decide what counts, or be called on an event loop (it blocks).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Integer,
    String,
    Table,
    delete,
    func,
    select,
)

from smtp_sts.store import checks, clock_watch
from smtp_sts.store.checks import Checks, metadata
from smtp_sts.store.database import Database, Name, open_database
from smtp_sts.store.declared import texts_of
from smtp_sts.store.errors import StoreError
from smtp_sts.store.instance import instance_of
from smtp_sts.store.opening import is_shared
from smtp_sts.store.past import DAY, Watch, past
from smtp_sts.store.sqlite_file import path_of
from smtp_sts.tlsrpt import AppliedPolicy, Failure, PolicyResult

_domains = Table(
    "tls_domains",
    metadata,
    Column("day", Integer, primary_key=True),
    Column("domain", Name, primary_key=True),
    Column("record", String, nullable=False),
    sqlite_with_rowid=False,
)
_policies = Table(
    "tls_policies",
    metadata,
    Column("day", Integer, primary_key=True),
    Column("domain", Name, primary_key=True),
    Column("policy_key", String(22), primary_key=True),
    Column("policy", String, nullable=False),
    Column("successful", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
_failures = Table(
    "tls_failures",
    metadata,
    Column("day", Integer, primary_key=True),
    Column("domain", Name, primary_key=True),
    Column("policy_key", String(22), primary_key=True),
    Column("failure_key", String(22), primary_key=True),
    Column("failure", String, nullable=False),
    Column("sessions", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
#: Who counted how many sessions of a day; never forgotten with a domain.
_sources = Table(
    "tls_sources",
    metadata,
    Column("day", Integer, primary_key=True),
    Column("source", Name, primary_key=True),
    Column("sessions", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
#: Logs that were read: how far, and a digest of all up to there.
_imports = Table(
    "tls_imports",
    metadata,
    Column("head", String(32), primary_key=True),
    Column("digest", String(32), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("complete", Boolean, nullable=False),
    Column("at", Float, nullable=False),
    sqlite_with_rowid=False,
)
#: What is known of logs that were read so long ago is forgotten, and who counted what (days).
KEEP_DAYS: Final = 400
#: How far what counts has come in what it reads; written together with what was counted.
_marks = Table(
    "tls_marks",
    metadata,
    Column("reader", Name, primary_key=True),
    Column("position", String, nullable=False),
    sqlite_with_rowid=False,
)
#: Rows that are written by one statement: bounds the wait for its answer.
_ROWS: Final = 500
_COUNTS: Final = ("successful", "failed", "sessions")


class Tally(msgspec.Struct, frozen=True):
    """What is to be added to the count of one UTC day, domain and policy.

    `day` is days since the epoch. `record` is the domain's `_smtp._tls` record, "" where unknown;
    `result.failures` count the sessions to add.
    """

    day: int
    domain: str
    record: str
    result: PolicyResult


class Total(msgspec.Struct, frozen=True):
    """What is kept of a day, or of a domain in it."""

    domains: int
    successful: int
    failed: int


class Imported(msgspec.Struct, frozen=True):
    """How far a log was read: `head` is the digest of its first line, `digest` that of its first
    `size` bytes; `complete` where it ended there. `at` is when, in seconds since the epoch."""

    head: str
    digest: str
    size: int
    complete: bool
    at: float


class ImportedAlready(StoreError):
    """This much of this log was counted already, by another process."""


class Tallies:
    """The counts that last. Blocking; use it from one thread at a time.

    `checks` are our own looks at the MX hosts of the same days and domains.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.checks = Checks(database)

    @property
    def place(self) -> str:
        """Where the counts are, for people."""
        return self._database.place

    def policy_texts(self, domains: Sequence[str]) -> dict[str, str]:
        """What the store keeps of these domains' policies, as they served it. Raises StoreError."""
        return texts_of(self._database, domains)

    def instance(self) -> str:
        """The random name of this store, for report-ids. Raises StoreError."""
        return instance_of(self._database)

    def add(
        self,
        batch: Sequence[Tally],
        source: str = "",
        marks: Mapping[str, str] = MappingProxyType({}),
        beside: Mapping[tuple[int, str], int] = MappingProxyType({}),
    ) -> None:
        """Add these counts to what is there, all of them or none. Raises StoreError.

        `source` names who counted them: `daemon_source` or `import_source` of a host. `marks` are
        kept with them: reader -> how far it has come, so that nothing is counted twice or skipped.
        `beside` is what else there is to know of who counted: day and source (`log_source`,
        `unread_source`) -> a number to add.
        """
        rows = _Rows(source)
        for (day, name), number in beside.items():
            rows.sources[day, name] = {"day": day, "source": name, "sessions": number}
        for tally in batch:
            rows.take(tally)
        with self._database.begin() as connection:
            self._write(connection, rows)
            marked = self._database.insert(_marks)
            marked = marked.on_conflict_do_update(
                index_elements=["reader"], set_={"position": marked.excluded.position}
            )
            for reader, position in sorted(marks.items()):
                connection.execute(marked, {"reader": reader, "position": position})

    def glance_at_clock(self) -> Watch:
        """See `Database.glance_at_clock`. Raises StoreError."""
        return self._database.glance_at_clock()

    def mark(self, reader: str) -> str:
        """How far a reader has come; "" where it was never here. Raises StoreError."""
        query = select(_marks.c.position).where(_marks.c.reader == reader)
        with self._database.read() as connection:
            return connection.execute(query).scalar() or ""

    def add_imported(
        self,
        batch: Sequence[Tally],
        source: str,
        mark: Imported,
        before: Imported | None,
        *,
        again: bool = False,
    ) -> None:
        """Add what a log brought up to `mark`, which replaces `before`, of the same run.

        All or nothing, so that a log whose reading was broken off goes on where it ended. `again`
        adds what was added before. Raises ImportedAlready where another process was quicker,
        StoreError.
        """
        rows = _Rows(source)
        for tally in batch:
            rows.take(tally)
        with self._database.begin() as connection:
            for old in filter(None, (before, mark if again else None)):
                connection.execute(delete(_imports).where(*_is(old)))
            new = self._database.insert(_imports).on_conflict_do_nothing()
            if not connection.execute(new, msgspec.structs.asdict(mark)).rowcount:
                raise ImportedAlready(
                    f"store {self.place}: another process counts the same log now"
                )
            self._write(connection, rows)
            since = past(clock_watch.glance(connection).watch) - KEEP_DAYS * DAY
            connection.execute(delete(_imports).where(_imports.c.at < since))
            connection.execute(delete(_sources).where(_sources.c.day < since / DAY))

    def imports(self, head: str) -> list[Imported]:
        """How far logs with this first line were read, the shortest first. Raises StoreError."""
        query = select(_imports).where(_imports.c.head == head).order_by(_imports.c.size)
        with self._database.read() as connection:
            return [Imported(**row) for row in connection.execute(query).mappings()]

    def _write(self, connection: Connection, rows: _Rows) -> None:
        named = self._database.insert(_domains)
        named = named.on_conflict_do_update(
            index_elements=["day", "domain"],
            set_={"record": named.excluded.record},
            where=named.excluded.record != "",
        )
        _run(connection, named, rows.domains)
        _run(connection, self._adding(_policies), rows.policies)
        _run(connection, self._adding(_failures), rows.failures)
        _run(connection, self._adding(_sources), rows.sources)

    def _adding(self, table: Table) -> Any:
        statement = self._database.insert(table)
        counts = [name for name in _COUNTS if name in table.c]
        return statement.on_conflict_do_update(
            index_elements=[c.name for c in table.primary_key],
            set_={name: table.c[name] + statement.excluded[name] for name in counts},
        )

    def days(self) -> dict[int, int]:
        """The days that something is kept of, and of how many domains. Raises StoreError."""
        query = select(_domains.c.day, func.count()).group_by(_domains.c.day)
        with self._database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def days_of(self, domain: str) -> list[int]:
        """The days that something is kept of for a domain. Raises StoreError."""
        query = select(_domains.c.day).where(_domains.c.domain == domain)
        with self._database.read() as connection:
            return sorted(connection.execute(query).scalars())

    def totals(self) -> dict[int, Total]:
        """The days that something is kept of, and how much. Raises StoreError."""
        good, bad = func.sum(_policies.c.successful), func.sum(_policies.c.failed)
        query = select(_policies.c.day, good.label("good"), bad.label("bad"))
        query = query.group_by(_policies.c.day)
        named = select(_domains.c.day, func.count()).group_by(_domains.c.day)
        with self._database.read() as connection:
            sums = {row.day: (int(row.good), int(row.bad)) for row in connection.execute(query)}
            return {
                day: Total(domains, *sums.get(day, (0, 0)))
                for day, domains in sorted(tuple(row) for row in connection.execute(named))
            }

    def worst(self, day: int, limit: int) -> dict[str, Total]:
        """The domains that most sessions of a day failed with, the worst first.

        Raises StoreError.
        """
        good, bad = func.sum(_policies.c.successful), func.sum(_policies.c.failed)
        query = (
            select(_policies.c.domain, good.label("good"), bad.label("bad"))
            .where(_policies.c.day == day)
            .group_by(_policies.c.domain)
            .having(bad > 0)
            .order_by(bad.desc(), _policies.c.domain)
            .limit(limit)
        )
        with self._database.read() as connection:
            rows = connection.execute(query)
            return {row.domain: Total(1, int(row.good), int(row.bad)) for row in rows}

    def testing(self, day: int, limit: int) -> list[str]:
        """The domains with sessions of a day under a policy in testing mode. Raises StoreError."""
        query = select(_policies.c.domain).distinct().order_by(_policies.c.domain).limit(limit)
        query = query.where(_policies.c.day == day, _policies.c.policy.like('%"mode: testing"%'))
        with self._database.read() as connection:
            return list(connection.execute(query).scalars())

    def domains(self, day: int) -> dict[str, str]:
        """The domains of a day, and their records as far as known. Raises StoreError."""
        query = select(_domains.c.domain, _domains.c.record).where(_domains.c.day == day)
        with self._database.read() as connection:
            return {row.domain: row.record for row in connection.execute(query)}

    def record(self, day: int, domain: str) -> str:
        """The `_smtp._tls` record of a domain as it was seen on a day, "" where it was not.

        Raises StoreError.
        """
        query = select(_domains.c.record).where(_domains.c.day == day, _domains.c.domain == domain)
        with self._database.begin() as connection:
            return connection.execute(query).scalar() or ""

    def sources(self, day: int) -> dict[str, int]:
        """Who counted sessions of a day, and how many; and the numbers beside (see `add`).

        Raises StoreError.
        """
        query = select(_sources.c.source, _sources.c.sessions).where(_sources.c.day == day)
        with self._database.read() as connection:
            return {row.source: row.sessions for row in connection.execute(query)}

    def results(self, day: int, domain: str) -> list[PolicyResult]:
        """What is to be reported to a domain of a day. Raises StoreError."""
        return [result for _, result in self._read(day, domain)]

    def everything(self, day: int) -> list[tuple[str, PolicyResult]]:
        """Domain and result of a day, for a collector that starts in its middle.

        Raises StoreError.
        """
        return self._read(day, None)

    def _read(self, day: int, domain: str | None) -> list[tuple[str, PolicyResult]]:
        def of(table: Table) -> Any:
            query = select(table).where(table.c.day == day).order_by(*table.primary_key)
            return query if domain is None else query.where(table.c.domain == domain)

        failures: dict[tuple[str, str], list[Failure]] = {}
        with self._database.read() as connection:
            for row in connection.execute(of(_failures)):
                failure = msgspec.json.decode(row.failure, type=Failure)
                failures.setdefault((row.domain, row.policy_key), []).append(
                    msgspec.structs.replace(failure, failed_session_count=row.sessions)
                )
            return [
                (
                    row.domain,
                    PolicyResult(
                        msgspec.json.decode(row.policy, type=AppliedPolicy),
                        row.successful,
                        row.failed,
                        tuple(failures.get((row.domain, row.policy_key), ())),
                    ),
                )
                for row in connection.execute(of(_policies))
            ]

    def forget(self, day: int, domain: str) -> None:
        """Delete what was delivered. Raises StoreError."""
        with self._database.begin() as connection:
            for table in (_domains, _policies, _failures, checks.table):  # in this order: see `add`
                connection.execute(
                    delete(table).where(table.c.day == day, table.c.domain == domain)
                )

    def close(self) -> None:
        """Give the store back."""
        self._database.close()


class _Rows:
    """A batch as rows by their keys: no row twice, so that one statement can write many."""

    def __init__(self, source: str) -> None:
        self._source = source
        self.domains: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.policies: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.failures: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.sources: dict[tuple[Any, ...], dict[str, Any]] = {}

    def take(self, tally: Tally) -> None:
        day, domain, result = tally.day, tally.domain, tally.result
        known = self.domains.setdefault(
            (day, domain), {"day": day, "domain": domain, "record": tally.record}
        )
        if tally.record:
            known["record"] = tally.record
        policy = msgspec.json.encode(result.policy).decode()
        key = _digest(policy)
        where = {"day": day, "domain": domain, "policy_key": key}
        row = self.policies.setdefault(
            (day, domain, key), {**where, "policy": policy, "successful": 0, "failed": 0}
        )
        row["successful"] += result.successful
        row["failed"] += result.failed
        for failure in result.failures:
            bare = msgspec.structs.replace(failure, failed_session_count=0)
            text = msgspec.json.encode(bare).decode()
            failure_key = _digest(text)
            row = self.failures.setdefault(
                (day, domain, key, failure_key),
                {**where, "failure_key": failure_key, "failure": text, "sessions": 0},
            )
            row["sessions"] += failure.failed_session_count
        if self._source:
            row = self.sources.setdefault(
                (day, self._source), {"day": day, "source": self._source, "sessions": 0}
            )
            row["sessions"] += result.successful + result.failed


def open_tallies_to_read(url: str) -> Tallies:
    """Open counts that are there; no store is made. Raises StoreError."""
    if not is_shared(url) and not path_of(url).exists():
        raise StoreError(f"store {path_of(url)}: there is none; see store.url")
    return open_tallies(url)


def daemon_source(host: str) -> str:
    """How the daemon of a host is named as a source of counts."""
    return f"daemon:{host.lower()}"


def log_source(daemon: str, host: str) -> str:
    """How it is kept that a daemon's host follows the log of a host, by the name in its lines."""
    return f"log:{daemon.lower()}:{host.lower()}"


def unread_source(host: str) -> str:
    """How lines of logs that the daemon of a host could not read are named."""
    return f"unread:{host.lower()}"


def import_source(host: str) -> str:
    """How the logs of a host are named as a source of counts."""
    return f"import:{host.lower()}"


def _is(mark: Imported) -> tuple[Any, Any]:
    return _imports.c.head == mark.head, _imports.c.digest == mark.digest


def _run(
    connection: Connection, statement: Any, rows: dict[tuple[Any, ...], dict[str, Any]]
) -> None:
    ordered = [rows[key] for key in sorted(rows)]
    for start in range(0, len(ordered), _ROWS):
        connection.execute(statement, ordered[start : start + _ROWS])


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=11).hexdigest()


def open_tallies(url: str) -> Tallies:
    """Open the counts in the store at `url`, its folder being there. Raises StoreError."""
    return Tallies(open_database(url, metadata))
