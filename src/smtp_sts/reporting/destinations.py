"""Which destinations of a record get a report, and which do not, and why. No I/O.

Promises: what stands in the operator's `suppress`, and what cannot be the address of a stranger's
server, gets nothing, and it is said why (law 5). Addresses of HTTPS hosts are checked again when
they are looked up.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

import msgspec

from smtp_sts.net.addresses import is_public
from smtp_sts.net.post import host_of
from smtp_sts.store.outbox import Planned
from smtp_sts.tlsrpt import Destination, Record
from smtp_sts.tlsrpt.names import domain_name, mail_address

#: RFC 6761, RFC 6762, RFC 8375, RFC 9476 and ICANN's `internal`: names of no public server.
_LOCAL: Final = ("localhost", "local", "internal", "invalid", "alt", "home.arpa", "onion")


class Suppressed(msgspec.Struct, frozen=True):
    """Who gets no reports: mail addresses; domains and hosts; and all below the suffixes."""

    addresses: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    suffixes: tuple[str, ...] = ()

    def by_name(self, name: str) -> str:
        """The entry that a policy domain, mail domain or host falls under, or ""."""
        if name in self.names:
            return name
        return next((s for s in self.suffixes if name.endswith(s)), "")


def read_suppressed(entries: Iterable[str]) -> Suppressed:
    """`[tls_reports] suppress`. Raises ValueError that names the entry that cannot be one."""
    addresses, names, suffixes = set(), set(), []
    for entry in entries:
        text = entry.strip()
        host = text.removeprefix("https://").rstrip("/")
        if "@" in text:
            address = mail_address(text.removeprefix("mailto:"))
            if not address:
                raise ValueError(f"{entry!r} is no mail address")
            addresses.add(address)
        elif text.startswith(".") and domain_name(text[1:]):
            suffixes.append(f".{domain_name(text[1:])}")
        elif domain_name(host) or _is_address(host):
            names.add(domain_name(host) or host)
        else:
            raise ValueError(
                f"{entry!r}: write a domain or host (bob.example), all below one (.bob.example), "
                "or a mail address"
            )
    return Suppressed(frozenset(addresses), frozenset(names), tuple(suffixes))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def plan(record: Record, suppressed: Suppressed, *, allow_private: bool) -> list[Planned]:
    """The destinations of a record, each once, and what speaks against those that are skipped."""
    return [
        Planned(
            to.uri,
            host_of(to.target) if to.scheme == "https" else "",
            _objection(to, suppressed, allow_private),
        )
        for to in dict.fromkeys(record.rua)
    ]


def _objection(to: Destination, suppressed: Suppressed, allow_private: bool) -> str:
    host = host_of(to.target) if to.scheme == "https" else to.target.rpartition("@")[2]
    if to.scheme == "mailto" and to.target in suppressed.addresses:
        return f"suppressed by {to.target}"
    if entry := suppressed.by_name(host):
        return f"suppressed by {entry}"
    if allow_private:
        return ""
    if _is_address(host):
        return "" if is_public(host) else f"{host} is not on the public Internet"
    # A name without a dot is one of ours: root@localhost, or the machine next to us.
    if "." not in host or any(host == name or host.endswith(f".{name}") for name in _LOCAL):
        return f"{host} is no name on the public Internet"
    return ""
