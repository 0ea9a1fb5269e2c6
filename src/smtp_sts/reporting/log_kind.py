"""What a file is, before it is read as a log: how it is packed, whose log it is, and of when.

Promises: what is no log is refused with what was seen and what to do. Must not: count anything.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import sys
import time
import zlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import BinaryIO, Final, Literal, cast

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from smtp_sts.reporting.envelopes import EXIM, SYSLOG, programs
from smtp_sts.reporting.log_lines import LogLines
from smtp_sts.tlsrpt.names import clean

Kind = Literal["postfix", "exim"]

#: Hosts that one log may be of.
_MAX_HOSTS: Final = 1000
#: a program of Postfix's by its name in syslog; and Exim's
_POSTFIX: Final = re.compile(rb"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+){1,4}")
_EXIM: Final = re.compile(rb"exim[A-Za-z0-9_-]{0,30}")
#: what stands where a host does, and is none
_NO_HOSTS: Final = re.compile(
    r"-|<?(?:[a-z0-9]+\.)?(?:debug|info|notice|warn(?:ing)?|err(?:or)?)>?", re.I
)
_FIRST_STAMP: Final = re.compile(rb"([A-Z][a-z]{2} [ 0-9][0-9]) [0-9]{2}:")
#: How a file of systemd's journal begins.
_JOURNAL: Final = b"LPKSHHRH"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
#: How files begin that are packed in other ways, and what unpacks them.
_PACKED: Final = {
    b"\x04\x22\x4d\x18": "lz4 -dc FILE",
    b"\x1f\x9d": "zcat FILE",
    b"PK\x03\x04": "unzip -p FILE",
    b"7z\xbc\xaf\x27\x1c": "7z x -so FILE",
    b"LZIP": "lzip -dc FILE",
}
#: What damage and a file that ends too early look like.
DAMAGE: Final = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstd.ZstdError, OSError)


class LogError(ValueError):
    """This cannot be read as a log; the message says why and what to do."""


def unpacked(file: BinaryIO) -> BinaryIO:
    """The log inside gzip, bzip2, xz or zstd, or the file itself; `file` can be peeked into.

    Raises LogError where it is packed in another way.
    """
    start: bytes = file.peek(6)[:6]  # type: ignore[attr-defined]
    if start.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.open(file))
    if start.startswith(b"BZh"):
        return cast(BinaryIO, bz2.open(file))
    if start == b"\xfd7zXZ\x00":
        return cast(BinaryIO, lzma.open(file))
    if start.startswith(_ZSTD):
        return cast(BinaryIO, zstd.open(file))
    for magic, program in _PACKED.items():
        if start.startswith(magic):
            raise LogError(f"packed: {program} | smtp-sts report import-log -")
    return file


def kind_of(lines: Iterable[bytes]) -> Kind | None:
    """Whose log it is by these lines (of `LogLines`); None where it is neither's."""
    postfix = exim = 0
    for line in lines:
        head = SYSLOG.match(line)
        if head is None:
            exim += EXIM.match(line) is not None
        elif _EXIM.fullmatch(head[5]):
            exim += 1
        elif _POSTFIX.fullmatch(head[5]):
            postfix += 1
    if not postfix and not exim:
        return None
    return "postfix" if postfix >= exim else "exim"


def hosts_of(kind: Kind, lines: Iterable[bytes]) -> set[str]:
    """The hosts that the lines in front name."""
    wanted = _POSTFIX if kind == "postfix" else _EXIM
    names = set()
    for line in lines:
        head = SYSLOG.match(line)
        if head is not None and wanted.fullmatch(head[5]):
            name = head[4].decode("ascii")
            if not _NO_HOSTS.fullmatch(name):
                names.add(name)
    return set(sorted(names)[:_MAX_HOSTS])


def not_a_log(first: bytes, start: Sequence[bytes], form: LogLines) -> str:
    """Why this cannot be read as a log, and what could be."""
    if first.startswith(_JOURNAL):
        return (
            "a file of systemd's journal: journalctl --file=FILE -o export | smtp-sts report "
            "import-log -"
        )
    if not form.few and (found := programs(start)):
        listed = ", ".join(name for name, _ in found.most_common(5))
        return (
            f"neither Postfix's log nor Exim's main log, by its beginning, which has lines of "
            f"{listed}; if theirs come later, say which: --format postfix or --format exim"
        )
    example = form.example or clean(first[:200].decode("utf-8", "replace"), 200)
    return (
        f"neither Postfix's log nor Exim's main log: of the first {form.seen:,} lines "
        f"{form.understood:,} were understood, and {example!a} was not. What is read is their log "
        "as a file of theirs, of syslog (RFC 3164 and 5424), of docker or Kubernetes, or from "
        "journalctl (-o short-iso, export, json and others with times, but not -o cat)"
    )


def latest(start: Iterable[bytes], year: int | None, last: float | None) -> float:
    """The moment that no line is of later than a day from (`Clock`): by the year of the first line,
    or by when the log was written last. Raises LogError."""
    stamps = filter(None, map(_FIRST_STAMP.match, start))
    if year is not None and (found := next(stamps, None)):
        text = " ".join(found[1].decode("ascii").split())
        try:
            first = datetime.strptime(f"{year} {text}", "%Y %b %d")
        except ValueError:
            raise LogError(f"{text!r} is no day of {year}") from None
        # All lines lie within a year from the first, but for some that came late.
        return (first.replace(tzinfo=UTC) + timedelta(days=360)).timestamp()
    return time.time() if last is None else min(last, time.time())
