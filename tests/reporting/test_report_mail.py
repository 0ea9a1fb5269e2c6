"""Report mails handed to an MTA: by SMTP (aiosmtpd) and by a sendmail command; every wait ends."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from smtp_sts.config import SendmailCommand, TcpAddress
from smtp_sts.reporting.mail import MailTrouble, send_mail

from .receivers import MailReceiver

MESSAGE = b"From: tlsrpt@alice.example\r\nTo: r@bob.example\r\n\r\n.dot\r\nline\r\n"
FROM = "tlsrpt@alice.example"


def with_receiver(act: Callable[[MailReceiver, TcpAddress], Awaitable[Any]], **told: Any) -> Any:
    async def scene() -> Any:
        receiver = MailReceiver(**told)
        await receiver.start()
        try:
            return await act(receiver, TcpAddress("127.0.0.1", receiver.port))
        finally:
            await receiver.close()

    return asyncio.run(scene())


def test_a_mail_arrives_as_it_is_with_a_copy_that_no_header_shows() -> None:
    async def act(receiver: MailReceiver, route: TcpAddress) -> None:
        answer = await send_mail(route, MESSAGE, FROM, "r@bob.example", "copy@alice.example")
        assert answer == "250 2.0.0 kept"
        (mail,) = receiver.mails
        assert (mail.mail_from, mail.rcpt_tos) == (FROM, ["r@bob.example", "copy@alice.example"])
        assert receiver.contents() == [MESSAGE]

    with_receiver(act)


def test_a_refused_recipient_means_that_nothing_is_sent() -> None:
    """Else each retry would bring another copy to the bcc."""

    async def act(receiver: MailReceiver, route: TcpAddress) -> None:
        with pytest.raises(MailTrouble, match=r"127\.0\.0\.1:\d+: 451 4\.7\.1 greylisted"):
            await send_mail(route, MESSAGE, FROM, "r@bob.example", "copy@alice.example")
        assert receiver.mails == []

    with_receiver(act, answers={"r@bob.example": "451 4.7.1 greylisted"})


def test_a_refused_copy_is_said_and_keeps_nothing_back() -> None:
    async def act(receiver: MailReceiver, route: TcpAddress) -> None:
        answer = await send_mail(route, MESSAGE, FROM, "r@bob.example", "copy@alice.example")
        assert answer == "250 2.0.0 kept; the copy to copy@alice.example was refused: 550 no such"
        assert receiver.mails[0].rcpt_tos == ["r@bob.example"]

    with_receiver(act, answers={"copy@alice.example": "550 no such"})


@pytest.mark.parametrize("answer", ["452 4.3.1 full\x1b[31m", "554 5.7.1 no"])
def test_what_the_mta_says_comes_back_as_one_clean_line(answer: str) -> None:
    async def act(receiver: MailReceiver, route: TcpAddress) -> None:
        with pytest.raises(MailTrouble, match=answer[:9]) as caught:
            await send_mail(route, MESSAGE, FROM, "r@bob.example")
        assert str(caught.value).isprintable()

    with_receiver(act, after_data=answer)


def test_an_mta_that_does_not_answer_is_left() -> None:
    async def act(receiver: MailReceiver, route: TcpAddress) -> None:
        with pytest.raises(MailTrouble, match=r"within 0\.3 s"):
            await send_mail(route, MESSAGE, FROM, "r@bob.example", timeout=0.3)

    with_receiver(act, silent=True)


def test_an_mta_that_is_not_there() -> None:
    with pytest.raises(MailTrouble, match=r"127\.0\.0\.1:9: .*"):
        asyncio.run(send_mail(TcpAddress("127.0.0.1", 9), MESSAGE, FROM, "r@bob.example"))


def sendmail(tmp_path: Path, body: str) -> SendmailCommand:
    """A command that is given what sendmail(1) is given."""
    path = tmp_path / "sendmail"
    path.write_text(f"#!{sys.executable}\nimport json, os, sys, time\n{body}\n")
    path.chmod(0o755)
    return SendmailCommand(str(path))


def test_a_sendmail_command_gets_arguments_and_lines_as_unix_has_them(tmp_path: Path) -> None:
    out = tmp_path / "out"
    route = sendmail(
        tmp_path,
        f"json.dump([sys.argv[1:], sys.stdin.buffer.read().decode()], open({str(out)!r}, 'w'))",
    )
    answer = asyncio.run(send_mail(route, MESSAGE, FROM, "$(id)&r@bob.example", "c@alice.example"))
    assert answer == f"taken by {route.path}"
    assert out.read_text() == (
        '[["-i", "-f", "tlsrpt@alice.example", "--", "$(id)&r@bob.example", "c@alice.example"], '
        '"From: tlsrpt@alice.example\\nTo: r@bob.example\\n\\n.dot\\nline\\n"]'
    )


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("sys.exit('queue is full\\nx')", "status 1: queue is full x"),
        ("sys.stdin.read(); sys.exit(75)", "status 75"),
        ("sys.stdin.close(); sys.exit(64)", "status 64"),
        ("print('x' * 10**6); sys.stdin.read(); sys.exit(70)", "status 70: xxx"),
        ("time.sleep(60)", "within 1 s"),
        ("os.fork() and time.sleep(60)", "within 1 s"),
    ],
)
def test_a_sendmail_command_that_fails(tmp_path: Path, body: str, says: str) -> None:
    began = time.monotonic()
    with pytest.raises(MailTrouble, match=says):
        asyncio.run(
            send_mail(sendmail(tmp_path, body), MESSAGE * 9000, FROM, "r@bob.example", timeout=1)
        )
    assert time.monotonic() - began < 5


def test_a_sendmail_command_may_go_on_in_the_background(tmp_path: Path) -> None:
    route = sendmail(tmp_path, "os.fork() or time.sleep(2)")
    began = time.monotonic()
    asyncio.run(send_mail(route, MESSAGE, FROM, "r@bob.example", timeout=5))
    assert time.monotonic() - began < 2


def test_a_sendmail_command_that_is_not_there() -> None:
    with pytest.raises(MailTrouble, match="cannot be run: No such file"):
        asyncio.run(send_mail(SendmailCommand("/none/sendmail"), MESSAGE, FROM, "r@bob.example"))
