"""Real Postfix in a world: alice's mail server, as Debian packages it, with smtp-sts beside it.

Promises: `world()` gives a running world with Postfix and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from smtp_sts.lab.machine import directory, writable
from smtp_sts.lab.mtas.postfix import QUEUE, SUITES, Outcome
from smtp_sts.lab.mtas.postfix import Postfix as PostfixServer
from smtp_sts.mta.profiles import WITHOUT_DANE

from .world import SITES, World, surroundings

INET: Final = "socketmap:inet:127.0.0.1:8461"


class Postfix(World, PostfixServer):
    """A world whose mail server is Postfix; made by `world()`."""

    def __init__(self, version: str, home: Path, root: Path) -> None:
        """Take the names; nothing runs yet."""
        World.__init__(self, home, root, f"sts{os.getpid()}v{version.replace('.', '')}")
        PostfixServer.__init__(self, version, root, *self._inside)
        self.unix_socket = root / QUEUE / "smtp-sts/socketmap"
        self._recipients = 0

    def send(self, domain: str) -> str:
        """Give Postfix a message for a new recipient of `domain`; that recipient's address."""
        self._recipients += 1
        recipient = f"bob{self._recipients}@{domain}"
        self.submit(recipient)
        return recipient

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


def _configure(made: Postfix) -> None:
    routes = " ".join(f"{{{s.domain} = {s.transport}:}}" for s in SITES.values() if s.transport)
    more = f"""\
transport_maps = inline:{{ {routes} }}
queue_run_delay = 2s
minimal_backoff_time = 2s
maximal_backoff_time = 4s
"""
    # smtp(8) runs in the chroot: there the queue directory is the root.
    unix = f"socketmap:unix:/smtp-sts/socketmap:{made.profile}"
    services = f"smtp-unix unix - - y - - smtp\n  -o smtp_tls_policy_maps={unix}\n"
    # Not told of DNSSEC, as Postfix comes: with the one line, and with one that asks for DANE.
    for name, profile in (
        ("untold", WITHOUT_DANE[made.profile]), ("untold-asking", made.profile),
    ):  # fmt: skip
        services += (
            f"{name} unix - - y - - smtp\n  -o smtp_tls_policy_maps={INET}:{profile}\n"
            "  -o smtp_dns_support_level=\n"
        )
    made.configure(f"{INET}:{made.profile}", more=more, services=services)


@contextlib.contextmanager
def world(version: str, roots: dict[str, Path]) -> Iterator[Postfix]:
    """A running world with Postfix `version` from `roots`; RuntimeError where a part fails."""
    with directory() as home, writable(roots[SUITES[version]], home) as root:
        made = Postfix(version, home, root)
        with surroundings(made):
            _configure(made)
            with made.running():
                yield made
