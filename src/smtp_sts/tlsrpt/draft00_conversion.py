"""Reports of the first draft into those of RFC 8460, and back. No I/O.

Promises: what is converted means what it meant; what cannot be carried over is named, in sentences,
and never made up. Counts of failures are kept or named as lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from smtp_sts.tlsrpt.draft00_report import DraftFailure, DraftReport
from smtp_sts.tlsrpt.draft00_results import DRAFT_RESULTS, FROM_RFC8460, WIDENED
from smtp_sts.tlsrpt.errors import shown
from smtp_sts.tlsrpt.names import domain_name
from smtp_sts.tlsrpt.regular import fit_report_id
from smtp_sts.tlsrpt.report import AppliedPolicy, Failure, PolicyResult, Report, is_report_id
from smtp_sts.tlsrpt.results import CHECKED, GENERAL_FAILURE

#: The text of a policy of the draft, and two of its fields.
_DRAFT_TEXT: Final = re.compile(r"[vV]\s*=\s*STS1\s*(;|$)", re.ASCII)
_ENFORCED: Final = re.compile(r";\s*to\s*=\s*true\s*(;|$)", re.ASCII | re.IGNORECASE)
_TLSA: Final = re.compile(r";\s*c\s*=\s*tlsa\s*(;|$)", re.ASCII | re.IGNORECASE)


class Converted(msgspec.Struct, frozen=True):
    """A report of RFC 8460, and sentences on what the draft's had that it has not."""

    report: Report
    losses: tuple[str, ...]


class DraftConverted(msgspec.Struct, frozen=True):
    """Reports of the draft, one a policy with failures, and sentences on what was lost."""

    reports: tuple[DraftReport, ...]
    losses: tuple[str, ...]


def is_draft_policy(policy: AppliedPolicy) -> bool:
    """Whether a policy that was applied is one of the draft: its text is the TXT record's."""
    return bool(policy.policy_string) and _DRAFT_TEXT.match(policy.policy_string[0]) is not None


def policy_text(report: DraftReport) -> str:
    """What a report says of the policy, in the words of the TXT record (section 3.1)."""
    mx = f"; mx={','.join(report.mx)}" if report.mx else ""
    return f"v=STS1; to={'true' if report.enforced else 'false'}{mx}; c={report.constraint}"


def to_rfc8460(draft: DraftReport) -> Converted:
    """The same in the form of RFC 8460. Its `render` may still refuse what others wrote."""
    losses = [
        "sessions that succeeded are not counted in the draft's reports: 0 stands for not known",
        "the policy text is made of what the report says of it: a, e and rua are not known",
    ]
    if draft.extra_contact:
        losses.append(f"extra_contact_info {shown(draft.extra_contact)} has no place")
    report_id = draft.report_id
    if not is_report_id(report_id):
        report_id = fit_report_id(report_id, draft.submitter)
        losses.append(f"report_id {shown(draft.report_id)} became {shown(report_id)}")
    tlsa = draft.constraint == "tlsa"
    policy = AppliedPolicy(
        policy_type="sts",
        policy_domain=draft.domain,
        policy_string=(policy_text(draft),),
        mx_host=draft.mx,
    )
    failures = tuple(_to_failure(failure, tlsa) for failure in draft.failures)
    return Converted(
        Report(
            organization_name=draft.organization_name,
            start=draft.start,
            end=draft.end,
            contact_info=draft.contact,
            report_id=report_id,
            policies=(PolicyResult(policy, 0, draft.failed, failures),),
        ),
        tuple(losses),
    )


def _to_failure(failure: DraftFailure, tlsa: bool) -> Failure:
    known = DRAFT_RESULTS.get(failure.failure)
    name = "" if known is None else (known.rfc8460_tlsa if tlsa else known.rfc8460)
    return Failure(
        result_type=name or GENERAL_FAILURE,
        failed_session_count=failure.count,
        sending_mta_ip=failure.source_ip,
        receiving_mx_hostname=failure.hostname,
        receiving_ip=failure.connected_ip,
        # where RFC 8460 has no type for it (section 4.3.3: a reason beside the general failure)
        failure_reason_code="" if name else failure.failure,
    )


