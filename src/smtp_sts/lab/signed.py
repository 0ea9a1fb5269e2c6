"""Signed zones, and the servers that answer for them: NSD with the zones, unbound that validates.

Promises: a zone's key, DS record and signatures (ECDSA P-256); the configuration files of both
servers, run from one directory without privileges to drop. Must not: run anything.
"""

from __future__ import annotations

import shutil
import textwrap
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import dns.dnssec
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ec
from dns.dnssectypes import Algorithm

_DAY: Final = 86400


class ZoneKey:
    """The one key of a zone."""

    def __init__(self) -> None:
        """Make a new one."""
        self._private = ec.generate_private_key(ec.SECP256R1())
        self._public = dns.dnssec.make_dnskey(
            self._private.public_key(), Algorithm.ECDSAP256SHA256, flags=257
        )

    def ds(self, zone: str) -> str:
        """The data of the DS record for a zone, its name without the last dot."""
        return str(dns.dnssec.make_ds(f"{zone}.", self._public, "SHA256"))

    def sign(self, zone: dns.zone.Zone, *, end: float | None = None) -> None:
        """Sign a zone for a day; or until `end`, in seconds since 1970."""
        begin, end = (time.time() - 3600, time.time() + _DAY) if end is None else (end - _DAY, end)
        dns.dnssec.sign_zone(
            zone, keys=[(self._private, self._public)], inception=begin, expiration=end
        )


def nsd_config(home: Path, address: str, zones: Mapping[str, str], *, more: str = "") -> str:
    """NSD's configuration: `zones` maps each name, with its last dot, to a file in `home`.

    `more` are lines at its end; without any there is no remote control.
    """
    text = textwrap.dedent(f"""\
        server:
          ip-address: {address}
          username: ""
          chroot: ""
          zonesdir: "{home}"
          database: ""
          pidfile: "{home}/nsd.pid"
          xfrdfile: "{home}/xfrd.state"
          zonelistfile: "{home}/zone.list"
          xfrdir: "{home}"
        """)
    text += more or "remote-control:\n  control-enable: no\n"
    return text + "".join(
        f'zone:\n  name: "{name}"\n  zonefile: "{file}"\n' for name, file in zones.items()
    )


def unbound_config(
    home: Path, root_server: str, anchor: str, *, lines: Iterable[str] = (), more: str = ""
) -> str:
    """unbound's: at 127.0.0.1, the root at `root_server`, `anchor` (ZONE DS DATA) its trust anchor.

    `lines` are more of the section `server`, `more` further sections; without any there is no
    remote control.
    """
    text = textwrap.dedent(f"""\
        server:
          interface: 127.0.0.1
          username: ""
          chroot: ""
          directory: "{home}"
          pidfile: "{home}/unbound.pid"
          use-syslog: no
          do-not-query-localhost: no
          trust-anchor: "{anchor}"
          trust-anchor-signaling: no
          qname-minimisation: no
        """)
    text += "".join(f"  {line}\n" for line in lines)
    text += f'stub-zone:\n  name: "."\n  stub-addr: {root_server}\n'
    return text + (more or "remote-control:\n  control-enable: no\n")


def unbound_program(home: Path) -> Path:
    """A copy of unbound: AppArmor's profile of the packaged one forbids other directories."""
    return Path(shutil.copy(shutil.which("unbound") or "/usr/sbin/unbound", home / "resolver"))
