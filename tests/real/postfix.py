"""Real Postfix in a world: alice's mail server, as Debian packages it, with smtp-sts beside it.

Promises: `world()` gives a running world with Postfix and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from smtp_sts.lab.machine import directory, writable

from .world import SITES, World, surroundings

SUITES: Final = {"3.7": "bookworm", "3.10": "trixie"}
QUEUE: Final = "var/spool/postfix"
INET: Final = "socketmap:inet:127.0.0.1:8461"


@dataclass(frozen=True)
class Outcome:
    """What Postfix logged of one delivery attempt; `tls` is the line about TLS or ""."""

    status: str
    dsn: str
    line: str
    tls: str


class Postfix(World):
    """A world whose mail server is Postfix; made by `world()`."""

    def __init__(self, version: str, home: Path, root: Path) -> None:
        """Take the names; nothing runs yet."""
        super().__init__(home, root, f"sts{os.getpid()}v{version.replace('.', '')}")
        self.version = version
        self.profile = "postfix-tlsrpt" if version == "3.10" else "postfix"
        self.unix_socket = root / QUEUE / "smtp-sts/socketmap"
        self._recipients = 0

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

    def lookup(self, key: str, table: str) -> str:
        """What `postmap -q` prints; "" for not found."""
        return self.in_root("postmap", "-q", key, table, check=False).rstrip("\n")


def _write_postfix(made: Postfix) -> None:
    """Debian's Postfix as packaged (smtp(8) in its chroot), with what a test needs changed."""
    etc = made.root / "etc"
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
        smtp_dns_support_level = dnssec
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
def _postfix(made: Postfix) -> Iterator[None]:
    # Fills the chroot (resolv.conf, services). Before 3.10 the service manager's unit calls it.
    if made.version == "3.7":
        made.in_root("/usr/lib/postfix/configure-instance.sh", "-")
    try:
        made.in_root("postfix", "start")
        yield
    finally:
        made.in_root("postfix", "abort", check=False)


@contextlib.contextmanager
def world(version: str, roots: dict[str, Path]) -> Iterator[Postfix]:
    """A running world with Postfix `version` from `roots`; RuntimeError where a part fails."""
    with directory() as home, writable(roots[SUITES[version]], home) as root:
        made = Postfix(version, home, root)
        with surroundings(made):
            _write_postfix(made)
            with _postfix(made):
                yield made
