"""One look at a domain: its TXT record, then its policy (RFC 8461 sections 3.1 to 3.3).

Promises: `discover` never raises for what the network or a stranger does; whatever happened is a
`Found` with a reason and the steps that led there. Must not: keep anything, or weigh what it found
against a cached policy (that is `resolver.py`'s).
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import msgspec

from smtp_sts.net.aside import aside
from smtp_sts.net.dns import Dns
from smtp_sts.net.dnswire import TXT
from smtp_sts.net.failure import NetFailure
from smtp_sts.net.https import fetch_policy
from smtp_sts.policy import (
    Policy,
    PolicyError,
    Record,
    RecordError,
    find_record,
    policy_url,
    record_name,
)
from smtp_sts.policy.organisation import share_key
from smtp_sts.resolver.decision import Step

#: MX host patterns of a policy that its step tells of.
_SHOWN: Final = 20


class Reach(msgspec.Struct, frozen=True):
    """How the network is reached: made once, shared by all discoveries."""

    dns: Dns
    context: ssl.SSLContext
    https_port: int = 443
    allow_private: bool = False
    fetch_timeout: float = 60.0


class Found(msgspec.Struct, frozen=True):
    """What one look found.

    `result` is `policy` (a new one was fetched), `unchanged` (the id is the cached one's, nothing
    was fetched) or `failed`. `fetch_failed` tells that a policy host was asked in vain.
    """

    result: Literal["policy", "unchanged", "failed"]
    reason: str
    detail: str = ""
    policy: Policy | None = None
    policy_id: str = ""
    fetch_failed: bool = False
    steps: tuple[Step, ...] = ()


async def discover(
    domain: str,
    reach: Reach,
    *,
    known_id: str = "",
    refresh: bool = False,
    may_fetch: bool = True,
    turn: Callable[[str], Awaitable[bool]] | None = None,
) -> Found:
    """Look for the policy of `domain`.

    `known_id` is the id of a cached policy: while the record still shows it, nothing is fetched.
    `refresh` fetches all the same, whatever the record says (section 10.2: a refresh must not
    depend on DNS). Without `may_fetch` only the record is looked at (section 3.3: no second
    attempt within five minutes). `turn` is awaited before a fetch, with the id of the record, ""
    where there is none: False where the policy has come another way meanwhile, which is
    `unchanged`.
    """
    steps: list[Step] = []
    record, reason, detail = await _find_record(domain, reach, steps)
    if record is None and not refresh:
        return Found("failed", reason, detail, steps=tuple(steps))
    if record is not None and record.id == known_id and not refresh:
        return Found("unchanged", "policy-found", policy_id=known_id, steps=tuple(steps))
    if not may_fetch:
        return Found(
            "failed",
            "sts-policy-fetch-error",
            "the last fetch failed less than five minutes ago; the next one waits",
            steps=tuple(steps),
        )
    if turn is not None and not await turn(record.id if record is not None else ""):
        steps.append(Step("policy", True, "another daemon has just fetched it"))
        return Found("unchanged", "policy-found", steps=tuple(steps))
    policy_id = record.id if record is not None else known_id
    return await _fetch(domain, reach, policy_id, steps)


async def _find_record(
    domain: str, reach: Reach, steps: list[Step]
) -> tuple[Record | None, str, str]:
    name = record_name(domain)
    try:
        answer = await reach.dns.query(name, TXT, whose=share_key(domain))
    except NetFailure as failure:
        steps.append(Step("record", False, failure.sentence))
        return None, "dns-error", f"{failure.slug}: {failure.sentence}"
    try:
        texts = [r for r in answer.records if isinstance(r, bytes)]
        record = await aside(sum(map(len, texts)), lambda: find_record(texts))
    except RecordError as error:
        steps.append(Step("record", False, f"TXT at {name}: {error}"))
        return None, "sts-record-invalid", f"{error.slug}: {error}"
    if record is None:
        text = f"no TXT record at {name} begins with v=STSv1;"
        steps.append(Step("record", None, text))
        return None, "no-record", text
    steps.append(Step("record", True, f"TXT at {name} has id {record.id}"))
    return record, "", ""


async def _fetch(domain: str, reach: Reach, policy_id: str, steps: list[Step]) -> Found:
    url = policy_url(domain)
    try:
        fetched = await fetch_policy(
            domain,
            dns=reach.dns,
            context=reach.context,
            port=reach.https_port,
            allow_private=reach.allow_private,
            timeout=reach.fetch_timeout,
        )
    except NetFailure as failure:
        steps.append(Step("fetch", False, failure.sentence))
        detail = f"{failure.slug}: {failure.sentence}"
        # A result type stands even where it was the policy host's DNS that failed.
        reason = failure.result_type
        reason = "sts-policy-fetch-error" if reason == "dns-error" else reason
        return Found("failed", reason, detail, fetch_failed=True, steps=tuple(steps))
    steps.append(Step("fetch", True, f"{url} from {fetched.address} over {fetched.tls_version}"))
    steps.append(Step("certificate", True, certificate_told(fetched.certificate)))
    try:
        policy = await aside(len(fetched.body), lambda: Policy.parse(fetched.body))
    except PolicyError as error:
        steps.append(Step("policy", False, str(error)))
        detail = f"{error.slug}: {error}"
        return Found("failed", "sts-policy-invalid", detail, fetch_failed=True, steps=tuple(steps))
    mx = ", ".join(policy.mx[:_SHOWN]) or "none"
    more = f" and {len(policy.mx) - _SHOWN} more" if len(policy.mx) > _SHOWN else ""
    text = f"mode {policy.mode}, for {policy.max_age} s, MX hosts {mx}{more}"
    steps.append(Step("policy", True, text))
    return Found("policy", "policy-found", policy=policy, policy_id=policy_id, steps=tuple(steps))


def certificate_told(certificate: dict[str, object]) -> str:
    """A policy host's certificate in words."""
    names = certificate.get("subject_names")
    shown = ", ".join(str(n) for n in names[:4]) if isinstance(names, list | tuple) else "?"
    issuer, until = certificate.get("issuer"), certificate.get("not_after")
    return f"valid for {shown}, issued by {issuer}, until {until}"
