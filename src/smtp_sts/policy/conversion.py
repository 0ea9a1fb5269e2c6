"""A policy of one dialect in the words of the other, and what gets lost on the way. No I/O.

Promises: what comes out is valid in its dialect and never asks for less than the source did without
a sentence that says so; what has no place there is named. Must not: publish, or guess what the
domain's owner would rather have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from smtp_sts.policy.document import Policy
from smtp_sts.policy.draft00 import ABNF_LIFETIME, Constraint, DraftRecord
from smtp_sts.policy.draft00_authentication import Authentication
from smtp_sts.policy.draft00_rua import ReportUri
from smtp_sts.policy.errors import shown

#: For a report-only policy that names no lifetime, seconds: a day.
DEFAULT_MAX_AGE: Final = 86400
_KEYS: Final = ("version", "mode", "mx", "max_age")


class ToRfc8461(msgspec.Struct, frozen=True):
    """A policy of RFC 8461, and sentences on what it does not say of what the draft's said."""

    policy: Policy
    losses: tuple[str, ...]


class ToDraft(msgspec.Struct, frozen=True):
    """A record of the draft, and sentences on what it does not say of what RFC 8461's said."""

    record: DraftRecord
    losses: tuple[str, ...]


def to_rfc8461(record: DraftRecord) -> ToRfc8461:
    """A record of the draft as a policy of RFC 8461."""
    mode = record.mode if record.mx else "none"
    policy = Policy(mode, record.mx, record.lifetime or DEFAULT_MAX_AGE)
    return ToRfc8461(policy, tuple(_lost_of_draft(record)))


def _lost_of_draft(record: DraftRecord) -> Iterator[str]:
    if not record.mx:
        yield (
            "mode is none: testing needs an mx line for each MX host, and the record names none; "
            "add them and write mode: testing"
        )
    wide = [p for p in record.mx if p.startswith("*.")]
    if wide:
        yield (
            f"{', '.join(wide)} stands for one label in RFC 8461, for any number in the draft: add "
            "an mx line for each MX host that has more"
        )
    if record.constraint == "tlsa":
        yield (
            "c=tlsa: RFC 8461 knows certificates of public authorities only, so an MX host without "
            "one is refused; its TLSA records need no policy (RFC 7672)"
        )
    if record.authentication is None:
        yield "the policy has to be served over HTTPS now; the record named no such place"
    elif record.authentication.mechanism == "dnssec":
        yield "a=dnssec: RFC 8461 authenticates by HTTPS alone, also where the zone is signed"
    if not record.lifetime:
        yield f"the record names no lifetime: max_age is {DEFAULT_MAX_AGE}"
    if record.rua:
        yield "rua is no part of a policy: it stands in a record of its own (RFC 8460)"
    for uri in record.rua:
        if uri.limit is not None:
            yield f"{uri.uri}: the limit of {uri.limit} bytes; RFC 8460 has none"
    yield from record.skipped


def to_draft(
    policy: Policy,
    authentication: Authentication | None,
    rua: tuple[ReportUri, ...] = (),
    constraint: Constraint = "webpki",
) -> ToDraft:
    """A policy of RFC 8461 as a record of the draft, with what a policy there does not say."""
    enforced = policy.mode == "enforce"
    record = DraftRecord(
        mode="enforce" if enforced else "testing",
        mx=policy.mx,
        authentication=authentication,
        constraint=constraint,
        lifetime=policy.max_age or int(enforced),
        rua=rua,
    )
    record = msgspec.structs.replace(record, text=record.render())
    return ToDraft(record, tuple(_lost_of_rfc8461(policy, record)))


def _lost_of_rfc8461(policy: Policy, record: DraftRecord) -> Iterator[str]:
    yield (
        "a policy that is not known yet is trusted without proof in the draft: whoever forges the "
        "DNS answer first sets it"
    )
    if policy.mode == "none":
        yield "mode none: the draft cannot take a policy back; report-only comes closest"
    wide = [p for p in policy.mx if p.startswith("*.")]
    if wide:
        yield (
            f"{', '.join(wide)} stands for any number of labels in the draft, for one in RFC 8461: "
            "more hosts match"
        )
    if not policy.max_age and record.lifetime:
        yield "max_age 0: an enforced policy of the draft has a lifetime, e=1 at least"
    if record.lifetime > ABNF_LIFETIME:
        yield (
            f"e={record.lifetime} has more digits than the draft's grammar; readers that go by it "
            f"take {ABNF_LIFETIME} at most"
        )
    if record.authentication is None:
        yield "without a, nothing can take this policy's place before it expires"
    if not record.rua:
        yield "rua: the addresses of the _smtp._tls record; name them to have them in"


def unknown_keys(body: bytes) -> tuple[str, ...]:
    """Keys of a policy document that no conversion carries over, for a message (RFC 8461 section
    3.2: unknown keys are ignored)."""
    names = re.findall(rb"^([A-Za-z0-9][A-Za-z0-9_.-]{0,31}):", body, re.MULTILINE)
    found = dict.fromkeys(name.decode("ascii") for name in names)
    return tuple(shown(name) for name in found if name not in _KEYS)
