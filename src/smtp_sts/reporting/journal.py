"""One entry of systemd's journal as a line of syslog, and who wrote it. No I/O but the user table.

Promises: an entry is one line, whatever its text says; what a person wrote is told from what a mail
server wrote.
"""

from __future__ import annotations

import contextlib
import functools
import pwd
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

#: User ids of people, by login.defs(5); no mail server runs as one of them, and any of them can
#: write an entry that calls itself postfix/smtp (logger -p mail.info -t postfix/smtp).
_PEOPLE: Final = range(1000, 60001)
#: Users that mail servers run as, wherever their ids lie.
_MAIL_USERS: Final = ("postfix", "Debian-exim", "exim", "mailnull", "smmsp")

_NAME: Final = re.compile(rb"[A-Z_][A-Z0-9_]{0,63}")
#: Bytes of a value; journald keeps longer ones of programs that crash.
_MAX_VALUE: Final = 256 * 1024


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
        return is_person(_entry.decode(data).uid)
    except msgspec.DecodeError:
        return False


def is_person(uid: object) -> bool:
    """Whether `_UID` of an entry is of a user that no mail server runs as."""
    try:
        number = int(uid)  # type: ignore[call-overload]
    except (ValueError, TypeError):
        return False
    return number in _PEOPLE and number not in _mail_users()


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


class Export:
    """`journalctl -o export`, as lines: fields by `NAME=value`, or with a length where a value is
    no line of text; an empty line ends an entry (systemd's Journal Export Formats)."""

    def __init__(self) -> None:
        self._buffer = b""
        self._name = b""
        self._fields: dict[bytes, bytes] = {}

    @property
    def begun(self) -> bool:
        """Whether an entry has no end yet."""
        return bool(self._fields or self._buffer)

    def line(self, line: bytes) -> dict[bytes, bytes] | None:
        """Take a line without its end; the entry that ends with it."""
        self._buffer += line + b"\n"
        while self._name or b"\n" in self._buffer:
            if self._name:
                size = int.from_bytes(self._buffer[:8], "little")
                if size > _MAX_VALUE:  # no length: go on with what looks like a field
                    self._name = b""
                    continue
                if len(self._buffer) < 8 + size + 1:
                    return None
                self._fields[self._name] = self._buffer[8 : 8 + size]
                self._name, self._buffer = b"", self._buffer[8 + size + 1 :]
                continue
            row, _, self._buffer = self._buffer.partition(b"\n")
            name, equals, value = row.partition(b"=")
            if not row:
                return self.end()
            if equals:
                self._fields[name] = value
            elif _NAME.fullmatch(row):
                self._name = row
        return None

    def end(self) -> dict[bytes, bytes] | None:
        """The entry as far as it has come; None for none."""
        fields, self._fields = self._fields, {}
        return fields or None


def entry_line(fields: Mapping[bytes, bytes]) -> bytes | None:
    """An entry by its fields as `journalctl -o json` has it; None for one that cannot be."""
    if b"__REALTIME_TIMESTAMP" not in fields or b"MESSAGE" not in fields:
        return None
    texts: dict[str, Any] = {
        name.decode("ascii", "replace"): value.decode("utf-8", "replace")
        for name, value in fields.items()
    }
    texts["MESSAGE"] = list(fields[b"MESSAGE"])
    return msgspec.json.encode(texts)
