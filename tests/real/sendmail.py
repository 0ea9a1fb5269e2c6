"""Real Sendmail in a world: alice's mail server, as Debian packages it, with docs/sendmail.md.

Promises: `world()` gives a running world with Sendmail and leaves nothing behind. Sendmail is made
to run by Debian's own sendmail.mc and what the page says, nothing else but alice's name.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from smtp_sts.lab.machine import directory, writable

from .page import block
from .world import World, surroundings

SUITES: Final = {"8.17": "bookworm", "8.18": "trixie"}
PAGE: Final = "sendmail.md"
#: How the blocks of the page begin: for every Sendmail (two), for one with DANE, to let mail wait.
LINES: Final = "define(`confCACERT'"
LAST_LINES: Final = "LOCAL_TLS_RCPT\n"
DANE_LINES: Final = "define(`confDANE'"
WAIT_LINES: Final = "FEATURE(`sts')"


@dataclass(frozen=True)
class Outcome:
    """What Sendmail logged of one delivery attempt; `tls` is its line about STARTTLS or ""."""

    status: str
    dsn: str
    line: str
    tls: str


class Sendmail(World):
    """A world whose mail server is Sendmail; made by `world()`."""

    def __init__(self, version: str, home: Path, root: Path) -> None:
        """Take the names; nothing runs yet."""
        super().__init__(home, root, f"sts{os.getpid()}m{version.replace('.', '')}")
        self.version = version
        self.log: list[str] = []
        self._recipients = 0

    def configure(self, feature: str = "") -> None:
        """Make sendmail.cf by the page; `feature` stands in for its FEATURE line."""
        mail = self.root / "etc/mail"
        lines = block(PAGE, LINES)
        if feature:
            lines = re.sub(r"^FEATURE.*\n", feature, lines, flags=re.MULTILINE)
        if self.version == "8.18":
            lines += block(PAGE, DANE_LINES)
        packaged = mail / "sendmail.mc.packaged"
        if not packaged.exists():
            (mail / "sendmail.mc").rename(packaged)
        before, mailers, after = packaged.read_text().partition("MAILER_DEFINITIONS\n")
        name = "define(`confDOMAIN_NAME', `alice.example')dnl\n"
        (mail / "sendmail.mc").write_text(
            before + name + lines + mailers + after + block(PAGE, LAST_LINES)
        )
        self.in_root("sh", "-ec", "cd /etc/mail; m4 sendmail.mc >sendmail.cf")

    def send(self, *domains: str) -> list[str]:
        """Give Sendmail a message for a new recipient at each domain, and have it try at once."""
        recipients = []
        for domain in domains:
            self._recipients += 1
            recipients.append(f"bob{self._recipients}@{domain}")
        message = f"From: alice@alice.example\nTo: {', '.join(recipients)}\nSubject: hello\n\nhi\n"
        submit = ("sendmail-mta", "-Am", "-odi", "-i", "-f", "alice@alice.example")
        self.in_root(*submit, *recipients, text=message, check=False)
        return recipients

    def attempt(self, domain: str) -> Outcome:
        """Send one message to a domain; what became of it."""
        (recipient,) = self.send(domain)
        return self.outcome(recipient)

    def outcome(self, recipient: str, timeout: float = 10.0) -> Outcome:
        """The last attempt logged for `recipient`; AssertionError with the log if there is none."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            tls, found = "", None
            for line in self.log:
                if "STARTTLS=client" in line:
                    tls = line
                mark = re.search(r" to=(\S+), .*dsn=([\d.]+), stat=(\w+)", line)
                if mark and recipient in mark[1]:
                    found = Outcome(mark[3], mark[2], line, tls)
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError("\n".join([f"nothing for {recipient}", *self.log[-30:]]))


@contextlib.contextmanager
def _syslog(made: Sendmail) -> Iterator[None]:
    """Collect what is sent to /dev/log in the root: a chroot has no log daemon."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        path = made.root / "dev/log"
        path.unlink(missing_ok=True)
        log.bind(str(path))
        path.chmod(0o666)

        def collect() -> None:
            while data := log.recv(65536):
                made.log.append(data.decode("utf-8", "replace").rstrip("\n\0"))

        collector = threading.Thread(target=collect)
        collector.start()
        try:
            yield
        finally:
            log.shutdown(socket.SHUT_RD)
            collector.join()


@contextlib.contextmanager
def world(version: str, roots: dict[str, Path]) -> Iterator[Sendmail]:
    """A running world with Sendmail `version` from `roots`; RuntimeError where a part fails."""
    with directory() as home, writable(roots[SUITES[version]], home) as root:
        made = Sendmail(version, home, root)
        with surroundings(made), _syslog(made):
            made.configure()
            yield made
