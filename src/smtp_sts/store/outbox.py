"""Reports on their way: what is to be sent, to whom, and what became of it; SQLite or PostgreSQL.

A report is one day and one domain. It waits (`waiting`) for its time, is then made once for good
(`made`: its parts as they travel, and a delivery for each part and destination), or is not to be
(`unwanted`, `given-up`). A delivery is `due` until it is `delivered`, `given-up` or `skipped`.

Promises:
* A report is made once. Its bytes lie here from then on, and every retry sends the same ones.
* Who sends holds a claim, written before the first byte leaves. While it lasts nobody else sends
  the same; it ends by itself (`LEASE_SECONDS`), whatever became of who made it. In PostgreSQL it
  does so by the clock of the database, so that the clocks of a fleet may differ.
* What was recorded as delivered survives a power cut, and is never claimed again.
* Trouble comes out as `StoreError` with a sentence that says what to do.
Must not: decide when, where to or whether; or be called on an event loop (it blocks).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final, Literal

import msgspec
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    case,
    delete,
    func,
    insert,
    literal,
    literal_column,
    select,
    update,
)

from smtp_sts.store.clock_watch import Clock, Looked
from smtp_sts.store.database import Database, Name, open_database
from smtp_sts.store.past import Watch

#: A claim ends after so long (seconds): longer than any attempt takes.
LEASE_SECONDS: Final = 300.0
#: Nothing is put off for so long: a time that is further on is of a clock that was ahead (seconds).
FAR_SECONDS: Final = 3 * 86400.0
#: Rows that are written in one transaction.
BATCH: Final = 500

ReportState = Literal["waiting", "made", "unwanted", "given-up"]
DeliveryState = Literal["due", "delivered", "given-up", "skipped"]

_metadata = MetaData()
_reports = Table(
    "tls_reports",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("day", Integer, nullable=False),
    Column("domain", Name, nullable=False),
    Column("state", String(16), nullable=False),
    Column("tries", Integer, nullable=False),
    Column("send_at", Float, nullable=False),
    Column("next_try", Float, nullable=False),
    Column("why", String, nullable=False),
    Column("settled_at", Float),
    Column("holder", String(64), nullable=False),
    Column("until", Float, nullable=False),
    UniqueConstraint("day", "domain"),
    Index("tls_reports_next", "state", "next_try"),
)
_parts = Table(
    "tls_report_parts",
    _metadata,
    Column("report", Integer, ForeignKey("tls_reports.id"), primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("report_id", String(255), nullable=False),
    Column("made_at", Float, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
_deliveries = Table(
    "tls_deliveries",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("report", Integer, ForeignKey("tls_reports.id"), nullable=False),
    Column("part", Integer, nullable=False),
    Column("uri", String(2100), nullable=False),
    Column("host", String(253), nullable=False),
    Column("state", String(16), nullable=False),
    Column("tries", Integer, nullable=False),
    Column("next_try", Float, nullable=False),
    Column("give_up_at", Float, nullable=False),
    Column("answer", String, nullable=False),
    Column("settled_at", Float),
    Column("holder", String(64), nullable=False),
    Column("until", Float, nullable=False),
    UniqueConstraint("report", "part", "uri"),
    Index("tls_deliveries_next", "state", "next_try"),
)


class Pending(msgspec.Struct, frozen=True):
    """A report whose time has come. `send_at` is when it was first to be made, `tries` how often
    that was put off; times are seconds since the epoch."""

    id: int
    day: int
    domain: str
    tries: int
    send_at: float


class Part(msgspec.Struct, frozen=True):
    """One part of a report as it travels: `body` is its JSON, or the XML of the first draft,
    packed."""

    report_id: str
    body: bytes


class Planned(msgspec.Struct, frozen=True):
    """Where the parts of a report go. `host` is what is busy while it is sent there; `skipped` says
    why nothing goes there, "" where it does. `parts` are the numbers, from 1, of the parts that go
    there; all where it is empty."""

    uri: str
    host: str
    skipped: str = ""
    parts: Sequence[int] = ()


class Delivery(msgspec.Struct, frozen=True):
    """One part on its way to one destination; claimed.

    `tries` are those before, each of which came to nothing or was never heard of again (a crash).
    """

    id: int
    day: int
    domain: str
    part: int
    report_id: str
    body: bytes
    made_at: float
    uri: str
    host: str
    tries: int
    give_up_at: float


class DeliveryStatus(msgspec.Struct, frozen=True):
    """What became of a delivery so far; `answer` is what was answered, or why it failed."""

    day: int
    domain: str
    part: int
    uri: str
    state: DeliveryState
    tries: int
    next_try: float
    answer: str
    settled_at: float | None
    sending: bool


class ReportStatus(msgspec.Struct, frozen=True):
    """What became of a day's report to a domain; settled when nothing of it is under way."""

    day: int
    domain: str
    state: ReportState
    send_at: float
    next_try: float
    why: str
    settled_at: float | None


