"""What is to be sent of a day to a domain, and where: the last look before a report is made.

Promises: the `_smtp._tls` record is looked up now, when the report is about to go: who took it away
gets none, who moved it gets it where they are. Where the DNS does not answer, the record that the
MTA saw when it delivered stands in, if it told us. Nothing is written here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

import msgspec

from smtp_sts.net.dns import Dns
from smtp_sts.net.failure import NetFailure
from smtp_sts.reporting.compile import compile_reports
from smtp_sts.reporting.destinations import plan
from smtp_sts.reporting.settings import Settings
from smtp_sts.store.outbox import Part, Planned
from smtp_sts.tlsrpt import PolicyResult, Record, RecordError, ReportError, find_record, pack
from smtp_sts.tlsrpt.record import record_name

#: `send`: parts and destinations are there; `nobody`: the domain wants none, or gets none;
#: `later`: the DNS could not tell; `unfit`: no valid report can be made of what was counted
Verdict = Literal["send", "nobody", "later", "unfit"]


class Proposal(msgspec.Struct, frozen=True):
    """A report as it would go; `why` says why not, or what was left out."""

    verdict: Verdict
    why: str = ""
    parts: Sequence[Part] = ()
    destinations: Sequence[Planned] = ()


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
    try:
        record, note = await _record(domain, dns, seen)
    except NetFailure as failure:
        return Proposal("later", f"{record_name(domain)}: {failure.sentence}")
    except RecordError as error:
        return Proposal("nobody", f"{record_name(domain)}: {error}")
    if record is None:
        return Proposal("nobody", f"{record_name(domain)}: no record asks for reports")

    def compiled() -> list[Part]:
        reports = compile_reports(day, domain, results, settings.sender)
        return [Part(report.report_id, pack(report.render())) for report in reports]

    try:
        parts = await asyncio.to_thread(compiled)
    except ReportError as error:
        return Proposal("unfit", str(error))
    if not parts:
        return Proposal("nobody", "no session was counted")
    destinations = plan(record, settings.suppressed, allow_private=settings.allow_private)
    notes = [*([note] if note else []), *record.skipped]
    return Proposal("send", "; ".join(notes), parts, destinations)


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
