"""Real Exim in a world: alice's mail server, as Debian packages it, with the lines of docs/exim.md.

Promises: `world()` gives a running world with Exim and leaves nothing behind. Exim is configured by
Debian's own tool from its own files and what the page says, nothing else but alice's name.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from smtp_sts.lab.machine import directory, writable
from smtp_sts.lab.mtas.exim import SUITES, Outcome
from smtp_sts.lab.mtas.exim import Exim as EximServer

from .world import World, surroundings


class Exim(World, EximServer):
    """A world whose mail server is Exim; made by `world()`."""

    def __init__(self, version: str, home: Path, root: Path) -> None:
        """Take the names; nothing runs yet."""
        World.__init__(self, home, root, f"sts{os.getpid()}x{version.replace('.', '')}")
        EximServer.__init__(self, version, root, *self._inside)
        self._recipients = 0

    def send(self, *domains: str) -> list[str]:
        """Give Exim a message for a new recipient at each domain, and have it try at once."""
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
        said = [f"nothing for {recipient}", *self.mainlog()[-30:]]
        panic = self.root / "var/log/exim4/paniclog"
        if panic.exists():
            said += ["panic:", panic.read_text()]
        raise AssertionError("\n".join(said))


@contextlib.contextmanager
def world(version: str, roots: dict[str, Path]) -> Iterator[Exim]:
    """A running world with Exim `version` from `roots`; RuntimeError where a part fails."""
    with directory() as home, writable(roots[SUITES[version]], home) as root:
        made = Exim(version, home, root)
        with surroundings(made):
            made.configure()
            yield made
