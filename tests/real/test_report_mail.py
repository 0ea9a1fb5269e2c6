"""Report mails through real Postfix, by the lines of docs/tls-reports-delivery.md: they arrive
whatever TLS does, and make no reports.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC
from pathlib import Path

import pytest

from smtp_sts.lab.mtas.postfix import QUEUE, SUITES, tells_tlsrpt
from smtp_sts.reporting.lines import Clock, Lines
from smtp_sts.reporting.outcome import Outcome
from smtp_sts.reporting.postfix_log import PostfixLog
from smtp_sts.reporting.receive import Receiver, bind

from .postfix import world

pytestmark = pytest.mark.real

PAGE = Path(__file__).parents[2] / "docs" / "tls-reports-delivery.md"
CONTACT = "tlsrpt@example.com"  # as on the page
#: Mail there is deferred for everybody else.
BROKEN = ("wrong-name.example", "stripped.example")


def _on_page(first: str) -> str:
    """The block of the page that begins so."""
    blocks = re.findall(r"```[^\n]*\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if block.startswith(first)]
    return str(found)


@pytest.mark.parametrize("version", sorted(SUITES, reverse=True), ids="postfix-{}".format)
def test_report_mails_arrive_despite_tls_and_make_no_reports(
    version: str, roots: Callable[[str], dict[str, Path]]
) -> None:
    seen: list[Outcome] = []
    with world(version, roots("")) as made:
        receiver = Receiver(
            bind(made.root / QUEUE / "smtp-sts/tlsrpt.sock", 0o666), seen.append, time.time
        )
        etc = made.root / "etc/postfix"
        with (etc / "main.cf").open("a") as main:
            main.write(_on_page("sender_dependent_default_transport_maps"))
            if tells_tlsrpt(version):
                main.write("smtp_tlsrpt_enable = yes\n")
                main.write("smtp_tlsrpt_socket_name = smtp-sts/tlsrpt.sock\n")
        with (etc / "master.cf").open("a") as master:
            master.write(_on_page("tls-reports unix"))
        made.in_root("postfix", "reload")

        for domain in BROKEN:
            recipient = f"reports@{domain}"
            text = f"From: {CONTACT}\nTo: {recipient}\nTLS-Required: No\nSubject: Report\n\nx\n"
            made.in_root("sendmail", "-i", "-f", CONTACT, "--", recipient, text=text)
            assert made.outcome(recipient).status == "sent"
        receiver.drain()
        assert seen == []

        # Others' mail there is kept back, and reported.
        assert made.outcome(made.send("wrong-name.example")).status == "deferred"
        made.in_root("postfix", "abort", check=False)
        while receiver.drain():
            pass
        data = (made.root / "var/log/maillog").read_bytes()

    if tells_tlsrpt(version):
        assert {o.domain for o in seen} == {"wrong-name.example"}
    logged: list[Outcome] = []
    log = PostfixLog(logged.append, Clock(time.time(), UTC), (CONTACT,))
    for line in Lines().feed(data):
        log.line(line)
    assert {(o.domain, o.failed) for o in logged} == {("wrong-name.example", True)}
    assert b"fatal" not in data
