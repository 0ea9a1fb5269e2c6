"""One world for one Postfix: alice's server in a namespace of its own, the Internet in another.

Alice has Postfix (in the root file system of its Debian), unbound and the smtp-sts daemon. The
Internet has NSD, the policy hosts and one receiver for each MX host below. Promises: `world()`
gives a running world and leaves nothing behind. Must not: reach beyond its two namespaces.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from smtp_sts.lab.authority import Authority, Variant

from .machine import Process, directory, listening, namespace, process, run, writable

_VARIANTS: Final[dict[str, Variant]] = {
    "wrong-name": "other-name",
    "expired": "expired",
    "self-signed": "self-signed",
}
SUITES: Final = {"3.7": "bookworm", "3.10": "trixie"}
ALICE: Final = "198.51.100.10"
NAME_SERVER: Final = "198.51.100.53"
POLICY_HOST: Final = "198.51.100.43"
QUEUE: Final = "var/spool/postfix"
INET: Final = "socketmap:inet:127.0.0.1:8461"


@dataclass(frozen=True)
class Site:
    """A domain as the world sees it, with the one MX host that DNS names for it.

    `certificate`: "good", "wrong-name", "self-signed", "expired" or "" for no STARTTLS.
    `mode` "" publishes no policy; `allowed` are the policy's mx patterns. `forged` is an MX host
    that mallory has put before the true one.
    """

    domain: str
    mx: str
    certificate: str
    mode: str
    allowed: tuple[str, ...] = ()
    transport: str = ""
    forged: str = ""

    @property
    def policy(self) -> str:
        """The policy document."""
        patterns = "".join(f"mx: {pattern}\r\n" for pattern in self.allowed or (self.mx,))
        return f"version: STSv1\r\nmode: {self.mode}\r\n{patterns}max_age: 86400\r\n"


def _site(domain: str, certificate: str, mode: str, **more: Any) -> Site:
    return Site(domain, f"mx.{domain}", certificate, mode, **more)


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
    )
}


@dataclass(frozen=True)
class Outcome:
    """What Postfix logged of one delivery attempt; `tls` is the line about TLS or ""."""

    status: str
    dsn: str
    line: str
    tls: str


class World:
    """A running world; made by `world()`."""

    def __init__(self, version: str, home: Path, root: Path, spaces: tuple[str, str]) -> None:
        """Take the names; nothing runs yet."""
        self.version = version
        self.home = home
        self.root = root
        self.alice, self.internet = spaces
        self.profile = "postfix-tlsrpt" if version == "3.10" else "postfix"
        self.events = home / "events.jsonl"
        self.unix_socket = root / QUEUE / "smtp-sts/socketmap"
        self._recipients = 0
        self._daemon: Process | None = None

    def in_root(self, *command: str, check: bool = True, text: str = "") -> str:
        """Run a command inside alice's root file system and namespace."""
        inside = ("ip", "netns", "exec", self.alice, "chroot", str(self.root))
        return run(*inside, *command, check=check, text=text)

    def maillog(self) -> list[str]:
        """The lines Postfix has logged so far."""
        path = self.root / "var/log/maillog"
        return path.read_text(errors="replace").splitlines() if path.exists() else []

    def send(self, domain: str) -> str:
        """Give Postfix a message for a new recipient of `domain`; that recipient's address."""
        self._recipients += 1
        recipient = f"bob{self._recipients}@{domain}"
        message = f"From: alice@alice.example\nTo: {recipient}\nSubject: hello\n\nfor {recipient}\n"
        self.in_root("sendmail", "-i", "-f", "alice@alice.example", recipient, text=message)
        return recipient

    def outcomes(self, recipient: str) -> list[Outcome]:
        """Every delivery attempt logged so far for `recipient`."""
        found: list[Outcome] = []
        tls: dict[str, str] = {}
        for line in self.maillog():
            process_id = re.search(r"postfix\S*/smtp\[(\d+)\]: ", line)
            if process_id is None:
                continue
            if " TLS connection established to " in line:
                tls[process_id[1]] = line
            status = re.search(r"dsn=([\d.]+), status=(\w+) ", line)
            if status:
                before = tls.pop(process_id[1], "")
                if f"to=<{recipient}>" in line:
                    found.append(Outcome(status[2], status[1], line, before))
        return found

    def outcome(self, recipient: str, status: str = "", timeout: float = 20.0) -> Outcome:
        """The first attempt logged for `recipient` (with that status); AssertionError if none."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for outcome in self.outcomes(recipient):
                if status in ("", outcome.status):
                    return outcome
            time.sleep(0.05)
        raise AssertionError(
            "\n".join(
                [
                    f"no {status or 'outcome'} for {recipient}",
                    "Postfix logged:",
                    *self.maillog()[-30:],
                    "smtp-sts logged:",
                    *(self.home / "smtp-sts.log").read_text(errors="replace").splitlines()[-30:],
                ]
            )
        )

    def seen(self, host: str, event: str = "") -> list[dict[str, Any]]:
        """The events of the receiver `host`: EHLO, MAIL (a message begun), DATA (taken)."""
        if not self.events.exists():
            return []
        events = [json.loads(line) for line in self.events.read_text().splitlines()]
        return [e for e in events if e["host"] == host and event in ("", e["event"])]

    def lookup(self, key: str, table: str) -> str:
        """What `postmap -q` prints; "" for not found."""
        return self.in_root("postmap", "-q", key, table, check=False).rstrip("\n")

    def start_daemon(self) -> None:
        """Start smtp-sts in alice's namespace and wait until it listens."""
        command = [sys.executable, "-m", "smtp_sts", "--config", str(self.home / "smtp-sts.toml")]
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
    return {s.mx: f"192.0.2.{number}" for number, s in enumerate(SITES.values(), 25)}


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


