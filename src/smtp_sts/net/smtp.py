"""A look at one address of an MX host: what a sender that asks for verified TLS would meet there.

Promises: `look` says within its deadline whether the host offers STARTTLS and whether its
certificate holds (RFC 8461 sections 4.1 and 4.2: a trusted chain, not expired, the MX host among
the SAN dNSNames), as a result type of RFC 8460 section 4.3, or that it could not be told; at most
`MAX_REPLY` bytes of a reply are read. Must not: send mail, name a recipient, or reach private
addresses unless that is allowed.
"""

from __future__ import annotations

import asyncio
import errno
import re
import ssl
from typing import Final

import msgspec

from smtp_sts.dane.faults import FAULTS
from smtp_sts.net.addresses import is_public
from smtp_sts.net.exchange import certificate_fault
from smtp_sts.net.tls import TlsTrouble, start
from smtp_sts.net.tls_records import NOT_TLS

#: Everything, from the connection to the end of the handshake, seconds.
LOOK_SECONDS: Final = 30.0
#: Lines and bytes of one reply; RFC 5321 section 4.5.3.1.5 has 512 bytes a line.
MAX_LINES: Final = 100
MAX_REPLY: Final = 16 * 1024
_REPLY: Final = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)

#: Alerts of a server to which we do not offer what it wants. It may be what costs too much for us,
#: and no fault in the eyes of a mail server that offers it (finite-field Diffie-Hellman).
_NO_COMMON_GROUND: Final = ("SSLV3_ALERT_HANDSHAKE_FAILURE", "TLSV1_ALERT_INSUFFICIENT_SECURITY")


class MxLook(msgspec.Struct, frozen=True, gc=False):
    """What was seen at one address of an MX host.

    `seen` is False where it could not be told: no connection, no SMTP, no answer in time, no
    cipher or group in common.
    `result_type` is one of RFC 8460 section 4.3, "" where TLS is as a policy wants it. `text` says
    in words what was seen, `helo` is the first line of the reply to EHLO. `chain` is what the host
    presented, DER, leaf first; empty where verification ended the handshake.
    """

    host: str
    address: str
    seen: bool
    result_type: str = ""
    text: str = ""
    helo: str = ""
    tls_version: str = ""
    chain: tuple[bytes, ...] = ()


class _Talk(Exception):
    """The conversation has ended: what is to be said of it."""

    def __init__(self, seen: bool, result_type: str, text: str) -> None:
        self.seen = seen
        self.result_type = result_type
        self.text = text
        super().__init__(text)


async def look(
    host: str,
    address: str,
    *,
    context: ssl.SSLContext,
    own_name: str,
    port: int = 25,
    allow_private: bool = False,
    seconds: float = LOOK_SECONDS,
) -> MxLook:
    """Connect, EHLO as `own_name`, STARTTLS, QUIT; never raises for what a host does.

    `context` decides what is verified: one that verifies holds the certificate to PKIX and to
    `host`; one that does not leaves that to the caller, who has `chain` (DANE).
    """
    if not allow_private and not is_public(address):
        return MxLook(host, address, False, text="not on the public Internet")
    seen = MxLook(host, address, False)
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(address, port, limit=MAX_REPLY)
            try:
                return await _talk(reader, writer, seen, context, own_name)
            finally:
                writer.transport.abort()  # nothing is waited for: what we wanted we have
    except _Talk as end:
        return msgspec.structs.replace(
            seen, seen=end.seen, result_type=end.result_type, text=_printable(end.text)
        )
    except TimeoutError:
        return msgspec.structs.replace(seen, text=f"no TLS session within {seconds:g} s")
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, type(error).__name__)
        return msgspec.structs.replace(seen, text=f"cannot be reached ({name})")


async def _talk(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    seen: MxLook,
    context: ssl.SSLContext,
    own_name: str,
) -> MxLook:
    code, lines = await _reply(reader)
    if code != 220:
        raise _Talk(False, "", f"greets with {code} {lines[0]}")
    writer.write(f"EHLO {own_name}\r\n".encode("ascii"))
    code, lines = await _reply(reader)
    helo = lines[0]
    if code != 250:
        raise _Talk(False, "", f"answers {code} {lines[0]} to EHLO")
    if not any(line.split(maxsplit=1)[:1] == ["STARTTLS"] for line in map(str.upper, lines[1:])):
        return msgspec.structs.replace(
            seen,
            seen=True,
            result_type="starttls-not-supported",
            text="does not offer STARTTLS",
            helo=helo,
        )
    writer.write(b"STARTTLS\r\n")
    code, lines = await _reply(reader)
    if code != 220:  # RFC 3207 section 4
        return msgspec.structs.replace(
            seen,
            seen=True,
            result_type="starttls-not-supported",
            text=_printable(f"answers {code} {lines[0]} to STARTTLS"),
            helo=helo,
        )
    result_type = text = version = ""
    chain: tuple[bytes, ...] = ()
    try:
        if reader.at_eof():
            raise EOFError
        # SNI is the MX host (RFC 8461 section 7.1).
        tls = await start(writer.transport, seen.host, seen.address, context)
    except ssl.SSLCertVerificationError as error:
        slug, words = certificate_fault(error)
        result_type = FAULTS[slug]
        text = f"the certificate {words}"
    except ssl.SSLError as error:
        if error.reason in _NO_COMMON_GROUND or (
            isinstance(error, TlsTrouble) and error.reason != NOT_TLS
        ):
            raise _Talk(False, "", f"TLS failed: {error.reason}") from None
        result_type, text = FAULTS["handshake-failed"], f"TLS failed: {error.reason}"
    except (ConnectionError, EOFError):
        result_type, text = FAULTS["handshake-failed"], "the connection was closed within TLS"
    else:
        session = tls.get_extra_info("ssl_object")
        version, chain = str(session.version()), _chain(session)
        tls.write(b"QUIT\r\n")
    return msgspec.structs.replace(
        seen,
        seen=True,
        result_type=result_type,
        text=_printable(text),
        helo=helo,
        tls_version=version,
        chain=chain,
    )


async def _reply(reader: asyncio.StreamReader) -> tuple[int, list[str]]:
    """One reply, its lines without code and line end (RFC 5321 section 4.2). Raises _Talk."""
    lines: list[str] = []
    size = 0
    while True:
        try:
            raw = await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError:
            raise _Talk(False, "", "closes the connection before its answer") from None
        except asyncio.LimitOverrunError:
            raise _Talk(False, "", "sends a line that never ends") from None
        found = _REPLY.fullmatch(raw.rstrip(b"\r\n"))
        if found is None:
            raise _Talk(False, "", "does not speak SMTP")
        size += len(raw)
        if len(lines) >= MAX_LINES or size > MAX_REPLY:
            raise _Talk(False, "", "sends a reply that never ends")
        lines.append(_printable((found[3] or b"").decode("utf-8", "replace")))
        if found[2] != b"-":
            return int(found[1]), lines


def _chain(tls: ssl.SSLObject) -> tuple[bytes, ...]:
    """What the peer has presented, DER; before Python 3.13 only a private method gives it."""
    public = getattr(tls, "get_unverified_chain", None)
    if public is not None:
        return tuple(public())
    presented = tls._sslobj.get_unverified_chain() or ()  # type: ignore[attr-defined]
    return tuple(ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in presented)


def _printable(text: str) -> str:
    """A stranger's words for a log line or a report (law 5)."""
    return "".join(c if c.isprintable() else "?" for c in text[:512])
