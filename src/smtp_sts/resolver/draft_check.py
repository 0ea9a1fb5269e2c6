"""Whether a domain's MX hosts meet a policy of the first draft: our own check of them
(draft-margolis-smtp-sts-00 section 3.4).

Promises: `check` never raises for what the network or a stranger does, looks at a bounded number of
hosts and addresses within a bounded time, sends no mail, and says "met" only where an MX host was
seen to keep to the policy. Must not: keep anything or decide what follows.

One host that meets the policy is enough: mail can be delivered there, so that enforcing the policy
does not refuse it; the sender passes over the others (RFC 5321 section 5.1).
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from smtp_sts.dane import MatchError, Tlsa
from smtp_sts.net.dnswire import MX
from smtp_sts.net.failure import NetFailure
from smtp_sts.net.smtp import MxLook, look
from smtp_sts.net.tls import trusting_context
from smtp_sts.policy import DraftRecord, NextHop
from smtp_sts.policy.pattern import is_host_name
from smtp_sts.resolver.dane_look import find_dane
from smtp_sts.resolver.decision import Step
from smtp_sts.resolver.reach import Reach

#: MX hosts that are looked at, best preference first, and addresses of each.
MAX_HOSTS: Final = 5
MAX_ADDRESSES: Final = 2
#: Everything, seconds.
CHECK_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 15.0
#: How we call ourselves where the machine's name is no host name (RFC 2606).
_NOBODY: Final = "localhost.invalid"

Verdict = Literal["met", "failed", "unknown"]


class Checked(msgspec.Struct, frozen=True):
    """`met`: an MX host keeps to the policy; `failed`: those that could be seen do not, for
    `failure` (a result type of RFC 8460, or `mx-mismatch`); `unknown`: none could be seen."""

    verdict: Verdict
    failure: str = ""
    steps: tuple[Step, ...] = ()


async def check(
    domain: str, record: DraftRecord, reach: Reach, *, smtp_port: int, dane: bool
) -> Checked:
    """Hold the MX hosts of `domain` against a record; `dane`: TLSA records may be looked for."""
    if record.constraint == "tlsa" and not dane:
        # Section 3.4: "MUST behave as though the policy did not validate".
        text = "c=tlsa, and TLSA records are not looked for here: no trusted resolver, or dane off"
        return Checked(
            "failed",
            "sender-does-not-support-validation-method",
            (Step("MX host", False, text),),
        )
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await _check(domain, record, reach, smtp_port)
    except TimeoutError:
        step = Step("MX host", False, f"nothing was seen within {CHECK_SECONDS:g} s")
        return Checked("unknown", steps=(step,))


async def _check(domain: str, record: DraftRecord, reach: Reach, smtp_port: int) -> Checked:
    try:
        answer = await reach.dns.query(domain, MX, validated=True)
    except NetFailure as error:
        return Checked("unknown", steps=(Step("MX host", False, error.sentence),))
    pairs = sorted(pair for pair in answer.records if isinstance(pair, tuple))
    names = [host for _, host in pairs] or [domain]  # RFC 5321 section 5.1
    hosts = [host for host in dict.fromkeys(names) if is_host_name(host)][:MAX_HOSTS]
    if not hosts:
        step = Step("MX host", None, f"{domain} names no MX host that mail can go to")
        return Checked("unknown", steps=(step,))
    tlsa: dict[str, tuple[str, tuple[Tlsa, ...]]] = {}
    if record.constraint == "tlsa":
        state = await find_dane(NextHop(domain), reach.dns, smtp_port=smtp_port)
        tlsa = {h.host: (h.base, h.records) for h in state.hosts if h.state == "usable"}
    steps: list[Step] = []
    failure = ""
    for host in hosts:
        if not record.matches(host):
            failure = failure or "mx-mismatch"
            steps.append(Step("MX host", False, f"{host}: no pattern of the policy covers it"))
            continue
        if record.constraint == "tlsa" and host not in tlsa:
            failure = failure or "tlsa-invalid"
            steps.append(Step("MX host", False, f"{host} has no TLSA records that can be used"))
            continue
        seen = await _look(domain, host, reach, smtp_port, tlsa.get(host))
        ok = not seen.result_type if seen.seen else None
        text = seen.text or f"{seen.tls_version}, {record.constraint} holds"
        where = f"{host} at {seen.address}" if seen.address else host
        steps.append(Step("MX host", ok, f"{where}: {text}"))
        if ok:
            return Checked("met", steps=tuple(steps))
        failure = failure or seen.result_type
    # What was seen to fail tells more than that another host could not be reached.
    return Checked("failed" if failure else "unknown", failure, tuple(steps))


async def _look(
    domain: str,
    host: str,
    reach: Reach,
    port: int,
    tlsa: tuple[str, Sequence[Tlsa]] | None,
) -> MxLook:
    try:
        addresses = await reach.dns.addresses(host)
    except NetFailure as failure:
        return MxLook(host, "", False, text=failure.sentence)
    last = MxLook(host, "", False, text=f"{host} has no address")
    for address in addresses[:MAX_ADDRESSES]:
        last = await look(
            host if tlsa is None else tlsa[0],
            address,
            context=reach.context if tlsa is None else trusting_context(),
            own_name=own_name(),
            port=port,
            allow_private=reach.allow_private,
            seconds=LOOK_SECONDS,
        )
        if tlsa is not None and last.seen and not last.result_type:
            last = await asyncio.to_thread(_held_against, last, tlsa, domain)
        if last.seen and not last.result_type:
            break
    return last


def _held_against(seen: MxLook, tlsa: tuple[str, Sequence[Tlsa]], domain: str) -> MxLook:
    from smtp_sts.dane import match  # `cryptography`: 20 MB that others do not need

    try:
        match(tlsa[1], seen.chain, (tlsa[0], domain), when=time.time())
    except MatchError as error:
        return msgspec.structs.replace(seen, result_type=error.slug, text=error.sentence)
    return seen


def own_name() -> str:
    """What EHLO says (RFC 5321 section 4.1.1.1)."""
    name = socket.gethostname().lower()
    return name if is_host_name(name) else _NOBODY