def _zone() -> str:
    """The whole of DNS, as one root zone."""
    lines = [
        ". 60 SOA ns.example. hostmaster.example. 1 3600 600 86400 60",
        ". 60 NS ns.example.",
        f"ns.example. 60 A {NAME_SERVER}",
    ]
    for site in SITES.values():
        lines.append(f"{site.domain}. 60 MX 10 {site.mx}.")
        if site.forged:
            lines.append(f"{site.domain}. 60 MX 5 {site.forged}.")
        if site.mode:
            lines.append(f'_mta-sts.{site.domain}. 60 TXT "v=STSv1; id=20260101T000000;"')
            lines.append(f"mta-sts.{site.domain}. 60 A {POLICY_HOST}")
    lines += [f"{mx}. 60 A {address}" for mx, address in _addresses().items()]
    return "\n".join(lines) + "\n"


def _description(authority: Authority, events: Path) -> dict[str, Any]:
    """What `internet.py` is to play."""

    def certificate(site: Site) -> str | None:
        if not site.certificate:
            return None
        return str(authority.issue(site.mx, variant=_VARIANTS.get(site.certificate, "good")))

    addresses = _addresses()
    with_policy = [site for site in SITES.values() if site.mode]
    return {
        "events": str(events),
        "receivers": [
            {"host": s.mx, "address": addresses[s.mx], "certificate": certificate(s)}
            for s in SITES.values()
        ],
        "policies": {f"mta-sts.{s.domain}": s.policy for s in with_policy},
        "policy_pems": {
            f"mta-sts.{s.domain}": str(authority.issue(f"mta-sts.{s.domain}")) for s in with_policy
        },
        "policy_address": POLICY_HOST,
    }


def _write_name_servers(home: Path) -> None:
    (home / "root.zone").write_text(_zone())
    (home / "nsd.conf").write_text(
        textwrap.dedent(f"""\
        server:
          ip-address: {NAME_SERVER}
          username: ""
          chroot: ""
          zonesdir: "{home}"
          database: ""
          pidfile: "{home}/nsd.pid"
          xfrdfile: "{home}/xfrd.state"
          zonelistfile: "{home}/zone.list"
          xfrdir: "{home}"
        remote-control:
          control-enable: no
        zone:
          name: "."
          zonefile: "root.zone"
        """)
    )
    (home / "unbound.conf").write_text(
        textwrap.dedent(f"""\
        server:
          interface: 127.0.0.1
          username: ""
          chroot: ""
          directory: "{home}"
          pidfile: "{home}/unbound.pid"
          use-syslog: no
          module-config: "iterator"
        remote-control:
          control-enable: no
        stub-zone:
          name: "."
          stub-addr: {NAME_SERVER}
        """)
    )


