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
from datetime import datetime
from typing import Final

import msgspec

from smtp_sts.tlsrpt.bounds import MAX_TRIED, MAX_UNPACKED
from smtp_sts.tlsrpt.draft00_conversion import to_rfc8460
from smtp_sts.tlsrpt.draft00_reading import read_xml
from smtp_sts.tlsrpt.draft00_report import DraftReport
from smtp_sts.tlsrpt.errors import EnvelopeError, TlsrptError, shown
from smtp_sts.tlsrpt.mime import Part, parts_of
from smtp_sts.tlsrpt.names import domain_name, mail_address
from smtp_sts.tlsrpt.packing import GZIP_MAGIC, ZIP_MAGIC, pack, unpack
from smtp_sts.tlsrpt.reading import ReadReport, read_json
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
_HEADER_LINE: Final = re.compile(rb"(?:From |[!-9;-~]{1,200}[ \t]{0,10}:)")


class Enclosed(msgspec.Struct, frozen=True):
    """A report and what the mail around it says; "" where there was no mail, or it is silent.

    `domain` and `submitter` are the TLS-Report-* headers, `file_name` is the attachment's. A report
    of the first draft (XML) is in `draft` as it came, and in `read` as RFC 8460 would have it.
    """

    read: ReadReport
    draft: DraftReport | None = None
    domain: str = ""
    submitter: str = ""
    sender: str = ""
    subject: str = ""
    message_id: str = ""
    file_name: str = ""


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


def open_report(data: bytes) -> Enclosed:
    """The report in a mail, in a gzip or ZIP file, or in a JSON or XML file.

    Raises EnvelopeError where none is found, ReportError where what was found is none.
    """
    if _may_be_report(data):
        return _read(unpack(data))
    if not _HEADER_LINE.match(data.lstrip()):
        raise EnvelopeError(
            "not-a-report", "neither JSON, nor XML, nor gzip, nor ZIP, nor a mail: no TLS report"
        )
    return _open_mail(data.lstrip())


def _open_mail(data: bytes) -> Enclosed:
    message, leaves = parts_of(data)
    failure: TlsrptError | None = None
    room, tried = MAX_UNPACKED, 0
    for part in sorted(leaves, key=_rank):
        content = part.content()
        if not _may_be_report(content):
            continue
        tried += 1
        if tried > MAX_TRIED:
            break
        try:
            body = unpack(content, room)
            room -= len(body)
            found = _read(body)
        except TlsrptError as error:
            failure = failure or error  # that of the likeliest part
            if error.slug == "unpacked-too-large":
                break
            continue
        return msgspec.structs.replace(
            found,
            domain=domain_name(message.field("TLS-Report-Domain")),
            submitter=domain_name(message.field("TLS-Report-Submitter")),
            sender=message.field("From"),
            subject=message.field("Subject"),
            message_id=message.field("Message-ID"),
            file_name=part.file_name(),
        )
    if failure is not None:
        raise failure
    raise EnvelopeError(
        "mail-no-report", f"no part of the mail holds a TLS report ({len(leaves)} parts seen)"
    )


def _may_be_report(data: bytes) -> bool:
    packed = data.startswith((GZIP_MAGIC, ZIP_MAGIC))
    return packed or bool(_JSON_START.match(data) or _XML_START.match(data))


def _read(body: bytes) -> Enclosed:
    if not _XML_START.match(body):
        return Enclosed(read_json(body))
    found = read_xml(body)
    converted = to_rfc8460(found.report).report
    return Enclosed(ReadReport(converted, found.oddities, found.left_out), found.report)


def _rank(part: Part) -> int:
    """The likeliest part first: by media type, then by file name, then the rest."""
    if "tlsrpt" in part.get_content_type():
        return 0
    if part.file_name().lower().endswith((".json", ".xml", ".gz", ".zip")):
        return 1
    return 3 if part.get_content_maintype() == "text" else 2
