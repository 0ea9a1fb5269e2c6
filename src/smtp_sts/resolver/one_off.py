"""One decision without a daemon and without a store: for `smtp-sts query`, and for what is kept.

Promises: the very machine and runner that the daemon has, so that what a person is told cannot
differ from what an MTA is told; nothing is kept. It waits longer than an MTA would, until all that
a daemon would find out behind its first answer is known.
"""

from __future__ import annotations

import time
from typing import Final

import msgspec

from smtp_sts.config import Config, dialects
from smtp_sts.net.dnswire import MX
from smtp_sts.net.failure import NetFailure
from smtp_sts.policy import NextHop, Policy
from smtp_sts.policy.nexthop import UNKNOWN_PORT
from smtp_sts.resolver import overrides
from smtp_sts.resolver.decision import Decision, Step
from smtp_sts.resolver.life.answer import of_policy
from smtp_sts.resolver.reach import Reach, reach_of
from smtp_sts.resolver.resolver import Resolver
from smtp_sts.resolver.stored import dialect_of, domain_of, from_store
from smtp_sts.store import Stored

#: MX hosts that one step tells of.
_SHOWN: Final = 8
#: Nothing is waited for longer (seconds).
PATIENCE: Final = 120.0


class NothingKept:
    """A store that keeps nothing, for a runner that is asked once."""

    async def get(self, domain: str) -> Stored | None:
        """Nothing is kept."""

    async def put(self, stored: Stored) -> None:
        """Keep nothing."""

    def keep_again(self, policies: list[Stored]) -> None:
        """Keep nothing."""

    async def purge(self, domain: str, before: float) -> bool:
        """There is nothing to forget."""
        return True

    def touch(self, domain: str, when: float) -> None:
        """Keep nothing."""

    async def claim(self, domain: str, patience: float) -> Stored | None:
        """Nobody else fetches."""

    def release(self, domain: str) -> None:
        """Nothing was claimed."""

    async def postpone(self, domain: str, refresh_at: float, before: float) -> None:
        """Nothing is refreshed."""


async def decide_once(config: Config, where: NextHop | str) -> Decision:
    """What applies to a next hop now (a string is a mail domain).

    Raises OSError for a CA file that cannot be read, and ConfigError.
    """
    where = where if isinstance(where, NextHop) else NextHop(where)
    reach = reach_of(config)
    rules = overrides.read(config.overrides)
    resolver = Resolver(
        msgspec.structs.replace(config.policy, answer_timeout=PATIENCE),
        reach,
        NothingKept(),
        {},
        rules=rules,
        smtp_port=config.network.smtp_port,
        dialects=dialects(config),
    )
    try:
        await resolver.decide(where)
        # What a daemon finds out behind its first answer: proofs, checks of MX hosts, DANE.
        await resolver.until_idle()
        decision = await resolver.decide(where)
        steps = (*decision.steps, *resolver.steps_beside(decision))
        decision = msgspec.structs.replace(decision, steps=steps)
    finally:
        await resolver.close()
    if decision.reason == "override" and decision.policy is None:
        return decision
    decision = msgspec.structs.replace(decision, source="network")
    rule = overrides.find(rules, where.domain)
    decision = await _with_mx_hosts(decision, where, reach)
    if off := _dane_off(config, where, reach, rule):
        decision = msgspec.structs.replace(
            decision, steps=(*decision.steps, Step("DANE", None, off))
        )
    return decision


def decide_by_kept(config: Config, stored: Stored) -> Decision:
    """What a kept policy alone says: no network is asked. Raises ConfigError."""
    now = time.time()
    name = domain_of(stored.domain)
    cached = from_store(stored)
    if cached is None:
        invalid = {"rfc8461": "sts-policy-invalid", "draft00": "sts-record-invalid"}
        text = f"what is kept under {stored.domain} is no policy"
        decision = Decision(name, "no-policy", invalid[dialect_of(stored.domain)], text)
    elif now >= cached.expires_at:
        decision = Decision(name, "no-policy", "no-record", "the policy kept has expired")
    else:
        decision = of_policy(name, cached, dane=config.policy.dane, source="cache")
    if rule := overrides.find(overrides.read(config.overrides), name):
        decision = overrides.fixed(rule, name, now) or overrides.adapt(rule, decision)
    return decision


def _dane_off(config: Config, where: NextHop, reach: Reach, rule: overrides.Rule | None) -> str:
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
    if where.port == UNKNOWN_PORT:
        return "not looked for: the port of that service is not known here; write its number"
    return ""


async def _with_mx_hosts(decision: Decision, where: NextHop, reach: Reach) -> Decision:
    """The decision, and which MX hosts a policy of RFC 8461 names, for people."""
    policy = decision.policy
    if policy is None or policy.mode == "none" or decision.draft is not None:
        return decision
    hosts = await _mx_hosts(reach, where.domain) if where.look_up_mx else [where.domain]
    steps = list(decision.steps)
    behind = max((n for n, one in enumerate(steps) if one.name == "policy"), default=-1) + 1
    steps[behind:behind] = _covered(policy, hosts)
    return msgspec.structs.replace(decision, steps=tuple(steps))


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
