"""A cached policy as the store keeps it, and back, of either dialect. No I/O.

Promises: what was put comes back the same; what somebody else wrote into the store comes back as
None, never as an error. Must not: decide whether it applies.
"""

from __future__ import annotations

import msgspec

from smtp_sts.policy import (
    MAX_RENDERED,
    Dialect,
    DraftRecord,
    Policy,
    PolicyError,
    RecordError,
    draft_record_name,
    find_draft_record,
)
from smtp_sts.resolver.life.draft00 import record_of
from smtp_sts.resolver.life.state import Cached
from smtp_sts.store import Stored

#: What stands before the policy domain in the key of a policy of the first draft.
PREFIX = draft_record_name("")


class _Draft(msgspec.Struct, frozen=True):
    """What is kept of a policy of the first draft in the place of an RFC 8461 policy's text."""

    text: str
    authenticated: bool = False
    applied: bool = False


def key_of(dialect: Dialect, domain: str) -> str:
    """Under what name a policy of a domain is kept."""
    return domain if dialect == "rfc8461" else draft_record_name(domain)


def dialect_of(key: str) -> Dialect:
    """Of which dialect a policy is that is kept under a name."""
    return "draft00" if key.startswith(PREFIX) else "rfc8461"


def domain_of(key: str) -> str:
    """Whose policy it is that is kept under a name."""
    return key.removeprefix(PREFIX)


def to_store(domain: str, cached: Cached, text: str = "") -> Stored:
    """A policy as it is kept; `text` is what was served, "" where that is not known any more."""
    if isinstance(cached.policy, Policy):
        key, body = domain, text or cached.policy.render().decode()
    else:
        key = draft_record_name(domain)
        kept = _Draft(record_of(cached).text, cached.authenticated, cached.met)
        body = msgspec.json.encode(kept).decode()
    return Stored(
        key,
        cached.id,
        body,
        cached.fetched_at,
        cached.expires_at,
        cached.refresh_at,
        cached.used_at,
    )


def from_store(stored: Stored) -> Cached | None:
    """A policy that was kept; None where somebody else wrote it."""
    if dialect_of(stored.domain) == "draft00":
        return _draft(stored)
    try:
        policy = Policy.parse(stored.body.encode(), limit=MAX_RENDERED)
    except PolicyError:
        return None
    return _cached(stored, policy)


def _draft(stored: Stored) -> Cached | None:
    try:
        kept = msgspec.json.decode(stored.body, type=_Draft)
        record = find_draft_record([kept.text.encode()], domain_of(stored.domain))
    except (msgspec.MsgspecError, RecordError):
        return None
    if record is None:
        return None
    found = _cached(stored, record)
    return msgspec.structs.replace(found, authenticated=kept.authenticated, met=kept.applied)


def _cached(stored: Stored, policy: Policy | DraftRecord) -> Cached:
    return Cached(
        policy,
        stored.policy_id,
        stored.fetched_at,
        stored.expires_at,
        stored.refresh_at,
        stored.used_at,
    )
