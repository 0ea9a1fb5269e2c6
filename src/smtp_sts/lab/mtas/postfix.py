"""Real Postfix: Debian's as packaged (smtp(8) in its chroot), by the lines of docs/postfix.md."""

from __future__ import annotations

import contextlib
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from smtp_sts.lab.mtas.base import NAME, SENDER, Root, Seen, message

#: "3.11" is sid's: that, or what came after it
SUITES: Final = {"3.7": "bookworm", "3.10": "trixie", "3.11": "sid"}
#: before Debian built it with libtlsrpt
_OLD: Final = "3.7"
QUEUE: Final = "var/spool/postfix"
_LEVEL: Final = re.compile(r": (\w+) TLS connection established to ")


@dataclass(frozen=True)
class Outcome:
    """What Postfix logged of one delivery attempt; `tls` is the line about TLS or ""."""

    status: str
    dsn: str
    line: str
    tls: str


def tells_tlsrpt(version: str) -> bool:
    """Whether a version sends datagrams of what came of its sessions."""
    return version != _OLD


def profile(version: str) -> str:
    """The reply profile for a version, with smtp_dns_support_level = dnssec."""
    return "postfix-dane-tlsrpt" if tells_tlsrpt(version) else "postfix-dane"


class Postfix(Root):
    """Postfix in a root file system."""

    def __init__(self, version: str, root: Path, *inside: str) -> None:
        """Nothing runs or is written yet."""
        super().__init__(root, *inside)
        self.version = version
        self.profile = profile(version)
        self._outcomes: dict[str, list[Outcome]] = {}
        self._tls: dict[str, str] = {}
        self._read = 0

    def configure(self, policy_maps: str, *, more: str = "", services: str = "") -> None:
        """Write main.cf with `more` lines, and master.cf with more `services`."""
        etc = self.root / "etc/postfix"
        (etc / "main.cf").write_text(
            textwrap.dedent(f"""\
            compatibility_level = 3.6
            myhostname = {NAME}
            myorigin = {NAME}
            mydestination =
            alias_maps =
            inet_interfaces = loopback-only
            inet_protocols = ipv4
            maillog_file = /var/log/maillog
            smtp_tls_security_level = may
            smtp_dns_support_level = dnssec
            smtp_tls_CAfile = /etc/ssl/certs/test-ca.pem
            smtp_tls_loglevel = 1
            smtp_tls_policy_maps = {policy_maps}
            """)
            + more
        )
        master = (self.root / "usr/share/postfix/master.cf.dist").read_text()
        (etc / "master.cf").write_text(f"{master}\n{services}")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Started, and ended at the end. RuntimeError where it does not start."""
        # Fills the chroot (resolv.conf, services). Before 3.10 the service manager's unit calls it.
        if self.version == _OLD:
            self.in_root("/usr/lib/postfix/configure-instance.sh", "-")
        try:
            self.in_root("postfix", "start")
            yield
        finally:
            self.in_root("postfix", "abort", check=False)

    def submit(self, recipient: str) -> None:
        """Give it a message."""
        self.in_root("sendmail", "-i", "-f", SENDER, recipient, text=message(recipient))

    def maillog(self) -> list[str]:
        """The lines Postfix has logged so far."""
        path = self.root / "var/log/maillog"
        return path.read_text(errors="replace").splitlines() if path.exists() else []

    def outcomes(self, recipient: str) -> list[Outcome]:
        """Every delivery attempt logged so far for `recipient`."""
        path = self.root / "var/log/maillog"
        if path.exists():
            with path.open("rb") as log:
                log.seek(self._read)
                lines = log.read().split(b"\n")
            for line in lines[:-1]:  # the last one is not whole yet
                self._read += len(line) + 1
                self._note(line.decode(errors="replace"))
        return self._outcomes.get(recipient, [])

    def _note(self, line: str) -> None:
        process_id = re.search(r"postfix\S*/\S+\[(\d+)\]: ", line)
        if process_id is None:
            return
        if " TLS connection established to " in line:
            self._tls[process_id[1]] = line
        status = re.search(r"to=<([^>]*)>, .*dsn=([\d.]+), status=(\w+) ", line)
        if status:
            before = self._tls.pop(process_id[1], "")
            outcome = Outcome(status[3], status[2], line, before)
            self._outcomes.setdefault(status[1], []).append(outcome)

    def seen(self, recipient: str) -> Seen | None:
        """The first attempt for a recipient; None before there is one."""
        found = self.outcomes(recipient)
        if not found:
            return None
        level = _LEVEL.search(found[0].tls)
        verified = level is not None and level[1] == "Verified"
        delivered = found[0].status == "sent"
        return Seen(
            delivered, "verified" if verified else "unverified" if level else "none", found[0].line
        )
