"""Real Sendmail in a world: alice's mail server, as Debian packages it, with docs/sendmail.md.

Promises: `world()` gives a running world with Sendmail and leaves nothing behind. Sendmail is made
to run by Debian's own sendmail.mc and what the page says, nothing else but alice's name.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from smtp_sts.lab.machine import directory, writable
from smtp_sts.lab.mtas.sendmail import SUITES, Outcome
from smtp_sts.lab.mtas.sendmail import Sendmail as SendmailServer

from .world import World, surroundings


class Sendmail(World, SendmailServer):
    """A world whose mail server is Sendmail; made by `world()`."""

    def __init__(self, version: str, home: Path, root: Path) -> None:
        """Take the names; nothing runs yet."""
        World.__init__(self, home, root, f"sts{os.getpid()}m{version.replace('.', '')}")
        SendmailServer.__init__(self, version, root, *self._inside)
        self._recipients = 0

    def send(self, *domains: str) -> list[str]:
        """Give Sendmail a message for a new recipient at each domain, and have it try at once."""
        recipients = []
        for domain in domains:
            self._recipients += 1
            recipients.append(f"bob{self._recipients}@{domain}")
        self.submit(*recipients)
        return recipients

    def attempt(self, domain: str) -> Outcome:
        """Send one message to a domain; what became of it."""
        (recipient,) = self.send(domain)
        return self.outcome(recipient)

    def outcome(self, recipient: str, timeout: float = 10.0) -> Outcome:
        """The last attempt logged for `recipient`; AssertionError with the log if there is none."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if found := self.found(recipient):
                return found
            time.sleep(0.05)
        raise AssertionError("\n".join([f"nothing for {recipient}", *self.log[-30:]]))


@contextlib.contextmanager
def world(version: str, roots: dict[str, Path]) -> Iterator[Sendmail]:
    """A running world with Sendmail `version` from `roots`; RuntimeError where a part fails."""
    with directory() as home, writable(roots[SUITES[version]], home) as root:
        made = Sendmail(version, home, root)
        with surroundings(made), made.logging():
            made.configure()
            yield made
