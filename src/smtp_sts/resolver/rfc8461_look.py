"""What the effects of RFC 8461's table ask of the network: the TXT record, then the policy
(sections 3.1 to 3.3).

Promises: nothing here raises for what the network or a stranger does; whatever happened is an event
with a reason and the steps that led there. Must not: keep anything, or weigh what was found.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from smtp_sts.net.aside import aside
from smtp_sts.net.dnswire import TXT
from smtp_sts.net.failure import NetFailure
from smtp_sts.net.https import fetch_policy
from smtp_sts.policy import (
    Policy,
    PolicyError,
    RecordError,
    find_record,
    policy_url,
    record_name,
)
from smtp_sts.policy.organisation import share_key
from smtp_sts.resolver.decision import Step
from smtp_sts.resolver.life import events as ev
from smtp_sts.resolver.life.state import Reason
from smtp_sts.resolver.reach import Reach

#: MX host patterns of a policy that its step tells of.
_SHOWN: Final = 20
#: Bytes of a policy that is not valid which are kept for reports, in memory.
MAX_DECLARED: Final = 1_024

Clock = Callable[[], float]


async def look_up(domain: str, number: int, reach: Reach, clock: Clock) -> ev.RecordSeen:
    """Look for the record of `domain`."""
    name = record_name(domain)
    try:
        answer = await reach.dns.query(name, TXT, whose=share_key(domain))
    except NetFailure as failure:
        reason = Reason("dns-error", failure.slug, failure.sentence)
        return _no_record(number, clock(), reason, Step("record", False, failure.sentence))
    try:
        texts = [r for r in answer.records if isinstance(r, bytes)]
        record = await aside(sum(map(len, texts)), lambda: find_record(texts))
    except RecordError as error:
        reason = Reason("sts-record-invalid", error.slug, str(error))
        step = Step("record", False, f"TXT at {name}: {error}")
        return _no_record(number, clock(), reason, step)
    if record is None:
        text = f"no TXT record at {name} begins with v=STSv1;"
        reason = Reason("no-record", sentence=text)
        return _no_record(number, clock(), reason, Step("record", None, text))
    step = Step("record", True, f"TXT at {name} has id {record.id}")
    return ev.RecordSeen(now=clock(), number=number, id=record.id, steps=(step,))


def _no_record(number: int, now: float, reason: Reason, step: Step) -> ev.RecordSeen:
    return ev.RecordSeen(now=now, number=number, reason=reason, steps=(step,))


async def fetch(
    domain: str, number: int, reach: Reach, clock: Clock
) -> ev.PolicyFetched | ev.FetchFailed:
    """Fetch the policy of `domain` over authenticated HTTPS."""
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
        # A result type stands even where it was the policy host's DNS that failed.
        code = failure.result_type
        code = "sts-policy-fetch-error" if code == "dns-error" else code
        reason = Reason(code, failure.slug, failure.sentence)
        steps: tuple[Step, ...] = (Step("fetch", False, failure.sentence),)
        return ev.FetchFailed(now=clock(), number=number, reason=reason, steps=steps)
    steps = (
        Step("fetch", True, f"{url} from {fetched.address} over {fetched.tls_version}"),
        Step("certificate", True, certificate_in_words(fetched.certificate)),
    )
    try:
        policy = await aside(len(fetched.body), lambda: Policy.parse(fetched.body))
    except PolicyError as error:
        declared = _beginning(fetched.body)
        reason = Reason("sts-policy-invalid", error.slug, str(error), declared)
        steps = (*steps, Step("policy", False, str(error)))
        return ev.FetchFailed(now=clock(), number=number, reason=reason, steps=steps)
    return ev.PolicyFetched(
        now=clock(),
        number=number,
        policy=policy,
        spread=random.random(),
        steps=(*steps, _policy_step(policy)),
        text="" if fetched.body == policy.render() else fetched.body.decode(),
    )


def _beginning(body: bytes) -> str:
    """Of a policy that is not valid, so much as is told of it."""
    text = body[:MAX_DECLARED].decode("utf-8", "replace")
    more = len(body) - MAX_DECLARED
    return f"{text}\n(cut: {more:,} bytes more)" if more > 0 else text


def _policy_step(policy: Policy) -> Step:
    mx = ", ".join(policy.mx[:_SHOWN]) or "none"
    more = f" and {len(policy.mx) - _SHOWN} more" if len(policy.mx) > _SHOWN else ""
    text = f"mode {policy.mode}, for {policy.max_age} s, MX hosts {mx}{more}"
    return Step("policy", True, text)


def certificate_in_words(certificate: dict[str, object]) -> str:
    """A policy host's certificate in words."""
    names = certificate.get("subject_names")
    shown = ", ".join(str(n) for n in names[:4]) if isinstance(names, list | tuple) else "?"
    issuer, until = certificate.get("issuer"), certificate.get("not_after")
    return f"valid for {shown}, issued by {issuer}, until {until}"
