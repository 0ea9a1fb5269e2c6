"""The table of policies, and what is done with it in every database alike, on a connection.

Must not: convert times (they are those of the table), know a database, or explain its trouble. What
the functions do is said where a store promises it: `interface.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Float,
    Index,
    MetaData,
    String,
    Table,
    delete,
    func,
    select,
    true,
    update,
)

from smtp_sts.store.interface import EXPIRED_SECONDS, PRUNED_AT_ONCE, Stored
from smtp_sts.store.replacing import SAME_FETCH

metadata: Final = MetaData()
policies: Final = Table(
    "policies",
    metadata,
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


def touch(connection: Connection, used: Mapping[str, float]) -> None:
    """Note when domains were last asked for."""
    for domain, when in used.items():
        older = (policies.c.domain == domain) & (policies.c.used_at < when)
        connection.execute(update(policies).where(older).values(used_at=when))


def postpone(connection: Connection, domain: str, refresh_at: float, before: float) -> None:
    """Set the next refresh of what was not fetched later than `before`."""
    here = (policies.c.domain == domain) & (policies.c.fetched_at < before + SAME_FETCH)
    connection.execute(update(policies).where(here).values(refresh_at=refresh_at))


def page(connection: Connection, after: str, limit: int) -> list[Stored]:
    """The next policies behind a domain."""
    behind = policies.c.domain > after
    query = select(policies).where(behind).order_by(policies.c.domain).limit(limit)
    return [Stored(*row) for row in connection.execute(query)]


def forget(connection: Connection, domains: Mapping[str, float], future: float) -> None:
    """Delete what was fetched at a time or before, or later than `future`."""
    for domain, before in domains.items():
        fetched = policies.c.fetched_at
        gone = (policies.c.domain == domain) & ((fetched <= before) | (fetched > future))
        connection.execute(delete(policies).where(gone))


def prune(connection: Connection, past: float, now: ColumnElement[float]) -> int:
    """Delete what was expired for long at a time that is past, and is so `now` besides."""
    gone = (policies.c.expires_at <= past - EXPIRED_SECONDS) & (
        policies.c.expires_at <= now - EXPIRED_SECONDS
    )
    some = select(policies.c.domain).where(gone).limit(PRUNED_AT_ONCE)
    return connection.execute(delete(policies).where(policies.c.domain.in_(some) & gone)).rowcount


def make_room(
    connection: Connection,
    past: float,
    unused_seconds: float,
    after: str,
    now: ColumnElement[float],
) -> tuple[int, str]:
    """Delete what was expired or unused at a time that is past, of some policies."""
    domain = policies.c.domain
    query = select(domain).where(domain > after).order_by(domain)
    query = query.offset(PRUNED_AT_ONCE - 1).limit(1)
    last: str | None = connection.execute(query).scalar()
    here = (domain > after) & (domain <= last if last is not None else true())
    expired = (policies.c.expires_at <= past) & (policies.c.expires_at <= now)
    unused = policies.c.used_at <= past - unused_seconds
    gone = connection.execute(delete(policies).where(here & (expired | unused))).rowcount
    return gone, last or ""


def count(connection: Connection) -> int:
    """How many policies are kept."""
    return connection.execute(select(func.count()).select_from(policies)).scalar_one()


def earliest(
    connection: Connection, now: float, unused_since: float
) -> tuple[float | None, float | None]:
    """The earliest refresh and fetch of what is in force and in use."""
    first = select(func.min(policies.c.refresh_at), func.min(policies.c.fetched_at))
    used = (policies.c.expires_at > now) & (policies.c.used_at >= unused_since)
    refresh_at, fetched_at = connection.execute(first.where(used)).one()
    return refresh_at, fetched_at
