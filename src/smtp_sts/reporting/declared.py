"""Policies in reports as their domains declared them (RFC 8460 section 4.5). No I/O.

MTAs, and what was counted, know a policy by our canonical lines. Its owner compares what a report
says with what he serves. Promises: where the store still keeps the text of the very policy that was
applied, the report has that text, line by line, extensions and order included; else the canonical
lines stay. What is cut of it says so. No line holds a control character (law 5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from smtp_sts.policy import Policy, PolicyError
from smtp_sts.policy.document import MAX_RENDERED
from smtp_sts.tlsrpt import AppliedPolicy, PolicyResult
from smtp_sts.tlsrpt.bounds import MAX_TEXT
from smtp_sts.tlsrpt.names import clean

#: Lines of one policy, and what stands at the end of a line or a list that is cut.
MAX_LINES: Final = 1_000
_CUT: Final = " (cut)"


def declared_lines(text: str) -> tuple[str, ...]:
    """A policy's text as lines that a report can have; empty lines are left out."""
    lines = [line for raw in text.splitlines() if (line := _line(raw))]
    if len(lines) > MAX_LINES:
        lines = [*lines[:MAX_LINES], left_out(len(lines) - MAX_LINES)]
    return tuple(lines)


def left_out(number: int) -> str:
    """The line that stands for so many others."""
    return f"({number:,} more lines, left out)"


def _line(raw: str) -> str:
    if len(raw) > MAX_TEXT:
        return clean(raw, MAX_TEXT - len(_CUT)) + _CUT
    return clean(raw, MAX_TEXT)


def domains_of(results: Iterable[PolicyResult]) -> list[str]:
    """The domains whose text is wanted."""
    return sorted({r.policy.policy_domain for r in results if r.policy.policy_type == "sts"})


def as_declared(results: Iterable[PolicyResult], texts: Mapping[str, str]) -> list[PolicyResult]:
    """The results, with `texts` (domain -> policy as it was served) where they are the same."""
    known: dict[str, tuple[Policy, tuple[str, ...]] | None] = {}
    found = []
    for result in results:
        domain = result.policy.policy_domain
        if result.policy.policy_type != "sts" or domain not in texts:
            found.append(result)
            continue
        if domain not in known:
            known[domain] = _read(texts[domain])
        kept = known[domain]
        if kept is not None and _is_same(result.policy, kept[0]):
            policy = msgspec.structs.replace(
                result.policy, policy_string=kept[1], mx_host=kept[0].mx
            )
            found.append(msgspec.structs.replace(result, policy=policy))
        else:
            found.append(result)
    return found


def _read(text: str) -> tuple[Policy, tuple[str, ...]] | None:
    try:
        return Policy.parse(text.encode(), limit=MAX_RENDERED), declared_lines(text)
    except PolicyError:  # one of the first draft, or written by somebody else
        return None


def _is_same(applied: AppliedPolicy, policy: Policy) -> bool:
    """Whether canonical lines, of which the end may be missing, are of this policy.

    An MTA may have been told a part of the patterns, where not all fit into a reply.
    """
    known = {"mode": policy.mode, "max_age": str(policy.max_age)}
    mx = set()
    for line in applied.policy_string:
        key, _, value = line.partition(":")
        value = value.strip()
        if key == "mx":
            mx.add(value)
        elif known.get(key, value) != value:
            return False
    return bool(applied.policy_string) and mx <= set(policy.mx)
