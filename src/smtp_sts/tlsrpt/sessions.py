"""How many sessions a report is about, where it names the same ones twice. No I/O.

RFC 8460 section 4.2 counts by policy, and a session that both DANE and MTA-STS applied to stands
under each: Microsoft has `tlsa` and `sts`, mox `no-policy-found` of the MX host and `sts`.
Promises: no session is counted twice; where two kinds of policies need not be about the same
sessions, as Postfix reports them, `twice` says so.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from smtp_sts.tlsrpt.report import AppliedPolicy, PolicyResult


class Sessions(msgspec.Struct, frozen=True):
    """Sessions of a report, at least; `twice` where more than one kind of policy tells of them."""

    successful: int
    failed: int
    twice: bool


def sessions_of(results: Iterable[PolicyResult], domain: str = "") -> Sessions:
    """The sessions under these policies. `domain` gets the report; "" where that is unknown."""
    results = tuple(results)
    sts = [result.policy for result in results if result.policy.policy_type == "sts"]
    domains = {domain} if domain else {policy.policy_domain for policy in sts}
    patterns = {pattern for policy in sts for pattern in _patterns(policy)}
    by_host, by_domain = [0, 0], [0, 0]
    for result in results:
        policy = result.policy
        of_host = policy.policy_type == "tlsa" or (
            policy.policy_type == "no-policy-found"
            and policy.policy_domain not in domains
            and (bool(domain) or _is_host(policy.policy_domain, domains, patterns))
        )
        counts = by_host if of_host else by_domain
        counts[0] += result.successful
        counts[1] += result.failed
    return Sessions(
        max(by_host[0], by_domain[0]),
        max(by_host[1], by_domain[1]),
        any(by_host) and any(by_domain),
    )


def _patterns(policy: AppliedPolicy) -> Iterable[str]:
    yield from policy.mx_host
    for line in policy.policy_string:
        key, _, value = line.partition(":")
        if key.strip() == "mx":
            yield value.strip()


def _is_host(name: str, domains: set[str], patterns: set[str]) -> bool:
    """Whether a name is that of an MX host of one of these domains."""
    above = name.partition(".")[2]
    return name in patterns or f"*.{above}" in patterns or above in domains
