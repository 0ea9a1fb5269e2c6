"""The process that makes reports of what was counted: writes counts, follows logs, delivers.

Promises: a count is written once, whichever process dies (`reporting.handover`; a log's position is
written with what was counted up to it); while the store refuses, nothing is read on, so that what
waits stays where it is safe: in the log, in the collector. Trouble here never reaches the workers.
SIGTERM writes what can be written and ends within a few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import msgspec

from smtp_sts.config import Config, log_sources
from smtp_sts.daemon.board import Board
from smtp_sts.daemon.following import Logs
from smtp_sts.daemon.looking import Looking
from smtp_sts.daemon.peers import Owners
from smtp_sts.mta.tally import Tally as Counts
from smtp_sts.net.dns import Dns
from smtp_sts.net.failure import NetFailure
from smtp_sts.reporting.aggregate import DAY
from smtp_sts.reporting.belonging import Whose
from smtp_sts.reporting.deliver import keep_delivering
from smtp_sts.reporting.handover import LENGTH, Ask, Portion, framed, portions
from smtp_sts.reporting.mx_names import MxOf
from smtp_sts.reporting.outcome import Outcome
from smtp_sts.reporting.own_knowledge import as_known, may_be_known
from smtp_sts.resolver.decision import Decision
from smtp_sts.resolver.reach import reach_of
from smtp_sts.store import StoreError
from smtp_sts.store.checks import Check
from smtp_sts.store.outbox import open_outbox
from smtp_sts.store.past import past
from smtp_sts.store.tallies import (
    Tallies,
    Tally,
    daemon_source,
    log_source,
    open_tallies,
    unread_source,
)
from smtp_sts.tlsrpt import RecordError, find_record, record_name
from smtp_sts.tlsrpt.draft00_conversion import is_draft_policy

#: How often what was counted is written, and a log is looked at (seconds).
POLL_SECONDS: Final = 1.0
#: After the store has refused, seconds.
AGAIN_SECONDS: Final = 5.0
#: Policies that one transaction writes, at most.
BATCH: Final = 4000
#: What a worker said of a domain is used so long, and the absence or text of a record (seconds).
DECISION_SECONDS: Final = 30.0
RECORD_SECONDS: Final = 3600.0
#: That the DNS does not say: who has silent name servers does not hold up the log again and again.
SILENT_SECONDS: Final = 60.0
#: Domains that this is remembered of, and bytes of what is remembered, of either.
REMEMBERED: Final = 50_000
REMEMBERED_BYTES: Final = 32 * 1024 * 1024
#: Records looked up at once: each takes a descriptor.
LOOKUPS: Final = 100
#: A worker is waited for no longer, and asked again so often for an outcome (seconds).
ASK_SECONDS: Final = 6.0
ASKED_AGAIN: Final = 3
ASKED_AT_ONCE: Final = 64
#: What the workers know beside is waited for so long: at the end there are `DRAIN_SECONDS` in all.
KNOW_SECONDS: Final = 1.0
#: Malformed datagrams kept in a day's file, at most.
KEPT_A_DAY: Final = 1000
#: Such files are kept for so many days; there are no more than so many, whatever the clock says.
KEPT_DAYS: Final = 35
MAX_FILES: Final = 200
#: At the end, from SIGTERM on (seconds).
DRAIN_SECONDS: Final = 2.5

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Writer:
    """The counts in the store, from one thread; opened anew where that has failed."""

    def __init__(self, url: str, counts: Counter[str]) -> None:
        self._url = url
        self._counts = counts
        self._host = socket.gethostname()
        self._source = daemon_source(self._host)
        #: hosts by the names that the lines of followed logs have
        self.log_hosts: set[str] = set()
        #: lines of followed logs that could not be read, since this was written last
        self.unread = 0
        self._tallies: Tallies | None = None
        self._thread = ThreadPoolExecutor(1, "tallies")
        self._trouble = ""

    async def mark(self, reader: str) -> str:
        """How far a reader has come; waits for a store that refuses."""
        return await self._until_done(lambda tallies: tallies.mark(reader))

    async def past(self) -> float:
        """The latest time of day that is certainly past; waits for a store that refuses."""
        watch = await self._until_done(lambda tallies: tallies.glance_at_clock())
        return past(watch)

    async def add(self, batch: Sequence[Tally], marks: Mapping[str, str]) -> None:
        """Write; waits for a store that refuses."""
        today = int(time.time() // DAY)
        beside = {
            (day, log_source(self._host, name)): 0
            for day in {tally.day for tally in batch}
            for name in self.log_hosts
        }
        unread, self.unread = self.unread, 0
        if unread:
            beside[today, unread_source(self._host)] = unread
        await self._until_done(lambda tallies: tallies.add(batch, self._source, marks, beside))
        if late := [tally for tally in batch if tally.day < today]:
            await self._until_done(lambda _: self._count_late(late))

    def _count_late(self, late: Sequence[Tally]) -> None:
        """Law 7: what came when the day's report was made already is kept, but not sent, and said
        so. It happens where the store refused for hours, or the clock was set back a day."""
        outbox = open_outbox(self._url)
        try:
            made = {day: outbox.made(day) for day in {tally.day for tally in late}}
        finally:
            outbox.close()
        missed = [tally.result for tally in late if tally.domain in made[tally.day]]
        if sessions := sum(result.successful + result.failed for result in missed):
            self._counts["tls-after-report"] += sessions
            _log.warning(
                "%d sessions were counted after the reports of their days were made: they are kept "
                "(smtp-sts report status), and in no report", sessions,
                extra={"fields": {"event": "tls-after-report", "sessions": sessions}},
            )  # fmt: skip

    async def keep(self, day: int, domain: str, checks: Sequence[Check]) -> None:
        """Write our own looks; waits for a store that refuses."""
        await self._until_done(lambda tallies: tallies.checks.add(day, domain, checks))

    async def _until_done(self, work: Callable[[Tallies], _T]) -> _T:
        while True:
            try:
                found = await asyncio.get_running_loop().run_in_executor(
                    self._thread, self._do, work
                )
            except StoreError as error:
                self._counts["tls-store-errors"] += 1
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    _log.error("TLS results cannot be written, and wait: %s", error)
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                if self._trouble:
                    self._trouble = ""
                    _log.info("TLS results are written again")
                return found

    def _do(self, work: Callable[[Tallies], _T]) -> _T:
        if self._tallies is None:
            self._tallies = open_tallies(self._url)
        try:
            return work(self._tallies)
        except StoreError:
            self._tallies.close()
            self._tallies = None
            raise

    def close(self) -> None:
        """Wait for what is being written, and give the store back."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._tallies is not None:
            self._tallies.close()


