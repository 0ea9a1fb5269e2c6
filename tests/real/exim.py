"""Real Exim in a world: alice's mail server, as Debian packages it, with the lines of docs/exim.md.

Promises: `world()` gives a running world with Exim and leaves nothing behind. Exim is configured by
Debian's own tool from its own files and what the page says, nothing else but alice's name.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from smtp_sts.lab.machine import directory, writable

from .page import block
from .world import World, surroundings

SUITES: Final = {"4.96": "bookworm", "4.98": "trixie"}
PAGE: Final = "exim.md"
_CONFIGURATION: Final = """\
dc_eximconfig_configtype='internet'
dc_other_hostnames='alice.example'
dc_local_interfaces='127.0.0.1'
dc_readhost=''
dc_relay_domains=''
dc_minimaldns='false'
dc_relay_nets=''
dc_smarthost=''
CFILEMODE='644'
dc_use_split_config='true'
dc_hide_mailname=''
dc_mailname_in_oh='true'
dc_localdelivery='mail_spool'
"""


@dataclass(frozen=True)
class Outcome:
    """What Exim logged of one delivery attempt: "sent" or "deferred", and its lines about it."""

    status: str
    line: str
    before: tuple[str, ...]

    @property
    def verified(self) -> str:
        """Exim's word for how the certificate was verified: "yes", "no", "dane", or "" for none."""
        found = re.search(r" CV=(\w+)", self.line)
        return found[1] if found else ""


class Exim(World):
    """A world whose mail server is Exim; made by `world()`."""

    def __init__(self, version: str, home: Path, root: Path) -> None:
        """Take the names; nothing runs yet."""
        super().__init__(home, root, f"sts{os.getpid()}x{version.replace('.', '')}")
        self.version = version
        self._recipients = 0

    def mainlog(self) -> list[str]:
        """The lines Exim has logged so far."""
        path = self.root / "var/log/exim4/mainlog"
        return path.read_text(errors="replace").splitlines() if path.exists() else []

    def send(self, *domains: str) -> list[str]:
        """Give Exim a message for a new recipient at each domain, and have it try at once."""
        recipients = []
        for domain in domains:
            self._recipients += 1
            recipients.append(f"bob{self._recipients}@{domain}")
        message = f"From: alice@alice.example\nTo: {', '.join(recipients)}\nSubject: hello\n\nhi\n"
        submit = ("exim4", "-odf", "-i", "-f", "alice@alice.example")
        self.in_root(*submit, *recipients, text=message)
        return recipients

    def attempt(self, domain: str) -> Outcome:
        """Send one message to a domain; what became of it."""
        (recipient,) = self.send(domain)
        return self.outcome(recipient)

    def outcome(self, recipient: str, timeout: float = 10.0) -> Outcome:
        """The last attempt logged for `recipient`; AssertionError with the log if there is none."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            lines = self.mainlog()
            for number, line in reversed(list(enumerate(lines))):
                mark = re.search(r"^\S+ \S+ (\S+) (=>|->|==|\*\*) (\S+) ", line)
                if mark and mark[3] == recipient:
                    status = {"=>": "sent", "->": "sent", "==": "deferred", "**": "failed"}[mark[2]]
                    before = [b for b in lines[:number] if f" {mark[1]} " in b]
                    return Outcome(status, line, tuple(before))
            time.sleep(0.05)
        said = [f"nothing for {recipient}", *self.mainlog()[-30:]]
        panic = self.root / "var/log/exim4/paniclog"
        if panic.exists():
            said += ["panic:", panic.read_text()]
        raise AssertionError("\n".join(said))


def _write_exim(made: Exim) -> None:
    etc = made.root / "etc"
    (etc / "mailname").write_text("alice.example\n")
    (etc / "exim4/update-exim4.conf.conf").write_text(_CONFIGURATION)
    parts = "etc/exim4/conf.d"
    (made.root / parts / "router/190_smtp-sts").write_text(block(PAGE, "smtp_sts:\n"))
    made.in_root("sh", "-ec", f"cd /{parts}/transport; {block(PAGE, 'sed ')}")
    with (made.root / parts / "transport/32_smtp-sts").open("a") as transport:
        transport.write(block(PAGE, "  hosts_require_tls = *\n"))
    made.in_root("update-exim4.conf")


@contextlib.contextmanager
def world(version: str, roots: dict[str, Path]) -> Iterator[Exim]:
    """A running world with Exim `version` from `roots`; RuntimeError where a part fails."""
    with directory() as home, writable(roots[SUITES[version]], home) as root:
        made = Exim(version, home, root)
        with surroundings(made):
            _write_exim(made)
            yield made
