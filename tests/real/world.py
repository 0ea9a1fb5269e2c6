"""One world for one mail server: alice's in a namespace of its own, the Internet in another.

Alice has an MTA (in the root file system of its Debian), unbound and the smtp-sts daemon. The
Internet has NSD, the policy hosts and one receiver for each MX host below. Promises:
`surroundings()` gives a running world without the MTA, and leaves nothing behind. Must not: reach
beyond its two namespaces, or know an MTA.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import dns.dnssec
import dns.zone
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from smtp_sts.lab.authority import Authority, Variant
from smtp_sts.lab.machine import Process, listening, namespace, process, run
from smtp_sts.lab.mtas.base import Root
from smtp_sts.lab.signed import ZoneKey, nsd_config, unbound_config, unbound_program

_VARIANTS: Final[dict[str, Variant]] = {
    "wrong-name": "other-name",
    "expired": "expired",
    "self-signed": "self-signed",
    "common-name": "common-name",
    "wildcard": "wildcard",
}
#: Digests that are no certificate's; the second is another one by the time it is served.
_OTHER: Final = {"wrong": "ab" * 32, "bogus": "cd" * 32}
ALICE: Final = "198.51.100.10"
#: The name that DNS has for alice's own server.
SELF: Final = "mx.alice.example"
#: The one zone that is signed; unbound has its key.
SIGNED: Final = "signed.example"
NAME_SERVER: Final = "198.51.100.53"
POLICY_HOST: Final = "198.51.100.43"


@dataclass(frozen=True)
class Site:
    """A domain as the world sees it, with the one MX host that DNS names for it.

    `certificate`: "good", "wrong-name", "self-signed", "expired" or "" for no STARTTLS.
    `address` is the MX host's where that matters, `alias_of` the host that its name is an alias of;
    `more_addresses` are those that nobody has.
    `mode` "" publishes no policy; `allowed` are the policy's mx patterns. `forged` is an MX host
    that mallory has put before the true one. `tlsa`: "good", "wrong" for another key's, or
    "bogus" where its signature is not valid; DNSSEC signs what lies below `SIGNED`.
    """

    domain: str
    mx: str
    certificate: str
    mode: str
    allowed: tuple[str, ...] = ()
    transport: str = ""
    forged: str = ""
    tlsa: str = ""
    address: str = ""
    alias_of: str = ""
    more_addresses: int = 0

    @property
    def policy(self) -> str:
        """The policy document."""
        patterns = "".join(f"mx: {pattern}\r\n" for pattern in self.allowed or (self.mx,))
        return f"version: STSv1\r\nmode: {self.mode}\r\n{patterns}max_age: 86400\r\n"


def _site(domain: str, certificate: str, mode: str, **more: Any) -> Site:
    return Site(domain, f"mx.{domain}", certificate, mode, **more)


#: Patterns that make a policy of almost 64 KiB.
_MANY: Final = tuple(f"m{number:04}.a.bc" for number in range(4070))
SITES: Final = {
    site.domain: site
    for site in (
        _site("enforce.example", "good", "enforce"),
        _site("socket.example", "good", "enforce", transport="smtp-unix"),
        _site("wildcard.example", "good", "enforce", allowed=("*.wildcard.example",)),
        _site("waiting.example", "good", "enforce"),
        _site("testing.example", "self-signed", "testing"),
        _site("cleartext.example", "", "testing"),
        _site("none.example", "", "none"),
        _site("plain.example", "", ""),
        # Where mallory stands in the way: her host answers at the MX host's address, or under
        # a name of her own that she has put into DNS.
        _site("stripped.example", "", "enforce"),
        _site("blocked.example", "", "enforce"),
        _site("wrong-name.example", "wrong-name", "enforce"),
        _site("self-signed.example", "self-signed", "enforce"),
        _site("expired.example", "expired", "enforce"),
        Site("outside.example", "mx.mallory.example", "good", "enforce", ("mx.outside.example",)),
        _site("forged.example", "good", "enforce", forged="mx.mallory.example"),
        Site("deep.example", "mx.a.deep.example", "good", "enforce", ("*.deep.example",)),
        # Hosts that a second domain shares, and a domain of mallory's own.
        Site("beside-outside.example", "mx.beside.example", "expired", "enforce", ("no.example",)),
        Site("beside-broken.example", "mx.beside.example", "expired", "enforce"),
        Site("beside-plain.example", "mx.beside.example", "expired", ""),
        Site("also-plain.example", "mx.beside.example", "expired", ""),
        Site("lured.example", "mx.lure.example", "good", "enforce", ("mx.lured.example",)),
        Site("lure.example", "mx.lure.example", "good", "enforce"),
        # Certificates that names of servers are found in otherwise: no other names, a wildcard.
        _site("common-name.example", "common-name", "enforce"),
        _site("wild-certificate.example", "wildcard", "enforce"),
        # MX hosts at a private address, that are alice's own server, that are an alias.
        _site("private.example", "good", "enforce", address="10.9.8.7"),
        _site(
            "myself.example", "good", "enforce", forged=SELF, allowed=("mx.myself.example", SELF)
        ),
        _site("myself-forged.example", "good", "enforce", forged=SELF),
        _site("alias.example", "good", "enforce", alias_of="mx.enforce.example"),
        # Policies as long as we take them; the MX host is of the last pattern.
        _site("long.example", "good", "enforce", allowed=(*_MANY, "mx.long.example")),
        _site("long-wild.example", "good", "enforce", allowed=(*_MANY, "*.long-wild.example")),
        _site(
            "long-broken.example",
            "self-signed",
            "enforce",
            allowed=(*_MANY, "mx.long-broken.example"),
        ),
        Site("long-outside.example", "mx.mallory.example", "good", "enforce", _MANY),
        _site("many.example", "", "enforce", allowed=_MANY, more_addresses=1000),
        _site(f"dane.{SIGNED}", "self-signed", "enforce", tlsa="good"),
        _site(f"broken-dane.{SIGNED}", "good", "enforce", tlsa="wrong"),
        # And what of that is left for a Postfix that has not been told of DNSSEC.
        _site(f"dane-alone.{SIGNED}", "self-signed", "", tlsa="good", transport="untold"),
        _site(f"dane-bogus.{SIGNED}", "self-signed", "", tlsa="bogus", transport="untold"),
        _site(f"dane-both.{SIGNED}", "good", "enforce", tlsa="good", transport="untold"),
        _site(f"dane-forged.{SIGNED}", "self-signed", "enforce", tlsa="wrong", transport="untold"),
        _site(f"dane-asked.{SIGNED}", "self-signed", "", tlsa="good", transport="untold-asking"),
    )
}


class World(Root):
    """A world; `surroundings()` makes it run, and an MTA's module adds its part to it."""

    def __init__(self, home: Path, root: Path, name: str) -> None:
        """Take the names; nothing runs yet. `root` is the MTA's root file system."""
        self.home = home
        self.alice, self.internet = f"{name}a", f"{name}i"
        Root.__init__(self, root, "ip", "netns", "exec", self.alice)
        self.ca_file = home / "ca.pem"
        self.events = home / "events.jsonl"
        self.unix_socket = root / "run/smtp-sts/socketmap"
        self._daemon: Process | None = None

    def events_at(self, host: str, event: str = "") -> list[dict[str, Any]]:
        """The events of the receiver `host`: EHLO, MAIL (a message begun), DATA (taken)."""
        if not self.events.exists():
            return []
        events = [json.loads(line) for line in self.events.read_text().splitlines()]
        return [e for e in events if e["host"] == host and event in ("", e["event"])]

    def start_daemon(self) -> None:
        """Start smtp-sts in alice's namespace and wait until it listens."""
        command = [
            sys.executable,
            "-P",
            "-m",
            "smtp_sts",
            "--config",
            str(self.home / "smtp-sts.toml"),
        ]
        self._daemon = Process(self.alice, [*command, "serve"], self.home / "smtp-sts.log")
        self._daemon.ready(self._daemon_answers, "smtp-sts")

    def _daemon_answers(self) -> bool:
        """Whether a key that never has a policy gets its answer (within a second)."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(self.unix_socket))
                probe.sendall(b"12:postfix .com,")
                return probe.recv(100) == b"9:NOTFOUND ,"
            except OSError:
                return False

    def stop_daemon(self) -> None:
        """End smtp-sts as its service manager would."""
        if self._daemon is not None:
            self._daemon.stop()
            self._daemon = None

    def kill_daemon(self) -> None:
        """End smtp-sts by SIGKILL."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon = None

    @contextlib.contextmanager
    def policy_host_blocked(self) -> Iterator[None]:
        """Nobody answers at the policy host's address."""
        change = (f"{POLICY_HOST}/32", "dev", "v0")
        run("ip", "-n", self.internet, "addr", "del", *change)
        try:
            yield
        finally:
            run("ip", "-n", self.internet, "addr", "add", *change)


