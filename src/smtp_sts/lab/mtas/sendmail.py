"""Real Sendmail: made to run by Debian's own sendmail.mc and the lines of docs/sendmail.md."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from smtp_sts.lab.mtas.base import NAME, SENDER, Root, Seen, message
from smtp_sts.lab.mtas.page import block

SUITES: Final = {"8.17": "bookworm", "8.18": "trixie"}
PAGE: Final = "sendmail.md"
#: How the blocks of the page begin: for every Sendmail (two), for one with DANE, to let mail wait.
LINES: Final = "define(`confCACERT'"
LAST_LINES: Final = "LOCAL_TLS_RCPT\n"
DANE_LINES: Final = "define(`confDANE'"
WAIT_LINES: Final = "FEATURE(`sts')"
#: The configuration without smtp-sts.
NAKED: Final = "/etc/mail/naked.cf"
_NAME_LINE: Final = f"define(`confDOMAIN_NAME', `{NAME}')dnl\n"


@dataclass(frozen=True)
class Outcome:
    """What Sendmail logged of one delivery attempt; `tls` is its line about STARTTLS or ""."""

    status: str
    dsn: str
    line: str
    tls: str


class Sendmail(Root):
    """Sendmail in a root file system."""

    def __init__(self, version: str, root: Path, *inside: str) -> None:
        """Nothing runs or is written yet."""
        super().__init__(root, *inside)
        self.version = version
        self.log: list[str] = []
        self._read = 0
        self._tls: dict[str, str] = {}
        self._found: dict[str, Outcome] = {}

    def configure(self, feature: str = "", *, before: str = "") -> None:
        """Make sendmail.cf by the page; `feature` stands in for its FEATURE line, and other lines
        come `before` the page's."""
        lines = block(PAGE, LINES)
        if feature:
            lines = re.sub(r"^FEATURE.*\n", feature, lines, flags=re.MULTILINE)
        if self.version == "8.18":
            lines = block(PAGE, DANE_LINES) + lines
        self.configure_by(before + lines, block(PAGE, LAST_LINES))

    def configure_by(self, lines: str, last: str = "") -> None:
        """Make sendmail.cf of Debian's own and these lines, before its mailers and at its end."""
        mail = self.root / "etc/mail"
        packaged = mail / "sendmail.mc.packaged"
        if not packaged.exists():
            (mail / "sendmail.mc").rename(packaged)
        head, mailers, after = packaged.read_text().partition("MAILER_DEFINITIONS\n")
        (mail / "sendmail.mc").write_text(head + _NAME_LINE + lines + mailers + after + last)
        self.in_root("sh", "-ec", "cd /etc/mail; m4 sendmail.mc >sendmail.cf")

    def configure_naked(self) -> None:
        """Make a second configuration, of the packaged one and alice's name alone."""
        mail = self.root / "etc/mail"
        before, mailers, after = (
            (mail / "sendmail.mc.packaged").read_text().partition("MAILER_DEFINITIONS\n")
        )
        (mail / "naked.mc").write_text(before + _NAME_LINE + mailers + after)
        self.in_root("sh", "-ec", f"cd /etc/mail; m4 naked.mc >{NAKED}")

    def submit(self, *recipients: str, naked: bool = False) -> None:
        """Give it a message, and have it try at once."""
        other = ("-C", NAKED) if naked else ()
        submit = ("sendmail-mta", *other, "-Am", "-odi", "-i", "-f", SENDER)
        self.in_root(*submit, *recipients, text=message(*recipients), check=False)

    def found(self, recipient: str) -> Outcome | None:
        """The last attempt logged for a recipient; None where there is none."""
        while self._read < len(self.log):
            line = self.log[self._read]
            self._read += 1
            process_id = re.search(r"\[(\d+)\]: ", line)
            if process_id and "STARTTLS=client" in line:
                self._tls[process_id[1]] = line
            mark = re.search(r" to=(\S+), .*dsn=([\d.]+), (?:STS=\w+, )?stat=(\w+)", line)
            if mark and process_id:
                tls = self._tls.get(process_id[1], "")
                for one in mark[1].split(","):
                    self._found[one.strip("<>")] = Outcome(mark[3], mark[2], line, tls)
        return self._found.get(recipient)

    def seen(self, recipient: str) -> Seen | None:
        """The last attempt for a recipient; None before there is one."""
        found = self.found(recipient)
        if found is None:
            return None
        verified = "verify=OK" in found.tls or "verify=TRUSTED" in found.tls
        return Seen(
            found.status == "Sent",
            "verified" if verified else "unverified" if found.tls else "none",
            found.line,
        )

    @contextlib.contextmanager
    def logging(self) -> Iterator[None]:
        """Collect what is sent to /dev/log in the root: a chroot has no log daemon."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
            path = self.root / "dev/log"
            path.unlink(missing_ok=True)
            log.bind(str(path))
            path.chmod(0o666)

            def collect() -> None:
                while data := log.recv(65536):
                    self.log.append(data.decode("utf-8", "replace").rstrip("\n\0"))

            collector = threading.Thread(target=collect)
            collector.start()
            try:
                yield
            finally:
                log.shutdown(socket.SHUT_RD)
                collector.join()
