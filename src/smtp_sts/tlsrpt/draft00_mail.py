"""XML reports as mail, within the size that the policy's `rua` takes. No I/O.

draft-margolis-smtp-sts-00 sections 3.1 and 4. The draft says where reports go and how large they
may be, and not what the mail looks like: it is that of RFC 8460 section 5.3, with the file of the
reports of DMARC (RFC 7489 section 7.2.1.1), from which the draft took `rua` and its sizes.
Promises: `compose_draft` gives mails ready to be signed, each no larger than the limit as a whole,
whatever part of it the domain meant; what does not fit is told. Must not: send.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Final

import msgspec

from smtp_sts.tlsrpt.draft00_report import DraftReport
from smtp_sts.tlsrpt.envelope import mail
from smtp_sts.tlsrpt.errors import EnvelopeError, shown
from smtp_sts.tlsrpt.names import mail_address
from smtp_sts.tlsrpt.packing import pack

MEDIA_TYPE: Final = "application/gzip"
#: Mails that one report is cut into, at most.
MAX_MAILS: Final = 100
#: By which another report-id can make the same report longer once it is compressed, bytes.
_SLACK: Final = 64
_UNIQUE: Final = re.compile(r"[A-Za-z0-9]{1,48}", re.ASCII)


def draft_file_name(report: DraftReport, unique: str) -> str:
    """The name of the report's file; `unique` is letters and digits."""
    begin, end = int(report.start.timestamp()), int(report.end.timestamp())
    return f"{report.submitter}!{report.domain}!{begin}!{end}!{unique}.xml.gz"


def compose_draft(
    report: DraftReport, recipient: str, limit: int | None, unique: str, now: datetime
) -> list[bytes]:
    """The mails that bring a report to one address of the policy's `rua`, unsigned.

    `limit` is in bytes, that of the address or None; a report that is too large is cut into
    several, each with a report-id of its own. `unique` (letters and digits) tells apart what one
    sender reports at one time; `now` has a zone. Raises ReportError, and EnvelopeError,
    `report-too-large` where a single failure is over the limit.
    """
    if not recipient or mail_address(recipient) != recipient:
        raise EnvelopeError("recipient", f"{shown(recipient)} is no mail address")
    if not _UNIQUE.fullmatch(unique):
        raise EnvelopeError("unique-id", f"{shown(unique)} is not letters and digits")
    whole = _mail(report, recipient, unique, now)
    if limit is None or len(whole) <= limit:
        return [whole]
    left, _, right = report.report_id.partition("@")
    mails: list[bytes] = []
    for part in _parts(report, recipient, limit, now):
        if len(mails) == MAX_MAILS:
            raise EnvelopeError(
                "report-too-large", f"more than {MAX_MAILS} mails of {limit} bytes would be needed"
            )
        number = len(mails) + 1
        own = msgspec.structs.replace(part, report_id=f"{left}.{number}@{right}")
        mails.append(_mail(own, recipient, f"{unique}x{number}", now))
    return mails


def _parts(report: DraftReport, recipient: str, limit: int, now: datetime) -> Iterator[DraftReport]:
    """The report in parts whose mails fit, the longest names they can get included."""
    left, _, right = report.report_id.partition("@")
    longest = msgspec.structs.replace(report, report_id=f"{left}.{MAX_MAILS}@{right}")
    if len(_mail(longest, recipient, "x" * 52, now)) + _SLACK <= limit:
        yield report
        return
    half = len(report.failures) // 2
    if not half:
        raise EnvelopeError(
            "report-too-large", f"one failure alone makes a mail of more than {limit} bytes"
        )
    for failures in (report.failures[:half], report.failures[half:]):
        part = msgspec.structs.replace(report, failures=failures)
        yield from _parts(part, recipient, limit, now)


def _mail(report: DraftReport, recipient: str, unique: str, now: datetime) -> bytes:
    packed = pack(report.render())  # checks email, and so the submitter, the domain and the id
    return mail(
        sender=report.contact,
        recipient=recipient,
        subject_line=f"Report Domain: {report.domain} Submitter: {report.submitter} "
        f"Report-ID: <{report.report_id}>",
        message_id=f"{unique}.{report.report_id}",
        headers=(),
        content_type="multipart/mixed",
        for_people=_for_people(report),
        media_type=MEDIA_TYPE,
        name=draft_file_name(report, unique),
        attachment=packed,
        now=now,
    )


def _for_people(report: DraftReport) -> list[str]:
    return [
        f"This is an aggregate report from {report.submitter}",
        f"on failures to send mail to {report.domain} over TLS, as asked for by",
        f"the policy at _smtp_sts.{report.domain} (draft-margolis-smtp-sts-00).",
        "",
        f"From:     {report.start.isoformat()}",
        f"To:       {report.end.isoformat()}",
        f"Failures: {report.failed}, {'refused' if report.enforced else 'delivered all the same'}",
    ]
