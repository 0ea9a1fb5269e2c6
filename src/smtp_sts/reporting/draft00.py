"""A day's failures under policies of the first draft, as reports to those policies' `rua`. No I/O.

draft-margolis-smtp-sts-00 section 4. Promises: what is reported on a policy goes where that policy
says, and nowhere else, so that who forged one learns nothing of another; no mail is larger than any
of its addressees takes; the same counts and the same sender give the same reports. What cannot go
is named. Must not: decide whether an address may get mail (`destinations.plan` does).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from smtp_sts.policy import RecordError, ReportUri, find_draft_record
from smtp_sts.reporting.compile import Sender, compile_reports, report_id
from smtp_sts.tlsrpt import (
    Destination,
    DraftReport,
    EnvelopeError,
    PolicyResult,
    destination,
    is_draft_policy,
    split_draft,
    to_draft,
)
from smtp_sts.tlsrpt.bounds import MAX_TEXT

#: The limit of a report that is cut later, by what its addressees take.
_WHOLE: Final = 1 << 62


class DraftMailing(msgspec.Struct, frozen=True):
    """The parts of the report on one policy, and who gets each of them.

    `left_out` says in sentences what does not go, and why.
    """

    parts: tuple[DraftReport, ...]
    destinations: tuple[Destination, ...]
    left_out: tuple[str, ...] = ()


def compile_draft_reports(
    day: int, domain: str, results: Iterable[PolicyResult], sender: Sender
) -> list[DraftMailing]:
    """The reports of a UTC day (days since the epoch) on a domain's policies of the draft.

    Empty where no session failed under one. Raises ReportError where the counts make no report.
    """
    failed = [r for r in results if r.failed and is_draft_policy(r.policy)]
    mailings = []
    # each policy once, in an order that does not depend on the store's
    for report in compile_reports(day, domain, failed, sender, limit=_WHOLE):
        for result in report.policies:
            text = result.policy.policy_string[0]
            number = report_id(day, domain, sender, text)
            one = msgspec.structs.replace(report, policies=(result,), report_id=number)
            mailings += [_mailing(draft, text) for draft in to_draft(one).reports]
    return mailings


def _mailing(draft: DraftReport, text: str) -> DraftMailing:
    """The report on one policy, whose TXT text says where it goes."""
    if len(text) >= MAX_TEXT:  # reports cut texts at that length; an address may be cut too
        return DraftMailing((), (), (f"{draft.domain}: the policy is too long to report on",))
    try:
        record = find_draft_record([text.encode()], draft.domain)
    except RecordError as error:
        return DraftMailing((), (), (f"{draft.domain}: the policy's text: {error}",))
    if record is None or not record.rua:
        return DraftMailing((), (), (f"{draft.domain}: the policy names no address for reports",))
    left_out = list(record.skipped)
    # What fits the least of the sizes fits all: so all get the same parts.
    for uri in sorted(record.rua, key=lambda uri: math.inf if uri.limit is None else uri.limit):
        try:
            parts = split_draft(draft, uri.limit)
        except EnvelopeError as error:
            left_out.append(f"{uri.uri}: {error}")
            continue
        reached = list(_reached(record.rua, uri.limit, left_out))
        return DraftMailing(tuple(parts), tuple(reached), tuple(left_out))
    return DraftMailing((), (), tuple(left_out))


def _reached(
    rua: Iterable[ReportUri], least: int | None, left_out: list[str]
) -> Iterator[Destination]:
    for uri in rua:
        if least is not None and uri.limit is not None and uri.limit < least:
            continue  # said already
        try:
            yield destination(uri.uri.encode())
        except ValueError as error:
            left_out.append(f"{uri.uri} {error}")
