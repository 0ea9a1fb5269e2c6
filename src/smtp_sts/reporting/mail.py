"""A report mail handed to the operator's own MTA, by SMTP or by its sendmail command.

Promises: the recipients are arguments, never part of a command line that a shell reads; every wait
has an end; what the MTA answered comes back as one clean line. Where mail goes out by SMTP, TLS is
used if it is offered, whatever the certificate: the RFC wants reports to arrive despite TLS
failures (RFC 8460 section 3), and the MTA is the operator's.
Must not: send to strangers' servers itself; how mail gets there is the MTA's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
from typing import BinaryIO, Final

from smtp_sts.config import SendmailCommand, TcpAddress
from smtp_sts.tlsrpt.names import clean

#: The whole hand-over, seconds; an MTA may take its time after the data (RFC 5321 4.5.3.2.6).
MAIL_SECONDS: Final = 120.0
#: For the farewell: the mail is taken by then.
QUIT_SECONDS: Final = 2.0
#: Of what an MTA answers, characters that are kept.
_SHOWN: Final = 300


class MailTrouble(Exception):
    """The MTA did not take the mail, and what it said; `silent` where that was nothing."""

    def __init__(self, message: str, *, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


async def send_mail(
    route: TcpAddress | SendmailCommand,
    message: bytes,
    sender: str,
    recipient: str,
    bcc: str = "",
    *,
    timeout: float = MAIL_SECONDS,
) -> str:
    """Hand a mail over, and what was answered; the addresses are checked ones (`mail_address`).

    `bcc` gets a copy; where the MTA refuses that one alone, the mail is sent, and the answer says
    so. Raises MailTrouble.
    """
    try:
        async with asyncio.timeout(timeout):
            if isinstance(route, TcpAddress):
                return await _by_smtp(route, message, sender, recipient, bcc)
            return await _by_command(route, message, sender, recipient, bcc)
    except TimeoutError:
        raise MailTrouble(
            f"{route} did not take the mail within {timeout:g} s", silent=True
        ) from None


async def _by_smtp(route: TcpAddress, message: bytes, sender: str, recipient: str, bcc: str) -> str:
    import aiosmtplib

    client = aiosmtplib.SMTP(
        hostname=route.host,
        port=route.port,
        # Not getfqdn(), aiosmtplib's own choice: it may wait for the DNS, and the loop with it.
        local_hostname=socket.gethostname() or "localhost",
        timeout=None,  # ours is over the whole
        start_tls=None,  # if it is offered
        tls_context=_lax(),
    )
    copied = ""
    try:
        await client.connect()
        await client.mail(sender)
        await client.rcpt(recipient)  # if it is refused, nobody gets anything, the bcc neither
        if bcc:
            try:
                await client.rcpt(bcc)
            except aiosmtplib.SMTPResponseException as error:
                copied = (
                    f"; the copy to {bcc} was refused: {_line(f'{error.code} {error.message}')}"
                )
        answer = await client.data(message)
        with contextlib.suppress(aiosmtplib.SMTPException, OSError, TimeoutError):
            await client.quit(timeout=QUIT_SECONDS)
    except aiosmtplib.SMTPResponseException as error:
        raise MailTrouble(f"{route}: {_line(f'{error.code} {error.message}')}") from None
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        text = _line(str(error) or type(error).__name__)
        raise MailTrouble(f"{route}: {text}", silent=True) from None
    finally:
        client.close()
    return _line(f"{answer.code} {answer.message}") + copied


def _lax() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _by_command(
    route: SendmailCommand, message: bytes, sender: str, recipient: str, bcc: str
) -> str:
    arguments = ["-i", "-f", sender, "--", recipient, *([bcc] if bcc else [])]
    # Files in memory and no pipes: nothing to wait for but the end, in whatever order the command
    # reads and prints, and whoever it leaves behind.
    with _in_memory() as given, _in_memory() as printed:
        # A mail of this machine: sendmail(1) takes lines as Unix ends them.
        given.write(message.replace(b"\r\n", b"\n"))
        given.seek(0)
        try:
            process = await asyncio.create_subprocess_exec(
                route.path,
                *arguments,
                stdin=given,
                stdout=printed,
                stderr=printed,
                start_new_session=True,  # to be ended with what it started
            )
        except OSError as error:
            raise MailTrouble(f"{route}: cannot be run: {error.strerror}", silent=True) from None
        try:
            status = await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        printed.seek(0)
        said = _line(printed.read(_SHOWN * 4).decode("utf-8", "replace"))
    if status:
        raise MailTrouble(f"{route}: status {status}{': ' if said else ''}{said}")
    return f"taken by {route.path}{': ' if said else ''}{said}"


def _in_memory() -> BinaryIO:
    return os.fdopen(os.memfd_create("smtp-sts-report"), "w+b")


def _line(text: str) -> str:
    return clean(text, _SHOWN)


__all__ = ["MAIL_SECONDS", "MailTrouble", "send_mail"]
