"""Follows the logs of mail servers for the reporter: reads them, matches what they tell with what
the daemon answers, and has it counted.

Promises: how far a log was read is written with what was counted up to there; a log that cannot be
understood, or that tells of no session, is said to, once. Must not: keep anything for longer than
the store refuses.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from smtp_sts.config import Config, LogSource
from smtp_sts.daemon.looking import Looking
from smtp_sts.reporting.aggregate import DAY, Aggregate
from smtp_sts.reporting.belonging import Whose
from smtp_sts.reporting.exim_log import EximLog
from smtp_sts.reporting.follow import FollowedFile, FollowedJournal, written_last
from smtp_sts.reporting.lines import Clock
from smtp_sts.reporting.log_lines import LogLines
from smtp_sts.reporting.matching import judged
from smtp_sts.reporting.outcome import Outcome
from smtp_sts.reporting.postfix_log import PostfixLog
from smtp_sts.resolver.decision import Decision
from smtp_sts.store.tallies import Tally

#: How often a log is looked at (seconds).
POLL_SECONDS: Final = 1.0
#: So long failures wait for a sign that their log tells of sessions (seconds); after so many
#: deliveries without one it is said that there is none.
HOLD_SECONDS: Final = 900.0
SILENT_DELIVERIES: Final = 20
#: A line that was not there so long ago is of now (seconds).
FRESH_SECONDS: Final = 10.0
#: Lines after which it is said that most of them are not understood.
UNKNOWN_LINES: Final = 20
#: Counts of lines of logs that could not be read, or not for certain.
_UNREAD: Final = ("tls-log-unclear", "tls-log-undated", "tls-log-unattributed",
                  "tls-log-not-understood")  # fmt: skip

_log = logging.getLogger(__name__)


class KnownPart(Protocol):
    """What the workers say of domains, and whether domains ask for reports (`reporter.Known`)."""

    async def decision(self, domain: str) -> Decision | None:
        """What the daemon answers for a domain."""

    async def whose(self, outcome: Outcome, decision: Decision | None) -> Whose:
        """Whether a session was one with the recipient's domain, or with a relay."""

    async def failed(self, domain: str) -> None:
        """Tell that mail under a policy of the first draft met with a failure."""

    async def known(self, batch: Sequence[Tally]) -> list[Tally]:
        """The batch, with what the daemon knows of sessions without a policy."""

    async def record(self, domain: str) -> str | None:
        """The domain's `_smtp._tls` record."""


class WriterPart(Protocol):
    """Who writes counts (`reporter.Writer`)."""

    log_hosts: set[str]
    unread: int

    async def mark(self, reader: str) -> str:
        """How far a reader has come."""

    async def add(self, batch: Sequence[Tally], marks: Mapping[str, str]) -> None:
        """Write."""