def _addresses() -> dict[str, str]:
    hosts = {site.mx: site.address for site in SITES.values() if not site.alias_of}
    return {
        mx: given or f"192.0.2.{number}" for number, (mx, given) in enumerate(hosts.items(), 25)
    }


def _wire(alice: str, internet: str) -> None:
    """Join the two namespaces by a pair of virtual interfaces made inside them."""
    pair = ("type", "veth", "peer", "name", "v0", "netns", internet)
    run("ip", "link", "add", "v0", "netns", alice, *pair)
    run("ip", "-n", alice, "addr", "add", f"{ALICE}/24", "dev", "v0")
    run("ip", "-n", internet, "addr", "add", "198.51.100.1/24", "dev", "v0")
    for address in (NAME_SERVER, POLICY_HOST, *_addresses().values()):
        run("ip", "-n", internet, "addr", "add", f"{address}/32", "dev", "v0")
    for space in (alice, internet):
        run("ip", "-n", space, "link", "set", "v0", "up")
    run("ip", "-n", alice, "route", "add", "default", "via", "198.51.100.1")


def _in_signed(name: str) -> bool:
    return name.endswith(f".{SIGNED}")


def _records() -> Iterator[str]:
    """The records of all sites."""
    for site in SITES.values():
        yield f"{site.domain}. 60 MX 10 {site.mx}."
        reports = f"v=TLSRPTv1; rua=mailto:reports@{site.domain}"
        yield f'_smtp._tls.{site.domain}. 60 TXT "{reports}"'
        if site.forged:
            yield f"{site.domain}. 60 MX 5 {site.forged}."
        if site.mode:
            yield f'_mta-sts.{site.domain}. 60 TXT "v=STSv1; id=20260101T000000;"'
            yield f"mta-sts.{site.domain}. 60 A {POLICY_HOST}"
        for number in range(site.more_addresses):
            yield f"{site.mx}. 60 A 192.88.{number // 250}.{number % 250 + 1}"
        if site.alias_of:
            yield f"{site.mx}. 60 CNAME {site.alias_of}."
    yield f"{SELF}. 60 A {ALICE}"
    for mx, address in _addresses().items():
        yield f"{mx}. 60 A {address}"


