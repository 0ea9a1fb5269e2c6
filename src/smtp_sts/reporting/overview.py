"""What was collected, what waits and what became of it, for whoever looks.

Promises: bounded, whatever the number of domains: of lists there are the first, and how long they
are. Must not: change anything, or be called on an event loop (it blocks).
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec

from smtp_sts.reporting.aggregate import DAY
from smtp_sts.reporting.compile import Sender, compile_reports
from smtp_sts.reporting.day import results_of
from smtp_sts.reporting.draft00 import compile_draft_reports
from smtp_sts.store.outbox import DeliveryState, DeliveryStatus, Outbox, ReportStatus
from smtp_sts.store.tallies import Tallies, Total
from smtp_sts.tlsrpt import PolicyResult, unpack

#: Days before today whose reports are looked at.
DAYS: Final = 7
#: Domains with the most failures that are named.
MAX_WORST: Final = 20
#: Domains in testing mode whose sessions of a day are held against our looks; those beyond count as
#: the mail server has it.
MAX_TESTING: Final = 500
#: Of a list, entries that are kept.
MAX_ENTRIES: Final = 1000

#: What became of a day's report to a domain.
Fate = Literal["waiting", "under way", "delivered", "given up", "not asked for", "skipped"]


class Worst(msgspec.Struct, frozen=True):
    """A domain that sessions failed with, and how: result type -> sessions."""

    domain: str
    successful: int
    failed: int
    results: dict[str, int]


class Collected(msgspec.Struct, frozen=True):
    """What was counted of one UTC day; `sources` names who counted, and how many sessions; `unread`
    on which host how many lines of logs could not be read, or not for certain."""

    day: str
    domains: int
    successful: int
    failed: int
    sources: dict[str, int]
    worst: list[Worst]
    unread: dict[str, int] = {}


class Day(msgspec.Struct, frozen=True):
    """A day: what is kept of it, and what became of its reports."""

    day: str
    domains: int
    successful: int
    failed: int
    reports: dict[Fate, int]


class Waiting(msgspec.Struct, frozen=True):
    """What is to be done: a report to be made (`to` is ""), or a delivery that is tried again.
    `at` is when, seconds since the epoch; `why` what the last try came to."""

    day: str
    domain: str
    to: str
    at: float
    tries: int
    why: str
    sending: bool = False


class Done(msgspec.Struct, frozen=True):
    """What came of a delivery, or of a report that went nowhere (`to` is "")."""

    day: str
    domain: str
    to: str
    state: DeliveryState
    at: float | None
    tries: int
    answer: str


class Overview(msgspec.Struct, frozen=True):
    """Everything that `smtp-sts report status` tells. Lists are cut; `counts` says how long they
    are."""

    at: float
    store: str
    today: Collected
    days: list[Day]
    waiting: list[Waiting]
    delivered: list[Done]
    failed: list[Done]
    counts: dict[str, int]


def overview(
    tallies: Tallies,
    outbox: Outbox,
    now: float,
    domain: str = "",
    *,
    check_testing: bool = True,
) -> Overview:
    """What there is, of all domains or one, as reports would have it: with `check_testing` sessions
    in testing mode are held against our own looks (`day.results_of`). Raises StoreError."""
    counts = _Counts(tallies, check_testing=check_testing)
    today = int(now // DAY)
    reports = [r for r in outbox.reports(today - DAYS) if domain in ("", r.domain)]
    deliveries = [d for d in outbox.deliveries(today - DAYS, now=now) if domain in ("", d.domain)]
    waiting = sorted(_waiting(reports, deliveries), key=lambda entry: (entry.at, entry.domain))
    done = sorted(_done(reports, deliveries), key=lambda entry: (-(entry.at or 0.0), entry.domain))
    delivered = [entry for entry in done if entry.state == "delivered"]
    failed = [entry for entry in done if entry.state in ("given-up", "skipped")]
    return Overview(
        at=now,
        store=tallies.place,
        today=_collected(counts, today, domain),
        days=_days(counts, reports, deliveries, domain),
        waiting=waiting[:MAX_ENTRIES],
        delivered=delivered[:MAX_ENTRIES],
        failed=failed[:MAX_ENTRIES],
        counts={"waiting": len(waiting), "delivered": len(delivered), "failed": len(failed)},
    )


class Preview(msgspec.Struct, frozen=True):
    """A report as it goes out: its parts, and a sentence on what became of it. A part is JSON, or
    the XML that a policy of the first draft asks for. `note` says what was left out, if anything.
    """

    told: str
    parts: list[bytes]
    note: str = ""


def preview_of(
    tallies: Tallies, outbox: Outbox, day: int, domain: str, sender: Sender, *, check_testing: bool
) -> Preview:
    """The report of a day to a domain: as it was made, else as it would be of what is counted so
    far. Raises StoreError."""
    reports = [r for r in outbox.reports(day, day) if r.domain == domain]
    made = outbox.parts(day, domain)
    if made:
        states = {d.state for d in outbox.deliveries(day, day) if d.domain == domain}
        fate = _fate(reports[0], states)
        return Preview(f"the report that was made: {fate}", [unpack(p.body) for p in made])
    told = "not made yet; of what is counted so far"
    if reports and reports[0].state == "waiting":
        told = f"is made on {_moment(reports[0].next_try)} UTC; of what is counted so far"
    elif reports:
        told = f"{_fate(reports[0], set())}: {reports[0].why}"
    checked = results_of(tallies, day, domain, check_testing=check_testing)
    results = checked.results
    sender = msgspec.structs.replace(sender, instance=tallies.instance())
    if checked.note:
        told += f"; {checked.note}"
    drafts = compile_draft_reports(day, domain, results, sender)
    return Preview(
        told,
        [r.render() for r in compile_reports(day, domain, results, sender)]
        + [part.render() for mailing in drafts for part in mailing.parts],
        checked.note,
    )


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"


def date_of(day: int) -> str:
    """A day since the epoch as `YYYY-MM-DD`."""
    return f"{datetime.fromtimestamp(day * DAY, UTC):%Y-%m-%d}"


class _Counts:
    """The counts of days as reports would have them."""

    def __init__(self, tallies: Tallies, *, check_testing: bool) -> None:
        self.tallies = tallies
        self._check_testing = check_testing
        self._totals: dict[int, Total] | None = None

    def results(self, day: int, domain: str) -> list[PolicyResult]:
        """Of one domain."""
        return results_of(self.tallies, day, domain, check_testing=self._check_testing).results

    def of(self, day: int, domain: str) -> tuple[int, int]:
        """Sessions of one domain: good and failed."""
        results = self.results(day, domain)
        return sum(r.successful for r in results), sum(r.failed for r in results)

    def totals(self) -> dict[int, Total]:
        """Of all domains, by day."""
        if self._totals is None:
            found = self.tallies.totals()
            self._totals = {day: self._held(day, total) for day, total in found.items()}
        return self._totals

    def worst(self, day: int) -> dict[str, Total]:
        """The domains that most sessions failed with."""
        names = dict.fromkeys(self.tallies.worst(day, MAX_WORST))
        if self._check_testing:
            names.update(dict.fromkeys(self.tallies.testing(day, MAX_TESTING)))
        sums = {name: Total(1, *self.of(day, name)) for name in names}
        order = sorted((name for name in sums if sums[name].failed),
                       key=lambda name: (-sums[name].failed, name))  # fmt: skip
        return {name: sums[name] for name in order[:MAX_WORST]}

    def _held(self, day: int, total: Total) -> Total:
        """The total, with sessions in testing mode as reports have them."""
        good, bad = total.successful, total.failed
        for name in self.tallies.testing(day, MAX_TESTING) if self._check_testing else ():
            raw = self.tallies.results(day, name)
            held = self.of(day, name)
            good += held[0] - sum(r.successful for r in raw)
            bad += held[1] - sum(r.failed for r in raw)
        return Total(total.domains, max(good, 0), max(bad, 0))


def _collected(counts: _Counts, day: int, domain: str) -> Collected:
    if domain:
        good, bad = counts.of(day, domain)
        return Collected(
            date_of(day), int(good + bad > 0), good, bad, {},
            [Worst(domain, good, bad, _results(counts, day, domain))] if bad else [],
        )  # fmt: skip
    total = counts.totals().get(day) or Total(0, 0, 0)
    worst = [
        Worst(name, found.successful, found.failed, _results(counts, day, name))
        for name, found in counts.worst(day).items()
    ]
    sources, unread = {}, {}
    for source, number in sorted(counts.tallies.sources(day).items(), key=lambda item: -item[1]):
        kind, _, host = source.partition(":")
        if kind == "unread":
            unread[host] = number
        elif kind != "log":  # which daemon follows whose log: `store.tallies`
            sources[source] = number
    return Collected(
        date_of(day), total.domains, total.successful, total.failed, sources, worst, unread
    )


def _results(counts: _Counts, day: int, domain: str) -> dict[str, int]:
    found: Counter[str] = Counter()
    for result in counts.results(day, domain):
        for failure in result.failures:
            found[failure.result_type] += failure.failed_session_count
    return dict(found.most_common())


def _days(
    counts: _Counts, reports: list[ReportStatus], deliveries: list[DeliveryStatus], domain: str
) -> list[Day]:
    fates: dict[int, Counter[Fate]] = {}
    states: dict[tuple[int, str], set[DeliveryState]] = {}
    for delivery in deliveries:
        states.setdefault((delivery.day, delivery.domain), set()).add(delivery.state)
    for report in reports:
        known = states.get((report.day, report.domain), set())
        fates.setdefault(report.day, Counter())[_fate(report, known)] += 1
    days = []
    totals = counts.totals()
    for day in sorted({*totals, *fates}):
        if domain:
            good, bad = counts.of(day, domain)
            kept = (int(good + bad > 0), good, bad)
        else:
            total = totals.get(day)
            kept = (total.domains, total.successful, total.failed) if total else (0, 0, 0)
        if any(kept) or day in fates:
            days.append(Day(date_of(day), *kept, dict(fates.get(day, {}))))
    return days


def _fate(report: ReportStatus, states: set[DeliveryState]) -> Fate:
    if report.state == "waiting":
        return "waiting"
    if report.state == "unwanted":
        return "not asked for"
    if report.state == "given-up":
        return "given up"
    # Of several destinations, one that has it is enough (RFC 8460 section 3)
    if "delivered" in states:
        return "delivered"
    if "due" in states:
        return "under way"
    return "given up" if "given-up" in states else "skipped"


def _waiting(reports: list[ReportStatus], deliveries: list[DeliveryStatus]) -> list[Waiting]:
    found = [
        Waiting(date_of(r.day), r.domain, "", r.next_try, 0, r.why)
        for r in reports
        if r.state == "waiting"
    ]
    found += [
        Waiting(date_of(d.day), d.domain, d.uri, d.next_try, d.tries, d.answer, d.sending)
        for d in deliveries
        if d.state == "due"
    ]
    return found


def _done(reports: list[ReportStatus], deliveries: list[DeliveryStatus]) -> list[Done]:
    found = [
        Done(date_of(d.day), d.domain, d.uri, d.state, d.settled_at, d.tries, d.answer)
        for d in deliveries
        if d.state != "due"
    ]
    found += [
        Done(date_of(r.day), r.domain, "", "given-up", r.settled_at, 0, r.why)
        for r in reports
        if r.state == "given-up"
    ]
    return found
