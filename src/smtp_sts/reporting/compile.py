"""A day's counts of one domain made into the reports that go to it (RFC 8460 section 4). No I/O.

Promises: the same counts and the same sender give the same reports, byte for byte, with the same
report-ids, on every machine of a store and after every restart, so that a receiver can tell a retry
from something new (section 5.3); another store's reports have other ids. Every report renders. What
cannot stand in a report (an unknown result type, a broken address) costs its detail and never the
session: that stays counted.
Must not: decide where reports go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from smtp_sts.reporting.privacy import public_address, public_name, public_text
from smtp_sts.tlsrpt import (
    MAX_REPORT,
    AppliedPolicy,
    DraftReport,
    Failure,
    PolicyResult,
    Report,
    ReportError,
    day_range,
    split,
)
from smtp_sts.tlsrpt.bounds import MAX_TEXT
from smtp_sts.tlsrpt.names import clean, domain_name, mail_address
from smtp_sts.tlsrpt.report import MAX_COUNT
from smtp_sts.tlsrpt.results import GENERAL_FAILURE, POLICY_TYPES, RESULTS

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: Hexadecimal digits that tell a report from others of the same day and sender.
_DIGITS: Final = 24


class Sender(msgspec.Struct, frozen=True):
    """Who reports: the organization's name, and the mail address for questions (section 4.4).

    `instance` is the name of the store whose counts are reported (`Tallies.instance`): two machines
    with stores of their own send different reports, which receivers tell apart by their report-ids.
    Raises ReportError where no report could be sent so.
    """

    organization: str
    contact: str
    instance: str = ""

    def __post_init__(self) -> None:
        name = self.organization
        if not name or clean(name, MAX_TEXT) != name or len(name) > MAX_TEXT:
            raise ReportError("report-unfit", "is to be one line of text", place="organization")
        if not self.contact or mail_address(self.contact) != self.contact:
            raise ReportError(
                "report-unfit", "is to be a mail address, its domain in lower case", place="contact"
            )

    @property
    def submitter(self) -> str:
        """The domain of the contact: TLS-Report-Submitter (section 5.3)."""
        return self.contact.rpartition("@")[2]


def day_of(day: int) -> datetime:
    """The first moment of a UTC day that is given as days since the epoch."""
    return _EPOCH + timedelta(days=day)


def report_id(day: int, domain: str, sender: Sender, *more: str) -> str:
    """The report-id of a domain's report of a day; `tlsrpt.split` adds the number of a part.

    `more` tells apart what is reported beside it.
    """
    digest = _digest(str(day), domain, sender.submitter, sender.instance, *more)
    return f"{day_of(day):%Y%m%d}.{digest}@{sender.submitter}"


def unique_id(report: Report | DraftReport, destination: str) -> str:
    """Letters and digits for the file name (section 5.1) and the Message-ID of one delivery.

    Of the report and where it goes, and nothing else: a retry has the same.
    """
    return _digest(report.report_id, destination)


def compile_reports(
    day: int,
    domain: str,
    results: Iterable[PolicyResult],
    sender: Sender,
    limit: int = MAX_REPORT,
) -> list[Report]:
    """The reports of a UTC day (days since the epoch) to a domain, of at most `limit` bytes each.

    Empty where no session was counted. `domain` is the one whose `_smtp._tls` record asks.
    """
    start, end = day_range(day_of(day))
    policies = _merged(domain, results)
    if not policies:
        return []
    report = Report(
        sender.organization,
        start,
        end,
        sender.contact,
        report_id(day, domain, sender),
        policies,
    )
    return split(report, limit)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:_DIGITS]


def _merged(domain: str, results: Iterable[PolicyResult]) -> tuple[PolicyResult, ...]:
    """Each policy once, each failure once, in an order that does not depend on the store's."""
    good: dict[AppliedPolicy, int] = {}
    bad: dict[AppliedPolicy, int] = {}
    failures: dict[AppliedPolicy, dict[Failure, int]] = {}
    for result in results:
        policy = _fit_policy(domain, result.policy)
        good[policy] = good.get(policy, 0) + max(result.successful, 0)
        bad[policy] = bad.get(policy, 0) + max(result.failed, 0)
        found = failures.setdefault(policy, {})
        for failure in result.failures:
            bare = _fit_failure(failure)
            found[bare] = found.get(bare, 0) + max(failure.failed_session_count, 0)
    return tuple(
        PolicyResult(
            policy,
            min(good[policy], MAX_COUNT),
            min(bad[policy], MAX_COUNT),
            tuple(
                msgspec.structs.replace(failure, failed_session_count=min(sessions, MAX_COUNT))
                for failure, sessions in sorted(
                    failures[policy].items(), key=lambda item: (-item[1], _order(item[0]))
                )
                if sessions
            ),
        )
        for policy in sorted(good, key=lambda p: (POLICY_TYPES.index(p.policy_type), _order(p)))
        if good[policy] or bad[policy]
    )


def _order(value: AppliedPolicy | Failure) -> bytes:
    return msgspec.json.encode(value)


def _fit_policy(domain: str, policy: AppliedPolicy) -> AppliedPolicy:
    """The policy as it can stand in a report; "" as its type means that none was known."""
    return AppliedPolicy(
        policy.policy_type if policy.policy_type in POLICY_TYPES else "no-policy-found",
        domain_name(policy.policy_domain) or domain,
        tuple(clean(line, MAX_TEXT) for line in policy.policy_string),
        tuple(name for host in policy.mx_host if (name := _pattern(host))),
    )


def _pattern(host: str) -> str:
    name = domain_name(host.removeprefix("*."))
    return f"*.{name}" if name and host.startswith("*.") else name


def _fit_failure(failure: Failure) -> Failure:
    """The failure without count, and without what cannot stand in a report."""
    known = failure.result_type in RESULTS
    reason = public_text(clean(failure.failure_reason_code, MAX_TEXT))
    return Failure(
        failure.result_type if known else GENERAL_FAILURE,
        0,
        public_address(failure.sending_mta_ip),
        public_name(failure.receiving_mx_hostname),
        public_text(clean(failure.receiving_mx_helo, MAX_TEXT)),
        public_address(failure.receiving_ip),
        public_text(clean(failure.additional_information, MAX_TEXT)),
        # Section 4.3.3: a general failure has a reason beside it
        reason if known or reason else clean(failure.result_type, MAX_TEXT),
    )