class Logs:
    """Follows the logs, matches what they tell, and has it written."""

    def __init__(
        self, config: Config, sources: Sequence[LogSource], known: KnownPart, looking: Looking,
        writer: WriterPart, counts: Counter[str],
    ) -> None:  # fmt: skip
        self._known = known
        self._looking = looking
        self._writer = writer
        self._counts = counts
        self._sources = sources
        self._own = [config.tls_reports.contact] if config.tls_reports.contact else []
        # libtlsrpt tells of the same sessions, with more detail.
        self._has_datagrams = bool(config.tls_reports.socket)
        self._drafts = "draft00" in config.policy.dialects
        self._aggregate = Aggregate()
        self._outcomes: list[Outcome] = []
        #: of Postfix, where libtlsrpt may tell of them too
        self._perhaps_known: list[Outcome] = []
        self._host = socket.gethostname().lower()
        self._readers: dict[str, FollowedFile | FollowedJournal] = {}
        self._logs: dict[str, PostfixLog | EximLog] = {}
        self._clocks: list[Clock] = []
        self._forms: dict[str, LogLines] = {}
        #: whether what is read now was written just now
        self._fresh = False
        #: lines that could not be read, as they were counted last
        self._unread = 0
        #: of Postfixes whose log tells of no session
        self._warned: set[str] = set()

    async def run(self, ended: asyncio.Event) -> None:
        """For as long as we live; after `ended` what is in the logs by then."""
        children = [task for source in self._sources if (task := await self._open(source))]
        more, looked = True, 0.0
        try:
            while True:
                last = ended.is_set()
                # What is read now was written since we looked last, if we have read all by then.
                self._fresh = not more and time.monotonic() - looked < FRESH_SECONDS
                more, looked = False, time.monotonic()
                for clock in self._clocks:
                    clock.now = time.time()
                for reader in self._readers.values():
                    more = reader.read() or more
                self._settle(last=last and not more)
                self._look_at_forms()
                await self._write()
                if last and not more:
                    return
                if not more:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(ended.wait(), POLL_SECONDS)
        finally:
            for child in children:
                child.cancel()
            await asyncio.gather(*children, return_exceptions=True)
            for reader in self._readers.values():
                reader.close()

    async def _open(self, source: LogSource) -> asyncio.Task[None] | None:
        name = f"log:{self._host}:{source}"
        clock = Clock(time.time())
        self._clocks.append(clock)
        log: PostfixLog | EximLog
        if source.kind == "postfix":
            log = PostfixLog(self._of_postfix, clock, self._own)
        else:
            log = EximLog(self._outcomes.append, clock, self._own)
        position = await self._writer.mark(name)
        self._logs[name] = log
        if source.path == "journal":
            journal = FollowedJournal(position, log.line)
            self._readers[name] = journal
            return asyncio.create_task(journal.run())
        form = self._forms[name] = LogLines()

        def zone_of(line: bytes, written: float) -> None:
            if clock.notice(line, written):
                _log.info("%s: times without a zone are of %s", source.path, clock.zone)

        def take(line: bytes) -> None:
            for made in form.lines([line]):
                if self._fresh:
                    zone_of(made, clock.now)
                log.line(made)

        if last := written_last(Path(source.path)):
            for made in LogLines().lines([last[0]]):
                zone_of(made, last[1])
        self._readers[name] = FollowedFile(Path(source.path), position, take)
        return None

    def _settle(self, *, last: bool) -> None:
        """What a log without a session may mean is known after a while, or at the end."""
        for log in self._logs.values():
            if not isinstance(log, PostfixLog):
                continue
            if last:
                log.settle()
            log.hold_no_longer(time.time() - HOLD_SECONDS)
            for name, deliveries in log.mute.items():
                if deliveries < SILENT_DELIVERIES or name in self._warned:
                    continue
                self._warned.add(name)
                _log.warning(
                    "the log of Postfix (%s) tells of %d deliveries and of no TLS session: nothing "
                    "of it is counted. Unless no host offers TLS, set smtp_tls_loglevel = 1 in "
                    "main.cf", name, deliveries,
                    extra={"fields": {"event": "log-without-sessions", "instance": name}},
                )  # fmt: skip

    def _look_at_forms(self) -> None:
        """Law 7: a log that cannot be understood is said to be so, once."""
        for name, form in self._forms.items():
            if form.seen >= UNKNOWN_LINES and form.few and name not in self._warned:
                self._warned.add(name)
                _log.warning(
                    "%s: of %d lines %d were understood, and %r was not; what can be followed is "
                    "in docs/tls-reports.md", name.partition(":")[2].partition(":")[2], form.seen,
                    form.understood, form.example,
                    extra={"fields": {"event": "log-not-understood", "log": name}},
                )  # fmt: skip

    def _of_postfix(self, outcome: Outcome) -> None:
        if not self._has_datagrams:
            self._outcomes.append(outcome)
        elif self._drafts:
            self._perhaps_known.append(outcome)
        else:
            self._counts["tls-log-known"] += 1

    async def _write(self) -> None:
        # Each domain is asked for once, however many lines it has.
        domains = {outcome.domain for outcome in (*self._outcomes, *self._perhaps_known)}
        await asyncio.gather(*map(self._known.record, domains))
        taken = [self._matched(outcome) for outcome in self._outcomes]
        taken += [self._matched(outcome, told=True) for outcome in self._perhaps_known]
        self._outcomes.clear()
        self._perhaps_known.clear()
        for outcome in await asyncio.gather(*taken):
            if outcome is not None:
                self._aggregate.take(outcome)
        batch: list[Tally] = []
        while more := self._aggregate.drain():
            batch += more
        batch = await self._known.known(batch)
        marks = {n: r.position for n, r in self._readers.items() if r.position}
        for log in self._logs.values():
            self._writer.log_hosts |= log.hosts
        self._count()
        if batch or marks != self._marked:
            await self._writer.add(batch, marks)
            self._marked = marks
            self._looking.take(batch)

    _marked: Mapping[str, str] = {}

    async def _matched(self, outcome: Outcome, *, told: bool = False) -> Outcome | None:
        """The outcome as it counts; `told` where libtlsrpt tells of it if the domain has a record
        that asks for reports."""
        record = await self._known.record(outcome.domain)
        if told and record is not None:
            self._counts["tls-log-known"] += 1
            return None
        decision: Decision | None = None
        if record is not None or self._drafts:
            decision = await self._known.decision(outcome.domain)
        # A policy of the first draft asks for its reports itself.
        if record is None and (decision is None or decision.draft is None):
            self._counts["tls-no-record"] += 1
            return None
        whose = await self._known.whose(outcome, decision)
        if whose != "theirs":  # RFC 8460 section 1.1: a relay's, and no word of it to others
            self._counts[f"tls-log-{'relayed' if whose == 'relayed' else 'mx-unknown'}"] += 1
            return None
        self._counts["tls-outcomes-log"] += 1
        found = judged(outcome, decision)
        if decision is not None and decision.draft is not None and found.failed:
            await self._known.failed(outcome.domain)
        return found if not record else _with_record(found, record)

    def _count(self) -> None:
        logs, readers = self._logs.values(), self._readers.values()
        for name in ("unclear", "undated", "plain", "silent", "reused", "own", "unfinished",
                     "unattributed", "lost_datagrams"):  # fmt: skip
            total = sum(getattr(log, name, 0) for log in logs)
            self._counts[f"tls-log-{name.replace('_', '-')}"] = total
        forms = self._forms.values()
        self._counts["tls-log-not-understood"] = sum(f.seen - f.understood for f in forms)
        unread = sum(self._counts[name] for name in _UNREAD)
        self._writer.unread += unread - self._unread
        self._unread = unread
        self._counts["tls-log-gaps"] = sum(reader.gaps for reader in readers)
        self._counts["tls-log-foreign"] = sum(getattr(reader, "foreign", 0) for reader in readers)
        self._counts["tls-log-too-long"] = sum(reader.too_long for reader in readers)
        self._counts["tls-refused-log"] = self._aggregate.refused
        self._counts["tls-folded-log"] = self._aggregate.folded
        self._aggregate.forget_before(int(time.time() // DAY) - 1)


def _with_record(outcome: Outcome, record: str) -> Outcome:
    return msgspec.structs.replace(outcome, record=record)
