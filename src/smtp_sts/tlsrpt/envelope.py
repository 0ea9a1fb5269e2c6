"""Reports as mail: what is sent, what is found in what others send (RFC 8460 section 5). No I/O.

Promises: `compose` gives a message ready to be signed, of ASCII and CRLF and lines of at most 998
bytes, whose header holds nothing but checked names; `open_report` finds the report in a mail or a
file, or raises `EnvelopeError` or `ReportError`; nothing else comes out, whatever bytes go in, and
what they cost is bounded (`bounds`).
Must not: verify a signature. What the report says counts before what the mail says (section 5.6).
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from smtp_sts.tlsrpt.bounds import (
    MAX_MAILS,
    MAX_ODDITIES,
    MAX_REPORTS,
    MAX_TAGS,
    MAX_TRIED,
    MAX_UNPACKED,
)
from smtp_sts.tlsrpt.draft00_conversion import to_rfc8460
from smtp_sts.tlsrpt.draft00_reading import read_xml
from smtp_sts.tlsrpt.draft00_report import DraftReport
from smtp_sts.tlsrpt.errors import EnvelopeError, ReportError, TlsrptError, shown
from smtp_sts.tlsrpt.likeliness import odd_for_mail, odd_times, with_domain
from smtp_sts.tlsrpt.mime import Budget, Leaf, Part, from_base64, leaves_of, mails_of
from smtp_sts.tlsrpt.names import domain_name, mail_address
from smtp_sts.tlsrpt.packing import GZIP_MAGIC, ZIP_MAGIC, pack, unpack
from smtp_sts.tlsrpt.reading import Allowance, ReadReport, read_json
from smtp_sts.tlsrpt.report import Report

MEDIA_TYPE_GZIP: Final = "application/tlsrpt+gzip"
MEDIA_TYPE_JSON: Final = "application/tlsrpt+json"
#: What a DKIM signature is to cover, if present (sections 3 and 5.3).
SIGNED_HEADERS: Final = (
    "From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type",
    "TLS-Report-Domain", "TLS-Report-Submitter", "TLS-Required",
)  # fmt: skip
_UNIQUE: Final = re.compile(r"[A-Za-z0-9]{1,64}", re.ASCII)
_JSON_START: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*[{\[]|\xff\xfe|\xfe\xff")
# UTF-16 has a NUL beside each of these characters.
_XML_START: Final = re.compile(
    rb"(?:\xef\xbb\xbf|\xff\xfe|\xfe\xff)?[\s\x00]*<\x00?(?:\?\x00?x|([\w.-]{1,64}:)?\x00?f\x00?e\x00?e)"
)
#: How gzip and ZIP files begin in base64.
_BASE64_STARTS: Final = (b"H4sI", b"UEsDB")
#: The domain in a subject of section 5.3, and how many fields a file name of section 5.1 has.
_SUBJECT: Final = re.compile(r"Report Domain:\s*([^\s<>]{1,255})", re.ASCII | re.IGNORECASE)
_FILE_FIELDS: Final = 4
#: What `_rank` gives to files by their name; less for those of the right media type.
_RANK_OF_FILES: Final = 1
_HEADER_LINE: Final = re.compile(rb"(?:From |[!-9;-~]{1,200}[ \t]{0,10}:)")


class Enclosed(msgspec.Struct, frozen=True):
    """A report and what the mail around it says; "" where there was no mail, or it is silent.

    `domain` and `submitter` are the TLS-Report-* headers, `file_name` is the attachment's. A report
    of the first draft (XML) is in `draft` as it came, and in `read` as RFC 8460 would have it.
    `forwarded_by` is the From of who passed the mail on, "" where nobody did.
    """

    read: ReadReport
    draft: DraftReport | None = None
    domain: str = ""
    submitter: str = ""
    sender: str = ""
    subject: str = ""
    message_id: str = ""
    file_name: str = ""
    forwarded_by: str = ""


def file_name(report: Report, policy_domain: str, unique: str) -> str:
    """The name of the report's file (section 5.1). `unique` is letters and digits."""
    if not _UNIQUE.fullmatch(unique):
        raise EnvelopeError("unique-id", f"{shown(unique)} is not letters and digits")
    begin, end = int(report.start.timestamp()), int(report.end.timestamp())
    return f"{report.submitter}!{policy_domain}!{begin}!{end}!{unique}.json.gz"


