"""What is no answer of smtp-sts's sends no mail, at each MTA, by the lines of its page.

Somebody else on the daemon's port, an answer that is cut off, a daemon that hangs, dies or is not
there. Postfix always lets mail wait; for Exim and Sendmail the pages say what happens where nothing
answers at all, and how to let mail wait then, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from smtp_sts.lab.mtas import sendmail as sendmail_server
from smtp_sts.lab.mtas.page import block

from .exim import Exim
from .impostor import NO_ANSWERS, away, impostor
from .postfix import Postfix
from .sendmail import Sendmail

pytestmark = pytest.mark.real

#: Nobody answers: (kind, bytes).
SILENT = [("refused", b""), ("close", b""), ("reset", b"")]
OTHERS = [("once", answer) for answer in NO_ANSWERS]
#: Answers by a protocol that were cut off, or are none of ours.
EXIM_OTHERS = [
    *OTHERS,
    ("once", b"enforce mx.enforce.example"),
    ("once", b"enforce mx.enforce.example:"),
    ("once", b"enforce \n"),
    ("once", b"enforce mx.enforce.example \n"),
    ("once", b"enforce mx.enforce.example\nnone\n"),
    ("once", b"none"),
    ("once", b"none\nnone\n"),
    ("once", b"nonesuch\n"),
    ("once", b" none\n"),
    ("once", b"enforce mx.enforce.example|.*\n"),
    ("once", b"enforce " + b":".join([b"mx.enforce.example"] * 3000) + b"\n"),
]
SOCKETMAP_OTHERS = [
    *OTHERS,
    ("once", b"60:OK secure match=mx.enforce.exa"),
    ("once", b"9:NOTFOUN"),
]
DOMAINS = ("enforce.example", "plain.example")


@contextmanager
def waiting_exim(exim: Exim) -> Iterator[None]:
    """Exim by the page's line that lets all mail wait."""
    router = exim.root / "etc/exim4/conf.d/router/190_smtp-sts"
    text = router.read_text()
    assert text.count("(?:|none;") == 1
    try:
        router.write_text(text.replace("(?:|none;", "(?:none;"))
        exim.in_root("update-exim4.conf")
        yield
    finally:
        router.write_text(text)
        exim.in_root("update-exim4.conf")


def exim_statuses(exim: Exim) -> list[str]:
    return [exim.outcome(recipient).status for recipient in exim.send(*DOMAINS)]


def test_exim_sends_where_nobody_answers(exim: Exim) -> None:
    with away(exim):
        for kind, answer in SILENT:
            with impostor(exim, 8462, kind, answer):
                assert exim_statuses(exim) == ["sent", "sent"], kind
        with impostor(exim, 8462, "hang"):
            assert exim.outcome(exim.send("plain.example")[0], 15).status == "sent"


def test_law_1_what_is_no_answer_sends_nothing_at_exim(exim: Exim) -> None:
    with away(exim):
        for kind, answer in EXIM_OTHERS:
            with impostor(exim, 8462, kind, answer):
                assert exim_statuses(exim) == ["deferred", "deferred"], (kind, answer)


def test_law_1_told_to_wait_exim_sends_nothing_without_an_answer(exim: Exim) -> None:
    with waiting_exim(exim):
        assert exim_statuses(exim) == ["sent", "sent"]
        with away(exim):
            for kind, answer in (*SILENT, *EXIM_OTHERS, ("once", b"\0none\n")):
                with impostor(exim, 8462, kind, answer):
                    assert exim_statuses(exim) == ["deferred", "deferred"], (kind, answer)
            with impostor(exim, 8462, "hang"):
                assert exim.outcome(exim.send("plain.example")[0], 15).status == "deferred"


def test_nothing_of_that_went_to_the_panic_log_of_exim(exim: Exim) -> None:
    panic = exim.root / "var/log/exim4/paniclog"
    assert not panic.exists(), panic.read_text()


def sendmail_statuses(sendmail: Sendmail) -> list[str]:
    # To hosts without STARTTLS: 8.17 hangs where it has begun that and gets no answer then.
    recipients = sendmail.send("stripped.example", "plain.example")
    return [sendmail.outcome(recipient).status for recipient in recipients]


def test_sendmail_sends_where_nobody_answers(sendmail: Sendmail) -> None:
    with away(sendmail):
        for kind, answer in SILENT:
            with impostor(sendmail, 5461, kind, answer):
                assert sendmail_statuses(sendmail) == ["Sent", "Sent"], kind


def test_a_daemon_that_hangs_has_sendmail_wait_as_its_page_says(sendmail: Sendmail) -> None:
    with away(sendmail), impostor(sendmail, 5461, "hang"):
        assert sendmail.attempt("plain.example").status == "Deferred"


def test_law_1_told_to_wait_sendmail_sends_nothing_without_an_answer(sendmail: Sendmail) -> None:
    sendmail.configure(block(sendmail_server.PAGE, sendmail_server.WAIT_LINES))
    try:
        assert sendmail.attempt("plain.example").status == "Sent"
        with away(sendmail):
            for kind, answer in (*SILENT, *SOCKETMAP_OTHERS, ("answer", b"8:TEMP bad,")):
                with impostor(sendmail, 5461, kind, answer):
                    assert sendmail_statuses(sendmail) == ["Deferred"] * 2, (kind, answer)
    finally:
        sendmail.configure()


def test_law_1_without_an_answer_postfix_sends_nothing(postfix: Postfix) -> None:
    with away(postfix):
        for kind, answer in (*SILENT, *SOCKETMAP_OTHERS, ("answer", b"8:TEMP bad,")):
            with impostor(postfix, 8461, kind, answer):
                for domain in DOMAINS:
                    outcome = postfix.outcome(postfix.send(domain))
                    assert outcome.status == "deferred", (kind, answer, outcome.line)