def _write_daemon(made: World, ca_file: Path) -> None:
    made.unix_socket.parent.mkdir()
    (made.home / "smtp-sts.toml").write_text(
        textwrap.dedent(f"""\
        [policy]
        listen = ["127.0.0.1:8461", "unix:{made.unix_socket}"]
        workers = 2
        [dns]
        nameservers = ["127.0.0.1"]
        [network]
        ca_file = "{ca_file}"
        allow_private_addresses = true
        [store]
        url = "sqlite:///{made.home}/smtp-sts.db"
        [log]
        level = "debug"
        """)
    )


def _write_postfix(made: World, ca_file: Path) -> None:
    """Debian's Postfix as packaged (smtp(8) in its chroot), with what a test needs changed."""
    etc = made.root / "etc"
    (etc / "resolv.conf").unlink(missing_ok=True)
    (etc / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    (etc / "hosts").write_text("127.0.0.1 localhost alice.example\n")
    shutil.copy(ca_file, etc / "ssl/certs/test-ca.pem")
    routes = " ".join(f"{{{s.domain} = {s.transport}:}}" for s in SITES.values() if s.transport)
    (etc / "postfix/main.cf").write_text(
        textwrap.dedent(f"""\
        compatibility_level = 3.6
        myhostname = alice.example
        myorigin = alice.example
        mydestination =
        alias_maps =
        inet_interfaces = loopback-only
        inet_protocols = ipv4
        maillog_file = /var/log/maillog
        smtp_tls_security_level = may
        smtp_tls_CAfile = /etc/ssl/certs/test-ca.pem
        smtp_tls_loglevel = 1
        smtp_tls_policy_maps = {INET}:{made.profile}
        transport_maps = inline:{{ {routes} }}
        queue_run_delay = 2s
        minimal_backoff_time = 2s
        maximal_backoff_time = 4s
        """)
    )
    master = (made.root / "usr/share/postfix/master.cf.dist").read_text()
    # smtp(8) runs in the chroot: there the queue directory is the root.
    unix = f"socketmap:unix:/smtp-sts/socketmap:{made.profile}"
    master += f"\nsmtp-unix unix - - y - - smtp\n  -o smtp_tls_policy_maps={unix}\n"
    (etc / "postfix/master.cf").write_text(master)


@contextlib.contextmanager
def _postfix(made: World) -> Iterator[None]:
    # Fills the chroot (resolv.conf, services). Before 3.10 the service manager's unit calls it.
    if made.version == "3.7":
        made.in_root("/usr/lib/postfix/configure-instance.sh", "-")
    try:
        made.in_root("postfix", "start")
        yield
    finally:
        made.in_root("postfix", "abort", check=False)


@contextlib.contextmanager
def world(version: str, roots: dict[str, Path]) -> Iterator[World]:
    """A running world with Postfix `version` from `roots`; RuntimeError where a part fails."""
    name = f"sts{os.getpid()}v{version.replace('.', '')}"
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(directory())
        root = stack.enter_context(writable(roots[SUITES[version]], home))
        alice = stack.enter_context(namespace(f"{name}a"))
        internet = stack.enter_context(namespace(f"{name}i"))
        _wire(alice, internet)
        made = World(version, home, root, (alice, internet))
        authority = Authority(home)
        _write_name_servers(home)
        _write_daemon(made, authority.ca_file)
        _write_postfix(made, authority.ca_file)
        (home / "internet.json").write_text(json.dumps(_description(authority, made.events)))

        nsd = stack.enter_context(
            process(internet, ["nsd", "-d", "-c", home / "nsd.conf"], home / "nsd.log")
        )
        # A copy of the program: AppArmor's profile of the packaged one forbids other directories.
        unbound = shutil.copy(shutil.which("unbound") or "/usr/sbin/unbound", home / "resolver")
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
        stack.enter_context(_postfix(made))
        yield made
