"""A store by its URL: `sqlite:///PATH`, or `postgresql://...` where machines share it.

Must not: load PostgreSQL's driver where nobody wants it.
"""

from __future__ import annotations

from typing import Final

from smtp_sts.store.interface import Store
from smtp_sts.store.sqlite import open_sqlite, open_sqlite_beside, open_sqlite_to_read
from smtp_sts.store.sqlite_file import path_of
from smtp_sts.store.sqlite_repair import repair_file

#: How the URL of a store begins that many machines share.
_SHARED: Final = "postgresql://"


def is_shared(url: str) -> bool:
    """Whether daemons of many machines keep their policies in this store."""
    return url.startswith(_SHARED)


def check(url: str) -> None:
    """Raise StoreError for a URL that can never be opened here; nothing is opened."""
    if is_shared(url):
        from smtp_sts.store import postgresql_server

        postgresql_server.check(url)


def missing(url: str) -> str:
    """Where a store of one machine will be made, if it is not there; else ""."""
    return "" if is_shared(url) or path_of(url).exists() else str(path_of(url))


def open_store(url: str) -> Store:
    """Open or make the store, read-only where it cannot be written. Raises StoreError."""
    if is_shared(url):
        from smtp_sts.store.postgresql import PostgresqlStore

        return PostgresqlStore(url)
    return open_sqlite(path_of(url))


def open_to_read(url: str) -> Store:
    """Open a store that is there, without making or changing anything. Raises StoreError."""
    if is_shared(url):
        from smtp_sts.store.postgresql import PostgresqlStore

        return PostgresqlStore(url, make=False)
    return open_sqlite_to_read(path_of(url))


def open_beside(url: str) -> Store | None:
    """Another connection to the file of a machine's store that is written to, to read what lasts;
    None where that cannot be."""
    return None if is_shared(url) else open_sqlite_beside(path_of(url))


def repair(url: str) -> str | None:
    """Before the first worker opens it: set a corrupt store aside and keep what can be read of it.

    Returns a sentence for the log where something was done, else None. Raises StoreError where the
    store is in trouble of another kind.
    """
    return None if is_shared(url) else repair_file(path_of(url))  # a database looks after itself
