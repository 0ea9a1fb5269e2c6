"""What DANE says of a domain: MX RRset, MX hosts, TLSA records (RFC 7672 section 2).

Promises: `find_dane` never raises for what the network or a stranger does, and asks a bounded
number of questions. The verdict is "dane" only where a trusted resolver has validated all that it
rests on and no MX host is known to be without usable TLSA records (law 3). Must not: keep anything,
connect to an MX host, or weigh DANE against a policy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from smtp_sts.dane import Tlsa, TlsaError, unusable
from smtp_sts.net.dns import Answer, Dns
from smtp_sts.net.dnswire import AAAA, CNAME, DS, MX, TLSA, A
from smtp_sts.net.failure import NetFailure
from smtp_sts.policy.pattern import MAX_NAME, is_host_name

HostState = Literal["usable", "unusable", "none", "insecure", "failed", "absent"]
Verdict = Literal[
    "dane", "partial", "none", "insecure", "null-mx", "no-mail", "indeterminate", "failed"
]

#: MX hosts of a domain that are looked at, best preference first; a domain that has more is at
#: best "partial".
MAX_HOSTS: Final = 100
#: MX hosts of a domain that are looked at at the same time.
HOSTS_AT_ONCE: Final = 20
#: TLSA records that are read for a domain, shared evenly by its hosts; a host that has more than
#: its share is "unusable".
MAX_TLSA: Final = 1000
#: How long a failed question may be kept (seconds); RFC 9520 section 3.2 allows up to 300.
FAILURE_TTL: Final = 30
#: How long it may be kept that no resolver is trusted (seconds): nothing but a restart changes it.
UNTRUSTED_TTL: Final = 3600
#: Unusable records that a sentence tells of.
_SHOWN: Final = 4


class DaneHost(msgspec.Struct, frozen=True):
    """What was found for one MX host.

    `base` is the TLSA base domain where TLSA records were found, else ""; `records` are the usable
    ones. `text` says to people what stands in the way. An `absent` host has surely no address: no
    mail can go there.
    """

    host: str
    state: HostState
    base: str
    records: tuple[Tlsa, ...]
    text: str


class DaneState(msgspec.Struct, frozen=True):
    """What was found for a domain; `ttl` is how long it may be kept, seconds.

    * `dane`: the MX RRset is secure (or there is none, securely, and the domain is its own MX
      host), at least one MX host has usable TLSA records, and none is known to be without.
    * `partial`: the MX RRset is secure; some hosts have usable records, some are without.
    * `none`: the MX RRset is secure; no host has usable records, and some are without.
    * `insecure`: the MX RRset is not signed, or no resolver is trusted to say so.
    * `null-mx`: the domain takes no mail (RFC 7505).
    * `no-mail`: the domain does not exist, or is signed and no MX host of it has an address.
    * `indeterminate`: the domain is signed, and all that could be found are failures.
    * `failed`: the DNS does not answer, and it is not known that the domain is signed.
    """

    verdict: Verdict
    mx: tuple[str, ...]
    hosts: tuple[DaneHost, ...]
    ttl: int
    text: str


class _Look:
    """One look at a domain: its questions, and the least time to live of the answers."""

    def __init__(self, dns: Dns, smtp_port: int) -> None:
        self.dns = dns
        self.prefix = f"_{smtp_port}._tcp."
        self.ttl: int | None = None
        self.places = asyncio.Semaphore(HOSTS_AT_ONCE)

    async def ask(self, name: str, rrtype: int) -> Answer | NetFailure:
        try:
            answer = await self.dns.query(name, rrtype, validated=True)
        except NetFailure as failure:
            self.keep(FAILURE_TTL)
            return failure
        self.keep(answer.ttl)
        return answer

    def keep(self, seconds: int) -> None:
        self.ttl = seconds if self.ttl is None else min(self.ttl, seconds)

    def state(
        self,
        verdict: Verdict,
        text: str,
        mx: tuple[str, ...] = (),
        hosts: tuple[DaneHost, ...] = (),
    ) -> DaneState:
        return DaneState(verdict, mx, hosts, self.ttl or 0, _printable(text))


async def find_dane(domain: str, dns: Dns, *, smtp_port: int = 25) -> DaneState:
    """Look for the TLSA records of the MX hosts of `domain`, an A-label domain."""
    look = _Look(dns, smtp_port)
    if not dns.trusts_ad:
        look.keep(UNTRUSTED_TTL)
        return look.state("insecure", "no configured resolver is trusted to validate DNSSEC")
    answer = await look.ask(domain, MX)
    if isinstance(answer, NetFailure):
        return await _without_mx(domain, look, answer)
    if answer.nxdomain:
        return look.state("no-mail", f"{domain} does not exist")
    hosts = _hosts(answer)
    if hosts == ("",):
        return look.state("null-mx", f"{domain} takes no mail (null MX)")
    # RFC 5321 section 5.1: without an MX record the domain is its own MX host.
    hosts = tuple(host for host in hosts if host) or (domain,)
    mx = tuple(map(_printable, hosts)) if answer.records else ()
    if not answer.ad:
        return look.state("insecure", f"the MX records of {domain} are not signed", mx)
    near = hosts[:MAX_HOSTS]
    found = tuple(await asyncio.gather(*(_look_at(h, look, MAX_TLSA // len(near)) for h in near)))
    verdict, text = _verdict(domain, found, too_many=len(hosts) > len(near))
    return look.state(verdict, text, mx, found)


def _hosts(answer: Answer) -> tuple[str, ...]:
    """The MX hosts, each once, best preference first; "" for the root, which a null MX names."""
    pairs = sorted(record for record in answer.records if isinstance(record, tuple))
    return tuple(dict.fromkeys(host for _, host in pairs))


async def _without_mx(domain: str, look: _Look, failure: NetFailure) -> DaneState:
    """The MX question failed: the parent zone can still tell that the domain is signed."""
    signed = await look.ask(domain, DS)
    if isinstance(signed, Answer) and signed.ad and signed.records:
        text = f"{domain} is signed, and its MX records cannot be had: {failure.sentence}"
        return look.state("indeterminate", text)
    return look.state("failed", f"the MX records of {domain} cannot be had: {failure.sentence}")


def _verdict(domain: str, found: Sequence[DaneHost], *, too_many: bool) -> tuple[Verdict, str]:
    if all(host.state == "absent" for host in found) and not too_many:
        return "no-mail", f"no MX host of {domain} has an address"
    usable = any(host.state == "usable" for host in found)
    without = [h.host for h in found if h.state not in ("usable", "failed", "absent")]
    if too_many:
        without.append(f"those beyond the first {MAX_HOSTS}, which are not looked at")
    listed = ", ".join(without[:_SHOWN]) + (", ..." if len(without) > _SHOWN else "")
    if usable and not without:
        return "dane", f"the MX hosts of {domain} have usable TLSA records"
    if usable:
        return "partial", f"of the MX hosts of {domain} some have no usable TLSA records: {listed}"
    if without:
        return "none", f"no MX host of {domain} is known to have usable TLSA records"
    failed = next(host.text for host in found if host.state == "failed")
    text = f"{domain} is signed, and nothing can be told of its MX hosts: {failed}"
    return "indeterminate", text


async def _look_at(host: str, look: _Look, tlsa_limit: int) -> DaneHost:
    # An address in lieu of a host name has no TLSA records (RFC 7672 section 2.2), and a name
    # that is none must not get into questions, replies or logs (law 5).
    if not is_host_name(host) or len(look.prefix) + len(host) > MAX_NAME:
        text = f"{_printable(host)} is no host name that can have TLSA records"
        return DaneHost(_printable(host), "none", "", (), text)
    async with look.places:
        bases = await _bases(host, look)
        if isinstance(bases, DaneHost):
            return bases
        return await _records(host, bases, look, tlsa_limit)


async def _bases(host: str, look: _Look) -> tuple[str, ...] | DaneHost:
    """The candidate TLSA base domains of an MX host (RFC 7672 section 2.2.2), or why none.

    The addresses are asked for first: unsigned zones often fail to answer for TLSA.
    """
    answers = await asyncio.gather(look.ask(host, A), look.ask(host, AAAA))
    good = [answer for answer in answers if isinstance(answer, Answer)]
    failed = [answer for answer in answers if isinstance(answer, NetFailure)]
    names = {answer.name for answer in good if answer.records}
    aliased = any(answer.name != host for answer in good)
    if not all(answer.ad for answer in good):
        # The alias itself may be signed where what it leads to is not ("Insecure CNAME").
        alias = await look.ask(host, CNAME) if aliased else None
        if isinstance(alias, NetFailure):
            return _no_state(host, "failed", f"the CNAME of {host}: {alias.sentence}")
        if alias is None or not alias.ad or not alias.records:
            return _no_state(host, "insecure", f"the addresses of {host} are not signed")
        return (host,)
    if names:
        # Where the whole chain of aliases is secure its end comes first.
        expanded = names.pop() if len(names) == 1 else host
        return tuple(dict.fromkeys((expanded, host)))
    if failed:
        return _no_state(host, "failed", f"the addresses of {host}: {failed[0].sentence}")
    return _no_state(host, "absent", f"{host} has no address: no mail can be sent to it")


async def _records(host: str, bases: tuple[str, ...], look: _Look, tlsa_limit: int) -> DaneHost:
    """The TLSA records at the first candidate that has secure ones (RFC 7672 section 2.2.3)."""
    insecure = ""
    for base in bases:
        name = f"{look.prefix}{base}"
        answer = await look.ask(name, TLSA)
        if isinstance(answer, NetFailure):  # section 2.1.1: never the same as "no records"
            return _no_state(host, "failed", f"TLSA at {name}: {answer.sentence}")
        if not answer.ad:
            insecure = insecure or name
        elif answer.records:
            return _judge(host, base, answer, tlsa_limit)
    if insecure:
        return _no_state(host, "insecure", f"TLSA at {insecure} is not signed")
    return _no_state(host, "none", f"there is no TLSA record at {look.prefix}{bases[-1]}")


def _judge(host: str, base: str, answer: Answer, tlsa_limit: int) -> DaneHost:
    if len(answer.records) > tlsa_limit:
        text = f"{len(answer.records)} TLSA records for {base}; {tlsa_limit} are read at most"
        return DaneHost(host, "unusable", base, (), text)
    usable: list[Tlsa] = []
    faults: list[str] = []
    for rdata in answer.records:
        try:
            record = Tlsa.parse(rdata if isinstance(rdata, bytes) else b"")
        except TlsaError as error:
            faults.append(error.sentence)
            continue
        fault = unusable(record)
        if fault is None:
            usable.append(record)
        else:
            faults.append(fault)
    shown = "; ".join(faults[:_SHOWN]) + (
        f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    )
    return DaneHost(host, "usable" if usable else "unusable", base, tuple(usable), shown)


def _no_state(host: str, state: HostState, text: str) -> DaneHost:
    return DaneHost(host, state, "", (), _printable(text))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
