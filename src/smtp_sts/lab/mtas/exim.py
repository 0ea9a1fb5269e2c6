"""Real Exim: configured by Debian's own tool from its own files and the lines of docs/exim.md."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from smtp_sts.lab.mtas.base import NAME, SENDER, Root, Seen, message
from smtp_sts.lab.mtas.page import block

SUITES: Final = {"4.96": "bookworm", "4.98": "trixie"}
PAGE: Final = "exim.md"
#: The configuration without smtp-sts and without DANE.
NAKED: Final = "/etc/exim4/naked.conf"
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


class Exim(Root):
    """Exim in a root file system."""

    def __init__(self, version: str, root: Path, *inside: str) -> None:
        """Nothing is written yet."""
        super().__init__(root, *inside)
        self.version = version

    def configure(self, *, naked: bool = False) -> None:
        """Write its configuration; with `naked` also one that knows neither policies nor DANE."""
        etc = self.root / "etc"
        (etc / "mailname").write_text(f"{NAME}\n")
        (etc / "exim4/update-exim4.conf.conf").write_text(_CONFIGURATION)
        if naked:
            self.in_root("update-exim4.conf", "-o", NAKED)
            path = self.root / NAKED.lstrip("/")
            head, driver, rest = path.read_text().partition("\nremote_smtp:\n")
            before, own, after = rest.partition("  driver = smtp\n")
            text = head + driver + before + own + "  hosts_try_dane =\n" + after
            path.write_text(text)
            (etc / "exim4/trusted_configs").write_text(f"{NAKED}\n")
        parts = "etc/exim4/conf.d"
        (self.root / parts / "router/190_smtp-sts").write_text(block(PAGE, "smtp_sts:\n"))
        self.in_root("sh", "-ec", f"cd /{parts}/transport; {block(PAGE, 'sed ')}")
        with (self.root / parts / "transport/32_smtp-sts").open("a") as transport:
            transport.write(block(PAGE, "  hosts_require_tls = *\n"))
        self.in_root("update-exim4.conf")

    def submit(self, *recipients: str, naked: bool = False) -> None:
        """Give it a message, and have it try at once."""
        other: tuple[str, ...] = ()
        if naked:  # what had to wait with protection is tried without, not waited for
            other = ("-C", NAKED)
            (self.root / "var/spool/exim4/db/retry").unlink(missing_ok=True)
        submit = ("exim4", *other, "-odf", "-i", "-f", SENDER)
        self.in_root(*submit, *recipients, text=message(*recipients))

    def mainlog(self) -> list[str]:
        """The lines Exim has logged so far."""
        path = self.root / "var/log/exim4/mainlog"
        return path.read_text(errors="replace").splitlines() if path.exists() else []

    def found(self, recipient: str) -> Outcome | None:
        """The last attempt logged for a recipient; None where there is none."""
        lines = self.mainlog()
        for number, line in reversed(list(enumerate(lines))):
            mark = re.search(r"^\S+ \S+ (\S+) (=>|->|==|\*\*) (\S+) ", line)
            if mark and mark[3] == recipient:
                status = {"=>": "sent", "->": "sent", "==": "deferred", "**": "failed"}[mark[2]]
                before = [b for b in lines[:number] if f" {mark[1]} " in b]
                return Outcome(status, line, tuple(before))
        return None

    def seen(self, recipient: str) -> Seen | None:
        """The last attempt for a recipient; None before there is one."""
        found = self.found(recipient)
        if found is None:
            return None
        verified = found.verified in ("yes", "dane")
        encrypted = " X=TLS" in found.line
        lines = [*found.before[-3:], found.line]
        return Seen(
            found.status == "sent",
            "verified" if verified else "unverified" if encrypted else "none",
            " | ".join(lines),
        )
