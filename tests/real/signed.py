"""A signed DNS for tests: NSD with zones of every state of DNSSEC, unbound that validates them.

Promises: both run in one network namespace, unbound at 127.0.0.1; the root's key is unbound's only
trust anchor. `signed_dns()` leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import dns.dnssec
import dns.rdataset
import dns.zone

from smtp_sts.lab.machine import directory, listening, namespace, process
from smtp_sts.lab.signed import ZoneKey, nsd_config, unbound_config, unbound_program

NAME_SERVER: Final = "127.0.0.53"
#: An address at which nobody listens.
NOBODY: Final = "127.0.0.99"
_DAY: Final = 86400
_HEAD: Final = (
    "@ 300 SOA ns.example. hostmaster.example. 1 3600 600 86400 60\n@ 300 NS ns.example.\n"
)
_ROOT: Final = f"example. 300 NS ns.example.\nns.example. 300 A {NAME_SERVER}\n"
#: Zones below `example.`, itself signed. Forged: signed with a key that the parent does not know.
#: Stripped: the parent says that it is signed, and it is not. Lame: the parent says that it is
#: signed, and its name server does not answer.
SIGNED: Final = ("host.example",)
UNSIGNED: Final = ("unsigned.example",)
FORGED: Final = ("forged.example",)
STRIPPED: Final = ("stripped.example",)
LAME: Final = ("lame.example",)
LAME_UNSIGNED: Final = ("lame-unsigned.example",)
#: A name in `example.`, no zone of its own, whose MX records were changed after they were signed.
BAD_MX: Final = "badmx.example."


def _write_zones(home: Path, records: dict[str, str]) -> str:
    """Zone files from zone -> records without SOA and NS; the root's DS, the trust anchor."""
    keys = {name: ZoneKey() for name in ("", "example", *SIGNED, *FORGED, *STRIPPED, *LAME)}
    texts = {
        "": _ROOT + f"example. 300 DS {keys['example'].ds('example')}\n",
        **records,
    }
    texts["example"] += f"ns 300 A {NAME_SERVER}\n"
    for name in (*SIGNED, *UNSIGNED, *FORGED, *STRIPPED, *LAME, *LAME_UNSIGNED):
        lame = f"ns.{name}. 300 A {NOBODY}\n" if name in LAME + LAME_UNSIGNED else ""
        texts["example"] += f"{name}. 300 NS {f'ns.{name}.' if lame else 'ns'}\n{lame}"
        if name in keys:
            texts["example"] += f"{name}. 300 DS {keys[name].ds(name)}\n"
    for name, text in texts.items():
        zone = dns.zone.from_text(_HEAD + text, f"{name}.", relativize=False)
        if name in FORGED:
            ZoneKey().sign(zone)
        elif name in keys and name not in STRIPPED:
            keys[name].sign(zone)
        if name == "example" and BAD_MX in zone:  # nothing else of the name is wrong
            changed = dns.rdataset.from_text("IN", "MX", 300, "20 mx.elsewhere.example.")
            zone.replace_rdataset(BAD_MX, changed)
        zone.to_file(str(home / f"{name or 'root'}.zone"), relativize=False)
    return keys[""].ds("")


def _write_servers(home: Path, zones: list[str], anchor: str) -> None:
    files = {f"{zone}.": f"{zone or 'root'}.zone" for zone in zones}
    (home / "nsd.conf").write_text(nsd_config(home, NAME_SERVER, files))
    (home / "unbound.conf").write_text(unbound_config(home, NAME_SERVER, f". DS {anchor}"))


@contextlib.contextmanager
def signed_dns(records: dict[str, str]) -> Iterator[str]:
    """A namespace in which 127.0.0.1 resolves and validates `records`, zone -> its records."""
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(directory())
        space = stack.enter_context(namespace(f"sts{os.getpid()}dane"))
        anchor = _write_zones(home, records)
        _write_servers(home, ["", *records], anchor)
        nsd = stack.enter_context(
            process(space, ["nsd", "-d", "-c", home / "nsd.conf"], home / "nsd.log")
        )
        unbound = unbound_program(home)
        resolver = stack.enter_context(
            process(space, [unbound, "-d", "-c", home / "unbound.conf"], home / "unbound.log")
        )
        nsd.ready(lambda: listening(space, 53, "udp"), "NSD")
        resolver.ready(lambda: listening(space, 53, "udp"), "unbound")
        yield space
