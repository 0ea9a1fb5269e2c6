"""What is certainly past: may something be destroyed because it is old? No I/O.

The time of day may be wrong for a while: NTP is not authenticated, virtual machines wake up in
another month. So nothing is destroyed by what the clock says now. What counts is a time of day that
the clock had reached a day ago, measured by a clock that nobody sets (CLOCK_BOOTTIME), and behind
which it was never seen since:

    watch = seen(watch, boot, uptime, wall)      # every few minutes, and kept in the store
    if thing.ends_at + KEEP <= past(watch): ...  # may be destroyed

Promises: a clock that is ahead for less than a day makes nothing old that is not so by the right
time; one that is set back takes back whatever it said of later times. Restarts do not begin it
anew, nor does a new boot, but only time that was watched counts: not that of a suspended machine or
of a daemon that was down.
Must not: be asked whether something still applies. That is the time of day's to say.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

DAY: Final = 86400.0
#: How often the clock is to be looked at; and time between two looks that is longer was not
#: watched, and does not count (seconds).
LOOK_SECONDS: Final = 300.0
GAP_SECONDS: Final = 3 * LOOK_SECONDS
#: The distance of two marks is at most this part of their age.
_SHARE: Final = 16


class Mark(Struct, frozen=True, array_like=True):
    """What the clock showed (seconds since the epoch) when so many seconds had been watched."""

    wall: float
    watched: float


class Watch(Struct, frozen=True):
    """What was seen of a clock: `boot` and `uptime` (seconds, CLOCK_BOOTTIME) are of the last look,
    `watched` the seconds that passed under watch. `marks` are in order, and none is of a later time
    of day than the clock showed at any look after it."""

    boot: str
    uptime: float
    watched: float
    marks: tuple[Mark, ...]


def seen(before: Watch | None, boot: str, uptime: float, wall: float) -> Watch:
    """What is known after one more look: the clock shows `wall`; `boot` names this run of the
    machine, on which `uptime` seconds have passed, suspended ones among them."""
    if before is None:
        return Watch(boot, uptime, 0.0, (Mark(wall, 0.0),))
    passed = uptime - before.uptime if boot == before.boot else 0.0
    watched = before.watched + (passed if 0.0 <= passed <= GAP_SECONDS else 0.0)
    # The clock was set back: those marks were of a time that has not come.
    marks = [mark for mark in before.marks if mark.wall <= wall]
    return Watch(boot, uptime, watched, tuple(_thinned([*marks, Mark(wall, watched)], watched)))


def past(watch: Watch | None, seconds: float = DAY) -> float:
    """The latest time of day that is certain to have passed: it had come `seconds` ago, and was
    never in the future since. 0 (1970) where there is none yet."""
    if watch is None:
        return 0.0
    sure = (mark.wall for mark in watch.marks if watch.watched - mark.watched >= seconds)
    return max(sure, default=0.0)


def _thinned(marks: list[Mark], watched: float) -> list[Mark]:
    """Without marks that their neighbours stand for; and of the old ones, the latest."""
    kept: list[Mark] = []
    for at, mark in enumerate(marks):
        age = watched - mark.watched
        following = marks[at + 1] if at + 1 < len(marks) else None
        if following is not None and watched - following.watched >= DAY:
            continue  # a later one is certain already
        if kept and following is not None:
            room = max(age / _SHARE, LOOK_SECONDS / 2)
            if following.watched - kept[-1].watched <= room:
                continue
        kept.append(mark)
    return kept
