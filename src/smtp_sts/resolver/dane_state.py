"""What DANE says of a domain: MX RRset, MX hosts, TLSA records (RFC 7672 section 2). No I/O.

Promises: the verdict is "dane" only where all that it rests on was validated and no MX host is
known to be without usable TLSA records (law 3). Must not: ask anything (`dane_look.py` does), or
weigh DANE against a policy (`precedence.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from smtp_sts.dane import Tlsa, TlsaError, unusable
from smtp_sts.net.dns import Answer

HostState = Literal["usable", "unusable", "none", "insecure", "failed", "absent"]
Verdict = Literal[
    "dane", "partial", "none", "insecure", "null-mx", "no-mail", "indeterminate", "failed"
]

#: MX hosts of a domain that are looked at, best preference first. What is not known of those beyond
#: counts as a question that failed: RFC 7672 section 2.2 has each MX host that has usable records
#: authenticated, so they are no reason to send to the others without; nor does DANE go before an
#: enforced policy where one host was not looked at (law 3). Postfix tries five addresses
#: (smtp_mx_address_limit).
MAX_HOSTS: Final = 20
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

    For a smart host (without `look_up_mx`) the host is all that counts, and it is `insecure` where
    its addresses or its TLSA records are not signed.
    """

    verdict: Verdict
    mx: tuple[str, ...]
    hosts: tuple[DaneHost, ...]
    ttl: int
    text: str
    look_up_mx: bool = True


#: What the state of a smart host comes to (RFC 7672 section 2.2.2: not subject to MX resolution).
_OF_SMART_HOST: Final[dict[HostState, Verdict]] = {
    "usable": "dane",
    "unusable": "none",
    "none": "none",
    "insecure": "insecure",
    "failed": "indeterminate",
    "absent": "no-mail",
}


def verdict_on_smart_host(found: DaneHost) -> tuple[Verdict, str]:
    """What a smart host comes to, and in words."""
    texts: dict[HostState, str] = {
        "usable": f"the smart host {found.host} has usable TLSA records",
        "unusable": f"the smart host {found.host} has no usable TLSA record",
        "failed": f"{found.host} is signed, and its TLSA records cannot be told: {found.text}",
    }
    return _OF_SMART_HOST[found.state], texts.get(found.state, found.text)


def verdict_on(domain: str, found: Sequence[DaneHost], *, too_many: bool) -> tuple[Verdict, str]:
    """What the MX hosts of a secure MX RRset come to, and in words; `too_many`: there are more."""
    if all(host.state == "absent" for host in found) and not too_many:
        return "no-mail", f"no MX host of {domain} has an address"
    usable = any(host.state == "usable" for host in found)
    without = [h.host for h in found if h.state not in ("usable", "failed", "absent")]
    listed = ", ".join(without[:_SHOWN]) + (", ..." if len(without) > _SHOWN else "")
    if usable and not without:
        known = f"the first {MAX_HOSTS} MX hosts" if too_many else "the MX hosts"
        return "dane", f"{known} of {domain} have usable TLSA records"
    if usable:
        return "partial", f"of the MX hosts of {domain} some have no usable TLSA records: {listed}"
    if without:
        return "none", f"no MX host of {domain} is known to have usable TLSA records"
    failed = next((host.text for host in found if host.state == "failed"), "none has an address")
    text = f"{domain} is signed, and nothing can be told of its MX hosts: {failed}"
    return "indeterminate", text


def judge(host: str, base: str, answer: Answer, tlsa_limit: int) -> DaneHost:
    """An MX host by the TLSA records that were found at a base domain."""
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


def no_state(host: str, state: HostState, text: str) -> DaneHost:
    """An MX host of which no usable record is known, and why."""
    return DaneHost(host, state, "", (), printable(text))


def printable(text: str) -> str:
    """A text in which nothing but printable characters is left (law 5)."""
    return "".join(c if c.isprintable() else "?" for c in text)