def subject(report: Report, policy_domain: str) -> str:
    """The subject, unfolded (section 5.3)."""
    return (
        f"Report Domain: {policy_domain} Submitter: {report.submitter} "
        f"Report-ID: <{report.report_id}>"
    )


def compose(
    report: Report, policy_domain: str, recipient: str, unique: str, now: datetime
) -> bytes:
    """The mail that brings a report to a mailto: destination, unsigned.

    It comes from the report's contact-info; `unique` (letters and digits) tells apart what one
    sender reports at one time; `now` has a zone. Raises EnvelopeError and ReportError.
    """
    if not policy_domain or domain_name(policy_domain) != policy_domain:
        raise EnvelopeError("policy-domain", f"{shown(policy_domain)} is no domain name")
    if not recipient or mail_address(recipient) != recipient:
        raise EnvelopeError("recipient", f"{shown(recipient)} is no mail address")
    packed = pack(report.render())  # checks contact-info, and so the submitter, and the report-id
    return mail(
        sender=report.contact_info,
        recipient=recipient,
        subject_line=subject(report, policy_domain),
        message_id=f"{unique}.{report.report_id}",
        headers=(
            f"TLS-Report-Domain: {policy_domain}",
            f"TLS-Report-Submitter: {report.submitter}",
        ),
        content_type='multipart/report; report-type="tlsrpt"',
        for_people=_for_people(report, policy_domain),
        media_type=MEDIA_TYPE_GZIP,
        name=file_name(report, policy_domain, unique),
        attachment=packed,
        now=now,
    )


def mail(
    *,
    sender: str,
    recipient: str,
    subject_line: str,
    message_id: str,
    headers: Sequence[str],
    content_type: str,
    for_people: Sequence[str],
    media_type: str,
    name: str,
    attachment: bytes,
    now: datetime,
) -> bytes:
    """A mail of two parts: lines for people, a file for machines. All texts are checked ASCII.

    Takes `content_type` without a boundary, and `message_id` without angle brackets.
    """
    boundary = f"=_{hashlib.sha256(attachment).hexdigest()[:24]}"
    body = base64.encodebytes(attachment).decode("ascii").splitlines()
    # Section 5.3: FWS may stand between all words of the subject
    folded = subject_line.replace(" Submitter:", "\r\n Submitter:")
    folded = folded.replace(" Report-ID:", "\r\n Report-ID:")
    lines = [
        f"From: {sender}",
        f"To: {recipient}",
        f"Subject: {folded}",
        f"Date: {email.utils.format_datetime(now)}",
        f"Message-ID: <{message_id}>",
        *headers,
        "TLS-Required: No",  # RFC 8689 section 5; RFC 8460 section 3: despite any TLS failures
        "Auto-Submitted: auto-generated",  # RFC 3834: no out-of-office answers
        "MIME-Version: 1.0",
        f"Content-Type: {content_type};",
        f' boundary="{boundary}"',
        "",
        "This is a multipart message in MIME format.",
        "",
        f"--{boundary}",
        'Content-Type: text/plain; charset="us-ascii"',
        "Content-Transfer-Encoding: 7bit",
        "",
        *for_people,
        "",
        f"--{boundary}",
        f"Content-Type: {media_type}",
        "Content-Transfer-Encoding: base64",
        "Content-Disposition: attachment;",
        f' filename="{name}"',
        "",
        *body,
        "",
        f"--{boundary}--",
        "",
    ]
    return "\r\n".join(lines).encode("ascii")


