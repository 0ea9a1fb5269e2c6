"""From the next hop an MTA names to the policy domain (RFC 8461 section 3.4). No I/O.

Promises: what `policy_domain` returns is a lower-case A-label host name of two labels or more that
leaves room for `_mta-sts.` in front; everything else raises `NextHopError`.
"""

from __future__ import annotations

import re
from typing import Final

import idna

from smtp_sts.policy.errors import NextHopError, shown
from smtp_sts.policy.pattern import HOST, MAX_NAME

_PLAIN: Final = HOST.fullmatch
_MAX_DOMAIN: Final = MAX_NAME - len("_mta-sts.")
_BRACKETS: Final = re.compile(r"\[([^\[\]]*)\](?::[A-Za-z0-9-]+)?", re.ASCII)
_PORT: Final = re.compile(r":[A-Za-z0-9-]+\Z", re.ASCII)
#: Longer than any name in U-labels that can be one; keeps idna's work bounded.
_MAX_KEY: Final = 1024
#: RFC 1035 section 2.3.4, bytes.
_MAX_LABEL: Final = 63
#: What IDNA takes for a dot (RFC 3490 section 3.1).
_DOTS: Final = re.compile("[.\u3002\uff0e\uff61]")


def policy_domain(next_hop: str) -> str:
    """The policy domain of `example.com`, `example.com:587`, `[relay.example.com]:587` and so on.

    A smart host is its own policy domain and no parent domain is ever asked (section 3.4); address
    literals and `.parent` keys have none. Raises NextHopError.
    """
    name = next_hop
    if len(name) <= _MAX_DOMAIN and _PLAIN(name) and not name.rpartition(".")[2].isdigit():
        return name
    if len(name) > _MAX_KEY:
        raise NextHopError("next-hop-too-long", f"{shown(name)} is too long for a domain")
    if name.startswith("["):
        inside = _BRACKETS.fullmatch(name)
        if inside is None:
            raise NextHopError("next-hop-invalid", f"{shown(name)} is no next hop")
        name = inside[1]
    elif name.count(":") == 1:
        name = _PORT.sub("", name)
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
    return name


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
