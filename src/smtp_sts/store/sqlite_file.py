"""The file of a store of one machine: where it is, how it is opened, and what its trouble means.

Must not: know what is kept in it.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.pool import StaticPool

#: A write waits so long for those of others (seconds).
BUSY_SECONDS: Final = 2.0


def path_of(url: str) -> Path:
    """The file that a URL names."""
    return Path(url.removeprefix("sqlite:///"))


def file_id(path: Path) -> tuple[int, int] | None:
    """Which file that is, whatever stands in it; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def make_engine(path: Path, *, mode: str = "rwc") -> Engine:
    """An engine of one connection; `mode` as in a URI of SQLite."""

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


def explain(error: Exception, path: Path) -> str:
    """What SQLite said, as a sentence with advice."""
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
