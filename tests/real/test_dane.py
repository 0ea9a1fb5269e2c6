"""DANE discovery against real servers: unbound validates what NSD has in zones signed and not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

import msgspec
import pytest

from smtp_sts.lab.machine import missing, run
from smtp_sts.resolver.dane_state import MAX_HOSTS, DaneState

from .cannot import cannot
from .signed import signed_dns

pytestmark = pytest.mark.real

DIGEST: Final = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
TLSA: Final = f"TLSA 3 1 1 {DIGEST}"
ADDRESS: Final = "A 192.0.2.25"
LOOK: Final = """
import asyncio, sys, msgspec
from smtp_sts.net.dns import Dns
from smtp_sts.policy import parse_next_hop
from smtp_sts.resolver.dane_look import find_dane

async def look():
    dns = Dns([("127.0.0.1", 53)])
    found = await asyncio.gather(*(find_dane(parse_next_hop(one), dns) for one in sys.argv[1:]))
    sys.stdout.buffer.write(msgspec.json.encode(dict(zip(sys.argv[1:], found))))

asyncio.run(look())
"""


def crowd(domain: str, size: int) -> str:
    """A domain with so many MX hosts, all of them with TLSA records."""
    hosts = [f"mx{number}.{domain}" for number in range(size)]
    return "".join(
        f"{domain} 300 MX 10 {host}\n{host} 300 {ADDRESS}\n_25._tcp.{host} 300 {TLSA}\n"
        for host in hosts
    )


RECORDS: Final = {
    "example": f"""\
