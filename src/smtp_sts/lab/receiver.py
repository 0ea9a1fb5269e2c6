"""The lab's SMTP receivers: bob's MX hosts, and mallory in their place.

Promises: one receiver an address of 127.0.0.0/8, all on one port, each keeping the messages it has
seen and whether they came over TLS. Must not: deliver a message anywhere.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import cast

from aiosmtpd.smtp import SMTP, Envelope, Session

from smtp_sts.lab.authority import OTHER_NAME, Authority, TlsVersion, Variant


@dataclass(frozen=True)
class Message:
    """A message as a receiver saw it; `owner` is who read it."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    over_tls: bool
    owner: str


class Receiver:
    """One MX host on one address. Its attributes may be changed while it runs."""

    def __init__(self, authority: Authority, host: str, address: str) -> None:
        """An honest receiver of bob's, with a good certificate for `host`."""
        self.host = host
        self.address = address
        self.port = 0
        self.owner = "bob"
        self.starttls = True
        self.certificate: Variant = "good"
        #: Whose name a good certificate carries; the receiver's own where empty.
        self.certificate_name = ""
        #: Whoever does not name it in the handshake (SNI) sees another name's certificate.
        self.needs_sni = False
        self.tls: TlsVersion = ""
        #: Connections are cut before a word.
        self.refuses = False
        self.messages: list[Message] = []
        self._authority = authority
        self._servers: list[asyncio.Server] = []
        self._open: set[_Smtp] = set()

    async def start(self, port: int = 0, second: int = 0) -> None:
        """Listen; port 0 takes a free one. A `second` port is one more. Raises OSError."""
        loop = asyncio.get_running_loop()
        for number in (port, second) if second else (port,):
            self._servers.append(await loop.create_server(self._session, self.address, number))
        self.port = self._servers[0].sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop, and cut what is open."""
        for server in self._servers:
            server.close()
        for session in list(self._open):
            session.abort()
        if self._servers:
            await asyncio.sleep(0)  # not wait_closed: that may wait for a peer

    def _session(self) -> SMTP:
        context: ssl.SSLContext | None = None
        if self.starttls:
            context = self._context()
        return _Smtp(self, self._open, context)

    def _context(self) -> ssl.SSLContext:
        own = self._authority.server_context(
            self.certificate_name or self.host, variant=self.certificate, tls=self.tls
        )
        if not self.needs_sni:
            return own
        another = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        another.load_cert_chain(self._authority.certificate(OTHER_NAME))

        def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            if name and name.lower() == self.host:
                connection.context = own

        another.sni_callback = choose
        return another

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Keep the message; called by aiosmtpd."""
        content = envelope.content or b""
        self.messages.append(
            Message(
                sender=envelope.mail_from or "",
                recipients=tuple(envelope.rcpt_tos),
                content=content.encode() if isinstance(content, str) else content,
                over_tls=session.ssl is not None,
                owner=self.owner,
            )
        )
        return "250 2.0.0 kept"


class _Smtp(SMTP):
    """aiosmtpd's protocol, registered while open so that `close` can cut it."""

    def __init__(
        self, receiver: Receiver, sessions: set[_Smtp], context: ssl.SSLContext | None
    ) -> None:
        super().__init__(
            receiver,
            hostname=receiver.host,
            ident="ESMTP lab",
            tls_context=context,
            # No AUTH: Sendmail would add AUTH= to MAIL, which aiosmtpd offers and then refuses.
            auth_exclude_mechanism=["LOGIN", "PLAIN"],
            loop=asyncio.get_running_loop(),
        )
        self._sessions = sessions
        self._refuses = receiver.refuses

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._sessions.add(self)
        super().connection_made(transport)
        if self._refuses:
            cast(asyncio.Transport, transport).abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._sessions.discard(self)
        super().connection_lost(error)

    def abort(self) -> None:
        transport = self._original_transport or self.transport
        if transport is not None:
            cast(asyncio.Transport, transport).abort()
