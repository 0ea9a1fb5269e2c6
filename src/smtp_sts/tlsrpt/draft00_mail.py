"""XML reports as mail, within the size that the policy's `rua` takes. No I/O.

draft-margolis-smtp-sts-00 sections 3.1 and 4. The draft says where reports go and how large they
may be, and not what the mail looks like: it is that of RFC 8460 section 5.3, with the file of the
reports of DMARC (RFC 7489 section 7.2.1.1), from which the draft took `rua` and its sizes.
Promises: of a report that `split_draft` cut, every mail that `compose_draft` makes of a part is no
larger than the limit as a whole, signature included, whatever part of it the domain meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import msgspec

from smtp_sts.tlsrpt.draft00_report import DraftReport
from smtp_sts.tlsrpt.envelope import mail
from smtp_sts.tlsrpt.errors import EnvelopeError, shown
from smtp_sts.tlsrpt.names import mail_address
from smtp_sts.tlsrpt.packing import pack

MEDIA_TYPE: Final = "application/gzip"
#: Parts that one report is cut into, at most.
MAX_PARTS: Final = 100
#: Kept free for a DKIM signature (RSA of 4096 bits and a long domain), and for what another
#: report-id adds to the same report once it is compressed, bytes.
SIGNATURE: Final = 2048
#: The longest letters and digits that tell deliveries apart.
_MAX_UNIQUE: Final = 64
_UNIQUE: Final = re.compile(rf"[A-Za-z0-9]{{1,{_MAX_UNIQUE}}}", re.ASCII)
#: A mail address has 254 characters at most (RFC 5321 section 4.5.3.1.3).
_LONGEST: Final = f"{'x' * 64}@{'x' * 57}.{'x' * 63}.{'x' * 63}.test"
_SOME_DAY: Final = datetime(2016, 3, 30, 12, tzinfo=UTC)


def draft_file_name(report: DraftReport, unique: str) -> str:
    """The name of the report's file; `unique` is letters and digits."""
    begin, end = int(report.start.timestamp()), int(report.end.timestamp())
    return f"{report.submitter}!{report.domain}!{begin}!{end}!{unique}.xml.gz"


def split_draft(report: DraftReport, limit: int | None) -> list[DraftReport]:
    """The report in parts whose mails have at most `limit` bytes; itself alone where it fits.

    Each part has a report-id of its own. Raises ReportError, and EnvelopeError, `report-too-large`,
    where a single failure is over the limit, or too many parts would be needed.
    """
    if limit is None or _size(report) <= limit:
        return [report]
    left, _, right = report.report_id.partition("@")
    parts: list[DraftReport] = []
    for part in _parts(report, limit):
        if len(parts) == MAX_PARTS:
            raise EnvelopeError(
                "report-too-large", f"more than {MAX_PARTS} mails of {limit} bytes would be needed"
            )
        number = len(parts) + 1
        parts.append(msgspec.structs.replace(part, report_id=f"{left}.{number}@{right}"))
    return parts


def _parts(report: DraftReport, limit: int) -> Iterator[DraftReport]:
    if _size(report) <= limit:
        yield report
        return
    half = len(report.failures) // 2
    if not half:
        raise EnvelopeError(
            "report-too-large", f"one failure alone makes a mail of more than {limit} bytes"
        )
    for failures in (report.failures[:half], report.failures[half:]):
        yield from _parts(msgspec.structs.replace(report, failures=failures), limit)


def _size(report: DraftReport) -> int:
    """What a mail with this report has at most, bytes."""
    return len(_mail(report, _LONGEST, "x" * _MAX_UNIQUE, _SOME_DAY)) + SIGNATURE


def compose_draft(report: DraftReport, recipient: str, unique: str, now: datetime) -> bytes:
    """The mail that brings a report to an address of the policy's `rua`, unsigned.

    It comes from the report's contact; `unique` (letters and digits) tells apart what one sender
    reports at one time; `now` has a zone. Raises EnvelopeError and ReportError.
    """
    if not recipient or mail_address(recipient) != recipient:
        raise EnvelopeError("recipient", f"{shown(recipient)} is no mail address")
    if not _UNIQUE.fullmatch(unique):
        raise EnvelopeError("unique-id", f"{shown(unique)} is not letters and digits")
    return _mail(report, recipient, unique, now)


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
