"""A root file system with a mail server in it, and what one attempt at a delivery came to."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from smtp_sts.lab.machine import run

#: Mail servers in the lab have these names and nothing else of alice's.
NAME: Final = "alice.example"
SENDER: Final = "alice@alice.example"
_ENVIRONMENT: Final = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C")


def message(*recipients: str) -> str:
    """A message of alice's, as her mail program gives it to the mail server."""
    to = ", ".join(recipients)
    return f"From: {SENDER}\nTo: {to}\nSubject: hello\n\nfor {to}\n"


@dataclass(frozen=True)
class Seen:
    """What a mail server has logged of one attempt, in the words that all of them share."""

    delivered: bool
    tls: Literal["none", "unverified", "verified"]
    line: str


class Root:
    """A root file system that can be written to, and commands in it."""

    def __init__(self, root: Path, *inside: str) -> None:
        """`inside` is the command that runs another one where the mail server is to be."""
        self.root = root
        self._inside = inside

    def in_root(self, *command: str, check: bool = True, text: str = "") -> str:
        """Run a command in it with `text` as its input; its output, or RuntimeError."""
        inside = (*self._inside, "chroot", str(self.root), *_ENVIRONMENT)
        return run(*inside, *command, check=check, text=text)

    def furnish(self, ca_file: Path) -> None:
        """What a mail server sees of the world: its resolver, its name, the CA that all believe."""
        etc = self.root / "etc"
        (etc / "resolv.conf").unlink(missing_ok=True)
        (etc / "resolv.conf").write_text("nameserver 127.0.0.1\noptions trust-ad\n")
        (etc / "hosts").write_text(f"127.0.0.1 {NAME} localhost\n")
        shutil.copy(ca_file, etc / "ssl/certs/test-ca.pem")
        with (etc / "ssl/certs/ca-certificates.crt").open("a") as system:
            system.write(ca_file.read_text())
