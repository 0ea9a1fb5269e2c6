"""One look at a next hop for DANE: the questions of RFC 7672 section 2.2, in order.

Promises: it ends within `LOOK_SECONDS`, whatever the network or a stranger does, and asks a bounded
number of questions; none of that raises. `so_far` tells what is known while it goes on: that a
domain is signed is known before all of its servers have answered, and is no less true for that.
Must not: keep anything beyond the look, connect to an MX host, or weigh DANE against a policy.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from smtp_sts.net.dns import Answer, Dns
from smtp_sts.net.dnswire import AAAA, CNAME, DS, MX, TLSA, A
from smtp_sts.net.failure import NetFailure
from smtp_sts.policy.nexthop import NextHop
from smtp_sts.policy.organisation import organisational_domain, share_key
from smtp_sts.policy.pattern import MAX_NAME, is_host_name
from smtp_sts.resolver.dane_state import (
    FAILURE_TTL,
    MAX_HOSTS,
    MAX_TLSA,
    UNTRUSTED_TTL,
    DaneHost,
    DaneState,
    Verdict,
    judge,
    no_state,
    printable,
    verdict_on,
    verdict_on_smart_host,
)

#: A look takes no longer (seconds): three questions, one after the other, each with all its time.
LOOK_SECONDS: Final = 15.0
#: MX hosts that are looked at at the same time.
HOSTS_AT_ONCE: Final = 5
#: After so many hosts that cannot be told the others are not asked for.
MAX_FAILED: Final = 5
#: Names that are asked for a DS record: the domain, those above it, its organisational domain.
MAX_ABOVE: Final = 4
#: The MX question is out for so long (seconds) when the zone above is asked whether it is signed.
SLOW_SECONDS: Final = 0.5


async def find_dane(where: NextHop, dns: Dns, *, smtp_port: int = 25) -> DaneState:
    """Look for the TLSA records of the hosts of a next hop; `smtp_port` where it names none."""
    return await DaneLook(where, dns, smtp_port=smtp_port).run()


class DaneLook:
    """A look; `run` is called once."""

    def __init__(self, where: NextHop, dns: Dns, *, smtp_port: int = 25) -> None:
        self._domain = where.domain
        self._by_mx = where.look_up_mx
        self._dns = dns
        port = smtp_port if where.port is None else where.port
        self._prefix = f"_{port}._tcp."
        self._key = share_key(where.domain)
        #: the least time to live of the answers, seconds
        self._ttl: int | None = None
        #: the domain and names above it -> whether they are signed; the nearest one decides
        self._above: dict[str, bool | None] = {}
        #: of a secure MX RRset: all hosts, those that are looked at, and what was found
        self._mx: tuple[str, ...] = ()
        self._near: tuple[str, ...] = ()
        self._too_many = False
        self._found: dict[str, DaneHost] = {}

    async def run(self) -> DaneState:
        """What is found, within `LOOK_SECONDS`."""
        if not self._dns.trusts_ad:
            self._keep(UNTRUSTED_TTL)
            return self._state("insecure", "no configured resolver is trusted to validate DNSSEC")
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                return await self._run()
        except TimeoutError:
            late = f"not all of the DNS answers for {self._domain} came within {LOOK_SECONDS:g} s"
            return self.so_far() or self._state("failed", late, keep=FAILURE_TTL)

    def so_far(self) -> DaneState | None:
        """What would be said if nothing more was heard; None where that tells nothing.

        RFC 7672 section 2.1.1: no answer is never the same as an answer that there is nothing.
        """
        if self._near:
            return self._of_hosts("no answer yet", keep=FAILURE_TTL)
        if self._signed:
            text = f"{self._domain} is signed, and its {self._first} have not come yet"
            return self._state("indeterminate", text, keep=FAILURE_TTL)
        return None

    @property
    def _first(self) -> str:
        """What is asked for first."""
        return "MX records" if self._by_mx else "addresses"

    async def _run(self) -> DaneState:
        answer = await self._first_answer(MX if self._by_mx else A)
        if isinstance(answer, NetFailure):
            why = f"its {self._first} cannot be had: {answer.sentence}"
            if self._signed:
                return self._state("indeterminate", f"{self._domain} is signed, and {why}")
            return self._state("failed", f"{self._domain}: {why}")
        if answer.nxdomain:
            return self._state("no-mail", f"{self._domain} does not exist")
        return await (self._run_by_mx(answer) if self._by_mx else self._run_host(answer))

    async def _run_host(self, answer: Answer) -> DaneState:
        """A smart host (RFC 7672 section 2.2.2); `answer` is that for its IPv4 addresses."""
        host, places = self._domain, asyncio.Semaphore(1)
        if answer.ad:  # else it is not known yet whether DNSSEC covers it
            self._near = (host,)
        self._above = {}  # has no more to tell
        await self._look_at(host, places, answer)
        self._near = (host,)
        return self._of_hosts("")

    async def _run_by_mx(self, answer: Answer) -> DaneState:
        hosts = _hosts(answer)
        if hosts == ("",):
            return self._state("null-mx", f"{self._domain} takes no mail (null MX)")
        # RFC 5321 section 5.1: without an MX record the domain is its own MX host.
        hosts = tuple(host for host in hosts if host) or (self._domain,)
        self._mx = tuple(map(printable, hosts)) if answer.records else ()
        if not answer.ad:
            return self._state("insecure", f"the MX records of {self._domain} are not signed")
        self._too_many = len(hosts) > MAX_HOSTS
        self._near = hosts[:MAX_HOSTS]
        places = asyncio.Semaphore(HOSTS_AT_ONCE)
        await asyncio.gather(*(self._look_at(host, places) for host in self._near))
        return self._of_hosts("not asked for: too many of the others cannot be told")

    async def _first_answer(self, rrtype: int) -> Answer | NetFailure:
        """The first answer; where it is slow or cannot be had, whether the domain is signed is
        asked beside."""
        asked = asyncio.ensure_future(self._ask(self._domain, rrtype))
        beside: asyncio.Future[None] | None = None
        try:
            await asyncio.wait([asked], timeout=SLOW_SECONDS)
            if not asked.done() or isinstance(asked.result(), NetFailure):
                beside = asyncio.ensure_future(self._ask_above())
            answer = await asked
            if beside is not None and isinstance(answer, NetFailure):
                await beside
            return answer
        finally:
            asked.cancel()
            if beside is not None:
                beside.cancel()

    async def _ask_above(self) -> None:
        """Whether the zone that the domain lies in is signed, from the zones above (RFC 4035).

        Many domains are no zones: the DS question then has an answer without records, proven by the
        zone that the name lies in, which is signed if it can prove anything. The same answer comes
        of a zone above for one that begins there and is not signed, and says so (`Answer.cut`).
        Where the question fails the name above tells, up to the organisational domain: who blocks a
        name's answers blocks those of its DS record as well. All are asked at once: there is not
        the time to wait for each to fail.
        """
        names, top = [self._domain], organisational_domain(self._domain)
        while names[-1] != top and len(names) < MAX_ABOVE - 1:
            names.append(names[-1].partition(".")[2])
        self._above = dict.fromkeys((*names, top))
        await asyncio.gather(*map(self._ask_ds, self._above))

    async def _ask_ds(self, name: str) -> None:
        answer = await self._ask(name, DS)
        if isinstance(answer, Answer):
            proven = bool(answer.records) or answer.nxdomain or answer.cut is False
            self._above[name] = answer.ad and proven

    @property
    def _signed(self) -> bool:
        """Whether the zones above say that the domain is signed."""
        return next((known for known in self._above.values() if known is not None), False)

    async def _ask(self, name: str, rrtype: int) -> Answer | NetFailure:
        try:
            answer = await self._dns.query(name, rrtype, validated=True, whose=self._key)
        except NetFailure as failure:
            self._keep(FAILURE_TTL)
            return failure
        self._keep(answer.ttl)
        return answer

    def _keep(self, seconds: int) -> None:
        self._ttl = seconds if self._ttl is None else min(self._ttl, seconds)

    def _state(self, verdict: Verdict, text: str, *, keep: int | None = None) -> DaneState:
        ttl = min(x for x in (self._ttl, keep, UNTRUSTED_TTL) if x is not None)
        hosts = tuple(self._found[host] for host in self._near if host in self._found)
        return DaneState(verdict, self._mx, hosts, ttl, printable(text), self._by_mx)

    def _of_hosts(self, otherwise: str, *, keep: int | None = None) -> DaneState:
        """The verdict on the MX hosts; `otherwise` is said of those that nothing was heard of."""
        found = tuple(
            self._found.get(host) or no_state(host, "failed", f"{host}: {otherwise}")
            for host in self._near
        )
        if self._by_mx:
            verdict, text = verdict_on(self._domain, found, too_many=self._too_many)
        else:
            verdict, text = verdict_on_smart_host(found[0])
        return msgspec.structs.replace(self._state(verdict, text, keep=keep), hosts=found)

    async def _look_at(
        self, host: str, places: asyncio.Semaphore, first: Answer | None = None
    ) -> None:
        # An address in lieu of a host name has no TLSA records (RFC 7672 section 2.2), and a name
        # that is none must not get into questions, replies or logs (law 5).
        if not is_host_name(host) or len(self._prefix) + len(host) > MAX_NAME:
            text = f"{printable(host)} is no host name that can have TLSA records"
            self._found[host] = no_state(printable(host), "none", text)
            return
        async with places:
            failed = sum(found.state == "failed" for found in self._found.values())
            if failed >= MAX_FAILED:
                self._keep(FAILURE_TTL)
                return
            bases = await self._bases(host, first or await self._ask(host, A))
            if not isinstance(bases, DaneHost):
                bases = await self._records(host, bases)
            self._found[host] = bases

    async def _bases(self, host: str, first: Answer | NetFailure) -> tuple[str, ...] | DaneHost:
        """The candidate TLSA base domains of a host (RFC 7672 section 2.2.2), or why none.

        `first` is the answer for its IPv4 addresses. They are asked for before TLSA: unsigned zones
        often fail to answer for that. One kind is enough: both lie in the same zone.
        """
        answers = [first]
        if isinstance(first, NetFailure) or not first.records:
            answers.append(await self._ask(host, AAAA))
        good = [answer for answer in answers if isinstance(answer, Answer)]
        failed = [answer for answer in answers if isinstance(answer, NetFailure)]
        names = {answer.name for answer in good if answer.records}
        aliased = any(answer.name != host for answer in good)
        if not all(answer.ad for answer in good):
            # The alias itself may be signed where what it leads to is not ("Insecure CNAME").
            alias = await self._ask(host, CNAME) if aliased else None
            if isinstance(alias, NetFailure):
                return no_state(host, "failed", f"the CNAME of {host}: {alias.sentence}")
            if alias is None or not alias.ad or not alias.records:
                return no_state(host, "insecure", f"the addresses of {host} are not signed")
            return (host,)
        if names:
            # Where the whole chain of aliases is secure its end comes first.
            return tuple(dict.fromkeys((names.pop(), host)))
        if failed:
            return no_state(host, "failed", f"the addresses of {host}: {failed[0].sentence}")
        return no_state(host, "absent", f"{host} has no address: no mail can be sent to it")

    async def _records(self, host: str, bases: tuple[str, ...]) -> DaneHost:
        """The TLSA records at the first candidate that has secure ones (RFC 7672 section 2.2.3)."""
        insecure = ""
        for base in bases:
            name = f"{self._prefix}{base}"
            answer = await self._ask(name, TLSA)
            if isinstance(answer, NetFailure):  # section 2.1.1: never the same as "no records"
                return no_state(host, "failed", f"TLSA at {name}: {answer.sentence}")
            if not answer.ad:
                insecure = insecure or name
            elif answer.records:
                return judge(host, base, answer, MAX_TLSA // len(self._near))
        if insecure:
            return no_state(host, "insecure", f"TLSA at {insecure} is not signed")
        return no_state(host, "none", f"there is no TLSA record at {self._prefix}{bases[-1]}")


def _hosts(answer: Answer) -> tuple[str, ...]:
    """The MX hosts, each once, best preference first; "" for the root, which a null MX names."""
    pairs = sorted(record for record in answer.records if isinstance(record, tuple))
    return tuple(dict.fromkeys(host for _, host in pairs))
