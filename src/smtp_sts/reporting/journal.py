"""One entry of systemd's journal as a line of syslog, and who wrote it. No I/O but the user table.

Promises: an entry is one line, whatever its text says; what a person wrote is told from what a mail
server wrote.
"""

from __future__ import annotations

import contextlib
import functools
import pwd
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

#: User ids of people, by login.defs(5); no mail server runs as one of them, and any of them can
#: write an entry that calls itself postfix/smtp (logger -p mail.info -t postfix/smtp).
_PEOPLE: Final = range(1000, 60001)
#: Users that mail servers run as, wherever their ids lie.
_MAIL_USERS: Final = ("postfix", "Debian-exim", "exim", "mailnull", "smmsp")


class _Entry(msgspec.Struct):
    at: str = msgspec.field(name="__REALTIME_TIMESTAMP")
    cursor: str = msgspec.field(name="__CURSOR", default="")
    host: str = msgspec.field(name="_HOSTNAME", default="localhost")
    name: Any = msgspec.field(name="SYSLOG_IDENTIFIER", default="")
    pid: Any = msgspec.field(name="SYSLOG_PID", default=None)
    own_pid: str = msgspec.field(name="_PID", default="0")
    #: by the kernel's word, as journald has it of the socket
    uid: Any = msgspec.field(name="_UID", default="0")
    message: Any = msgspec.field(name="MESSAGE", default=None)


_entry: Final = msgspec.json.Decoder(_Entry)


def by_a_person(data: bytes) -> bool:
    """Whether an entry of the journal was written by a user that no mail server runs as."""
    try:
        uid = int(_entry.decode(data).uid)
    except (msgspec.DecodeError, ValueError, TypeError):
        return False
    return uid in _PEOPLE and uid not in _mail_users()


@functools.cache
def _mail_users() -> frozenset[int]:
    found = set()
    for name in _MAIL_USERS:
        with contextlib.suppress(KeyError):
            found.add(pwd.getpwnam(name).pw_uid)
    return frozenset(found)


def journal_line(data: bytes) -> tuple[bytes, str] | None:
    """One entry of `journalctl -o json` as a line of syslog, and its cursor; None for others.

    A line end within a message is none: each entry is one line, whatever it says.
    """
    try:
        entry = _entry.decode(data)
        at = datetime.fromtimestamp(int(entry.at) // 1_000_000, UTC)
        # The journal gives what is not UTF-8 as a list of numbers, and null for what is too long.
        message = bytes(entry.message) if isinstance(entry.message, list) else entry.message
    except (msgspec.DecodeError, ValueError, OverflowError, TypeError):
        return None
    if isinstance(message, str):
        message = message.encode("utf-8", "replace")
    if not isinstance(message, bytes) or not isinstance(entry.name, str):
        return None
    head = f"{at:%Y-%m-%dT%H:%M:%SZ} {entry.host} {entry.name}[{entry.pid or entry.own_pid}]: "
    return head.encode("utf-8", "replace") + message.replace(b"\n", b" "), entry.cursor