def _tlsa(certificate: Path) -> str:
    """The TLSA data (DANE-EE, SPKI, SHA-256) of a PEM file's certificate."""
    key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"3 1 1 {hashlib.sha256(spki).hexdigest()}"


def _zones(certificates: dict[str, Path | None]) -> tuple[dict[str, str], str]:
    """All of DNS: a root zone that is not signed and a zone that is; the trust anchor."""
    head = "{0} 60 SOA ns.example. hostmaster.example. 1 3600 600 86400 60\n{0} 60 NS ns.example.\n"
    below: list[str] = []
    above = [f"ns.example. 60 A {NAME_SERVER}", f"{SIGNED}. 60 NS ns.example."]
    for record in _records():
        (below if _in_signed(record.partition(". ")[0]) else above).append(record)
    for site in SITES.values():
        served = certificates[site.mx]
        if site.tlsa and served:
            data = _tlsa(served) if site.tlsa == "good" else f"3 1 1 {_OTHER[site.tlsa]}"
            below.append(f"_25._tcp.{site.mx}. 60 TLSA {data}")
    signed = dns.zone.from_text(
        head.format(f"{SIGNED}.") + "\n".join(below), f"{SIGNED}.", relativize=False
    )
    key = ZoneKey()
    key.sign(signed)
    below_signed = signed.to_text().replace(_OTHER["bogus"], "ef" * 32)
    zones = {".": head.format(".") + "\n".join(above) + "\n", f"{SIGNED}.": below_signed}
    return zones, f"{SIGNED}. DS {key.ds(SIGNED)}"


