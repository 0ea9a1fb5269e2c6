"""What is to be sent of a day to a domain, and where: the last look before a report is made.

Promises: the `_smtp._tls` record is looked up now, when the report is about to go: who took it away
gets none, who moved it gets it where they are. Where the DNS does not answer, the record that the
MTA saw when it delivered stands in, if it told us. What failed under a policy of the first draft
goes where that policy says, whether there is such a record or not. Nothing is written here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from smtp_sts.net.dns import Dns
from smtp_sts.net.failure import NetFailure
from smtp_sts.reporting.compile import compile_reports
from smtp_sts.reporting.destinations import plan
from smtp_sts.reporting.draft00 import compile_draft_reports
from smtp_sts.reporting.settings import Settings
from smtp_sts.store.outbox import Part, Planned
from smtp_sts.tlsrpt import (
    DraftReport,
    PolicyResult,
    Record,
    RecordError,
    Report,
    ReportError,
    find_record,
    pack,
)
from smtp_sts.tlsrpt.record import record_name

#: `send`: parts and destinations are there; `nobody`: the domain wants none, or gets none;
#: `later`: the DNS could not tell; `unfit`: no valid report can be made of what was counted
Verdict = Literal["send", "nobody", "later", "unfit"]


class Proposal(msgspec.Struct, frozen=True):
    """A report as it would go; `why` says why not, or what was left out.

    `left_out` counts sessions in testing mode of which it is not known how they went.
    """

    verdict: Verdict
    why: str = ""
    parts: Sequence[Part] = ()
    destinations: Sequence[Planned] = ()
    left_out: int = 0


async def propose(
    day: int,
    domain: str,
    settings: Settings,
    dns: Dns,
    seen: str,
    results: Sequence[PolicyResult],
) -> Proposal:
    """What to send of a UTC day (days since the epoch) to a domain.

    `seen` is the record's text as an MTA saw it, "" where none told.
    """
    if entry := settings.suppressed.by_name(domain):
        return Proposal("nobody", f"suppressed by {entry}")
    record, why = None, f"{record_name(domain)}: no record asks for reports"
    try:
        record, note = await _record(domain, dns, seen)
        why = why if record is None else note
    except NetFailure as failure:
        return Proposal("later", f"{record_name(domain)}: {failure.sentence}")
    except RecordError as error:
        why = f"{record_name(domain)}: {error}"
    try:
        proposal = await asyncio.to_thread(_compiled, day, domain, settings, record, results)
    except ReportError as error:
        return Proposal("unfit", str(error))
    notes = "; ".join(filter(None, (why, proposal.why)))
    return msgspec.structs.replace(proposal, why=notes)


def _compiled(
    day: int,
    domain: str,
    settings: Settings,
    record: Record | None,
    results: Sequence[PolicyResult],
) -> Proposal:
    """What the record asks for, if there is one, and what policies of the first draft do."""
    parts: list[Part] = []
    destinations: list[Planned] = []
    notes: list[str] = []

    def add(some: Iterable[Report | DraftReport], rua: Record) -> None:
        first = len(parts) + 1
        parts.extend(Part(report.report_id, pack(report.render())) for report in some)
        numbers = tuple(range(first, len(parts) + 1))
        planned = plan(rua, settings.suppressed, allow_private=settings.allow_private)
        if numbers:
            destinations.extend(msgspec.structs.replace(to, parts=numbers) for to in planned)
        notes.extend(rua.skipped)

    if record is not None:
        add(compile_reports(day, domain, results, settings.sender), record)
        if not parts:
            notes.append("no session was counted")
    for mailing in compile_draft_reports(day, domain, results, settings.sender):
        if mailing.destinations:
            add(mailing.parts, Record(mailing.destinations))
        notes.extend(mailing.left_out)
    return Proposal("send" if parts else "nobody", "; ".join(notes), parts, destinations)


async def _record(domain: str, dns: Dns, seen: str) -> tuple[Record | None, str]:
    """The record, and a note where it is not the DNS's. Raises NetFailure and RecordError."""
    try:
        answer = await dns.txt(record_name(domain))
    except NetFailure as failure:
        try:
            record = find_record([seen.encode()])
        except RecordError:
            record = None
        if record is None:
            raise
        return record, f"the record as the MTA saw it: {failure.sentence}"
    return find_record(r for r in answer.records if isinstance(r, bytes)), ""
