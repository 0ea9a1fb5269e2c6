"""One look-up without a daemon and without a store: for `smtp-sts query`.

Promises: the same discovery and the same replies as the daemon's; nothing is kept.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any, Final

import msgspec

from smtp_sts.config import Config, dialects, nameservers
from smtp_sts.mta.draft_lookup import PREFIX, kept, look_up_draft
from smtp_sts.mta.told import replies
from smtp_sts.net.dns import Dns
from smtp_sts.net.dnswire import MX
from smtp_sts.net.failure import NetFailure
from smtp_sts.net.https import tls_context
from smtp_sts.net.resolv_conf import ResolvConf
from smtp_sts.policy import MAX_RENDERED, Policy, PolicyError, policy_domain
from smtp_sts.resolver import overrides
from smtp_sts.resolver.dane_look import find_dane
from smtp_sts.resolver.decision import Decision, Step, as_data
from smtp_sts.resolver.discovery import Reach, discover
from smtp_sts.resolver.precedence import known, of_dialects, told, weigh
from smtp_sts.store import Stored

#: MX hosts that one step tells of.
_SHOWN: Final = 8


def reach_of(config: Config) -> Reach:
    """How a configuration reaches the network. Raises OSError for a CA file that cannot be read."""
    dns = Dns(
        nameservers(config) or ResolvConf().servers,
        timeout=config.dns.timeout,
        trust_ad=config.dns.trust_ad,
    )
    network = config.network
    return Reach(
        dns,
        tls_context(network.ca_file),
        network.https_port,
        network.allow_private_addresses,
        network.fetch_timeout,
    )


async def look_up(config: Config, next_hop: str) -> dict[str, Any]:
    """What applies to a next hop, in the form of `as_data`. Raises NextHopError, OSError,
    ConfigError."""
    domain = policy_domain(next_hop)
    now = time.time()
    rule = overrides.find(overrides.read(config.overrides), domain)
    decision = overrides.fixed(rule, domain, now) if rule else None
    if decision is None:
        decision = await _weighed(config, domain, now, rule)
    return as_data(next_hop, decision, replies(decision))


def as_kept(config: Config, next_hop: str, stored: Stored) -> dict[str, Any]:
    """What a kept policy alone says of a next hop, in the form of `as_data`: no network is asked.

    Raises ConfigError.
    """
    now = time.time()
    if stored.domain.startswith(PREFIX):
        decision = kept(stored, now, dane=config.policy.dane)
        return as_data(next_hop, *_by_rule(config, decision, now))
    decision = Decision(stored.domain, "no-policy", "no-record", "the policy kept has expired")
    try:
        policy = Policy.parse(stored.body.encode(), limit=MAX_RENDERED)
    except PolicyError as error:  # somebody else wrote into our file
        decision = Decision(stored.domain, "no-policy", "sts-policy-invalid", str(error))
    else:
        if now < stored.expires_at:
            decision = Decision(
                stored.domain,
                policy.mode,
                "policy-found",
                policy=policy,
                policy_id=stored.policy_id,
                source="cache",
                fetched_at=stored.fetched_at,
                expires_at=stored.expires_at,
            )
    return as_data(next_hop, *_by_rule(config, decision, now))


def _by_rule(config: Config, decision: Decision, now: float) -> tuple[Decision, dict[str, str]]:
    """A decision as the operator's rules change it, and the replies to it."""
    domain = decision.policy_domain
    if rule := overrides.find(overrides.read(config.overrides), domain):
        decision = overrides.fixed(rule, domain, now) or overrides.adapt(rule, decision)
    return decision, replies(decision)


async def _weighed(
    config: Config, domain: str, now: float, rule: overrides.Rule | None
) -> Decision:
    reach = reach_of(config)
    off = _dane_off(config, reach, rule)
    if off:
        sts = await _discovered(config, reach, domain, now, dane=False)
        decision = msgspec.structs.replace(sts, steps=(*sts.steps, Step("DANE", None, off)))
        return overrides.adapt(rule, decision) if rule else decision
    sts, state = await asyncio.gather(
        _discovered(config, reach, domain, now, dane=True),
        find_dane(domain, reach.dns, smtp_port=config.network.smtp_port),
    )
    sts = overrides.adapt(rule, sts) if rule else sts
    dane = msgspec.structs.replace(known(state, math.inf), steps=told(state))
    return weigh(sts, dane, math.inf)


def _dane_off(config: Config, reach: Reach, rule: overrides.Rule | None) -> str:
    """Why DANE is not looked for, for people; "" where it is."""
    if not config.policy.dane:
        return "not looked for: policy.dane is false"
    if rule and rule.never_dane:
        return f"not looked for: the rule for {rule.key!r} says dane = false"
    if not reach.dns.trusts_ad:
        names = ", ".join(address for address, _ in reach.dns.nameservers)
        return (
            f"not looked for: the AD bit of {names} is not trusted; use a validating resolver on "
            "loopback, or set dns.trust_ad"
        )
    return ""


async def _discovered(
    config: Config, reach: Reach, domain: str, now: float, *, dane: bool
) -> Decision:
    """What the dialects say that the configuration names."""
    wanted = dialects(config)
    if wanted == ("rfc8461",):
        return await _rfc8461(reach, domain, now)
    draft = look_up_draft(config, reach, domain, now, dane=dane)
    if "rfc8461" not in wanted:
        return await draft
    return of_dialects(*await asyncio.gather(_rfc8461(reach, domain, now), draft))


async def _rfc8461(reach: Reach, domain: str, now: float) -> Decision:
    found, mx = await asyncio.gather(discover(domain, reach), _mx_hosts(reach, domain))
    if found.policy is not None and found.policy.mode != "none" and mx:
        covered = _covered(found.policy, mx)
        found = msgspec.structs.replace(found, steps=(*found.steps, *covered))
    if found.policy is None:
        return Decision(domain, "no-policy", found.reason, found.detail, steps=found.steps)
    return Decision(
        domain,
        found.policy.mode,
        found.reason,
        policy=found.policy,
        policy_id=found.policy_id,
        fetched_at=now,
        expires_at=now + found.policy.max_age,
        steps=found.steps,
    )


async def _mx_hosts(reach: Reach, domain: str) -> list[str]:
    """The MX hosts of a domain, by preference; none where the DNS does not say."""
    try:
        answer = await reach.dns.query(domain, MX)
    except NetFailure:
        return []
    pairs = sorted(record for record in answer.records if isinstance(record, tuple))
    return list(dict.fromkeys(host for _, host in pairs if host)) or [domain]


def _covered(policy: Policy, hosts: list[str]) -> list[Step]:
    """Which MX hosts the policy names, for people (RFC 8461 section 4.1)."""
    steps = []
    good = [host for host in hosts if policy.matches(host)]
    bad = [host for host in hosts if not policy.matches(host)]
    if good:
        steps.append(Step("MX", True, f"the policy names {_listed(good)}"))
    if bad:
        enforced = policy.mode == "enforce"
        so = "" if not enforced else "; mail never goes there" if good else "; all mail waits"
        steps.append(Step("MX", False, f"no pattern of the policy matches {_listed(bad)}{so}"))
    return steps


def _listed(hosts: list[str]) -> str:
    shown = ", ".join("".join(c if c.isprintable() else "?" for c in h) for h in hosts[:_SHOWN])
    return shown + (f" and {len(hosts) - _SHOWN} more" if len(hosts) > _SHOWN else "")
