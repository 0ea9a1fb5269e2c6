"""What was collected for TLS reports, by UTC day, domain, policy and failure, until delivered.

Promises: `add` adds a whole batch or nothing of it; trouble comes out as `StoreError` with a
sentence that says what to do. It stands in the same file as the policies; a batch is small enough
not to keep those waiting.
Must not: decide what counts, or be called on an event loop (it blocks).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    func,
    select,
)
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.exc import SQLAlchemyError

from smtp_sts.store import StoreError, _engine, _explain, _path_of
from smtp_sts.tlsrpt import AppliedPolicy, Failure, PolicyResult

_metadata = MetaData()
_domains = Table(
    "tls_domains",
    _metadata,
    Column("day", Integer, primary_key=True),
    Column("domain", String(253), primary_key=True),
    Column("record", String, nullable=False),
    sqlite_with_rowid=False,
)
_policies = Table(
    "tls_policies",
    _metadata,
    Column("day", Integer, primary_key=True),
    Column("domain", String(253), primary_key=True),
    Column("policy_key", String(22), primary_key=True),
    Column("policy", String, nullable=False),
    Column("successful", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    sqlite_with_rowid=False,
)
_failures = Table(
    "tls_failures",
    _metadata,
    Column("day", Integer, primary_key=True),
    Column("domain", String(253), primary_key=True),
    Column("policy_key", String(22), primary_key=True),
    Column("failure_key", String(22), primary_key=True),
    Column("failure", String, nullable=False),
    Column("sessions", Integer, nullable=False),
    sqlite_with_rowid=False,
)
_KEYS: Final = ("day", "domain", "policy_key", "failure_key")


class Tally(msgspec.Struct, frozen=True):
    """What is to be added to the count of one UTC day, domain and policy.

    `day` is days since the epoch. `record` is the domain's `_smtp._tls` record, "" where unknown;
    `result.failures` count the sessions to add.
    """

    day: int
    domain: str
    record: str
    result: PolicyResult


class Tallies:
    """The counts on disk. Blocking; use it from one thread at a time."""

    def __init__(self, engine: Engine, path: Any) -> None:
        self._engine = engine
        self._path = path

    @contextlib.contextmanager
    def _begin(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreError(_explain(error, self._path)) from error

    def add(self, batch: Sequence[Tally]) -> None:
        """Add these counts to what is there, all of them or none. Raises StoreError."""
        domains: dict[tuple[int, str], dict[str, Any]] = {}
        policies, failures = [], []
        for tally in batch:
            where = {"day": tally.day, "domain": tally.domain}
            domains[tally.day, tally.domain] = {**where, "record": tally.record}
            policy = msgspec.json.encode(tally.result.policy).decode()
            where["policy_key"] = _digest(policy)
            policies.append(
                {
                    **where,
                    "policy": policy,
                    "successful": tally.result.successful,
                    "failed": tally.result.failed,
                }
            )
            for failure in tally.result.failures:
                bare = msgspec.structs.replace(failure, failed_session_count=0)
                text = msgspec.json.encode(bare).decode()
                failures.append(
                    {
                        **where,
                        "failure_key": _digest(text),
                        "failure": text,
                        "sessions": failure.failed_session_count,
                    }
                )
        with self._begin() as connection:
            if domains:
                named = upsert(_domains)
                named = named.on_conflict_do_update(
                    index_elements=_KEYS[:2],
                    set_={"record": named.excluded.record},
                    where=named.excluded.record != "",
                )
                connection.execute(named, list(domains.values()))
            if policies:
                connection.execute(_adding(_policies, "successful", "failed"), policies)
            if failures:
                connection.execute(_adding(_failures, "sessions"), failures)

    def days(self) -> dict[int, int]:
        """The days that something is kept of, and of how many domains. Raises StoreError."""
        query = select(_domains.c.day, func.count()).group_by(_domains.c.day)
        with self._begin() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def domains(self, day: int) -> dict[str, str]:
        """The domains of a day, and their records as far as known. Raises StoreError."""
        query = select(_domains.c.domain, _domains.c.record).where(_domains.c.day == day)
        with self._begin() as connection:
            return {row.domain: row.record for row in connection.execute(query)}

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
        with self._begin() as connection:
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
        with self._begin() as connection:
            for table in (_domains, _policies, _failures):
                connection.execute(
                    delete(table).where(table.c.day == day, table.c.domain == domain)
                )

    def close(self) -> None:
        """Give the file back."""
        self._engine.dispose()


def _adding(table: Table, *counts: str) -> Any:
    statement = upsert(table)
    return statement.on_conflict_do_update(
        index_elements=[c.name for c in table.primary_key],
        set_={name: table.c[name] + statement.excluded[name] for name in counts},
    )


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=11).hexdigest()


def open_tallies(url: str) -> Tallies:
    """Open the counts in the store at `url`, whose folder is there. Raises StoreError."""
    path = _path_of(url)
    engine = _engine(path)
    try:
        with engine.connect() as connection:
            # Whole batches, not each at once on the disk: seconds of counts are not worth a sync.
            connection.exec_driver_sql("PRAGMA synchronous=NORMAL")
        _metadata.create_all(engine)
    except SQLAlchemyError as error:
        engine.dispose()
        raise StoreError(_explain(error, path)) from error
    return Tallies(engine, path)
