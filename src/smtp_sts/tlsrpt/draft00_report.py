"""The failure report of the first draft: one policy, and how sessions failed under it. No I/O.

draft-margolis-smtp-sts-00 section 4, appendices 3 and 4. Promises: `DraftReport.render` writes XML
that is valid by the schema, or raises `ReportError` naming the place; reading what it wrote gives
the same report, but for `certificate-mismatch`, which the schema has no name for. Must not:
forgive; what others send is read in `draft00_reading.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from smtp_sts.tlsrpt.draft00_results import DRAFT_RESULTS
from smtp_sts.tlsrpt.errors import ReportError, shown
from smtp_sts.tlsrpt.names import domain_name, ip_address, mail_address
from smtp_sts.tlsrpt.report import MAX_COUNT, is_report_id, is_text

#: The example's version of the format (appendix 4).
VERSION: Final = "1"
_CONSTRAINTS: Final = {"webpki": "WebPKI", "tlsa": "TLSA"}
_LEVELS: Final = {False: "ReportOnly", True: "Reject"}
#: Neither of these may stand in XML 1.0; control characters are refused in any report.
_NOT_XML: Final = re.compile("[\ufffe\uffff]")


class DraftFailure(msgspec.Struct, frozen=True, gc=False):
    """One `record`: a failure type (a slug of section 4) and its count; "" for what is absent.

    `hostname` is the MX host, `connected_ip` its address, `source_ip` that of the sender.
    """

    failure: str
    count: int
    hostname: str = ""
    connected_ip: str = ""
    source_ip: str = ""


class DraftReport(msgspec.Struct, frozen=True):
    """A whole report; `start` and `end` are in UTC, `mx` holds the policy's patterns.

    `enforced` is the level `Reject`. Failure types are non-exclusive (section 4): counts may sum to
    more than the sessions that failed.
    """

    organization_name: str
    contact: str
    report_id: str
    start: datetime
    end: datetime
    domain: str
    mx: tuple[str, ...]
    constraint: Literal["webpki", "tlsa"]
    enforced: bool
    failures: tuple[DraftFailure, ...]
    extra_contact: str = ""

    @property
    def submitter(self) -> str:
        """The domain of the contact address."""
        return self.contact.rpartition("@")[2]

    @property
    def failed(self) -> int:
        """The sum of all counts."""
        return sum(f.count for f in self.failures)

    def plain(self) -> dict[str, Any]:
        """The fields as they are, unchecked, under the names of the XML; for showing."""
        return {
            "version": VERSION,
            "report_metadata": {
                "org_name": self.organization_name,
                "email": self.contact,
                "extra_contact_info": self.extra_contact,
                "report_id": self.report_id,
                "date_range": {"begin": _epoch(self.start), "end": _epoch(self.end)},
            },
            "applied_policy": {
                "domain": self.domain,
                "mx": list(self.mx),
                "constraint": _CONSTRAINTS[self.constraint],
            },
            "enforcement_level": _LEVELS[self.enforced],
            "records": [
                {
                    "failure": f.failure,
                    "count": f.count,
                    "hostname": f.hostname,
                    "connectedIp": f.connected_ip,
                    "sourceIp": f.source_ip,
                }
                for f in self.failures
            ],
        }

    def render(self) -> bytes:
        """The XML to send. Raises ReportError where it would not be a valid report."""
        from smtp_sts.tlsrpt.draft00_xml import document  # libxml2 takes 20 ms to load

        for place, message in _faults(self):
            raise ReportError("report-unfit", message, place=place)
        return document(
            [
                ("version", VERSION),
                (
                    "report_metadata",
                    [
                        ("org_name", self.organization_name),
                        ("email", self.contact),
                        *([("extra_contact_info", self.extra_contact)] * bool(self.extra_contact)),
                        ("report_id", self.report_id),
                        (
                            "date_range",
                            [
                                ("begin", str(_epoch(self.start))),
                                ("end", str(_epoch(self.end))),
                            ],
                        ),
                    ],
                ),
                (
                    "applied_policy",
                    [
                        ("domain", self.domain),
                        # one element for what section 3 has as a "comma-separated list"
                        ("mx", ",".join(self.mx)),
                        ("constraint", _CONSTRAINTS[self.constraint]),
                    ],
                ),
                ("enforcement_level", _LEVELS[self.enforced]),
                *(("record", _record(failure)) for failure in self.failures),
            ]
        )


def _record(failure: DraftFailure) -> list[tuple[str, str]]:
    fields = [
        ("failure", DRAFT_RESULTS[failure.failure].xml),
        ("count", str(failure.count)),
        ("hostname", failure.hostname),
    ]
    if failure.connected_ip:
        fields.append(("connectedIp", failure.connected_ip))
    if failure.source_ip:
        fields.append(("sourceIp", failure.source_ip))
    return fields


def _epoch(moment: datetime) -> int:
    return int(moment.timestamp())


def from_epoch(seconds: int) -> datetime:
    """A moment in UTC; raises ValueError or OverflowError beyond the years 1 to 9999."""
    return datetime.fromtimestamp(seconds, UTC)


def _faults(report: DraftReport) -> Iterator[tuple[str, str]]:
    """What keeps a report from being sent: places and sentences."""
    for name, text in (("org_name", report.organization_name), ("extra", report.extra_contact)):
        if not is_text(text) or _NOT_XML.search(text):
            yield name, "is too long, or no plain text"
    if not report.organization_name:
        yield "org_name", "is to be one line of text"
    if mail_address(report.contact) != report.contact or not report.contact:
        yield "email", f"{shown(report.contact)} is no mail address"
    if not is_report_id(report.report_id):
        yield "report_id", f"{shown(report.report_id)} is not of the form left@domain"
    if report.start.tzinfo is None or report.end.tzinfo is None:
        yield "date_range", "has times without a zone"
    elif report.start > report.end:
        yield "date_range", "ends before it begins"
    if not report.domain or domain_name(report.domain) != report.domain:
        yield "applied_policy.domain", f"{shown(report.domain)} is no domain name"
    for host in report.mx:
        name = host.removeprefix("*.")
        if not name or domain_name(name) != name:
            yield "applied_policy.mx", f"{shown(host)} is no host name and no pattern"
    if not report.failures:
        yield "record", "none: the draft reports failures alone"
    for index, failure in enumerate(report.failures):
        where = f"record[{index}]"
        if failure.failure not in DRAFT_RESULTS:
            yield f"{where}.failure", f"{shown(failure.failure)} is no failure type"
        if not 0 < failure.count <= MAX_COUNT:
            yield f"{where}.count", f"{failure.count} is out of range"
        if failure.hostname != domain_name(failure.hostname):
            yield f"{where}.hostname", f"{shown(failure.hostname)} is no host name"
        for name, value in (
            ("connectedIp", failure.connected_ip),
            ("sourceIp", failure.source_ip),
        ):
            if value != ip_address(value):
                yield f"{where}.{name}", f"{shown(value)} is no address"
