"""What may stand as a domain, a host, an address or a line of text in a report. No I/O.

Promises: no function here raises, for any text; what they let through holds no control characters
(law 5).
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Final

# Underscores: TLSA base domains and policy domains of others have them.
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}", re.ASCII)
_NAME_BYTES: Final = 253
#: INET6_ADDRSTRLEN without its end
_ADDRESS_BYTES: Final = 45
# RFC 5321 section 4.1.2: Dot-string; a quoted local part is for no mailbox that takes reports.
_ATEXT: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LOCAL_PART: Final = re.compile(rf"{_ATEXT}(?:\.{_ATEXT})*", re.ASCII)
# C0, DEL and C1, lone surrogates, and marks that change the direction of what follows
_UNFIT: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+"
)


def domain_name(text: str) -> str:
    """The name in lower case without a last dot, or "" where it is no A-label domain name."""
    return _domain_name(text) if len(text) <= _NAME_BYTES + 1 else ""


def ip_address(text: str) -> str:
    """The address as RFC 5952 writes it, or "" where it is none."""
    return _ip_address(text) if len(text) <= _ADDRESS_BYTES else ""


# The same names come by the thousand. What is too long is not kept: 65,536 texts as long as a
# stranger likes are gigabytes.


@lru_cache(maxsize=65536)
def _domain_name(text: str) -> str:
    name = text.removesuffix(".").lower() if text.isascii() else ""
    if len(name) > _NAME_BYTES or not _NAME.fullmatch(name):
        return ""
    return "" if name.rpartition(".")[2].isdigit() else name


@lru_cache(maxsize=65536)
def _ip_address(text: str) -> str:
    # Sections 4.4: an address alone, no zone; Postfix writes "IPv6:" before none.
    try:
        if "%" in text:
            return ""
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    # RFC 5952 section 5: in mixed notation, which Python has from 3.13 on.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return f"::ffff:{mapped}" if mapped else str(address)


def mail_address(text: str) -> str:
    """The address with its domain in lower case, or "" where mail could not go there safely."""
    local, at, domain = text.rpartition("@")
    domain = domain_name(domain)
    # A leading hyphen could be taken for an option by a sendmail command.
    if not at or not domain or len(local) > 64 or local.startswith("-"):
        return ""
    return f"{local}@{domain}" if _LOCAL_PART.fullmatch(local) else ""


def clean(text: str, limit: int) -> str:
    """A stranger's text on one line: a blank for each run of control characters, and not longer
    than `limit` characters."""
    return _UNFIT.sub(" ", text[:limit]).strip()
