"""Which addresses a stranger may send us to. No I/O."""

from __future__ import annotations

import ipaddress
from typing import Final

_RELAYS: Final = ipaddress.ip_network("192.88.99.0/24")  # 6to4, RFC 7526
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an address is on the public Internet, those embedded in IPv6 ones included.

    Loopback, private, link-local, shared (CGNAT), multicast, unspecified and reserved ones are not
    (law 5: nothing a stranger publishes leads to a private address).
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    elif ip in _RELAYS:
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not ip.is_unspecified