def _for_people(report: Report, policy_domain: str) -> list[str]:
    return [
        f"This is an aggregate TLS report from {report.submitter}",
        f"on mail it sent to {policy_domain}, as asked for by the record at",
        f"_smtp._tls.{policy_domain} (RFC 8460).",
        "",
        f"From:     {report.start.isoformat()}",
        f"To:       {report.end.isoformat()}",
        f"Sessions: {report.successful} with TLS as the policy asks for, {report.failed} without",
    ]


class Opened(msgspec.Struct, frozen=True):
    """The reports of a file, in its order, and sentences on what of it was not read."""

    reports: tuple[Enclosed, ...]
    unread: tuple[str, ...] = ()


def open_report(data: bytes) -> Enclosed:
    """The report in a mail, in a gzip or ZIP file, or in a JSON or XML file; of several the first.

    Raises EnvelopeError where none is found, ReportError where what was found is none.
    """
    return open_reports(data).reports[0]


def open_reports(data: bytes, now: datetime | None = None) -> Opened:
    """All reports of a mail, an mbox, a gzip or ZIP file, or a JSON or XML file.

    `now`, where given, tells which of them are of a time that cannot be. Raises as `open_report`.
    """
    opening = _Opening()
    if _may_be_report(data):
        opening.reports.append(opening.read(unpack(data)))
    elif _HEADER_LINE.match(data.lstrip()):
        opening.mails(mails_of(data.lstrip()))
    else:
        raise EnvelopeError(
            "not-a-report", "neither JSON, nor XML, nor gzip, nor ZIP, nor a mail: no TLS report"
        )
    reports = tuple(opening.reports)
    if now is not None:
        reports = tuple(with_oddities(one, odd_times(one.read.report, now)) for one in reports)
    return Opened(reports, tuple(opening.unread[:MAX_ODDITIES]))


class _Opening:
    """What is found in one file; all its mails and reports share the bounds."""

    def __init__(self) -> None:
        self.reports: list[Enclosed] = []
        self.unread: list[str] = []
        self.failure: TlsrptError | None = None  # the first, of the likeliest part
        self.room = MAX_UNPACKED
        self.failed = 0
        self.tags: int | None = None
        self.allowance = Allowance()
        self.budget = Budget()

    def mails(self, mails: Sequence[bytes]) -> None:
        """Raises TlsrptError where no report is in any."""
        parts = 0
        for number, data in enumerate(mails[:MAX_MAILS], 1):
            self.budget.odd.clear()
            place = f"mail {number}: " if len(mails) > 1 else ""
            before = len(self.reports)
            try:
                leaves = leaves_of(data, self.budget)
            except TlsrptError as error:
                self.refuse(place, error)
                continue
            parts += len(leaves)
            self.parts(leaves, place)
            if place and len(self.reports) == before:
                self.unread.append(f"{place}no report in it")
        if len(mails) > MAX_MAILS:
            self.unread.append(f"{len(mails) - MAX_MAILS:,} mails beyond the first {MAX_MAILS}")
        if self.reports:
            return
        raise self.failure or EnvelopeError(
            "mail-no-report", f"no part of the mail holds a TLS report ({parts} parts seen)"
        )

    def parts(self, leaves: Sequence[Leaf], place: str) -> None:
        found = False
        for leaf in sorted(leaves, key=lambda leaf: _rank(leaf.part)):
            content = _unwrapped(leaf.part.content())
            # The report may be written out beneath, for people.
            if not _may_be_report(content) or (found and _rank(leaf.part) > _RANK_OF_FILES):
                continue
            if self.failed >= MAX_TRIED or len(self.reports) >= MAX_REPORTS:
                self.unread.append(f"{place}more parts that look like a report")
                return
            try:
                body = unpack(content, self.room)
                self.room -= len(body)
                enclosed = self.read(body)
            except TlsrptError as error:
                self.refuse(place, error)
                if error.slug == "unpacked-too-large":
                    return
                continue
            found = True
            self.reports.append(_in_mail(enclosed, leaf, tuple(self.budget.odd)))

    def refuse(self, place: str, error: TlsrptError) -> None:
        self.failed += 1
        self.failure = self.failure or error
        self.unread.append(f"{place}{error} ({error.slug})")

    def read(self, body: bytes) -> Enclosed:
        """Raises ReportError."""
        if not _XML_START.match(body):
            return Enclosed(read_json(body, self.allowance))
        tags = body.count(b"<")
        if self.tags is not None and tags > self.tags:
            raise ReportError("report-too-large", "more tags than are read of one file")
        self.tags = (MAX_TAGS if self.tags is None else self.tags) - tags
        found = read_xml(body)
        converted = to_rfc8460(found.report).report
        return Enclosed(ReadReport(converted, found.oddities, found.left_out), found.report)