class Known:
    """What the workers say of domains, and whether domains ask for reports."""

    def __init__(self, owners: Owners, dns: Dns, counts: Counter[str]) -> None:
        self._owners = owners
        self._mx = MxOf(dns)
        self._dns = dns
        self._counts = counts
        self._decisions: Remembered[Decision | None] = Remembered()
        self._records: Remembered[str | None] = Remembered()
        self._lookups = asyncio.Semaphore(LOOKUPS)

    async def decision(self, domain: str) -> Decision | None:
        """What the daemon answers for a domain; None where no worker can be asked."""
        known = self._decisions.get(domain)
        if known is not None:
            return known[0]
        for again in range(ASKED_AGAIN):
            try:
                async with asyncio.timeout(ASK_SECONDS):
                    found = await self._owners.ask(domain)
            except OSError:  # TimeoutError is one
                await asyncio.sleep(again + 1)
            else:
                if found is not None:  # how it was found is not asked here
                    found = msgspec.structs.replace(found, steps=())
                self._decisions.put(domain, DECISION_SECONDS, found, _size(found))
                return found
        self._counts["tls-unmatched"] += 1
        return None

    async def whose(self, outcome: Outcome, decision: Decision | None) -> Whose:
        """Whether a session of a log was one with the recipient's domain, or with a relay."""
        return await self._mx.whose(outcome, decision)

    async def failed(self, domain: str) -> None:
        """Tell the workers that mail under a policy of the first draft met with a failure: they
        look for another policy before it is final (draft-margolis-smtp-sts-00 section 3.5)."""
        await self._owners.failed(domain)

    async def known(self, batch: Sequence[Tally]) -> list[Tally]:
        """The batch, with what the daemon knows of sessions without a policy.

        Best effort: counts do not wait long for workers that do not answer.
        """
        wanted = {tally.domain for tally in batch if may_be_known(tally)}
        found: dict[str, Decision | None] = {}
        places = asyncio.Semaphore(ASKED_AT_ONCE)

        async def ask(domain: str) -> None:
            async with places:
                found[domain] = await self.decision(domain)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KNOW_SECONDS):
                await asyncio.gather(*map(ask, wanted))
        return [as_known(tally, found.get(tally.domain)) for tally in batch]

    async def record(self, domain: str) -> str | None:
        """The domain's `_smtp._tls` record; "" where the DNS does not say, None where none is."""
        async with self._lookups:
            known = self._records.get(domain)
            if known is not None:
                return known[0]
            record, seconds = await self._look(domain)
            self._records.put(domain, seconds, record, len(record or ""))
            return record

    async def _look(self, domain: str) -> tuple[str | None, float]:
        """What `record` gives, and for how long (seconds)."""
        try:
            answer = await self._dns.txt(record_name(domain))
            texts = [text for text in answer.records if isinstance(text, bytes)]
            found = find_record(texts)
            text = next((t for t in texts if find_record([t]) is not None), b"") if found else None
        except NetFailure:
            return "", SILENT_SECONDS
        except RecordError:
            text = None
        return (None if text is None else text.decode("utf-8", "replace")), RECORD_SECONDS


