"""What about a report is not likely, beside the mail that brought it and the time. No I/O.

Promises: sentences for people, of bounded number and length; what the report itself says counts
before what the mail says (RFC 8460 section 5.6), and is completed by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from smtp_sts.tlsrpt.errors import shown
from smtp_sts.tlsrpt.report import PolicyResult, Report

#: Reports come within a day (section 4.1); some large senders' come weeks late.
_LATE: Final = timedelta(days=60)
_LONG_PAST: Final = timedelta(days=366)
#: Clocks differ, and some end their reports at the next midnight.
_SLACK: Final = timedelta(days=1)


def with_domain(report: Report, domain: str) -> tuple[Report, list[str]]:
    """The report with `domain`, that of the mail, where a policy names none; and what is odd about
    the domains of its policies."""
    if not domain:
        return report, []
    odd = []
    policies = []
    for result in report.policies:
        if not result.policy.policy_domain:
            policy = msgspec.structs.replace(result.policy, policy_domain=domain)
            policies.append(msgspec.structs.replace(result, policy=policy))
            odd.append(f"a policy without a domain: taken as {domain}, that of the mail")
        else:
            policies.append(result)
    # A policy of DANE, and none of it, bears the name of the MX host (section 3).
    others = {r.policy.policy_domain for r in policies if r.policy.policy_type != "tlsa"}
    foreign = sorted(name for name in others - {domain} if not name.endswith(f".{domain}"))
    if foreign and (domain not in others or "sts" in _types(policies, foreign)):
        odd.append(f"the mail is about {domain}, the report about {shown(', '.join(foreign))}")
    return msgspec.structs.replace(report, policies=tuple(policies)), list(dict.fromkeys(odd))


def _types(policies: Sequence[PolicyResult], domains: Sequence[str]) -> set[str]:
    return {r.policy.policy_type for r in policies if r.policy.policy_domain in domains}


def odd_for_mail(report: Report, sent: datetime) -> list[str]:
    """What is odd about the time of a report that a mail of `sent` brought."""
    if _reaches(report, sent):
        return [f"begins at {_text(report.start)}, after the mail was sent"]
    if sent - report.end > _LATE:
        return [f"ends {(sent - report.end).days:,} days before the mail was sent"]
    return []


def odd_times(report: Report, now: datetime) -> list[str]:
    """What is odd about the time of a report that is looked at `now`."""
    if _reaches(report, now):
        return [f"date-range: begins at {_text(report.start)}, which is yet to come"]
    if now - report.end > _LONG_PAST:
        return [f"date-range: ended at {_text(report.end)}, more than a year ago"]
    return []


def _reaches(report: Report, moment: datetime) -> bool:
    return report.start - moment > _SLACK


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
