"""The MX hosts of domains that a log names, with their addresses: whose session was it?

Promises: bounded memory, so many questions at a time; what the DNS said is used for an hour, that
it said nothing for a minute. Must not: connect anywhere, or decide (`belonging.py` does).
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import Final

from smtp_sts.net.dns import Dns
from smtp_sts.net.dnswire import MX
from smtp_sts.net.failure import NetFailure
from smtp_sts.policy.pattern import is_host_name
from smtp_sts.reporting.belonging import MxNames, Whose, told_by_dns, told_by_name
from smtp_sts.reporting.outcome import Outcome
from smtp_sts.resolver.decision import Decision

#: Seconds.
KNOWN_SECONDS: Final = 3600.0
SILENT_SECONDS: Final = 60.0
#: Domains that are remembered, and MX hosts of one whose addresses are looked up.
REMEMBERED: Final = 20_000
MAX_HOSTS: Final = 20
#: Domains that are looked up at a time.
AT_ONCE: Final = 20


class MxOf:
    """Looks up MX hosts by name, and their addresses only where no name is it."""

    def __init__(self, dns: Dns) -> None:
        self._dns = dns
        self._places = asyncio.Semaphore(AT_ONCE)
        #: (domain, with addresses) -> until when (monotonic), and what was found
        self._known: OrderedDict[tuple[str, bool], tuple[float, MxNames | None]] = OrderedDict()

    async def whose(self, outcome: Outcome, decision: Decision | None) -> Whose:
        """Whose session an outcome of a log is. Does not raise for what the network does."""
        found = told_by_name(outcome, decision)
        if found != "unknown":
            return found
        found = told_by_dns(outcome, await self._names(outcome.domain, addresses=False))
        if found != "relayed":
            return found
        return told_by_dns(outcome, await self._names(outcome.domain, addresses=True))

    async def _names(self, domain: str, *, addresses: bool) -> MxNames | None:
        key = (domain, addresses)
        async with self._places:
            kept = self._known.get(key)
            if kept is not None and time.monotonic() < kept[0]:
                return kept[1]
            found = await self._looked_up(domain, addresses=addresses)
            seconds = SILENT_SECONDS if found is None else KNOWN_SECONDS
            self._known[key] = (time.monotonic() + seconds, found)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            return found

    async def _looked_up(self, domain: str, *, addresses: bool) -> MxNames | None:
        try:
            answer = await self._dns.query(domain, MX)
        except NetFailure:
            return None
        pairs = [record for record in answer.records if isinstance(record, tuple)]
        # RFC 5321 section 5.1: without an MX record the domain is its own MX host.
        hosts = [host for _, host in sorted(pairs) if is_host_name(host)] if pairs else [domain]
        found: set[str] = set()
        silent = False
        for host in hosts[:MAX_HOSTS] if addresses else ():
            try:
                found.update(await self._dns.addresses(host))
            except NetFailure:
                silent = True
        if silent and not found:
            return None
        return MxNames(frozenset(hosts), frozenset(found))
