"""A corrupt file of SQLite: set aside, never deleted, and what can be read of it is kept."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

import msgspec
from sqlalchemy.exc import DatabaseError, OperationalError

from smtp_sts.store.errors import StoreError
from smtp_sts.store.interface import Stored
from smtp_sts.store.sqlite import open_sqlite
from smtp_sts.store.sqlite_file import explain, make_engine


def repair_file(path: Path) -> str | None:
    """Before the first worker opens it: set a corrupt store aside and keep what can be read of it.

    Returns a sentence for the log where something was done, else None. Raises StoreError where the
    store is in trouble of another kind.
    """
    try:
        if _is_sound(path):
            return None
    except DatabaseError as error:
        if isinstance(error, OperationalError):
            raise StoreError(explain(error, path)) from error
    aside = path.with_name(f"{path.name}.corrupt-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
    saved = _salvage(path)
    try:
        for suffix in ("-wal", "-shm", ""):
            piece = path.with_name(path.name + suffix)
            if piece.exists():
                piece.rename(aside.with_name(aside.name + suffix))
    except OSError as error:
        raise StoreError(f"store {path}: corrupt, and cannot be set aside: {error}") from error
    fresh = open_sqlite(path)
    fresh.put(saved)
    fresh.close()
    return f"store {path} was corrupt: set aside as {aside}, {len(saved)} policies saved from it"


def _is_sound(path: Path) -> bool:
    """Walk the whole file once: 100,000 policies take about 0.1 s. Raises DatabaseError."""
    if not path.exists():
        return True
    engine = make_engine(path)
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
