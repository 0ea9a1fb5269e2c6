"""One look-up without a daemon and without a store: for `smtp-sts query`.

Promises: the same discovery and the same replies as the daemon's; nothing is kept.
"""

from __future__ import annotations

import time
from typing import Any

from smtp_sts.config import Config, nameservers
from smtp_sts.mta.profiles import replies
from smtp_sts.net.dns import Dns, system_nameservers
from smtp_sts.net.https import tls_context
from smtp_sts.policy import policy_domain
from smtp_sts.resolver import overrides
from smtp_sts.resolver.decision import Decision, as_data
from smtp_sts.resolver.discovery import Reach, discover


def reach_of(config: Config) -> Reach:
    """How a configuration reaches the network. Raises OSError for a CA file that cannot be read."""
    dns = Dns(
        nameservers(config) or system_nameservers(),
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
        decision = await _discovered(config, domain, now)
        decision = overrides.adapt(rule, decision) if rule else decision
    return as_data(next_hop, decision, replies(decision))


async def _discovered(config: Config, domain: str, now: float) -> Decision:
    found = await discover(domain, reach_of(config))
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
