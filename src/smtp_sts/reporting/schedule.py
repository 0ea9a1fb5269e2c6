"""When a report goes out, and when it is tried again (RFC 8460 sections 4.1 and 5.5). No I/O.

Promises: the time of a report is spread evenly, and is the same after every restart and on every
machine of a fleet; retries come at growing distances, the last one at the end of the 24 hours, so
that a receiver who puts us off for less than a day gets it.
"""

from __future__ import annotations

import hashlib
from typing import Final

DAY: Final = 86400
#: What sources still know of the day that ended is counted by then (seconds after midnight UTC).
SETTLE_SECONDS: Final = 300.0
#: Section 5.5: "for up to 24hrs after the initial attempt".
RETRY_SECONDS: Final = 86400.0
#: The first distance between attempts; each further one is twice as long, give or take a tenth.
FIRST_RETRY_SECONDS: Final = 300.0
#: A report so many days late (the daemon was down, an old log was imported) is sent all the same.
LATE_DAYS: Final = 7


def send_at(day: int, domain: str, submitter: str, spread: float) -> float:
    """When the report of a UTC day (days since the epoch) is made and first sent: seconds since the
    epoch, within `spread` seconds of the day's end (section 4.1: "up to four hours").
    """
    return (
        (day + 1) * DAY
        + min(SETTLE_SECONDS, spread)
        + _share("send", str(day), domain, submitter) * max(0.0, spread - SETTLE_SECONDS)
    )


def retry_at(now: float, tries: int, give_up_at: float, key: str, *, ask: float = 0.0) -> float:
    """When to try again after `tries` attempts; the last time is `give_up_at`.

    `ask` is the seconds that the receiver wants us to wait at least; `key` tells apart what is not
    to come at once.
    """
    jitter = 0.9 + 0.2 * _share("retry", key, str(tries))
    # 2 ** 30 is years: no overflow, whatever `tries` says
    wait = FIRST_RETRY_SECONDS * (1 << min(max(tries - 1, 0), 30)) * jitter
    return min(now + max(wait, ask), give_up_at)


def _share(*parts: str) -> float:
    """From 0 to 1, the same for the same parts."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
