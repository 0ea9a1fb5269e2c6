"""The report of RFC 8460 section 4, and how it is written as JSON. No I/O.

Promises: `Report.render` writes what every clause of section 4.4 asks for, with `mx-host` as an
array (erratum 6241), or raises `ReportError` naming the place; reading what it wrote gives the same
report. Must not: forgive; what others send is read in `reading.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from smtp_sts.tlsrpt.bounds import MAX_TEXT
from smtp_sts.tlsrpt.errors import ReportError, shown
from smtp_sts.tlsrpt.names import clean, domain_name, ip_address, mail_address
from smtp_sts.tlsrpt.results import POLICY_TYPES, RESULTS

#: I-JSON (RFC 7493 section 2.2): greater integers do not survive every reader.
MAX_COUNT: Final = 2**53 - 1
#: RFC 5322 id-left "@" id-right, as it stands in the subject; split reports add to the left.
_REPORT_ID: Final = re.compile(r"[A-Za-z0-9+_-]+(?:\.[A-Za-z0-9+_-]+)*@[a-z0-9._-]+", re.ASCII)
_MAX_REPORT_ID: Final = 255


class Failure(msgspec.Struct, frozen=True, gc=False):
    """One entry of `failure-details`; "" stands for a field that is absent."""

    result_type: str
    failed_session_count: int
    sending_mta_ip: str = ""
    receiving_mx_hostname: str = ""
    receiving_mx_helo: str = ""
    receiving_ip: str = ""
    additional_information: str = ""
    failure_reason_code: str = ""


class AppliedPolicy(msgspec.Struct, frozen=True, gc=False):
    """The policy that was applied, as section 4.5 encodes it."""

    policy_type: str
    policy_domain: str
    policy_string: tuple[str, ...] = ()
    mx_host: tuple[str, ...] = ()


class PolicyResult(msgspec.Struct, frozen=True, gc=False):
    """What happened under one policy: sessions that complied, that failed, and how they failed.

    Section 4: failure types are non-exclusive, so that the details may sum to more than `failed`.
    """

    policy: AppliedPolicy
    successful: int
    failed: int
    failures: tuple[Failure, ...] = ()


class Report(msgspec.Struct, frozen=True):
    """A whole report; `start` and `end` are in UTC, `end` belongs to the range."""

    organization_name: str
    start: datetime
    end: datetime
    contact_info: str
    report_id: str
    policies: tuple[PolicyResult, ...]

    @property
    def successful(self) -> int:
        """Sessions that complied, under all policies."""
        return sum(p.successful for p in self.policies)

    @property
    def failed(self) -> int:
        """Sessions that failed, under all policies."""
        return sum(p.failed for p in self.policies)

    @property
    def submitter(self) -> str:
        """The domain of contact-info, which TLS-Report-Submitter must match (section 5.3)."""
        return self.contact_info.rpartition("@")[2]

    def plain(self) -> dict[str, Any]:
        """The members of section 4.4 as they are, unchecked; for showing what others sent."""
        return {
            "organization-name": self.organization_name,
            "date-range": {
                "start-datetime": _date_time(self.start),
                "end-datetime": _date_time(self.end),
            },
            "contact-info": self.contact_info,
            "report-id": self.report_id,
            "policies": [policy_members(p) for p in self.policies],
        }

    def render(self) -> bytes:
        """The JSON to send. Raises ReportError where it would not be a valid report."""
        for place, message in _faults(self):
            raise ReportError("report-unfit", message, place=place)
        return msgspec.json.encode(self.plain())


def day_range(day: datetime) -> tuple[datetime, datetime]:
    """The first and last second of the UTC day that a moment lies in (section 4.1)."""
    start = day.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return start, start + timedelta(days=1, seconds=-1)


def _date_time(moment: datetime) -> str:
    # RFC 3339 section 5.6; isoformat writes four digits for every year, strftime does not
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def policy_members(result: PolicyResult) -> dict[str, Any]:
    """One entry of policies."""
    policy: dict[str, Any] = {"policy-type": result.policy.policy_type}
    if result.policy.policy_string:
        policy["policy-string"] = result.policy.policy_string
    policy["policy-domain"] = result.policy.policy_domain
    if result.policy.mx_host:
        policy["mx-host"] = result.policy.mx_host  # erratum 6241: an array
    return {
        "policy": policy,
        "summary": {
            "total-successful-session-count": result.successful,
            "total-failure-session-count": result.failed,
        },
        "failure-details": [failure_members(f) for f in result.failures],
    }


def failure_members(failure: Failure) -> dict[str, Any]:
    """One entry of failure-details, without the fields that are absent."""
    named = msgspec.structs.asdict(failure).items()
    return {name.replace("_", "-"): value for name, value in named if value != ""}


def _faults(report: Report) -> Iterator[tuple[str, str]]:
    """What keeps a report from being sent: places and sentences."""
    if not report.organization_name or not is_text(report.organization_name):
        yield "organization-name", "is to be one line of text"
    if mail_address(report.contact_info) != report.contact_info:
        yield "contact-info", f"{shown(report.contact_info)} is no mail address"
    if not is_report_id(report.report_id):
        yield "report-id", f"{shown(report.report_id)} is not of the form left@domain"
    if report.start.tzinfo is None or report.end.tzinfo is None:
        yield "date-range", "has times without a zone"
    elif report.start > report.end:
        yield "date-range", "ends before it begins"
    if not report.policies:
        yield "policies", "none: there is nothing to report"
    for index, result in enumerate(report.policies):
        yield from _policy_faults(f"policies[{index}]", result)


def _policy_faults(place: str, result: PolicyResult) -> Iterator[tuple[str, str]]:
    policy = result.policy
    if policy.policy_type not in POLICY_TYPES:
        yield f"{place}.policy.policy-type", f"{shown(policy.policy_type)} is no policy type"
    # Section 4.4: A-labels and not U-labels
    if not policy.policy_domain or domain_name(policy.policy_domain) != policy.policy_domain:
        yield f"{place}.policy.policy-domain", f"{shown(policy.policy_domain)} is no domain name"
    for host in policy.mx_host:
        name = host.removeprefix("*.")
        if not name or domain_name(name) != name:
            yield f"{place}.policy.mx-host", f"{shown(host)} is no host name and no pattern"
    if not all(map(is_text, policy.policy_string)):
        yield f"{place}.policy.policy-string", "has a line that is too long or no plain text"
    for name, count in (("successful", result.successful), ("failure", result.failed)):
        if not 0 <= count <= MAX_COUNT:
            yield f"{place}.summary.total-{name}-session-count", f"{count} is out of range"
    for index, failure in enumerate(result.failures):
        where = f"{place}.failure-details[{index}]"
        if failure.result_type not in RESULTS:
            yield f"{where}.result-type", f"{shown(failure.result_type)} is no result type"
        if not 0 < failure.failed_session_count <= MAX_COUNT:
            yield f"{where}.failed-session-count", f"{failure.failed_session_count} is out of range"
        for name in ("sending_mta_ip", "receiving_ip"):
            value: str = getattr(failure, name)
            if value != ip_address(value):
                yield f"{where}.{name.replace('_', '-')}", f"{shown(value)} is no address"
        if failure.receiving_mx_hostname != domain_name(failure.receiving_mx_hostname):
            yield f"{where}.receiving-mx-hostname", "is no host name"
        for name in ("receiving_mx_helo", "additional_information", "failure_reason_code"):
            if not is_text(getattr(failure, name)):
                yield f"{where}.{name.replace('_', '-')}", "is too long, or no plain text"


def is_report_id(text: str) -> bool:
    """Whether this can be a report-id: left@domain, fit for a mail's header."""
    return len(text) <= _MAX_REPORT_ID and _REPORT_ID.fullmatch(text) is not None


def is_text(text: str) -> bool:
    """Whether this is one line of text, and not too long for a report."""
    return len(text) <= MAX_TEXT and clean(text, MAX_TEXT) == text
