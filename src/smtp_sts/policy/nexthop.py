"""The next hop an MTA names, and its policy domain (RFC 8461 section 3.4). No I/O.

Promises: the domain of a `NextHop` is a lower-case A-label host name of two labels or more that
leaves room for `_mta-sts.` in front; everything else raises `NextHopError`.
"""

from __future__ import annotations

import re
from typing import Final

import idna
import msgspec

from smtp_sts.policy.errors import NextHopError, shown
from smtp_sts.policy.pattern import HOST, MAX_NAME

_PLAIN: Final = HOST.fullmatch
_MAX_DOMAIN: Final = MAX_NAME - len("_mta-sts.")
_BRACKETS: Final = re.compile(r"\[([^\[\]]*)\](?::([A-Za-z0-9-]+))?", re.ASCII)
_PORT: Final = re.compile(r":([A-Za-z0-9-]+)\Z", re.ASCII)
_NUMBER: Final = re.compile("[0-9]{1,5}")
#: The services that carry mail, by the names they have in services(5). It is the MTA's machine that
#: knows others.
_SERVICES: Final = {
    "smtp": 25, "mail": 25, "urd": 465, "ssmtp": 465, "smtps": 465, "submissions": 465,
    "submission": 587,
}  # fmt: skip
#: The port of a next hop whose service has a name that is known to its MTA alone.
UNKNOWN_PORT: Final = 0
#: Longer than any name in U-labels that can be one; keeps idna's work bounded.
_MAX_KEY: Final = 1024
#: RFC 1035 section 2.3.4, bytes.
_MAX_LABEL: Final = 63
#: What IDNA takes for a dot (RFC 3490 section 3.1).
_DOTS: Final = re.compile("[.\u3002\uff0e\uff61]")


class NextHop(msgspec.Struct, frozen=True, gc=False):
    """Where an MTA sends: the way to it is part of what DANE protects (RFC 7672 section 2.2).

    `domain` is the policy domain. `port` is None where the key names none, which is the port of
    SMTP, and `UNKNOWN_PORT` where only the MTA knows the service. Without `look_up_mx` (brackets)
    `domain` is a host, and its MX records, if it has any, are nobody's business.
    """

    domain: str
    port: int | None = None
    look_up_mx: bool = True

    @property
    def plain(self) -> bool:
        """Whether it is a mail domain, as most are."""
        return self.look_up_mx and self.port is None

    def __str__(self) -> str:
        host = self.domain if self.look_up_mx else f"[{self.domain}]"
        return host if self.port is None else f"{host}:{self.port or 'service'}"


def policy_domain(next_hop: str) -> str:
    """The policy domain of `example.com`, `example.com:587`, `[relay.example.com]:587` and so on.

    A smart host is its own policy domain and no parent domain is ever asked (section 3.4); address
    literals and `.parent` keys have none. Raises NextHopError.
    """
    return parse_next_hop(next_hop).domain


def parse_next_hop(next_hop: str) -> NextHop:
    """What a key of an MTA's says; as `policy_domain`. Raises NextHopError."""
    name, port, look_up_mx = next_hop, None, True
    if len(name) <= _MAX_DOMAIN and _PLAIN(name) and not name.rpartition(".")[2].isdigit():
        return NextHop(name)
    if len(name) > _MAX_KEY:
        raise NextHopError("next-hop-too-long", f"{shown(name)} is too long for a domain")
    if name.startswith("["):
        inside = _BRACKETS.fullmatch(name)
        if inside is None:
            raise NextHopError("next-hop-invalid", f"{shown(name)} is no next hop")
        name, port, look_up_mx = inside[1], _port(inside[2]), False
    elif name.count(":") == 1 and (written := _PORT.search(name)):
        name, port = name[: written.start()], _port(written[1])
    if ":" in name:
        raise NextHopError("next-hop-address", f"{shown(next_hop)} is an address, not a domain")
    if name.startswith("."):
        raise NextHopError("next-hop-parent", f"{shown(next_hop)} names a parent, not a next hop")
    if not name.isascii():
        try:
            name = _a_labels(name)
        except (idna.IDNAError, UnicodeError):
            raise NextHopError("next-hop-invalid", f"{shown(next_hop)} is no domain") from None
    name = name.removesuffix(".").lower()
    if len(name) > _MAX_DOMAIN or not _PLAIN(name):
        raise NextHopError("next-hop-invalid", f"{shown(next_hop)} is no domain")
    if name.rpartition(".")[2].isdigit():
        raise NextHopError("next-hop-address", f"{shown(next_hop)} is an address, not a domain")
    return NextHop(name, port, look_up_mx)


def _port(service: str | None) -> int | None:
    if service is None:
        return None
    if _NUMBER.fullmatch(service):
        return int(service) if 0 < int(service) < 65536 else UNKNOWN_PORT
    return _SERVICES.get(service.lower(), UNKNOWN_PORT)


def _a_labels(name: str) -> str:
    """U-labels as A-labels. Raises IDNAError, UnicodeError."""
    if len(name) > MAX_NAME:
        raise UnicodeError("name too long")
    for label in _DOTS.split(name):
        _check_length(label)
    try:
        return idna.encode(name, uts46=True).decode("ascii")
    except idna.IDNAError:
        # IDNA 2008 forbids symbols, MTAs (by ICU: UTS 46 alone) deliver to such domains all the
        # same, and so must find the policy that protects them.
        return ".".join(map(_a_label, idna.uts46_remap(name, std3_rules=False).split(".")))


def _a_label(label: str) -> str:
    if label.isascii():
        return label
    _check_length(label)
    made = "xn--" + label.encode("punycode").decode("ascii")
    if len(made) > _MAX_LABEL:
        raise UnicodeError("label too long")
    return made


def _check_length(label: str) -> None:
    # Before anything is made of it: Punycode takes time by the square of the length, and a code
    # point takes a byte or more of what it makes.
    if len(label) > _MAX_LABEL - (0 if label.isascii() else len("xn--")):
        raise UnicodeError("label too long")


def record_name(domain: str) -> str:
    """Where the TXT record of a policy domain stands (section 3.1)."""
    return f"_mta-sts.{domain}"


def policy_host(domain: str) -> str:
    """The policy host of a policy domain (section 3.2)."""
    return f"mta-sts.{domain}"


def policy_url(domain: str) -> str:
    """Where the policy is served (section 3.2)."""
    return f"https://{policy_host(domain)}/.well-known/mta-sts.txt"