dane 300 MX 10 mx.dane
mx.dane 600 {ADDRESS}
mx.dane 600 AAAA 2001:db8::25
_25._tcp.mx.dane 120 {TLSA}
elsewhere 300 MX 10 mx.host
outside 300 MX 10 mx.unsigned
mixed 300 MX 10 mx.dane
mixed 300 MX 20 bare.mixed
bare.mixed 300 {ADDRESS}
half 300 MX 10 mx.dane
half 300 MX 20 mx.forged
broken 300 MX 10 mx.forged
gone 300 MX 10 mx.dane
gone 300 MX 20 mx.gone
dangling 300 MX 10 mx.dangling
alias 300 CNAME dane
alias-out 300 CNAME unsigned
alias-host 300 MX 10 mx.alias-host
mx.alias-host 300 CNAME mx.host
customer 300 MX 10 mx.customer
mx.customer 300 CNAME mx.unsigned
_25._tcp.mx.customer 300 {TLSA}
shared 300 MX 10 mx.shared
mx.shared 300 {ADDRESS}
_25._tcp.mx.shared 300 CNAME tlsa.shared
tlsa.shared 300 {TLSA}
borrowed 300 MX 10 mx.borrowed
mx.borrowed 300 {ADDRESS}
_25._tcp.mx.borrowed 300 CNAME _25._tcp.mx.unsigned
null 300 MX 0 .
implicit 300 {ADDRESS}
_25._tcp.implicit 300 {TLSA}
implicit-bare 300 {ADDRESS}
nothing 300 TXT "no mail here"
useless 300 MX 10 mx.useless
mx.useless 300 {ADDRESS}
_25._tcp.mx.useless 300 TLSA 1 1 1 {DIGEST}
_25._tcp.mx.useless 300 TLSA 3 1 9 {DIGEST}
_25._tcp.mx.useless 300 TLSA 2 0 0 {DIGEST}
loop 300 MX 10 a.loop
a.loop 300 CNAME b.loop
b.loop 300 CNAME a.loop
spin 300 CNAME spun
spun 300 CNAME spin
zero 300 MX 10 mx.zero
mx.zero 300 A 0.0.0.0
_25._tcp.mx.zero 300 {TLSA}
literal 300 MX 10 192.0.2.1.
badmx 300 MX 10 mx.dane
{crowd("crowd", MAX_HOSTS)}{crowd("throng", MAX_HOSTS + 1)}""",
    "host.example": f"mx 300 {ADDRESS}\n_25._tcp.mx 300 {TLSA}\n@ 300 MX 10 mx\n",
    "unsigned.example": (
        f"@ 300 MX 10 mx.host.example.\nmx 300 {ADDRESS}\n_25._tcp.mx 300 {TLSA}\n"
    ),
    "forged.example": f"@ 300 MX 10 mx\nmx 300 {ADDRESS}\n_25._tcp.mx 300 {TLSA}\n",
    "stripped.example": f"@ 300 MX 10 mx.mallory\nmx.mallory 300 {ADDRESS}\n",
}

#: domain -> verdict, states of its hosts, TLSA base domains of those that have one
WANT: Final = {
    "dane.example": ("dane", "usable", "mx.dane.example"),
    "elsewhere.example": ("dane", "usable", "mx.host.example"),
    "host.example": ("dane", "usable", "mx.host.example"),
    "unsigned.example": ("insecure", "", ""),  # law 3: its MX host is signed
    "outside.example": ("none", "insecure", ""),
    "mixed.example": ("partial", "usable none", "mx.dane.example"),
    "half.example": ("dane", "usable failed", "mx.dane.example"),
    "broken.example": ("indeterminate", "failed", ""),
    "gone.example": ("dane", "usable absent", "mx.dane.example"),
    "dangling.example": ("no-mail", "absent", ""),
    "alias.example": ("dane", "usable", "mx.dane.example"),
    "alias-out.example": ("insecure", "", ""),
    "alias-host.example": ("dane", "usable", "mx.host.example"),
    "customer.example": ("dane", "usable", "mx.customer.example"),
    "shared.example": ("dane", "usable", "mx.shared.example"),
    "borrowed.example": ("none", "insecure", ""),
    "null.example": ("null-mx", "", ""),
    "implicit.example": ("dane", "usable", "implicit.example"),
    "implicit-bare.example": ("none", "none", ""),
    "nothing.example": ("no-mail", "absent", ""),
    "absent.example": ("no-mail", "", ""),
    "useless.example": ("none", "unusable", "mx.useless.example"),
    "forged.example": ("indeterminate", "", ""),
    "stripped.example": ("indeterminate", "", ""),
    "lame.example": ("indeterminate", "", ""),
    "lame-unsigned.example": ("failed", "", ""),
    # names that are no zones, in zones whose answers do not validate or do not come
    "badmx.example": ("indeterminate", "", ""),
    "mail.forged.example": ("indeterminate", "", ""),
    "mail.stripped.example": ("indeterminate", "", ""),
    "mail.lame.example": ("indeterminate", "", ""),
    "mail.lame-unsigned.example": ("failed", "", ""),
    "loop.example": ("indeterminate", "failed", ""),
    "spin.example": ("failed", "", ""),
    "zero.example": ("dane", "usable", "mx.zero.example"),
    "literal.example": ("none", "none", ""),
}


@pytest.fixture(scope="module")
def states() -> Iterator[dict[str, DaneState]]:
    """What is found for every domain, all looked at at once."""
    if reason := missing():
        cannot(reason)
    domains = [*WANT, "crowd.example", "throng.example"]
    with signed_dns(RECORDS) as space:
        said = run("ip", "netns", "exec", space, sys.executable, "-P", "-c", LOOK, *domains)
        yield msgspec.json.decode(said, type=dict[str, DaneState])


@pytest.mark.parametrize("domain", WANT)
def test_verdict(states: dict[str, DaneState], domain: str) -> None:
    found = states[domain]
    shown = " ".join(host.state for host in found.hosts)
    bases = " ".join(host.base for host in found.hosts if host.base)
    assert (found.verdict, shown, bases) == WANT[domain], found


def test_of_many_mx_hosts_the_first_are_looked_at(states: dict[str, DaneState]) -> None:
    for domain in ("crowd.example", "throng.example"):
        found = states[domain]
        assert found.verdict == "dane", found.text
        assert [host.state for host in found.hosts] == ["usable"] * MAX_HOSTS


def test_all_of_it_may_be_kept_as_long_as_the_shortest_lived_record(
    states: dict[str, DaneState],
) -> None:
    assert 118 <= states["dane.example"].ttl <= 120
    assert 58 <= states["absent.example"].ttl <= 60  # RFC 2308 section 5


def test_why_records_are_unusable_is_told(states: dict[str, DaneState]) -> None:
    (host,) = states["useless.example"].hosts
    for part in ("TLSA 1 1 1: usages 0 and 1", "matching type 9", "TLSA 2 0 0: the data is no"):
        assert part in host.text