def _size(decision: Decision | None) -> int:
    """Bytes of a decision that a stranger has a say in, about."""
    if decision is None or decision.policy is None:
        return 0
    draft = decision.draft.text if decision.draft is not None else ""
    return len(draft) + sum(map(sys.getsizeof, decision.policy.mx))


class Remembered(Generic[_T]):
    """What is known of domains for a while; where it is too much, the oldest goes first."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, _T, int]] = {}
        self._bytes = 0

    def get(self, domain: str) -> tuple[_T] | None:
        """What is known, as the one of a tuple, while its time lasts."""
        found = self._kept.get(domain)
        return (found[1],) if found is not None and time.monotonic() < found[0] else None

    def put(self, domain: str, seconds: float, what: _T, size: int) -> None:
        """Remember for so many seconds what takes so many bytes."""
        self._forget(domain)
        self._kept[domain] = (time.monotonic() + seconds, what, size)
        self._bytes += size
        while len(self._kept) > REMEMBERED or self._bytes > REMEMBERED_BYTES:
            self._forget(next(iter(self._kept)))

    def _forget(self, domain: str) -> None:
        gone = self._kept.pop(domain, None)
        if gone is not None:
            self._bytes -= gone[2]


class Datagrams:
    """Takes from the collector what it has counted, and has it written."""

    def __init__(
        self, address: bytes, config: Config, known: Known, looking: Looking, writer: Writer,
        counts: Counter[str],
    ) -> None:  # fmt: skip
        self._address = address
        self._known = known
        self._looking = looking
        self._drafts = "draft00" in config.policy.dialects
        self._writer = writer
        self._counts = counts
        self._reader = f"datagrams:{socket.gethostname().lower()}"
        self._kept = Path(config.tls_reports.keep_malformed or "")
        self._keeps = bool(config.tls_reports.keep_malformed)
        #: what the collector counts, the latest
        self.counted: dict[str, int] = {}
        self._past: Counter[str] = Counter()
        self._giver = ""

    def counts(self) -> Counter[str]:
        """What all collectors have counted since we were started."""
        return self._past + Counter(self.counted)

    async def run(self, ended: asyncio.Event) -> None:
        """For as long as we live; after `ended` until the collector has gone."""
        while True:
            try:
                await self._take(ended)
                return
            except (OSError, asyncio.IncompleteReadError) as error:
                _log.debug("the collector cannot be reached: %s", error)
            if ended.is_set():
                return
            await asyncio.sleep(POLL_SECONDS)

    async def _take(self, ended: asyncio.Event) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            sock.connect(self._address)
            reader, writer = await asyncio.open_unix_connection(sock=sock)
        except OSError:
            sock.close()
            raise
        try:
            giver, _, number = (await self._writer.mark(self._reader)).partition(":")
            written = after = int(number or 0)
            batch: list[Tally] = []
            while True:
                writer.write(framed(Ask(giver, written, after)))
                (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                portion = portions.decode(await reader.readexactly(size))
                if portion.giver != giver:  # another collector: its numbers begin anew
                    giver, written, after = portion.giver, 0, 0
                await self._learn(portion)
                if portion.batch:
                    for failed in self._failed(portion.batch):
                        await self._known.failed(failed)
                    batch += portion.batch
                    after = portion.number
                if batch and (len(batch) >= BATCH or not portion.more):
                    batch = await self._known.known(batch)
                    await self._writer.add(batch, {self._reader: f"{giver}:{after}"})
                    self._looking.take(batch)
                    batch, written = [], after
                elif not portion.more and ended.is_set():
                    await asyncio.sleep(0.02)  # the collector goes when it has no more
                elif not portion.more:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(ended.wait(), POLL_SECONDS)
        finally:
            writer.transport.abort()

    def _failed(self, batch: Sequence[Tally]) -> set[str]:
        """The domains whose policies of the first draft met with failures."""
        if not self._drafts:
            return set()
        return {t.domain for t in batch if t.result.failed and is_draft_policy(t.result.policy)}

    async def _learn(self, portion: Portion) -> None:
        if portion.giver != self._giver:
            self._past.update(self.counted)
            self._giver = portion.giver
        self.counted = portion.counts
        if portion.samples and self._keeps:
            self._keep(portion.samples, await self._writer.past())

    def _keep(self, samples: Iterable[Mapping[str, Any]], past: float) -> None:
        """Malformed datagrams, for inspection: a file a day, bounded, for some weeks before what is
        certainly `past`."""
        path = self._kept / f"malformed-{datetime.now(UTC):%Y-%m-%d}.jsonl"
        last = f"malformed-{datetime.fromtimestamp(past, UTC) - timedelta(KEPT_DAYS):%Y-%m-%d}"
        try:
            self._kept.mkdir(parents=True, exist_ok=True)
            there = path.read_bytes().count(b"\n") if path.exists() else 0
            if not path.exists():  # the first of its day
                files = list(self._kept.glob("malformed-????-??-??.jsonl"))
                old = [file for file in files if file.name < last]
                for file in old:
                    file.unlink()
                if len(files) - len(old) >= MAX_FILES:
                    self._counts["tls-samples-lost"] += 1
                    return
            with path.open("a") as out:
                for sample in list(samples)[: max(KEPT_A_DAY - there, 0)]:
                    out.write(json.dumps(sample) + "\n")
        except OSError as error:
            self._counts["tls-samples-lost"] += 1
            _log.warning("%s: malformed datagrams cannot be kept: %s", path, error.strerror)


async def run(
    config: Config,
    workers: Sequence[socket.socket],
    collector: bytes,
    supervisor: int,
    board: Board,
    slot: int | None,
) -> None:
    """Report until a signal comes, or the supervisor has gone.

    `workers` are the listening sockets of the workers, `collector` is the address of the
    collector's, b"" for none; `supervisor` a descriptor that reaches its end of file when the
    supervisor is gone.
    """
    loop = asyncio.get_running_loop()
    ended, asked = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    loop.add_signal_handler(signal.SIGUSR1, asked.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)

    def orphaned() -> None:
        loop.remove_reader(supervisor)
        ended.set()

    loop.add_reader(supervisor, orphaned)
    counts: Counter[str] = Counter()
    delivered: Counter[str] = Counter()
    owners = Owners(workers)
    reach = reach_of(config)
    dns = reach.dns
    writer = Writer(config.store.url, counts)
    known = Known(owners, dns, counts)
    looking = Looking(config, reach, known.decision, known.record, writer, counts)
    takers: list[asyncio.Task[None]] = []
    datagrams: Datagrams | None = None
    if collector:
        datagrams = Datagrams(collector, config, known, looking, writer, counts)
        takers.append(asyncio.create_task(datagrams.run(ended)))
    if sources := log_sources(config):
        logs = Logs(config, sources, known, looking, writer, counts)
        takers.append(asyncio.create_task(logs.run(ended)))

    def total() -> dict[str, int]:
        all_counts = counts + Counter({f"reports-{word}": n for word, n in delivered.items()})
        if datagrams is not None:
            all_counts += datagrams.counts()
        return dict(all_counts)

    beside = [asyncio.create_task(_publish(board, slot, total)),
              asyncio.create_task(_tell(config.log.counts_interval, asked, total)),
              asyncio.create_task(looking.run())]  # fmt: skip
    beside.append(asyncio.create_task(keep_delivering(config, counts=delivered)))
    watched = asyncio.create_task(ended.wait())
    await asyncio.wait([watched, *takers, *beside], return_when=asyncio.FIRST_COMPLETED)
    broke = [task for task in (*takers, *beside) if task.done() and task.exception()]
    ended.set()
    for task in beside:
        task.cancel()
    await asyncio.wait([*takers, *beside], timeout=DRAIN_SECONDS)
    for task in takers:
        task.cancel()
    await asyncio.gather(*takers, *beside, return_exceptions=True)
    owners.close()
    dns.close()
    writer.close()
    if slot is not None:
        board.write(slot, Counts(counts=total()))
    for task in broke:
        task.result()  # raises: the supervisor starts another


async def _publish(board: Board, slot: int | None, total: Callable[[], dict[str, int]]) -> None:
    while True:
        if slot is not None:
            board.write(slot, Counts(counts=total()))
        await asyncio.sleep(2.0)


async def _tell(interval: float, asked: asyncio.Event, total: Callable[[], dict[str, int]]) -> None:
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asked.wait(), interval)
        asked.clear()
        listed = ", ".join(f"{name} {number}" for name, number in sorted(total().items()))
        _log.info(
            "reports counted since the start: %s", listed or "nothing",
            extra={"fields": {"event": "report-counts", "counts": dict(sorted(total().items()))}},
        )  # fmt: skip