def _in_mail(found: Enclosed, leaf: Leaf, odd: Sequence[str]) -> Enclosed:
    """With what the mail around it says: the one that its reporter sent, whoever passed it on."""
    mail = leaf.mail
    name, subject_line = leaf.part.file_name(), mail.field("Subject")
    domain = domain_name(mail.field("TLS-Report-Domain"))
    named = domain or _domain_of(subject_line, name)
    report, oddities = with_domain(found.read.report, named)
    authors = mail.fields("From")
    if len(authors) > 1:
        others = ", ".join(map(shown, authors[:-1]))
        odd = (*odd, f"{len(authors)} From fields: {others} stand above the one that is shown")
    enclosed = msgspec.structs.replace(
        found,
        read=msgspec.structs.replace(found.read, report=report),
        domain=domain,
        submitter=domain_name(mail.field("TLS-Report-Submitter")),
        sender=mail.field("From"),
        subject=subject_line,
        message_id=mail.field("Message-ID"),
        file_name=name,
        forwarded_by=leaf.outer.field("From") if leaf.outer is not mail else "",
    )
    sent = _date(mail.field("Date"))
    late = () if sent is None else odd_for_mail(report, sent)
    return with_oddities(enclosed, (*(f"mail: {one}" for one in odd), *oddities, *late))


def with_oddities(found: Enclosed, odd: Sequence[str]) -> Enclosed:
    """The same with more that is odd about it, as far as is told of one."""
    read = found.read
    oddities = tuple(dict.fromkeys((*read.oddities, *odd)))
    beyond = len(oddities[MAX_ODDITIES:])
    left = msgspec.structs.replace(read.left_out, oddities=read.left_out.oddities + beyond)
    read = msgspec.structs.replace(read, oddities=oddities[:MAX_ODDITIES], left_out=left)
    return msgspec.structs.replace(found, read=read)


def _domain_of(subject_line: str, name: str) -> str:
    """The policy domain that subject (section 5.3) and file name (section 5.1) tell."""
    told = _SUBJECT.search(subject_line)
    of_file = name.split("!")
    return domain_name(told[1] if told else of_file[1] if len(of_file) >= _FILE_FIELDS else "")


def _date(text: str) -> datetime | None:
    try:
        moment = email.utils.parsedate_to_datetime(text)
        return moment.replace(tzinfo=moment.tzinfo or UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _unwrapped(content: bytes) -> bytes:
    """Base64 that no header field told of."""
    return from_base64(content) if content.lstrip().startswith(_BASE64_STARTS) else content


def _may_be_report(data: bytes) -> bool:
    packed = data.startswith((GZIP_MAGIC, ZIP_MAGIC))
    return packed or bool(_JSON_START.match(data) or _XML_START.match(data))


def _rank(part: Part) -> int:
    """The likeliest part first: by media type, then by file name, then the rest."""
    if "tlsrpt" in part.get_content_type():
        return 0
    if part.file_name().lower().endswith((".json", ".xml", ".gz", ".zip")):
        return _RANK_OF_FILES
    return 3 if part.get_content_maintype() == "text" else 2
