"""XML reports as others write them: read whatever can be understood. No I/O.

draft-margolis-smtp-sts-00 section 4, appendices 3 and 4. Promises: `read_xml` gives a report with a
list of what was odd about it, the schema's objections first, or raises `ReportError`; nothing else
comes out, whatever bytes go in. Text of strangers is kept as it came, but for its length; who
prints it cleans it (`names.clean`).
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from smtp_sts.tlsrpt.bounds import (
    MAX_ALL_TEXT,
    MAX_FAILURES,
    MAX_LIST,
    MAX_LIST_TEXT,
    MAX_ODDITIES,
    MAX_TEXT,
)
from smtp_sts.tlsrpt.draft00_report import DraftFailure, DraftReport, from_epoch
from smtp_sts.tlsrpt.draft00_results import NAMES
from smtp_sts.tlsrpt.errors import ReportError, shown
from smtp_sts.tlsrpt.names import domain_name, ip_address
from smtp_sts.tlsrpt.reading import LeftOut
from smtp_sts.tlsrpt.report import MAX_COUNT

if TYPE_CHECKING:
    from lxml import etree

_NUMBER: Final = re.compile(r"\+?[0-9]{1,16}", re.ASCII)
#: Elements that only a DMARC report has; it has the same root.
_DMARC: Final = ("policy_published", "identifiers", "auth_results")


class ReadDraftReport(msgspec.Struct, frozen=True):
    """A report, and sentences on what about it is not as the draft has it; "" for absent text."""

    report: DraftReport
    oddities: tuple[str, ...]
    left_out: LeftOut = LeftOut()


def read_xml(body: bytes) -> ReadDraftReport:
    """Read one report. Raises ReportError."""
    from smtp_sts.tlsrpt.draft00_xml import parse, schema_faults  # loads libxml2

    root, oddities = parse(body)
    if _name(root) != "feedback":
        raise ReportError("report-not-feedback", f"the XML is {shown(_name(root))}, no report")
    if any(_name(child) in _DMARC for child in root):
        raise ReportError("report-dmarc", "this is a DMARC report; it says nothing of TLS")
    reader = _Reader()
    report = reader.report(root)
    oddities += schema_faults(root) + reader.oddities
    reader.left["oddities"] += len(oddities[MAX_ODDITIES:])
    return ReadDraftReport(report, tuple(oddities[:MAX_ODDITIES]), LeftOut(**reader.left))


def _name(element: etree._Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _child(parent: etree._Element | None, name: str) -> etree._Element | None:
    return next(_children(parent, name), None)


def _children(parent: etree._Element | None, name: str) -> Iterator[etree._Element]:
    return (child for child in (() if parent is None else parent) if _name(child) == name)


class _Reader:
    """Takes a document apart and remembers what the schema has no words for."""

    def __init__(self) -> None:
        self.oddities: list[str] = []
        self.left: Counter[str] = Counter()
        self.characters = MAX_ALL_TEXT

    def odd(self, place: str, message: str) -> None:
        if len(self.oddities) < MAX_ODDITIES:
            self.oddities.append(f"{place}: {message}")
        else:
            self.left["oddities"] += 1

    def report(self, root: etree._Element) -> DraftReport:
        metadata = _child(root, "report_metadata")
        policy = _child(root, "applied_policy")
        if metadata is None or policy is None:
            raise ReportError(
                "report-not-tls", "no report_metadata, or no applied_policy in it: no TLS report"
            )
        dates = _child(metadata, "date_range")
        start, end = self.moment(dates, "begin"), self.moment(dates, "end")
        if end < start:
            self.odd("date_range", "ends before it begins")
        domain = self.text(policy, "domain", "applied_policy", needed=True)
        every = _children(root, "record")
        records = list(itertools.islice(every, MAX_FAILURES))
        for beyond in every:
            self.left["failures"] += 1
            self.left["failed_sessions"] += self.count(
                "record", self.text(beyond, "count", "record")
            )
        return DraftReport(
            organization_name=self.text(metadata, "org_name", "report_metadata", needed=True),
            contact=self.text(metadata, "email", "report_metadata", needed=True),
            report_id=self.text(metadata, "report_id", "report_metadata", needed=True),
            start=start,
            end=end,
            domain=domain_name(domain) or domain,
            mx=self.patterns(policy),
            constraint=self.constraint(policy),
            enforced=self.enforced(root),
            failures=tuple(
                self.failure(f"record[{i}]", record) for i, record in enumerate(records)
            ),
            extra_contact=self.text(metadata, "extra_contact_info", "report_metadata"),
        )

    def text(self, parent: etree._Element, name: str, place: str, *, needed: bool = False) -> str:
        """An element's text without blanks around it; "" for what is absent."""
        element = _child(parent, name)
        text = "" if element is None else (element.text or "").strip()
        if needed and element is not None and not text:
            self.odd(f"{place}.{name}", "empty")  # the schema says so where it is absent
        if len(text) > MAX_TEXT:
            self.odd(f"{place}.{name}", f"longer than {MAX_TEXT} characters: cut")
            self.left["texts"] += 1
            text = text[:MAX_TEXT]
        return self.within(text)

    def within(self, text: str) -> str:
        """The text, or "" where all texts together have become too long."""
        if len(text) > self.characters:
            self.left["texts"] += 1
            return ""
        self.characters -= len(text)
        return text

    def moment(self, dates: etree._Element | None, name: str) -> datetime:
        text = "" if dates is None else self.text(dates, name, "date_range")
        try:
            if _NUMBER.fullmatch(text):
                return from_epoch(int(text))
        except (ValueError, OverflowError, OSError):
            pass
        raise ReportError(
            "report-date", f"{shown(text)} is no count of seconds", place=f"date_range.{name}"
        )

    def patterns(self, policy: etree._Element) -> tuple[str, ...]:
        # The schema has one mx; several would be how others write several patterns.
        text = ",".join((e.text or "")[: MAX_LIST_TEXT + 1] for e in _children(policy, "mx"))
        if len(text) > MAX_LIST_TEXT:
            self.odd("applied_policy.mx", f"longer than {MAX_LIST_TEXT} characters: cut")
            self.left["texts"] += 1
        patterns = [p.strip() for p in text[:MAX_LIST_TEXT].split(",")]
        patterns = [f"*{p[1:]}" if p.startswith("_.") else p for p in patterns if p]
        if len(patterns) > MAX_LIST:
            self.odd("applied_policy.mx", f"more than {MAX_LIST} patterns: cut")
        self.left["strings"] += max(0, len(patterns) - MAX_LIST)
        return tuple(self.within(p[:MAX_TEXT]) for p in patterns[:MAX_LIST])

    def constraint(self, policy: etree._Element) -> Literal["webpki", "tlsa"]:
        text = self.text(policy, "constraint", "applied_policy").lower()
        return "tlsa" if text == "tlsa" else "webpki"

    def enforced(self, root: etree._Element) -> bool:
        text = self.text(root, "enforcement_level", "feedback")
        return text.replace("-", "").lower() == "reject"

    def failure(self, place: str, record: etree._Element) -> DraftFailure:
        kind = self.text(record, "failure", place)
        # Section 4 has slugs, appendix 3 has names: either is understood.
        slug = NAMES.get(kind.replace("-", "").lower(), "")
        hostname = self.text(record, "hostname", place)
        return DraftFailure(
            failure=slug or kind,
            count=self.count(place, self.text(record, "count", place)),
            hostname=domain_name(hostname) or hostname,
            connected_ip=self.address(place, record, "connectedIp"),
            source_ip=self.address(place, record, "sourceIp"),
        )

    def count(self, place: str, text: str) -> int:
        if _NUMBER.fullmatch(text) and int(text) <= MAX_COUNT:
            return int(text)
        self.odd(f"{place}.count", f"{shown(text)} is no count: taken as 0")
        return 0

    def address(self, place: str, record: etree._Element, name: str) -> str:
        text = self.text(record, name, place)
        if text and not ip_address(text):
            self.odd(f"{place}.{name}", f"{shown(text)} is no address")
        return ip_address(text) or text
