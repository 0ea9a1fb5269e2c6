"""Whose session it was that a log tells of (RFC 8460 section 1.1). No I/O.

Where mail goes by a relay (`relayhost`, a smarthost router, a route of its own) a log names the
recipient's domain beside the relay's host. Such a session is the relay's: told to the recipient's
domain it would be wrong, and would tell strangers of our network. Promises: a session counts for
the recipient's domain only where the host is one of its MX hosts, at the port of SMTP.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from smtp_sts.reporting.outcome import Outcome
from smtp_sts.reporting.privacy import public_address
from smtp_sts.resolver.decision import Decision

#: That of SMTP between servers.
SMTP_PORT: Final = 25
#: `unknown`: the DNS does not say.
Whose = Literal["theirs", "relayed", "unknown"]


class MxNames(msgspec.Struct, frozen=True, gc=False):
    """The MX hosts of a domain and their addresses, as the DNS has them now."""

    hosts: frozenset[str]
    addresses: frozenset[str] = frozenset()


def told_by_name(outcome: Outcome, decision: Decision | None) -> Whose:
    """What can be told without the DNS: port and address, and whether the policy names the host."""
    if within(outcome):
        return "relayed"
    policy = decision.policy if decision is not None else None
    host = host_of(outcome)
    named = policy is not None and bool(host) and policy.matches(host)
    return "theirs" if named else "unknown"


def within(outcome: Outcome) -> bool:
    """Whether the session was one of our own network, or at the port of a relay."""
    inner = any(not public_address(address) for address in _addresses(outcome))
    return inner or outcome.mx_port not in (0, SMTP_PORT)


def told_by_dns(outcome: Outcome, mx: MxNames | None) -> Whose:
    """What the MX records tell; None where they cannot be had.

    Some MTAs log the name that an alias leads to: so its address will do.
    """
    if mx is None:
        return "unknown"
    host, addresses = host_of(outcome), _addresses(outcome)
    theirs = host in mx.hosts or bool(addresses & mx.addresses)
    return "theirs" if theirs else "relayed"


def host_of(outcome: Outcome) -> str:
    """The host that the session was with; "" where the log does not say."""
    named = (trouble.receiving_mx_hostname for trouble in outcome.troubles)
    return outcome.mx_host or next(filter(None, named), "")


def _addresses(outcome: Outcome) -> frozenset[str]:
    told = {outcome.mx_ip, *(trouble.receiving_ip for trouble in outcome.troubles)}
    return frozenset(filter(None, told))
