"""Reports that are too large for their receiver, cut into several (RFC 8460 section 5.2). No I/O.

Promises: each piece is a valid report within the limit; over all pieces the counts of a policy and
the sessions of its failures sum to what they were. Each piece has a report-id of its own, so that
no receiver takes the second for a duplicate of the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from smtp_sts.tlsrpt.errors import ReportError
from smtp_sts.tlsrpt.report import (
    Failure,
    PolicyResult,
    Report,
    failure_members,
    policy_members,
)

#: JSON bytes of one report. "A commonly observed receiver limit is ten megabytes" (section 5.2);
#: half and more is left for base64, and for receivers that look at the unpacked size.
MAX_REPORT: Final = 5 * 1024 * 1024
#: Longest ".N" that is added to a report-id.
_SUFFIX: Final = len(".1000000")
#: What a greater failure count, the array's brackets and commas may take beyond the first measure.
_SLACK: Final = 16


def split(report: Report, limit: int = MAX_REPORT) -> list[Report]:
    """The report in pieces of at most `limit` bytes of JSON; itself alone where it fits.

    Raises ReportError where it is not valid, or a single failure does not fit into a report.
    """
    if len(report.render()) <= limit:
        return [report]
    frame = len(msgspec.json.encode(msgspec.structs.replace(report, policies=()).plain()))
    space = limit - frame - _SUFFIX
    pieces: list[list[PolicyResult]] = [[]]
    room = space
    for result in report.policies:
        for part, size in _parts(result, space):
            if size > room and pieces[-1]:
                pieces.append([])
                room = space
            pieces[-1].append(part)
            room -= size
    left, _, right = report.report_id.partition("@")
    return [
        msgspec.structs.replace(
            report, policies=tuple(policies), report_id=f"{left}.{number}@{right}"
        )
        for number, policies in enumerate(pieces, 1)
    ]


def _parts(result: PolicyResult, space: int) -> Iterator[tuple[PolicyResult, int]]:
    """A policy's result in parts that fit into `space` bytes each, and their sizes."""
    bare = msgspec.structs.replace(result, failures=())
    base = len(msgspec.json.encode(policy_members(bare))) + _SLACK
    runs: list[list[Failure]] = [[]]
    sizes = [base]
    for failure in result.failures:
        size = len(msgspec.json.encode(failure_members(failure))) + 1
        if sizes[-1] + size > space and runs[-1]:
            runs.append([])
            sizes.append(base)
        runs[-1].append(failure)
        sizes[-1] += size
    if max(sizes) > space:
        raise ReportError(
            "report-too-large",
            f"one entry for {result.policy.policy_domain} alone is over the limit",
        )
    left = result.failed
    for number, (run, size) in enumerate(zip(runs, sizes, strict=True)):
        # Totals may be smaller or greater than the sum of details (section 4): the last has the
        # rest, so that they still sum to the total.
        own = sum(failure.failed_session_count for failure in run)
        failed = left if number == len(runs) - 1 else min(left, own)
        left -= failed
        successful = result.successful if number == 0 else 0
        yield PolicyResult(result.policy, successful, failed, tuple(run)), size