class Outbox:
    """The reports on their way. Safe to use from several threads; blocking."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        """The store, for people."""
        return self._database.place

    def look_at_clock(self, clock: Clock | None = None) -> Looked:
        """See `Database.look_at_clock`. Raises StoreError."""
        with self._lock:
            return self._database.look_at_clock(clock)

    def glance_at_clock(self, clock: Clock | None = None) -> Watch:
        """See `Database.glance_at_clock`. Raises StoreError."""
        with self._lock:
            return self._database.glance_at_clock(clock)

    @contextlib.contextmanager
    def _begin(self) -> Iterator[Connection]:
        with self._lock, self._database.begin() as connection:
            yield connection

    def _clock(self, now: float) -> ColumnElement[float]:
        """The clock that claims end by."""
        if self._database.shared:
            from smtp_sts.store.postgresql_server import NOW

            return literal_column(NOW, Float)
        return literal(now, Float)

    def _free(self, table: Table, now: float) -> ColumnElement[bool]:
        clock = self._clock(now)
        # One from further on than claims last was made before a clock was set back.
        return (table.c.until <= clock) | (table.c.until > clock + LEASE_SECONDS)

    @staticmethod
    def _come(table: Table, now: float) -> ColumnElement[bool]:
        """Its time has come; or was set by a clock that was far ahead."""
        return (table.c.next_try <= now) | (table.c.next_try > now + FAR_SECONDS)

    def plan(self, day: int, send_at: dict[str, float]) -> int:
        """Take in when the reports of a day to domains are to be made; how many are new.

        Those that are known stay as they are, whatever became of them. Raises StoreError.
        """
        statement = self._database.insert(_reports).on_conflict_do_nothing()
        rows = [
            {
                "day": day, "domain": domain, "state": "waiting", "tries": 0, "send_at": when,
                "next_try": when, "why": "", "holder": "", "until": 0.0,
            }
            for domain, when in sorted(send_at.items())
        ]  # fmt: skip
        counted = select(func.count()).select_from(_reports).where(_reports.c.day == day)
        new = 0
        for start in range(0, len(rows), BATCH):
            with self._begin() as connection:
                before: int = connection.execute(counted).scalar_one()
                connection.execute(statement, rows[start : start + BATCH])
                new += connection.execute(counted).scalar_one() - before
        return new

    def planned(self, day: int) -> set[str]:
        """The domains whose report of a day is known, whatever became of it. Raises StoreError."""
        with self._begin() as connection:
            query = select(_reports.c.domain).where(_reports.c.day == day)
            return set(connection.execute(query).scalars())

    def made(self, day: int) -> set[str]:
        """The domains whose report of a day was made: what is counted from now on is not in it.

        Raises StoreError.
        """
        with self._begin() as connection:
            query = select(_reports.c.domain)
            query = query.where(_reports.c.day == day, _reports.c.state == "made")
            return set(connection.execute(query).scalars())

    def claim_reports(
        self,
        now: float,
        holder: str,
        limit: int,
        *,
        day: int | None = None,
        domains: Collection[str] = (),
    ) -> list[Pending]:
        """Reports whose time has come, claimed; with `day`, only those of it (and of `domains`, if
        any). Raises StoreError."""
        table = _reports
        conditions = [table.c.state == "waiting", self._free(table, now)]
        conditions += [self._come(table, now), *_chosen(day, domains)]
        with self._begin() as connection:
            taken = self._take(connection, table, conditions, now, holder, limit)
            rows = connection.execute(
                select(table.c.id, table.c.day, table.c.domain, table.c.tries, table.c.send_at)
                .where(table.c.id.in_(taken))
                .order_by(table.c.next_try, table.c.id)
            )
            return [Pending(*row) for row in rows]

    def _take(
        self,
        connection: Connection,
        table: Table,
        conditions: Iterable[ColumnElement[bool]],
        now: float,
        holder: str,
        limit: int,
    ) -> list[int]:
        # SKIP LOCKED: two that claim at once take different ones; SQLite lets one write at a time.
        # A CTE: PostgreSQL may run a plain sub-query more than once, and claim too many.
        due = (
            select(table.c.id)
            .where(*conditions)
            .order_by(table.c.next_try, table.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("due")
        )
        statement = (
            update(table)
            .where(table.c.id.in_(select(due.c.id)))
            .values(holder=holder, until=self._clock(now) + LEASE_SECONDS)
            .returning(table.c.id)
        )
        return list(connection.execute(statement).scalars())

    def make(
        self,
        pending: Pending,
        holder: str,
        parts: Sequence[Part],
        destinations: Sequence[Planned],
        *,
        now: float,
        give_up_at: float,
        why: str = "",
    ) -> bool:
        """Keep a report as it will be sent, with a delivery for each part and destination of it;
        False where the claim was lost to another. `why` notes what was left out.

        Raises StoreError.
        """
        deliveries = [
            {
                "report": pending.id, "part": part, "uri": to.uri, "host": to.host,
                "state": "skipped" if to.skipped else "due", "tries": 0, "next_try": now,
                "give_up_at": give_up_at, "answer": to.skipped,
                "settled_at": now if to.skipped else None, "holder": "", "until": 0.0,
            }
            for part in range(1, len(parts) + 1)
            for to in destinations
            if not to.parts or part in to.parts
        ]  # fmt: skip
        bodies = [
            {"report": pending.id, "part": number, "report_id": part.report_id,
             "made_at": now, "body": part.body}
            for number, part in enumerate(parts, 1)
        ]  # fmt: skip
        with self._begin() as connection:
            if not self._end_report(connection, pending, holder, "made", why, None):
                return False
            for table, rows in ((_parts, bodies), (_deliveries, deliveries)):
                if rows:
                    connection.execute(insert(table), rows)
            self._settle_report(connection, pending.id, now)
        return True

    def drop(
        self, pending: Pending, holder: str, state: ReportState, why: str, *, now: float
    ) -> bool:
        """A report that is not to be made, and why; False where the claim was lost to another.

        Raises StoreError.
        """
        with self._begin() as connection:
            return self._end_report(connection, pending, holder, state, why, now)

    @staticmethod
    def _end_report(
        connection: Connection,
        pending: Pending,
        holder: str,
        state: ReportState,
        why: str,
        settled_at: float | None,
    ) -> bool:
        return bool(
            connection.execute(
                update(_reports)
                .where(
                    _reports.c.id == pending.id,
                    _reports.c.state == "waiting",
                    _reports.c.holder == holder,
                )
                .values(state=state, why=why, settled_at=settled_at, holder="", until=0.0)
            ).rowcount
        )

    def put_off_report(self, pending: Pending, holder: str, next_try: float, why: str) -> None:
        """Try to make it again later. Raises StoreError."""
        with self._begin() as connection:
            connection.execute(
                update(_reports)
                .where(_reports.c.id == pending.id, _reports.c.holder == holder)
                .values(next_try=next_try, why=why, tries=pending.tries + 1, holder="", until=0.0)
            )

    def claim(
        self,
        now: float,
        holder: str,
        limit: int,
        *,
        busy: Collection[str] = (),
        day: int | None = None,
        domains: Collection[str] = (),
    ) -> list[Delivery]:
        """Deliveries that are due now, claimed, but none to hosts that are `busy`; with `day`, only
        those of it (and of `domains`, if any). Raises StoreError."""
        table = _deliveries
        conditions = [table.c.state == "due", self._free(table, now)]
        if busy:
            conditions.append(table.c.host.not_in(busy))
        conditions.append(self._come(table, now))
        if day is not None:
            of = select(_reports.c.id).where(*_chosen(day, domains))
            conditions.append(table.c.report.in_(of))
        with self._begin() as connection:
            taken = self._take(connection, table, conditions, now, holder, limit)
            rows = connection.execute(
                select(
                    table.c.id,
                    _reports.c.day,
                    _reports.c.domain,
                    table.c.part,
                    _parts.c.report_id,
                    _parts.c.body,
                    _parts.c.made_at,
                    table.c.uri,
                    table.c.host,
                    table.c.tries,
                    table.c.give_up_at,
                )
                .join_from(table, _reports, table.c.report == _reports.c.id)
                .join(_parts, (_parts.c.report == table.c.report) & (_parts.c.part == table.c.part))
                .where(table.c.id.in_(taken))
                .order_by(table.c.next_try, table.c.id)
            )
            return [Delivery(*row) for row in rows]

    def hasten(self, day: int, domains: Collection[str], now: float) -> None:
        """Make due now what is not settled of a day (and of `domains`, if any).

        Raises StoreError.
        """
        of = select(_reports.c.id).where(*_chosen(day, domains))
        with self._begin() as connection:
            for table, state, key in (
                (_reports, "waiting", _reports.c.id),
                (_deliveries, "due", _deliveries.c.report),
            ):
                connection.execute(
                    update(table)
                    .where(table.c.state == state, table.c.next_try > now, key.in_(of))
                    .values(next_try=now)
                )

    def release(self, deliveries: Iterable[Delivery], holder: str) -> None:
        """Give back claims of what was not begun. Raises StoreError."""
        with self._begin() as connection:
            connection.execute(
                update(_deliveries)
                .where(
                    _deliveries.c.id.in_([d.id for d in deliveries]),
                    _deliveries.c.holder == holder,
                )
                .values(holder="", until=0.0)
            )

    def release_lost(self, holder: str, under_way: Collection[int]) -> None:
        """Give back what `holder` claimed without learning of it (the answer was lost): all but the
        deliveries that are under way. Raises StoreError."""
        with self._begin() as connection:
            for table, kept in ((_reports, ()), (_deliveries, under_way)):
                connection.execute(
                    update(table)
                    .where(table.c.holder == holder, table.c.id.not_in(kept))
                    .values(holder="", until=0.0)
                )

    def settle(
        self,
        delivery: Delivery,
        state: DeliveryState,
        answer: str,
        *,
        now: float,
        tried: bool = True,
    ) -> None:
        """What became of a delivery for good, and what was answered. Raises StoreError.

        Not bound to the claim: what was accepted was accepted, though it took too long.
        """
        with self._begin() as connection:
            connection.execute(
                update(_deliveries)
                .where(_deliveries.c.id == delivery.id, _deliveries.c.state != "delivered")
                .values(
                    state=state,
                    answer=answer,
                    settled_at=now,
                    tries=_deliveries.c.tries + int(tried),
                    holder="",
                    until=0.0,
                )
            )
            report: int = connection.execute(
                select(_deliveries.c.report).where(_deliveries.c.id == delivery.id)
            ).scalar_one()
            self._settle_report(connection, report, now)

    @staticmethod
    def _settle_report(connection: Connection, report: int, now: float) -> None:
        """Note when nothing of a report is under way any more."""
        left = select(_deliveries.c.id).where(
            _deliveries.c.report == report, _deliveries.c.state == "due"
        )
        connection.execute(
            update(_reports)
            .where(_reports.c.id == report, ~left.exists(), _reports.c.settled_at.is_(None))
            .values(settled_at=now)
        )

    def put_off(
        self, delivery: Delivery, holder: str, next_try: float, answer: str, *, tried: bool = True
    ) -> None:
        """Try again later; `tried` tells that this was an attempt. Raises StoreError."""
        with self._begin() as connection:
            connection.execute(
                update(_deliveries)
                .where(_deliveries.c.id == delivery.id, _deliveries.c.holder == holder)
                .values(
                    next_try=next_try,
                    answer=answer,
                    tries=_deliveries.c.tries + int(tried),
                    holder="",
                    until=0.0,
                )
            )

    def expire(self, hosts: Collection[str], over: float, now: float) -> list[tuple[str, str]]:
        """Give up what hosts were to get that do not answer, where its time was over at a time;
        domain and URI of each. Raises StoreError."""
        if not hosts:
            return []
        table = _deliveries
        where = (
            table.c.state == "due",
            table.c.host.in_(hosts),
            table.c.give_up_at < over,
            self._free(table, now),
        )
        with self._begin() as connection:
            query = select(table.c.id, table.c.report, _reports.c.domain, table.c.uri)
            rows = list(
                connection.execute(
                    query.join_from(table, _reports, table.c.report == _reports.c.id)
                    .where(*where)
                    .limit(BATCH)
                )
            )
            connection.execute(
                update(table)
                .where(table.c.id.in_([row.id for row in rows]), *where)
                .values(
                    state="given-up",
                    settled_at=now,
                    answer=case(
                        (table.c.answer == "", "its host answered nobody"), else_=table.c.answer
                    ),
                )
            )
            for report in sorted({row.report for row in rows}):
                self._settle_report(connection, report, now)
        return [(row.domain, row.uri) for row in rows]

    def next_due(self, busy: Collection[str] = ()) -> float | None:
        """When something is to be done next, of what is unclaimed or whose claim ends; None where
        nothing waits. Raises StoreError."""
        found = []
        with self._begin() as connection:
            for table, state in ((_reports, "waiting"), (_deliveries, "due")):
                # of both times the later; SQLite and PostgreSQL name that function differently
                when = case(
                    (table.c.until > table.c.next_try, table.c.until), else_=table.c.next_try
                )
                query = select(func.min(when)).where(table.c.state == state)
                if busy and table is _deliveries:
                    query = query.where(table.c.host.not_in(busy))
                found.append(connection.execute(query).scalar_one())
        return min((when for when in found if when is not None), default=None)

    def reports(self, since: int, until: int | None = None) -> list[ReportStatus]:
        """The reports of the days from one to another, both included. Raises StoreError."""
        table = _reports
        query = (
            select(*(table.c[name] for name in ReportStatus.__struct_fields__))
            .where(*_within(since, until))
            .order_by(table.c.day, table.c.domain)
        )
        with self._begin() as connection:
            return [ReportStatus(*row) for row in connection.execute(query)]

    def deliveries(
        self, since: int, until: int | None = None, *, now: float = 0.0
    ) -> list[DeliveryStatus]:
        """Their deliveries; `sending` tells which are claimed at the time `now`.

        Raises StoreError.
        """
        table = _deliveries
        sending = (table.c.state == "due") & ~self._free(table, now)
        query = (
            select(
                _reports.c.day,
                _reports.c.domain,
                *(
                    table.c[name]
                    for name in DeliveryStatus.__struct_fields__
                    if name not in ("day", "domain", "sending")
                ),
                sending.label("sending"),
            )
            .join_from(table, _reports, table.c.report == _reports.c.id)
            .where(*_within(since, until))
            .order_by(_reports.c.day, _reports.c.domain, table.c.part, table.c.id)
        )
        with self._begin() as connection:
            rows: Any = connection.execute(query)
            return [DeliveryStatus(*row) for row in rows]

    def parts(self, day: int, domain: str) -> list[Part]:
        """The parts of a report that was made, while their bytes are kept. Raises StoreError."""
        query = (
            select(_parts.c.report_id, _parts.c.body)
            .join_from(_parts, _reports, _parts.c.report == _reports.c.id)
            .where(_reports.c.day == day, _reports.c.domain == domain)
            .order_by(_parts.c.part)
        )
        with self._begin() as connection:
            return [Part(*row) for row in connection.execute(query)]

    def settled(self, before: float) -> list[tuple[int, str]]:
        """Day and domain of the reports that were settled before a time, and whose bytes are still
        kept or that had none. Raises StoreError."""
        query = select(_reports.c.day, _reports.c.domain).where(_reports.c.settled_at < before)
        with self._begin() as connection:
            return [(row.day, row.domain) for row in connection.execute(query)]

    def forget_bodies(self, before: float) -> None:
        """Delete the bytes of what was settled before a time. Raises StoreError."""
        done = select(_reports.c.id).where(_reports.c.settled_at < before)
        with self._begin() as connection:
            connection.execute(delete(_parts).where(_parts.c.report.in_(done)))

    def forget(self, before: float) -> None:
        """Delete all that is known of days before one. Raises StoreError."""
        old = select(_reports.c.id).where(_reports.c.day < before)
        with self._begin() as connection:
            connection.execute(delete(_parts).where(_parts.c.report.in_(old)))
            connection.execute(delete(_deliveries).where(_deliveries.c.report.in_(old)))
            connection.execute(delete(_reports).where(_reports.c.day < before))

    def close(self) -> None:
        """Give the file or the connection back."""
        self._database.close()


def _chosen(day: int | None, domains: Collection[str]) -> list[ColumnElement[bool]]:
    found = [] if day is None else [_reports.c.day == day]
    return [*found, _reports.c.domain.in_(domains)] if domains else found


def _within(since: int, until: int | None) -> list[ColumnElement[bool]]:
    found = [_reports.c.day >= since]
    if until is not None:
        found.append(_reports.c.day <= until)
    return found


def open_outbox(url: str) -> Outbox:
    """Open the outbox in the store at `url`, whose folder is there. Raises StoreError."""
    return Outbox(open_database(url, _metadata, durable=True))
