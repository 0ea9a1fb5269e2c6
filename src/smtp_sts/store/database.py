"""A connection to the store for tables beside the policies': one schema for SQLite and PostgreSQL.

Promises: trouble comes out as `StoreError` with a sentence that says what to do, `lost` where the
database cannot be reached; what is written within one `begin` lasts whole or not at all; what is
read within one is of one moment. Of processes that come at once, one makes the tables.
Must not: be called on an event loop (it blocks), or be used by two threads at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, MetaData, String, Table, inspect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from smtp_sts.store import clock_watch
from smtp_sts.store.clock_watch import Clock, Looked
from smtp_sts.store.errors import StoreError
from smtp_sts.store.opening import is_shared
from smtp_sts.store.past import Watch
from smtp_sts.store.sqlite_file import explain, make_engine, path_of

#: A name whose order is that of its bytes, in every database.
Name: Final = String(253).with_variant(postgresql.VARCHAR(253, collation="C"), "postgresql")


class Database:
    """The tables of one part of the program. `place` names the store for people."""

    def __init__(self, engine: Engine, place: str) -> None:
        self.engine = engine
        self.place = place
        #: whether many machines use it
        self.shared = engine.dialect.name == "postgresql"

    @contextlib.contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction. Two that write the same rows must take them in the same order.

        Raises StoreError.
        """
        with self._told(), self.engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees the tables as they are at its start. Raises StoreError."""
        with self._told(), self.engine.connect() as connection:
            if self.shared:
                connection.execution_options(isolation_level="REPEATABLE READ")
            else:
                connection.exec_driver_sql("BEGIN")
            yield connection
            connection.rollback()

    def look_at_clock(self, clock: Clock | None = None) -> Looked:
        """Look at the clock, every few minutes, and keep what is known of it. Raises StoreError."""
        with self.begin() as connection:
            return clock_watch.look(connection, clock)

    def glance_at_clock(self, clock: Clock | None = None) -> Watch:
        """What is known of the clock now. Raises StoreError."""
        with self.read() as connection:
            return clock_watch.glance(connection, clock).watch

    def insert(self, table: Table) -> Any:
        """An INSERT that knows ON CONFLICT."""
        return postgresql.insert(table) if self.shared else sqlite.insert(table)

    def close(self) -> None:
        """Give the file or the connection back."""
        self.engine.dispose()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            if not self.shared:
                raise StoreError(explain(error, Path(self.place))) from error
            from smtp_sts.store.postgresql_server import trouble

            raise trouble(error, self.place) from error


def open_database(url: str, metadata: MetaData, *, durable: bool = False) -> Database:
    """Open the store at `url`, its folder being there, with these tables. Raises StoreError.

    `durable`: what was written survives a power cut too; else the last seconds of it may be lost.
    """
    if is_shared(url):
        from smtp_sts.store import postgresql_server

        database = Database(*postgresql_server.make_engine(url))
        try:
            postgresql_server.make_tables(database.engine, metadata, database.place)
        except StoreError:
            database.close()
            raise
        return database
    path = path_of(url)
    database = Database(make_engine(path), str(path))
    try:
        with database.begin() as connection:
            if not durable:
                # Whole batches, not each at once on the disk: seconds of counts are not worth a
                # sync.
                connection.exec_driver_sql("PRAGMA synchronous=NORMAL")
            if not set(metadata.tables) <= set(inspect(connection).get_table_names()):
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # of many that come, one makes them
                metadata.create_all(connection)
    except StoreError:
        database.close()
        raise
    return database
