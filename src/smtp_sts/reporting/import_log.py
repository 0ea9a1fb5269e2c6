"""An old log into the counts: whole files, rotated and packed ones, or a stream.

Promises:
* What a log brings is counted once. How far it was read is kept with the counts, in the same
  transaction: a log that has grown since, was rotated or packed goes on where the last reading
  ended, and so does one whose reading was killed. What marks a log is its content, not its name.
* Days on which the daemon that belongs to the log has counted are left out, and said to be.
* Memory is bounded, whatever the length of the log.
Must not: print, or keep the store busy for longer than a batch takes.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection
from datetime import UTC, datetime, tzinfo
from typing import BinaryIO, Final

import msgspec

from smtp_sts.reporting.aggregate import DAY, Aggregate
from smtp_sts.reporting.belonging import within
from smtp_sts.reporting.envelopes import bare
from smtp_sts.reporting.exim_log import EximLog
from smtp_sts.reporting.lines import Clock, Lines
from smtp_sts.reporting.log_kind import DAMAGE, Kind, LogError, hosts_of, kind_of, latest, not_a_log
from smtp_sts.reporting.log_lines import LogLines
from smtp_sts.reporting.outcome import Outcome
from smtp_sts.reporting.postfix_log import PostfixLog
from smtp_sts.store.tallies import Imported, Tallies, Tally, import_source

#: Bytes read at once; the first of these tell what kind of log it is.
BLOCK: Final = 256 * 1024
#: Bytes of a log after which counts are written.
BATCH: Final = 16 * 1024 * 1024
#: The first line of a log, as far as it marks it, bytes.
_MAX_HEAD: Final = 16 * 1024

#: Counters of both kinds of logs that the summary tells.
_COUNTERS: Final = ("unclear", "undated", "plain", "silent", "reused", "own", "unfinished",
                    "unattributed", "lost_datagrams")  # fmt: skip


class DayCount(msgspec.Struct):
    """What was counted of one UTC day."""

    successful: int = 0
    failed: int = 0
    domains: int = 0


class Summary(msgspec.Struct):
    """What a log brought. Times are seconds since the epoch, days `YYYY-MM-DD`."""

    kind: Kind
    lines: int = 0
    sessions: int = 0
    domains: int = 0
    days: dict[str, DayCount] = {}
    #: bytes and lines that were counted when this log was read before, and when that was
    known_bytes: int = 0
    known_lines: int = 0
    known_at: float | None = None
    #: the whole log is the beginning of one that was read before
    shorter_copy: bool = False
    #: days that the daemon of the same host has counted: sessions that were left out
    left_out: dict[str, int] = {}
    #: sessions of more domains in a day than are kept
    refused: int = 0
    #: sessions that lost detail to a bound
    folded: int = 0
    too_long: int = 0
    #: the last line has no end yet: it was left out
    cut: bool = False
    #: why the log could not be read to its end
    damage: str = ""
    #: why the log was not counted, and what to do
    trouble: str = ""
    #: lines in no form that is known
    not_understood: int = 0
    unclear: int = 0
    undated: int = 0
    plain: int = 0
    silent: int = 0
    reused: int = 0
    own: int = 0
    unfinished: int = 0
    unattributed: int = 0
    lost_datagrams: int = 0
    #: sessions with relays of ours: at inner addresses, or at another port than 25
    relayed: int = 0


class Options(msgspec.Struct, frozen=True):
    """How a log is to be read. `year` is that of its first line, where lines have none; `zone`
    that of times without one (None: this machine's); `last` the time of the log's last change;
    `again` counts what was counted before."""

    kind: Kind | None = None
    year: int | None = None
    zone: tzinfo | None = None
    last: float | None = None
    host: str = ""
    own_senders: Collection[str] = ()
    again: bool = False
    dry_run: bool = False


def import_log(
    source: BinaryIO,
    tallies: Tallies | None,
    options: Options,
    match: Callable[[Outcome], Outcome] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Count what a log tells. `match` gives an outcome the policy that applied; `progress` is told
    lines and sessions so far. Raises LogError, StoreError."""
    summary, first = Summary("postfix"), b""
    try:
        first = source.read(BLOCK)
    except DAMAGE as error:
        raise LogError(f"cannot be read: {error}") from None
    form = LogLines()
    start = form.lines(first[: first.rfind(b"\n") + 1].split(b"\n")[:-1] or [first])
    start = [bare(line) or b"" for line in start + form.finish()]
    kind = options.kind or (kind_of(start) if first else "postfix")
    if kind is None or (form.few and b"\n" in first):
        raise LogError(not_a_log(first, start, form))
    summary.kind = kind
    reading = _Reading(kind, first, start, tallies, options, match or (lambda outcome: outcome))
    block = first
    try:
        while block:
            reading.block(block)
            if progress is not None:
                progress(reading.lines.lines, reading.sessions)
            block = source.read(BLOCK)
    except DAMAGE as error:
        summary.damage = str(error) or type(error).__name__
    reading.end(summary)
    return summary


class _Reading:
    """One log on its way into the counts."""

    def __init__(
        self,
        kind: Kind,
        first: bytes,
        start: list[bytes],
        tallies: Tallies | None,
        options: Options,
        match: Callable[[Outcome], Outcome],
    ) -> None:
        self._tallies = tallies
        self._options = options
        self._match = match
        # Exim's own log names none
        hosts = hosts_of(kind, start) or {socket.gethostname()}
        if options.host:
            hosts = {options.host}
        self._host = min(hosts)
        self._hosts = {_label(host) for host in hosts}
        clock = Clock(latest(start, options.year, options.last), options.zone)
        made = PostfixLog if kind == "postfix" else EximLog
        self._log = made(self._take, clock, options.own_senders)
        self.lines = Lines()
        self._form = LogLines()
        self._aggregate = Aggregate()
        #: UTC days seen -> whether their sessions are counted
        self._counted: dict[int, bool] = {}
        self._left_out: Counter[int] = Counter()
        self._relayed = 0
        self._days: dict[int, DayCount] = {}
        self._domains: dict[int, set[str]] = {}
        self.sessions = 0
        self._offset = 0
        self._digest = hashlib.blake2b(digest_size=16)
        end = first.find(b"\n", 0, _MAX_HEAD)
        head = first[: end + 1 if end >= 0 else _MAX_HEAD]
        self._head = hashlib.blake2b(head, digest_size=16).hexdigest()
        self._mark: Imported | None = None
        self._known: Imported | None = None
        #: earlier readings that this log may begin with, the shortest first
        self._earlier: list[Imported] = []
        if tallies is not None and not options.again:
            self._earlier = tallies.imports(self._head)
        self._before = dict.fromkeys(_COUNTERS, 0)
        self._before_lines = self._before_too_long = 0

    def block(self, block: bytes) -> None:
        """Take the next bytes of the log."""
        start = 0
        while start < len(block):
            room = BATCH - self._offset % BATCH
            if self._earlier:
                room = min(room, self._earlier[0].size - self._offset)
            piece = block[start : start + room] if room < len(block) - start else block[start:]
            start += len(piece)
            self._offset += len(piece)
            self._digest.update(piece)
            take = self._log.line
            for line in self._form.lines(self.lines.feed(piece)):
                take(line)
            while self._earlier and self._earlier[0].size == self._offset:
                self._compare(self._earlier.pop(0))
            if not self._earlier and self._offset % BATCH == 0:
                self._write(complete=False)

    def _compare(self, earlier: Imported) -> None:
        """Whether all up to here was counted before: then what was just counted is let go."""
        if earlier.digest != self._digest.hexdigest():
            return
        self._known = earlier
        # A reading that was broken off is gone on with; one that ended stays known.
        self._mark = None if earlier.complete else earlier
        if earlier.complete:
            self._settle()
        self._aggregate = Aggregate()
        self._counted.clear()
        self._left_out.clear()
        self._relayed = 0
        self._before = self._counters()
        self._before_lines, self._before_too_long = self.lines.lines, self.lines.too_long

    def _counters(self) -> dict[str, int]:
        return {name: getattr(self._log, name, 0) for name in _COUNTERS}

    def _take(self, outcome: Outcome) -> None:
        if within(outcome):
            self._relayed += 1
            return
        day = int(outcome.at // DAY)
        counted = self._counted.get(day)
        if counted is None:
            counted = self._counted[day] = self._learn(day)
        if counted:
            self._aggregate.take(self._match(outcome))
        else:
            self._left_out[day] += 1

    def _learn(self, day: int) -> bool:
        """Look what is known of a day; whether its sessions are to be counted."""
        if self._tallies is None:
            return True
        if not self._options.again and self._counted_by_a_daemon(self._tallies.sources(day)):
            return False
        for domain, result in self._tallies.everything(day):
            self._aggregate.know(day, domain, result)
        return True

    def _counted_by_a_daemon(self, sources: Collection[str]) -> bool:
        """Whether the daemon that belongs to this log has counted, by those who counted that day.

        The name in the lines need not be the machine's (Postfix's maillog_file has the first label
        of myhostname): a daemon keeps the names that the logs it follows have. One that is told by
        datagrams knows none; what is read on its own machine is its own, unless `host` says whose.
        """
        daemons, followed = set(), set()
        own = _label(socket.gethostname())
        for source in sources:
            kind, _, name = source.partition(":")
            if kind == "daemon":
                daemons.add(_label(name))
            elif kind == "log":
                daemon, _, host = name.partition(":")
                daemons.add(_label(host))
                followed.add(_label(daemon))
        if self._hosts & daemons:
            return True
        return own in daemons and own not in followed and not self._options.host

    def _write(self, *, complete: bool) -> None:
        batch: list[Tally] = []
        while some := self._aggregate.drain():
            batch += some
        for tally in batch:
            count = self._days.setdefault(tally.day, DayCount())
            count.successful += tally.result.successful
            count.failed += tally.result.failed
            self.sessions += tally.result.successful + tally.result.failed
            self._domains.setdefault(tally.day, set()).add(tally.domain)
        if self._tallies is None or self._options.dry_run:
            return
        mark = Imported(self._head, self._digest.hexdigest(), self._offset, complete, time.time())
        if self._nothing_new():
            return
        self._tallies.add_imported(
            batch, import_source(self._host), mark, self._mark, again=self._options.again
        )
        self._mark = mark

    def _settle(self) -> None:
        """The log ended here, now or when it was read before."""
        if isinstance(self._log, PostfixLog):
            self._log.settle()

    def _trouble(self) -> str:
        """Why nothing of the log counts, though it tells of mail; "" where it does not."""
        if self._form.few:
            return (
                f"of {self._form.seen:,} lines {self._form.understood:,} were understood, and "
                f"{self._form.example!a} was not: is it all one log?"
            )
        mute = list(self._log.mute) if isinstance(self._log, PostfixLog) else []
        if not mute or self._log.outcomes:
            return ""
        return (
            f"nothing is counted: Postfix ({', '.join(mute[:3])}) has delivered mail, and logged "
            'no "TLS connection established"; set smtp_tls_loglevel = 1 in main.cf, for without it '
            "the log does not tell which mail went by TLS"
        )

    def _nothing_new(self) -> bool:
        known = self._known
        return known is not None and known.complete and known.size == self._offset

    def end(self, summary: Summary) -> None:
        """No more comes: count what waits, and say what there was."""
        if self._earlier:  # a longer log that begins with the same line was read before
            summary.shorter_copy = True
            summary.known_at = self._earlier[-1].at
            summary.known_bytes, summary.known_lines = self._offset, self.lines.lines
            return
        for line in self._form.finish():
            self._log.line(line)
        self._settle()
        summary.trouble = self._trouble()
        if not summary.trouble:
            self._write(complete=not summary.damage)
        summary.lines = self.lines.lines - self._before_lines
        summary.sessions = self.sessions
        summary.domains = len(set().union(*self._domains.values()))
        for day, count in sorted(self._days.items()):
            count.domains = len(self._domains[day])
            summary.days[_date(day)] = count
        summary.left_out = {_date(day): n for day, n in sorted(self._left_out.items())}
        if self._known is not None:
            summary.known_bytes, summary.known_lines = self._known.size, self._before_lines
            summary.known_at = self._known.at
        summary.refused, summary.folded = self._aggregate.refused, self._aggregate.folded
        summary.too_long = self.lines.too_long - self._before_too_long
        summary.relayed = self._relayed
        summary.cut = self.lines.unended
        for name, value in self._counters().items():
            setattr(summary, name, value - self._before[name])
        summary.not_understood = self._form.seen - self._form.understood
        # It may go on in what the log gets later, so it is not settled here.
        summary.unfinished += 0 if self._nothing_new() else self._log.waiting


def _label(host: str) -> str:
    """Logs have a host's short name, or its whole one."""
    return host.partition(".")[0].lower()


def _date(day: int) -> str:
    return f"{datetime.fromtimestamp(day * DAY, UTC):%Y-%m-%d}"
