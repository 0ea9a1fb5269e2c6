"""The server of a shared store: how it is reached, and what its trouble means.

Promises: connecting, every statement and the wait for its answer have an end; over the network the
server must prove who it is (law 1), unless the operator says otherwise; no password in an error.
Must not: know what is kept there.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Engine, MetaData, create_engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from smtp_sts.store.errors import StoreError

try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict
except ImportError as missing:
    raise StoreError(
        "store.url: PostgreSQL needs a driver that is not installed: "
        "pip install 'smtp-sts[postgresql]', in the environment of smtp-sts"
    ) from missing

#: Seconds; those of libpq are two at least. A client waits a little longer than the server works.
CONNECT_SECONDS: Final = 2
STATEMENT_SECONDS: Final = 2.0
ANSWER_SECONDS: Final = 3.0
#: For the one who makes the tables, among all users of the database.
ADVISORY_LOCK: Final = 0x736D7470_737473  # "smtpsts"

#: Seconds since the epoch by the clock of the database, as SQL.
NOW: Final = "CAST(extract(epoch FROM clock_timestamp()) AS float8)"
#: Parameters that may look like anything, and a keyword of libpq's other form within another.
_FREE: Final = {"options", "password", "sslpassword"}
_KEYWORD: Final = re.compile(r"(^|\s)\w+\s*=|(pass|pwd)\w*\s*=", re.IGNORECASE)


class _Bounded(psycopg.Connection[Any]):
    """A connection on which nothing is waited for without end, whatever the network does."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """As psycopg's, but with an end: then the connection is closed."""
        try:
            return super().wait(gen, interval, ANSWER_SECONDS if timeout is None else timeout)
        except psycopg.OperationalError as error:
            if error.sqlstate is not None:
                raise
            self.close()  # no answer, or half of one: of no more use
            raise


def check(url: str) -> None:
    """Raise StoreError for a URL that libpq cannot read. Nothing is connected to."""
    parameters_of(url)


def parameters_of(url: str) -> dict[str, Any]:
    """A URL as libpq reads it, with our limits added."""
    try:
        found = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise StoreError(f"store.url: {_fault(url)}") from None
    parameters = {name: str(value) for name, value in found.items() if value is not None}
    # Keywords behind a URL: libpq takes them for a part of what stands before, and would show them.
    if any(_KEYWORD.search(parameters[name]) for name in parameters.keys() - _FREE):
        raise StoreError(
            "store.url: keywords such as password=... do not follow a URL with a blank; write "
            "postgresql://user:password@host/database?keyword=value&keyword=value"
        )
    if "@" in parameters.get("host", "") + parameters.get("dbname", ""):
        raise StoreError(
            "store.url: in the user and the password, write @ as %40, / as %2F and : as %3A"
        )
    for port in parameters.get("port", "").split(","):
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise StoreError("store.url: the port is not a number from 1 to 65535")
    if not _is_local(parameters) and "PGSSLMODE" not in os.environ:
        # Law 1: who can pose as the database can weaken every policy.
        parameters.setdefault("sslmode", "verify-full")
    parameters.setdefault("connect_timeout", str(CONNECT_SECONDS))
    parameters.setdefault("application_name", "smtp-sts")
    limits = (
        f"-c statement_timeout={STATEMENT_SECONDS * 1000:.0f} "
        f"-c idle_in_transaction_session_timeout={ANSWER_SECONDS * 1000:.0f}"
    )
    parameters["options"] = f"{limits} {parameters.get('options', '')}".strip()
    return parameters


def _fault(url: str) -> str:
    """What libpq has against a URL. It quotes what it does not understand: secrets go first."""
    bare = re.sub(r"//[^/?#]*@", "//", url, count=1)
    bare = re.sub(r"((?:pass|pwd)\w*\s*(?:=|%3d)\s*)[^&]*", r"\1", bare, flags=re.IGNORECASE)
    try:
        conninfo_to_dict(bare)
    except psycopg.ProgrammingError as error:
        return str(error).strip()
    return "user or password cannot be read: write % as %25, @ as %40, / as %2F and : as %3A"


def _is_local(parameters: dict[str, Any]) -> bool:
    hosts = parameters.get("hostaddr") or parameters.get("host") or os.environ.get("PGHOST", "")
    return all(
        not host or host.startswith(("/", "@", "127.")) or host in ("localhost", "::1")
        for host in hosts.split(",")
    )


def _place(parameters: dict[str, Any]) -> str:
    """The URL for people: without the password and the options."""
    user = f"{parameters['user']}@" if "user" in parameters else ""
    port = f":{parameters['port']}" if "port" in parameters else ""
    host = parameters.get("host") or parameters.get("hostaddr", "")
    return f"postgresql://{user}{host}{port}/{parameters.get('dbname', '')}"


def make_engine(url: str) -> tuple[Engine, str]:
    """An engine of one connection, and the URL for people. Raises StoreError."""
    parameters = parameters_of(url)

    def connect() -> psycopg.Connection[Any]:
        # Without prepared statements: a pooler between us and the server may not have them.
        return _Bounded.connect(**parameters, prepare_threshold=None)

    engine = create_engine("postgresql+psycopg://", creator=connect, pool_size=1, max_overflow=0)
    return engine, _place(parameters)


def make_tables(engine: Engine, metadata: MetaData, place: str) -> None:
    """Make those tables that are not there yet; one daemon of the fleet does. Raises StoreError."""
    with told(place), engine.begin() as connection:
        if set(metadata.tables) <= set(inspect(connection).get_table_names()):
            return  # a role that may not lock or make anything is enough then
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        metadata.create_all(connection)


@contextlib.contextmanager
def told(place: str) -> Iterator[None]:
    """What goes wrong in here comes out as StoreError with advice."""
    try:
        yield
    except SQLAlchemyError as error:
        raise trouble(error, place) from error


#: SQLSTATE (PostgreSQL appendix A) or its class -> what to do.
_ADVICE: Final = {
    "42501": "let the role own the database, or grant what docs/fleet.md lists",
    "53100": "free space on the disk of the database server",
    "25006": "name the primary, or add target_session_attrs=read-write to store.url",
    "42P01": "its tables are gone: restore them, or drop smtp_sts_schema to have them made anew",
}
#: What libpq says of a connection that was refused, for which it gives no SQLSTATE.
_REFUSED: Final = {
    "authentication failed": "check user and password (store.url or a .pgpass file)",
    "pg_hba.conf": "let the server take the role from this machine in pg_hba.conf",
    "does not exist": "create the database: createdb --owner=ROLE NAME",
    "too many": "each worker of each daemon needs one connection: raise max_connections",
    "root certificate": "see docs/fleet.md on TLS",
}


def trouble(error: SQLAlchemyError, place: str) -> StoreError:
    """What the database said, as a sentence with advice."""
    cause = getattr(error, "orig", None)
    state = getattr(cause, "sqlstate", None) or ""
    said = " ".join(str(cause or error).split())
    hint = _ADVICE.get(state, "")
    if not state:
        hint = next((advice for words, advice in _REFUSED.items() if words in said), "")
    # Without a state no server has spoken; class 57: shut down, starting up, or too slow.
    lost = isinstance(cause, psycopg.Error) and (not state or state[:2] in ("08", "57"))
    return StoreError(f"store {place}: {said}{'; ' if hint else ''}{hint}", lost=lost)