def to_draft(report: Report) -> DraftConverted:
    """The same in the form of the draft: a report for each policy that sessions failed under."""
    losses: dict[str, None] = {}  # each once, in order
    drafts = []
    for result in report.policies:
        drafts += list(_to_draft(report, result, losses))
    if len(drafts) > 1:
        left, _, right = report.report_id.partition("@")
        drafts = [
            msgspec.structs.replace(draft, report_id=f"{left}.{number}@{right}")
            for number, draft in enumerate(drafts, 1)
        ]
    return DraftConverted(tuple(drafts), tuple(losses))


def _to_draft(
    report: Report, result: PolicyResult, losses: dict[str, None]
) -> Iterator[DraftReport]:
    policy = result.policy
    domain = domain_name(policy.policy_domain) or shown(policy.policy_domain)
    if result.successful:
        losses.setdefault(f"{domain}: {result.successful} sessions that succeeded are not counted")
    if policy.policy_type not in ("sts", "tlsa"):
        if result.failed:
            losses.setdefault(
                f"{domain}: {result.failed} failed sessions under no policy are left out"
            )
        return
    counts: dict[DraftFailure, int] = {}
    for failure in result.failures:
        slug = _to_slug(domain, failure, losses)
        if not slug:
            continue
        key = DraftFailure(
            slug, 0, failure.receiving_mx_hostname, failure.receiving_ip, failure.sending_mta_ip
        )
        counts[key] = counts.get(key, 0) + failure.failed_session_count
    told = sum(failure.failed_session_count for failure in result.failures)
    if result.failed > told:
        losses.setdefault(
            f"{domain}: {result.failed - told} failed sessions without details are left out"
        )
    if not counts:
        return
    draft = is_draft_policy(policy)
    if policy.policy_string and not draft:
        losses.setdefault(f"{domain}: the policy's text has no place but for mode and mx")
    yield DraftReport(
        organization_name=report.organization_name,
        contact=report.contact_info,
        report_id=report.report_id,
        start=report.start,
        end=report.end,
        domain=policy.policy_domain,
        mx=policy.mx_host,
        constraint=_constraint(policy),
        enforced=_is_enforced(policy),
        failures=tuple(msgspec.structs.replace(key, count=count) for key, count in counts.items()),
    )


def _to_slug(domain: str, failure: Failure, losses: dict[str, None]) -> str:
    """The failure type of the draft, "" where there is none; says what else is lost."""
    name, sessions = failure.result_type, failure.failed_session_count
    reason = failure.failure_reason_code.removeprefix(CHECKED)
    # what `to_rfc8460` made of a type that RFC 8460 does not have
    slug = reason if name == GENERAL_FAILURE and reason in DRAFT_RESULTS else ""
    if slug:
        reason = ""
    else:
        slug = FROM_RFC8460.get(name, "")
        if not slug:
            losses.setdefault(f"{domain}: {sessions} times {shown(name)} left out: no such type")
            return ""
        if name in WIDENED:
            written = DRAFT_RESULTS[slug].xml
            losses.setdefault(f"{domain}: {name} is written as {written}, the closest type")
    for what, text in (
        ("EHLO names", failure.receiving_mx_helo),
        ("additional information", failure.additional_information),
        ("reason codes", reason),
    ):
        if text:
            losses.setdefault(f"{domain}: {what} left out")
    return slug


def _constraint(policy: AppliedPolicy) -> Literal["webpki", "tlsa"]:
    if policy.policy_type == "tlsa":
        return "tlsa"
    return "tlsa" if is_draft_policy(policy) and _TLSA.search(policy.policy_string[0]) else "webpki"


def _is_enforced(policy: AppliedPolicy) -> bool:
    if policy.policy_type == "tlsa":  # RFC 7672 knows no other
        return True
    if is_draft_policy(policy):
        return _ENFORCED.search(policy.policy_string[0]) is not None
    return any(re.fullmatch(r"mode:\s*enforce\s*", line) for line in policy.policy_string)