def _certificate(authority: Authority, site: Site) -> Path | None:
    if not site.certificate:
        return None
    return authority.issue(site.mx, variant=_VARIANTS.get(site.certificate, "good"))


def _description(
    authority: Authority, certificates: dict[str, Path | None], events: Path
) -> dict[str, Any]:
    """What `internet.py` is to play."""
    with_policy = [site for site in SITES.values() if site.mode]
    return {
        "events": str(events),
        "receivers": [
            {"host": mx, "address": address, "certificate": str(certificates[mx] or "")}
            for mx, address in _addresses().items()
        ],
        "policies": {f"mta-sts.{s.domain}": s.policy for s in with_policy},
        "policy_pems": {
            f"mta-sts.{s.domain}": str(authority.issue(f"mta-sts.{s.domain}")) for s in with_policy
        },
        "policy_address": POLICY_HOST,
    }


def _write_name_servers(home: Path, certificates: dict[str, Path | None]) -> None:
    zones, anchor = _zones(certificates)
    for name, text in zones.items():
        (home / f"{name}zone").write_text(text)
    files = {name: f"{name}zone" for name in zones}
    (home / "nsd.conf").write_text(nsd_config(home, NAME_SERVER, files))
    (home / "unbound.conf").write_text(unbound_config(home, NAME_SERVER, anchor))


def _write_daemon(made: World, ca_file: Path) -> None:
    made.unix_socket.parent.mkdir(parents=True)
    (made.home / "smtp-sts.toml").write_text(
        textwrap.dedent(f"""\
        [policy]
        listen = ["127.0.0.1:8461", "127.0.0.1:5461", "unix:{made.unix_socket}"]
        listen_line = "127.0.0.1:8462"
        workers = 2
        [dns]
        nameservers = ["127.0.0.1"]
        [network]
        ca_file = "{ca_file}"
        allow_private_addresses = true
        [store]
        url = "sqlite:///{made.home}/smtp-sts.db"
        [control]
        socket = "{made.home}/control.sock"
        [log]
        level = "debug"
        """)
    )


@contextlib.contextmanager
def surroundings(made: World) -> Iterator[None]:
    """Run everything of a world but its MTA; RuntimeError where a part fails."""
    home = made.home
    with contextlib.ExitStack() as stack:
        alice = stack.enter_context(namespace(made.alice))
        internet = stack.enter_context(namespace(made.internet))
        _wire(alice, internet)
        authority = Authority(home)
        certificates = {site.mx: _certificate(authority, site) for site in SITES.values()}
        _write_name_servers(home, certificates)
        _write_daemon(made, authority.ca_file)
        made.furnish(made.ca_file)
        description = _description(authority, certificates, made.events)
        (home / "internet.json").write_text(json.dumps(description))

        nsd = stack.enter_context(
            process(internet, ["nsd", "-d", "-c", home / "nsd.conf"], home / "nsd.log")
        )
        unbound = unbound_program(home)
        resolver = stack.enter_context(
            process(alice, [unbound, "-d", "-c", home / "unbound.conf"], home / "unbound.log")
        )
        player = Path(__file__).with_name("internet.py")
        play = [sys.executable, str(player), str(home / "internet.json")]
        others = stack.enter_context(process(internet, play, home / "internet.log"))
        nsd.ready(lambda: listening(internet, 53, "udp"), "NSD")
        resolver.ready(lambda: listening(alice, 53, "udp"), "unbound")
        others.ready(lambda: "ready" in others.log.read_text(), "the Internet")
        stack.callback(made.stop_daemon)
        made.start_daemon()
        yield
