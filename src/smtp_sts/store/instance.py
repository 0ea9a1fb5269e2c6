"""A random name that a store has for good: it tells apart what two stores' reporters send.

RFC 8460 section 5.3: receivers drop a second report of the same report-id. Promises: every process
that uses the store gets the same name; it is made once, by whoever comes first. Must not: be called
on an event loop (it blocks).
"""

from __future__ import annotations

import secrets
from typing import Final

from sqlalchemy import Column, Integer, String, Table, select

from smtp_sts.store.checks import metadata
from smtp_sts.store.database import Database

#: Random bytes, written as two hexadecimal digits each.
_BYTES: Final = 8
_ONLY: Final = 1
_table: Final = Table(
    "tls_instance",
    metadata,
    Column("only", Integer, primary_key=True, autoincrement=False),
    Column("name", String(32), nullable=False),
)


def instance_of(database: Database) -> str:
    """The name of this store. Raises StoreError."""
    query = select(_table.c.name).where(_table.c.only == _ONLY)
    with database.read() as connection:
        name = connection.execute(query).scalar()
    if name is None:
        made = database.insert(_table).on_conflict_do_nothing()
        with database.begin() as connection:
            connection.execute(made, {"only": _ONLY, "name": secrets.token_hex(_BYTES)})
            name = connection.execute(query).scalar_one()
    return str(name)
