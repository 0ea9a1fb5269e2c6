"""A policy of the first draft without a daemon: looked up, for `smtp-sts query`, or as it is kept.

Promises: the same discovery, proof and check of the MX hosts as the daemon's; nothing is kept. What
is told is what an MTA would be told once the daemon has seen the same.
"""

from __future__ import annotations

import asyncio

from smtp_sts.config import Config
from smtp_sts.policy import draft_record_name
from smtp_sts.resolver.decision import Decision, Step
from smtp_sts.resolver.discovery import Reach
from smtp_sts.resolver.draft_cache import PREFIX, Held, decided, lifetime_of, read_stored
from smtp_sts.resolver.draft_check import check
from smtp_sts.resolver.draft_discovery import find, prove
from smtp_sts.store import Stored

__all__ = ["PREFIX", "kept", "look_up_draft"]


async def look_up_draft(
    config: Config, reach: Reach, domain: str, now: float, *, dane: bool
) -> Decision:
    """What the first draft says of a domain, as of `now` (seconds since the epoch)."""
    seen = await find(domain, reach)
    record = seen.record
    if record is None:
        return Decision(domain, "no-policy", seen.reason, seen.detail, steps=seen.steps)
    proof, checked = await asyncio.gather(
        prove(record, record.authentication, seen.secure, reach),
        check(domain, record, reach, smtp_port=config.network.smtp_port, dane=dane),
    )
    steps = (*seen.steps, *proof.steps, *checked.steps)
    if not proof.good:
        steps += (Step("authentication", None, "a first policy is believed all the same"),)
    end = now + lifetime_of(record, seen.ttl)
    held = Held(record, now, end, end, now, proof.good, checked.verdict == "met")
    return decided(domain, held, dane=dane, source="network", steps=steps)


def kept(stored: Stored, now: float, *, dane: bool) -> Decision:
    """What a kept policy alone says; `dane`: TLSA records can be looked for."""
    domain = stored.domain.removeprefix(PREFIX)
    held = read_stored(stored, domain)
    if held is None:
        text = f"what is kept under {draft_record_name(domain)} is no policy"
        return Decision(domain, "no-policy", "sts-record-invalid", text)
    if held.expires_at <= now:
        return Decision(domain, "no-policy", "no-record", "the policy kept has expired")
    return decided(domain, held, dane=dane, source="cache")
