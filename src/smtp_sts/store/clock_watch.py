"""What was seen of the clock by which a store's times are, kept in that store: see `past.py`.

Of a store of one machine it is the machine's clock, of a store that machines share the database's,
which each machine watches by its own CLOCK_BOOTTIME. Promises: trouble comes out as SQLAlchemy
raises it, for the caller to explain. Must not: destroy anything, or be called on an event loop.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct
from sqlalchemy import Column, Connection, MetaData, String, Table, inspect, select, text
from sqlalchemy.dialects import postgresql, sqlite

from smtp_sts.store.past import Watch, seen

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_NOW: Final = text("SELECT CAST(extract(epoch FROM clock_timestamp()) AS float8)")

metadata: Final = MetaData()
_watches: Final = Table(
    "clock_watches",
    metadata,
    Column("machine", String(253), primary_key=True),
    Column("watch", String, nullable=False),
)


class Clock(Struct, frozen=True):
    """The time of day of this machine, and the seconds since it was started, suspended ones among
    them, by a clock that nobody sets."""

    wall: Callable[[], float] = time.time
    uptime: Callable[[], float] = partial(time.clock_gettime, time.CLOCK_BOOTTIME)


class Looked(NamedTuple):
    """What is known of the clock that the times of a store are by; and by how much that of this
    machine was set since it was looked at before, in seconds: None where that cannot be known."""

    watch: Watch
    set_by: float | None


class _Kept(Struct, frozen=True):
    """What was known at the last look. `ahead` is how far the time of day of this machine was ahead
    of its `uptime` (seconds)."""

    watch: Watch
    ahead: float


def look(connection: Connection, clock: Clock | None = None) -> Looked:
    """Look at the clock, and keep what is known of it now."""
    clock = clock or Clock()
    looked = glance(connection, clock)
    keep(connection, looked.watch, clock.wall() - clock.uptime())
    return looked


def glance(connection: Connection, clock: Clock | None = None) -> Looked:
    """What is known of the clock now; nothing is written."""
    clock = clock or Clock()
    kept: _Kept | None = None
    if inspect(connection).has_table(_watches.name):
        query = select(_watches.c.watch).where(_watches.c.machine == _machine(connection))
        kept = _decoded(connection.execute(query).scalar())
    wall, uptime, boot = clock.wall(), clock.uptime(), boot_id()
    set_by: float | None = 0.0
    if kept is not None:
        set_by = wall - uptime - kept.ahead if kept.watch.boot == boot else None
    if _is_shared(connection):
        wall = connection.execute(_NOW).scalar_one()
    return Looked(seen(kept.watch if kept else None, boot, uptime, wall), set_by)


def keep(connection: Connection, watch: Watch, ahead: float) -> None:
    """Write down what is known; see `_Kept`."""
    make(connection)
    insert = (postgresql if _is_shared(connection) else sqlite).insert
    text = msgspec.json.encode(_Kept(watch, ahead)).decode()
    statement = insert(_watches).values(machine=_machine(connection), watch=text)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["machine"], set_={"watch": statement.excluded.watch}
        )
    )


def make(connection: Connection) -> None:
    """Make the table, where there is none."""
    if inspect(connection).has_table(_watches.name):
        return
    if _is_shared(connection):
        # Of machines that come at once one makes it; the others find it.
        connection.exec_driver_sql(
            f"CREATE TABLE IF NOT EXISTS {_watches.name} "
            "(machine varchar(253) PRIMARY KEY, watch text NOT NULL)"
        )
    else:
        metadata.create_all(connection)


def _decoded(text: str | None) -> _Kept | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=_Kept)
    except msgspec.DecodeError:  # somebody else's: nothing is certain, and it begins anew
        return None


def _is_shared(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"


def _machine(connection: Connection) -> str:
    return socket.gethostname().lower()[:253] if _is_shared(connection) else ""


def boot_id() -> str:
    """Which run of this machine that is."""
    return _BOOT.read_text(encoding="ascii").strip()
