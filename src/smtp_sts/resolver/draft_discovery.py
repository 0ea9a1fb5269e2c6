"""One look for a policy of the first draft: its TXT record, and the proof that it is the domain's
(draft-margolis-smtp-sts-00 sections 3 and 3.3).

Promises: nothing here raises for what the network or a stranger does; whatever happened is a `Seen`
or a `Proof` with a reason and the steps that led there. Must not: keep anything, or weigh what was
seen against a cached policy (that is `draft_cache.py`'s).
"""

from __future__ import annotations

from typing import Final

import msgspec

from smtp_sts.net.aside import aside
from smtp_sts.net.dnswire import TXT
from smtp_sts.net.failure import NetFailure
from smtp_sts.net.https import fetch_text
from smtp_sts.policy import (
    Authentication,
    DraftRecord,
    RecordError,
    body_difference,
    body_matches,
    draft_record_name,
    find_draft_record,
)
from smtp_sts.policy.organisation import share_key
from smtp_sts.policy.pattern import MAX_NAME
from smtp_sts.resolver.decision import Step
from smtp_sts.resolver.discovery import Reach, certificate_told

#: MX host patterns and report addresses of a record that its step tells of.
_SHOWN: Final = 20


class Seen(msgspec.Struct, frozen=True):
    """What the DNS says: a record, or why there is none (a reason slug, and words).

    `secure`: a trusted resolver has validated the answer. `ttl` in seconds.
    """

    record: DraftRecord | None
    reason: str = ""
    detail: str = ""
    secure: bool = False
    ttl: int = 0
    steps: tuple[Step, ...] = ()


class Proof(msgspec.Struct, frozen=True):
    """Whether a record has proven to be the domain's; else why not.

    `fetched` tells that a host was asked for it.
    """

    good: bool
    reason: str = ""
    detail: str = ""
    fetched: bool = False
    steps: tuple[Step, ...] = ()


async def find(domain: str, reach: Reach) -> Seen:
    """Look for the record of `domain`."""
    name = draft_record_name(domain)
    if len(name) > MAX_NAME:
        return _none("no-record", f"{name} is too long for a name in the DNS: there is no record")
    try:
        # Of those who can validate: in a signed zone nobody forges a first policy then.
        answer = await reach.dns.query(name, TXT, validated=True, whose=share_key(domain))
    except NetFailure as failure:
        return _none("dns-error", f"{failure.slug}: {failure.sentence}")
    records = [r for r in answer.records if isinstance(r, bytes)]
    try:
        record = await aside(sum(map(len, records)), lambda: find_draft_record(records, domain))
    except RecordError as error:
        return _none("sts-record-invalid", f"{error.slug}: TXT at {name}: {error}")
    if record is None:
        return _none("no-record", f"no TXT record at {name} begins with v=STS1;")
    steps = [Step("record", True, f"TXT at {name}: {told(record)}")]
    steps += [Step("record", None, f"left out: {why}") for why in record.skipped[:_SHOWN]]
    return Seen(record, secure=answer.ad, ttl=answer.ttl, steps=tuple(steps))


def told(record: DraftRecord) -> str:
    """A record in words."""
    mode = "enforced" if record.mode == "enforce" else "report-only"
    mx = ", ".join(record.mx[:_SHOWN]) or "any"
    more = f" and {len(record.mx) - _SHOWN} more" if len(record.mx) > _SHOWN else ""
    return f"{mode}, for {record.lifetime} s, MX hosts {mx}{more}, certificates {record.constraint}"


async def prove(
    record: DraftRecord, by: Authentication | None, secure: bool, reach: Reach
) -> Proof:
    """Hold a record against the mechanism `by`: its own, or the cached policy's for one that is to
    take that one's place; `secure` is that of the answer it came with (section 3.3)."""
    if by is None:
        return _unproven("no-mechanism", "the policy names no mechanism: nothing can replace it")
    if by.mechanism == "dnssec":
        if secure:
            step = Step("authentication", True, "dnssec: a trusted resolver has validated it")
            return Proof(True, steps=(step,))
        text = "dnssec: the answer is not signed, or no resolver is trusted to have validated it"
        return _unproven("dnssec-invalid", text)
    try:
        fetched = await fetch_text(
            by.host,
            by.target,
            dns=reach.dns,
            context=reach.context,
            port=reach.https_port,
            allow_private=reach.allow_private,
            timeout=reach.fetch_timeout,
        )
    except NetFailure as failure:
        return _unproven(failure.slug, failure.sentence, fetched=True)
    if not body_matches(record, fetched.body):  # "MUST exactly match"
        text = f"{by.url} is not what the record says: {body_difference(record, fetched.body)}"
        return _unproven("body-differs", text, fetched=True)
    return Proof(
        True,
        fetched=True,
        steps=(
            Step("authentication", True, f"{by.url} from {fetched.address} says the same"),
            Step("certificate", True, certificate_told(fetched.certificate)),
        ),
    )


def _none(reason: str, detail: str) -> Seen:
    return Seen(None, reason, detail, steps=(Step("record", False, detail),))


def _unproven(reason: str, detail: str, *, fetched: bool = False) -> Proof:
    return Proof(False, reason, detail, fetched, (Step("authentication", False, detail),))
