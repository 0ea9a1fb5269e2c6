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
#: What debconf would ask, and Debian's tool reads.
_SETTINGS: Final = {
    "dc_eximconfig_configtype": "internet",
    "dc_other_hostnames": NAME,
    "dc_local_interfaces": "127.0.0.1",
    "dc_readhost": "",
    "dc_relay_domains": "",
    "dc_minimaldns": "false",
    "dc_relay_nets": "",
    "dc_smarthost": "",
    "CFILEMODE": "644",
    "dc_use_split_config": "true",
    "dc_hide_mailname": "",
    "dc_mailname_in_oh": "true",
    "dc_localdelivery": "mail_spool",
}
_PARTS: Final = "etc/exim4/conf.d"


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

    def configure(self, *, naked: bool = False, **settings: str) -> None:
        """Write its configuration, Debian's `settings` changed by those given; with `naked` also
        one that knows neither policies nor DANE."""
        etc = self.root / "etc"
        (etc / "mailname").write_text(f"{NAME}\n")
        settings = {**_SETTINGS, **settings}
        lines = "".join(f"{name}='{value}'\n" for name, value in settings.items())
        (etc / "exim4/update-exim4.conf.conf").write_text(lines)
        if naked:
            self._configure_naked()
        (self.root / _PARTS / "router/190_smtp-sts").write_text(block(PAGE, ".ifdef DCconfig_"))
        self.in_root("sh", "-ec", f"cd /{_PARTS}/transport; {block(PAGE, 'sed -e ')}")
        with (self.root / _PARTS / "transport/32_smtp-sts").open("a") as transport:
            transport.write(block(PAGE, "  hosts_require_tls = *\n"))
        if settings["dc_use_split_config"] != "true":
            self.in_root("sh", "-ec", f"cd /etc/exim4; {block(PAGE, 'sed -i ')}")
        self.in_root("update-exim4.conf")

    def _configure_naked(self) -> None:
        self.in_root("update-exim4.conf", "-o", NAKED)
        path = self.root / NAKED.lstrip("/")
        head, driver, rest = path.read_text().partition("\nremote_smtp:\n")
        before, own, after = rest.partition("  driver = smtp\n")
        path.write_text(head + driver + before + own + "  hosts_try_dane =\n" + after)
        (self.root / "etc/exim4/trusted_configs").write_text(f"{NAKED}\n")

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
            mark = re.search(r"^\S+ \S+ (?:\[\d+\] )?(\S+) (=>|->|==|\*\*) (\S+) ", line)
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
