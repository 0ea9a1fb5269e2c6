"""What our own looks at MX hosts found, by UTC day and domain; kept as long as what was counted.

Promises: as `store.tallies`, in whose tables these stand: whoever forgets a day of a domain there
forgets this with it. Must not: decide what a look means, or be called on an event loop (it blocks).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table, select

from smtp_sts.store.database import Database, Name

#: All that is counted for TLS reports.
metadata: Final = MetaData()
table: Final = Table(
    "tls_checks",
    metadata,
    Column("day", Integer, primary_key=True),
    Column("domain", Name, primary_key=True),
    Column("check_key", String(22), primary_key=True),
    Column("check", String, nullable=False),
    Column("looks", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)


class Check(msgspec.Struct, frozen=True, gc=False):
    """What was seen at one address of an MX host that the domain's mail goes to, `looks` times.

    `result_type` is one of RFC 8460 section 4.3, "" where TLS was as a policy wants it; `reason`
    says in words what was wrong; `helo` is what the host calls itself.
    """

    host: str
    address: str
    result_type: str
    reason: str = ""
    helo: str = ""
    looks: int = 1


class Checks:
    """The looks that last. Blocking; use it from one thread at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, day: int, domain: str, checks: Iterable[Check]) -> None:
        """Add these looks to what is there, all of them or none. Raises StoreError."""
        rows: dict[str, dict[str, Any]] = {}
        for check in checks:
            text = msgspec.json.encode(msgspec.structs.replace(check, looks=0)).decode()
            key = hashlib.blake2b(text.encode(), digest_size=11).hexdigest()
            row = {"day": day, "domain": domain, "check_key": key, "check": text, "looks": 0}
            rows.setdefault(key, row)["looks"] += check.looks
        statement = self._database.insert(table)
        statement = statement.on_conflict_do_update(
            index_elements=[column.name for column in table.primary_key],
            set_={"looks": table.c.looks + statement.excluded.looks},
        )
        with self._database.begin() as connection:
            if rows:
                # in the order of their keys: daemons of a fleet come at once
                connection.execute(statement, [rows[key] for key in sorted(rows)])

    def of(self, day: int, domain: str) -> list[Check]:
        """What was seen for a domain on a day. Raises StoreError."""
        query = select(table.c.check, table.c.looks)
        query = query.where(table.c.day == day, table.c.domain == domain)
        with self._database.read() as connection:
            return [
                msgspec.structs.replace(msgspec.json.decode(row[0], type=Check), looks=row[1])
                for row in connection.execute(query.order_by(table.c.check_key))
            ]
