"""A report as others wrote it, made one that RFC 8460 section 4.4 has. No I/O.

Promises: what comes out renders, wherever there is a contact-info and each policy has a domain;
these are not made up, nor is anything else. What had to be changed or left out is named, in
sentences; no session is lost.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from smtp_sts.tlsrpt.bounds import MAX_TEXT
from smtp_sts.tlsrpt.errors import shown
from smtp_sts.tlsrpt.names import clean, domain_name, ip_address, mail_address
from smtp_sts.tlsrpt.report import (
    MAX_COUNT,
    AppliedPolicy,
    Failure,
    PolicyResult,
    Report,
    is_report_id,
)
from smtp_sts.tlsrpt.results import GENERAL_FAILURE, POLICY_TYPES, RESULTS

_UNFIT_ID: Final = re.compile(r"[^A-Za-z0-9+_-]+", re.ASCII)
#: Characters of a report-id's left part.
_LEFT: Final = 128
#: Notes what was, and what it became; gives the latter.
_Changed: TypeAlias = Callable[[str, str, str], str]


class Regular(msgspec.Struct, frozen=True):
    """A report that renders, and sentences on what was changed."""

    report: Report
    losses: tuple[str, ...]


def fit_report_id(text: str, submitter: str) -> str:
    """A report-id of the form left@domain, made of one that others gave (Google's, Microsoft's, and
    that of the RFC's own example have no "@")."""
    if is_report_id(text):
        return text
    left = _UNFIT_ID.sub("-", text)[:_LEFT].strip("-") or "report"
    return f"{left}@{submitter}"


def regular(report: Report) -> Regular:
    """The same report, made regular."""
    losses: dict[str, None] = {}

    def changed(what: str, before: str, after: str) -> str:
        if after != before:
            became = shown(after) if after else "left out"
            losses.setdefault(f"{what} {shown(before)}: {became}")
        return after

    contact = mail_address(report.contact_info) or mail_address(
        report.contact_info.partition(":")[2]  # "mailto:..."
    )
    contact = changed("contact-info", report.contact_info, contact or report.contact_info)
    submitter, number = contact.rpartition("@")[2], report.report_id
    organization = clean(report.organization_name, MAX_TEXT) or submitter
    policies = tuple(
        _result(result, changed, domain_name(result.policy.policy_domain))
        for result in report.policies
    )
    made = msgspec.structs.replace(
        report,
        organization_name=changed("organization-name", report.organization_name, organization),
        contact_info=contact,
        report_id=changed("report-id", number, fit_report_id(number, submitter)),
        end=max(report.start, report.end),
        policies=policies,
    )
    return Regular(made, tuple(losses))


def _result(result: PolicyResult, changed: _Changed, domain: str) -> PolicyResult:
    policy = result.policy
    kind = policy.policy_type if policy.policy_type in POLICY_TYPES else "no-policy-found"
    failures = []
    for failure in result.failures:
        if 0 < failure.failed_session_count <= MAX_COUNT:
            failures.append(_failure(failure, changed))
        else:
            changed("a failure of no session:", failure.result_type or "?", "")
    lines = (clean(line, MAX_TEXT) for line in policy.policy_string)
    return PolicyResult(
        AppliedPolicy(
            changed("policy-type", policy.policy_type, kind),
            changed("policy-domain", policy.policy_domain, domain or policy.policy_domain),
            tuple(filter(None, lines)),
            tuple(filter(None, (changed("mx-host", h, _pattern(h)) for h in policy.mx_host))),
        ),
        min(max(result.successful, 0), MAX_COUNT),
        min(max(result.failed, 0), MAX_COUNT),
        tuple(failures),
    )


def _pattern(host: str) -> str:
    star = "*." if host.startswith("*.") else ""
    name = domain_name(host.removeprefix("*."))
    return f"{star}{name}" if name else ""


def _failure(failure: Failure, changed: _Changed) -> Failure:
    kind = failure.result_type
    known = kind in RESULTS
    reason = clean(failure.failure_reason_code, MAX_TEXT)
    host = failure.receiving_mx_hostname
    return Failure(
        failure.result_type if known else changed("result-type", kind, GENERAL_FAILURE),
        failure.failed_session_count,
        # by value: another spelling of an address is no loss
        _address("sending-mta-ip", failure.sending_mta_ip, changed),
        domain_name(host) or changed("receiving-mx-hostname", host, ""),
        clean(failure.receiving_mx_helo, MAX_TEXT),
        _address("receiving-ip", failure.receiving_ip, changed),
        clean(failure.additional_information, MAX_TEXT),
        # section 4.3.3: a general failure has a reason beside it
        reason if known or reason else clean(failure.result_type, MAX_TEXT),
    )


def _address(what: str, text: str, changed: _Changed) -> str:
    found = ip_address(_bare(text))
    return found if found else changed(what, text, "")


def _bare(text: str) -> str:
    """Without a zone, and a prefix of Postfix's, which do not belong there."""
    return text.strip().removeprefix("IPv6:").partition("%")[0]
