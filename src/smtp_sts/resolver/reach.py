"""How the network is reached: made once for a process, shared by all that look outwards."""

from __future__ import annotations

import ssl

import msgspec

from smtp_sts.config import Config, nameservers
from smtp_sts.net.dns import Dns
from smtp_sts.net.https import tls_context
from smtp_sts.net.resolv_conf import ResolvConf


class Reach(msgspec.Struct, frozen=True):
    """DNS, certificates that are trusted, ports, and how long a fetch may take (seconds)."""

    dns: Dns
    context: ssl.SSLContext
    https_port: int = 443
    allow_private: bool = False
    fetch_timeout: float = 60.0


def reach_of(config: Config) -> Reach:
    """How a configuration reaches the network. Raises OSError for a CA file that cannot be read."""
    named = nameservers(config)
    dns = Dns(named, timeout=config.dns.timeout, trust_ad=config.dns.trust_ad)
    if not named:
        file = ResolvConf()
        dns.use(file.servers, trust_ad=file.trust_ad)
    network = config.network
    return Reach(
        dns,
        tls_context(network.ca_file),
        network.https_port,
        network.allow_private_addresses,
        network.fetch_timeout,
    )
