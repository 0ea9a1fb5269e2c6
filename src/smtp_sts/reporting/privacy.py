"""What of a session may be told to strangers (RFC 8460 section 8). No I/O.

A report goes to whoever publishes a record. Promises: no address and no name that is of an inner
network stands in one, whichever source told of it: what is not public is left out, and the session
still counts. Must not: decide whose session it was (`belonging.py`).
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Final

from smtp_sts.net.addresses import is_public
from smtp_sts.tlsrpt.names import domain_name, ip_address

#: For documentation (RFC 5737, RFC 3849): of nobody's network.
_NOBODYS: Final = tuple(
    map(
        ipaddress.ip_network,
        ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"),
    )
)
#: Ends of names that no public DNS has: RFC 6761, 6762, 8375, 9476, ICANN's `internal`, and those
#: that inner networks took before (RFC 6762 appendix G; `corp`, `home`, `mail`: never delegated).
_INNER: Final = re.compile(
    r"(?:.*\.)?(?:localhost|localdomain|local|internal|intranet|private|corp|home|lan|mail|alt"
    r"|home\.arpa)"
)
#: what may be an address in a text
_ADDRESS: Final = re.compile(
    r"(?<![0-9A-Za-z.:])(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f.]{0,15}){2,8})"
)
_WORD: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+\.?")
#: what stands in a text in the place of either
LEFT_OUT: Final = "(not public)"


@lru_cache(maxsize=65536)
def public_address(text: str) -> str:
    """The address as RFC 5952 has it; "" where it is none, or not a public one."""
    address = ip_address(text)
    if not address or is_public(address):
        return address
    ip = ipaddress.ip_address(address)
    return address if any(ip in net for net in _NOBODYS if net.version == ip.version) else ""


def public_name(text: str) -> str:
    """The host name; "" where it is none, or one that no public DNS has."""
    name = domain_name(text)
    return "" if "." not in name or _INNER.fullmatch(name) else name


def public_text(text: str) -> str:
    """A text without addresses and names that are not public."""
    text = _ADDRESS.sub(lambda found: found[0] if _tellable(found[0]) else LEFT_OUT, text)
    return _WORD.sub(lambda found: LEFT_OUT if _inner(found[0]) else found[0], text)


def _tellable(text: str) -> bool:
    return not ip_address(text) or public_address(text) != ""


def _inner(word: str) -> bool:
    name = domain_name(word)
    return bool(name) and _INNER.fullmatch(name) is not None
