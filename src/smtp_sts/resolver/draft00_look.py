"""What the effects of the first draft's table ask of the network: the TXT record, and the proof
that it is the domain's (draft-margolis-smtp-sts-00 sections 3 and 3.3).

Promises: nothing here raises for what the network or a stranger does; whatever happened is an event
with a reason and the steps that led there. Must not: keep anything, or weigh what was seen.
"""

from __future__ import annotations

import random
from typing import Final

from smtp_sts.net.aside import aside
from smtp_sts.net.dnswire import TXT
from smtp_sts.net.failure import NetFailure
from smtp_sts.net.https import fetch_text
from smtp_sts.policy import (
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
from smtp_sts.resolver.life import events as ev
from smtp_sts.resolver.life.state import Reason
from smtp_sts.resolver.reach import Reach
from smtp_sts.resolver.rfc8461_look import Clock, certificate_in_words

#: MX host patterns and report addresses of a record that its step tells of.
_SHOWN: Final = 20


async def look_up(domain: str, number: int, reach: Reach, clock: Clock) -> ev.DraftSeen:
    """Look for the record of `domain`."""
    name = draft_record_name(domain)

    def none(code: str, sentence: str, cause: str = "") -> ev.DraftSeen:
        reason = Reason(code, cause, sentence)
        steps = (Step("record", False, reason.detail),)
        return ev.DraftSeen(
            now=clock(), number=number, record=None, spread=0.0, reason=reason, steps=steps
        )

    if len(name) > MAX_NAME:
        return none("no-record", f"{name} is too long for a name in the DNS: there is no record")
    try:
        # Of those who can validate: in a signed zone nobody forges a first policy then.
        answer = await reach.dns.query(name, TXT, validated=True, whose=share_key(domain))
    except NetFailure as failure:
        return none("dns-error", failure.sentence, failure.slug)
    texts = [r for r in answer.records if isinstance(r, bytes)]
    try:
        record = await aside(sum(map(len, texts)), lambda: find_draft_record(texts, domain))
    except RecordError as error:
        return none("sts-record-invalid", f"TXT at {name}: {error}", error.slug)
    if record is None:
        return none("no-record", f"no TXT record at {name} begins with v=STS1;")
    steps = [Step("record", True, f"TXT at {name}: {in_words(record)}")]
    steps += [Step("record", None, f"left out: {why}") for why in record.skipped[:_SHOWN]]
    return ev.DraftSeen(
        now=clock(),
        number=number,
        record=record,
        spread=random.random(),
        secure=answer.ad,
        ttl=answer.ttl,
        steps=tuple(steps),
    )


def in_words(record: DraftRecord) -> str:
    """A record in words."""
    mode = "enforced" if record.mode == "enforce" else "report-only"
    mx = ", ".join(record.mx[:_SHOWN]) or "any"
    more = f" and {len(record.mx) - _SHOWN} more" if len(record.mx) > _SHOWN else ""
    return f"{mode}, for {record.lifetime} s, MX hosts {mx}{more}, certificates {record.constraint}"


async def prove(wanted: ev.Prove, reach: Reach, clock: Clock) -> ev.ProofCame:
    """Hold a record against a mechanism: its own, or the cached policy's for one that is to take
    that one's place (section 3.3)."""

    def unproven(code: str, sentence: str, *, fetched: bool = False) -> ev.ProofCame:
        steps = (Step("authentication", False, sentence),)
        reason = Reason(code, sentence=sentence)
        return _came(wanted, clock(), steps, reason, fetched=fetched)

    by = wanted.by
    if by is None:
        return unproven("no-mechanism", "the policy names no mechanism: nothing can replace it")
    if by.mechanism == "dnssec":
        if wanted.secure:
            text = "dnssec: a trusted resolver has validated it"
            return _came(wanted, clock(), (Step("authentication", True, text),), None)
        text = "dnssec: the answer is not signed, or no resolver is trusted to have validated it"
        return unproven("dnssec-invalid", text)
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
        return unproven(failure.slug, failure.sentence, fetched=True)
    record, body = wanted.record, fetched.body
    if not await aside(len(body), lambda: body_matches(record, body)):  # "MUST exactly match"
        text = f"{by.url} is not what the record says: {body_difference(record, body)}"
        return unproven("body-differs", text, fetched=True)
    steps = (
        Step("authentication", True, f"{by.url} from {fetched.address} says the same"),
        Step("certificate", True, certificate_in_words(fetched.certificate)),
    )
    return _came(wanted, clock(), steps, None, fetched=True)


def _came(
    wanted: ev.Prove,
    now: float,
    steps: tuple[Step, ...],
    reason: Reason | None,
    *,
    fetched: bool = False,
) -> ev.ProofCame:
    return ev.ProofCame(
        now=now,
        number=wanted.number,
        good=reason is None,
        spread=random.random(),
        reason=reason or Reason(""),
        fetched=fetched,
        steps=steps,
    )
