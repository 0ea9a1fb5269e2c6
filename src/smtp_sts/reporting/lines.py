"""A log as lines, however it comes in blocks; and the times that stand in front of them. No I/O.

Promises: no line, however long, is kept beyond `limit` bytes: longer ones are left out and counted.
A time that cannot be is None, never an exception.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Final

from smtp_sts.policy import NextHopError, policy_domain
from smtp_sts.tlsrpt.names import domain_name

#: Postfix cuts its records at 2,000 bytes, Exim at 8,192, rsyslog at 8,192.
MAX_LINE: Final = 16 * 1024
#: A mail address's local part as logs have it, and its domain: U-labels too. No group.
LOCAL_PART: Final = rb'(?:[^"<>@\s]{1,255}|"(?:[^"\\]|\\.){0,255}")'
DOMAIN: Final = rb"[^\x00-\x20\x7f<>()\[\]@,;:\"\\=]{1,255}"
#: How syslog begins a line: groups for the time of old, for that of RFC 3339, and for its zone.
STAMP: Final = (
    rb"(?:([A-Z][a-z][a-z] [ 0-9][0-9] [0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]+)?"
    rb"|([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]+)?"
    rb"(Z|[+-][0-9]{2}:?[0-9]{2})?)"
)
_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1
    )
}  # fmt: skip
#: A time without a zone, of syslog's or of Exim's own log.
_LOCAL: Final = re.compile(
    rb"(?:([A-Z][a-z][a-z]) ([ 0-9][0-9]) ([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.[0-9]+)? "
    rb"|([0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]+)? (?![+-][0-9]{4} ))"
)
#: Zones lie a quarter of an hour apart, and from 12 hours west of UTC to 14 east; a line that was
#: just written is not later than this (seconds).
_STEP: Final = 900
_WEST: Final = timedelta(hours=-12)
_EAST: Final = timedelta(hours=14)
_LATE: Final = 60
_TOMORROW: Final = timedelta(days=1)


@lru_cache(maxsize=65536)
def log_domain(text: bytes) -> str:
    """A domain of a log in A-labels and lower case (a U-label means its A-label); "" for none."""
    if text.isascii():
        return domain_name(text.decode("ascii"))
    try:
        return domain_name(policy_domain(text.decode()))
    except (NextHopError, UnicodeDecodeError):
        return ""


class Lines:
    """Cuts blocks of bytes into lines."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._rest = b""
        self._skipping = False
        self.lines = 0
        #: lines that were longer than the limit, and so were left out
        self.too_long = 0

    @property
    def unended(self) -> bool:
        """Whether there is a line whose end has not come yet."""
        return bool(self._rest) or self._skipping

    @property
    def waiting(self) -> int:
        """Bytes of a line whose end has not come yet."""
        return len(self._rest)

    def feed(self, block: bytes) -> list[bytes]:
        """The lines that end in this block, without their ends."""
        pieces = block.split(b"\n")
        if self._skipping:
            if len(pieces) == 1:
                return []
            pieces[0] = b""  # what is left of the long line
            self._skipping = False
        else:
            pieces[0] = self._rest + pieces[0]
        self._rest = pieces.pop()
        if len(self._rest) > self._limit:
            self._rest, self._skipping = b"", True
            self.too_long += 1
        self.lines += len(pieces)
        if pieces and len(max(pieces, key=len)) > self._limit:
            kept = [line for line in pieces if len(line) <= self._limit]
            self.too_long += len(pieces) - len(kept)
            return kept
        return pieces


class Clock:
    """Reads the times of syslog, one conversion a minute.

    `now` is seconds since the epoch, and tells the year where a line has none: no line is of later
    than a day from then. `zone` is that of times without one; None is the machine's. Where lines
    are read as they are written, `notice` finds it out.
    """

    def __init__(self, now: float, zone: tzinfo | None = None) -> None:
        self.now = now
        self.zone = zone
        self._minute = b""
        self._epoch: float | None = None

    def notice(self, line: bytes, written: float) -> bool:
        """Learn the zone from a line of syslog's or Exim's that was written just then (seconds
        since the epoch); whether it is another one than before."""
        found = _LOCAL.match(line)
        if found is None:
            return False
        now = datetime.fromtimestamp(written, UTC)
        try:
            if found[1]:
                month = _MONTHS.get(found[1], 0)
                day, hour, minute, second = map(int, found.group(2, 3, 4, 5))
                local = datetime(now.year, month, day, hour, minute, second, tzinfo=UTC)
                local = min(
                    (local.replace(year=local.year + more) for more in (-1, 0, 1)),
                    key=lambda moment: abs(moment - now),
                )
            else:
                text = found[6].decode("ascii").replace(" ", "T")
                local = datetime.fromisoformat(text).replace(tzinfo=UTC)
        except ValueError:
            return False
        ahead = (local - now).total_seconds()
        offset = timedelta(seconds=round(ahead / _STEP) * _STEP)
        late = abs(ahead - offset.total_seconds()) > _LATE
        if late or not _WEST <= offset <= _EAST or now.astimezone(self.zone).utcoffset() == offset:
            return False
        self.zone, self._minute = timezone(offset), b""
        return True

    def of(self, bsd: bytes | None, iso: bytes | None, zone: bytes | None) -> float | None:
        """The groups of `STAMP`, in seconds since the epoch."""
        return self.bsd(bsd) if bsd is not None else self.iso(iso or b"", zone or b"")

    def bsd(self, text: bytes) -> float | None:
        """`Nov 25 03:53:46`, in seconds since the epoch."""
        if text[:12] != self._minute:
            self._minute, self._epoch = text[:12], self._bsd_minute(text)
        return None if self._epoch is None else self._epoch + int(text[13:15])

    def iso(self, text: bytes, zone: bytes) -> float | None:
        """`2026-11-25T03:53:46` (or a blank for the T) and `Z`, `+01:00`, `+0100` or nothing."""
        minute = text[:16] + zone
        if minute != self._minute:
            self._minute, self._epoch = minute, self._iso_minute(minute.decode("ascii"))
        return None if self._epoch is None else self._epoch + int(text[17:19])

    def _bsd_minute(self, text: bytes) -> float | None:
        month = _MONTHS.get(text[:3])
        if month is None:
            return None
        day, hour, minute = int(text[4:6]), int(text[7:9]), int(text[10:12])
        now = datetime.fromtimestamp(self.now, UTC)
        # the 29th of February may be eight years back
        for year in range(now.year + 1, now.year - 9, -1):
            try:
                moment = datetime(year, month, day, hour, minute, tzinfo=self.zone).astimezone(UTC)
            except (ValueError, OverflowError):
                continue
            if moment <= now + _TOMORROW:
                return moment.timestamp()
        return None

    def _iso_minute(self, text: str) -> float | None:
        try:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=self.zone)
            return moment.timestamp()
        except (ValueError, OverflowError, OSError):
            return None
