"""TLS as a client, between a connection of the event loop and a protocol: the standard library's
`ssl.SSLObject` with as little around it as one short exchange needs.

Why not the loop's own TLS: it computes handshakes where answers to MTAs are given. Here they are
computed in threads (`handshakes.py`), piece by piece as records arrive.

Promises: nothing goes to or comes from the protocol before the handshake is done and the peer is
who the context wants it to be; what the peer sends is decrypted piece by piece, never more at once
than has arrived. It hears of an end (`eof_received`) only where the peer has said so, by
close_notify. What a peer can make us compute is bounded: no finite-field Diffie-Hellman, no
renegotiation, `MAX_HANDSHAKE` bytes of a handshake, `tls_records.MAX_RECORDS` records.
Must not: judge certificates (the context does), or hold an end of the connection for the peer's:
whoever has what they wanted calls `abort`.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from typing import Any, Final, cast

from smtp_sts.net.handshakes import Crowded, Piece, handshakes, stranger
from smtp_sts.net.tls_records import Records

#: What a server may send until its handshake is done, bytes. Nearly all chains have less than 10
#: KB; a certificate for 1,000 names has some 30.
MAX_HANDSHAKE: Final = 64 * 1024
#: A record holds no more (RFC 8446 section 5.1), bytes.
_RECORD: Final = 16384
#: Key exchanges of TLS 1.2 that are offered, as OpenSSL names them. Not `kx-dhe`: the server
#: chooses the group, and one of 10,000 bits costs a second of CPU.
_KEY_EXCHANGES: Final = ("kx-ecdhe", "kx-rsa")


def bounded(context: ssl.SSLContext) -> ssl.SSLContext:
    """The context, which from now on offers nothing that a server can make costly."""
    ciphers = [cipher for cipher in context.get_ciphers() if cipher.get("kea") in _KEY_EXCHANGES]
    context.set_ciphers(":".join(cipher["name"] for cipher in ciphers))
    # A server that asks for it would have another handshake computed where we read.
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


@functools.cache
def trusting_context() -> ssl.SSLContext:
    """The context that verifies nothing: for who judges the chain in another way, or not at all."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return bounded(context)


class TlsTrouble(ssl.SSLError):
    """The peer does what is not taken; `reason` says what, with "it" for the peer."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Tls(asyncio.Protocol, asyncio.Transport):
    """The protocol of a TCP connection, and the transport of the protocol within."""

    def __init__(
        self, context: ssl.SSLContext, host: str, address: str, inner: asyncio.Protocol
    ) -> None:
        """`host` is sent (SNI) and checked for; `address` is where it is."""
        asyncio.Transport.__init__(self)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        # In bytes, since Python holds a str to IDNA 2003 anew each time.
        name = host.encode("ascii")
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._inner = inner
        self._transport: asyncio.Transport | None = None
        self._stranger = stranger(host, address)
        self._records = Records()
        #: what the handshake has not been given yet, and the bytes of all of it
        self._arrived: list[bytes] = []
        self._taken = 0
        #: what is computed just now: nobody else may touch TLS then
        self._piece: Piece | None = None
        #: what the peer did that is not taken, after the handshake
        self._trouble: TlsTrouble | None = None
        #: the TCP connection is gone, and why
        self._lost: tuple[Exception | None] | None = None
        self._up = self._ended = False
        #: done when the handshake is; raises OSError (`ssl.SSLError` is one) where it fails
        self.secured: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # -- the transport of the protocol within -------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send this, encrypted."""
        if not self._ended:
            self._tls.write(data)
            self._flush()

    def abort(self) -> None:
        """End the connection at once."""
        self._ended = True
        self.secured.cancel()  # where nothing has come of it yet
        if self._piece is not None:
            self._piece.drop()
        if self._transport is not None:
            self._transport.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`ssl_object`, or what the TCP connection knows."""
        if name == "ssl_object":
            return self._tls
        return default if self._transport is None else self._transport.get_extra_info(name, default)

    # -- the protocol of the TCP connection ---------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP is there: begin the handshake. Nothing of the peer's is in this first piece."""
        self._transport = cast(asyncio.Transport, transport)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._fail(error)

    def data_received(self, data: bytes) -> None:
        """A piece of the handshake, or of what the peer says after it."""
        if self._ended:
            return
        if wrong := self._records.take(data):
            self._refuse(wrong)
        elif self._up:
            self._incoming.write(data)
            self._read()
        else:
            self._taken += len(data)
            self._arrived.append(data)
            if self._taken > MAX_HANDSHAKE:
                self._refuse(f"it sends more than {MAX_HANDSHAKE} bytes of handshake")
            elif self._piece is None and self._records.whole:
                self._compute()

    def eof_received(self) -> bool:
        """The peer sends no more, and did not say so by close_notify: anyone on the path can bring
        that about. The protocol within hears of a connection that is lost, not of an end."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._lost = (exc,)
        if self._piece is None:
            self._report_lost()
        # Else what came before the end says more than the end: an alert, a whole handshake.

    def _report_lost(self) -> None:
        if self._lost is None:
            return
        self._ended = True
        if self._up:
            self._inner.connection_lost(self._trouble or self._lost[0])
        elif not self.secured.done():
            closed = ConnectionResetError("closed within the handshake")
            self.secured.set_exception(self._lost[0] or closed)

    def _compute(self) -> None:
        self._incoming.write(b"".join(self._arrived))
        self._arrived.clear()
        try:
            self._piece = handshakes().submit(
                self._stranger, self._tls.do_handshake, self._computed
            )
        except Crowded as error:
            self._fail(error)

    def _computed(self, raised: Exception | None) -> None:
        self._piece = None
        if self._ended:
            return
        if isinstance(raised, ssl.SSLWantReadError):
            self._flush()
            if self._arrived and self._records.whole:
                self._compute()
        elif raised is not None:
            self._flush()  # the alert that tells the peer why
            self._fail(raised)
        else:
            self._up = True
            self.secured.set_result(None)
            self._inner.connection_made(self)
            self._flush()
            if self._arrived or self._incoming.pending:
                self._incoming.write(b"".join(self._arrived))
                self._arrived.clear()
                self._read()
        if self._piece is None:
            self._report_lost()

    def _refuse(self, why: str) -> None:
        trouble = TlsTrouble(why)
        if self._up:
            self._trouble = trouble
            self.abort()
        else:
            self._fail(trouble)

    def _fail(self, error: Exception) -> None:
        """End the handshake; who waits for it aborts."""
        self._ended = True
        if not self.secured.done():
            self.secured.set_exception(error)

    def _read(self) -> None:
        try:
            while not self._ended:
                piece = self._tls.read(_RECORD)
                if not piece:  # close_notify
                    self._ended = True
                    self._inner.eof_received()
                    return
                self._inner.data_received(piece)
        except ssl.SSLWantReadError:
            self._flush()  # what an update of the keys has for answer
        except ssl.SSLError:  # not what the peer has sent: the protocol within hears of the end
            self.abort()

    def _flush(self) -> None:
        if self._outgoing.pending and self._transport is not None and self._lost is None:
            self._transport.write(self._outgoing.read())


async def connect(
    inner: asyncio.Protocol, host: str, address: str, port: int, context: ssl.SSLContext
) -> Tls:
    """Connect to an address as `host`; the handshake is done. Raises OSError, as ssl.SSLError for
    TLS."""
    tls = Tls(context, host, address, inner)
    try:
        await asyncio.get_running_loop().create_connection(lambda: tls, address, port)
        await tls.secured
    except BaseException:
        tls.abort()
        raise
    return tls


async def start(
    transport: asyncio.WriteTransport, host: str, address: str, context: ssl.SSLContext
) -> Tls:
    """TLS on a TCP connection that spoke something else until now (STARTTLS), for one who then
    only writes. Raises as `connect`."""
    tls = Tls(context, host, address, asyncio.Protocol())
    if transport.is_closing():
        raise ConnectionResetError("closed before TLS")
    transport.set_protocol(tls)
    tls.connection_made(transport)
    try:
        await tls.secured
    except BaseException:
        tls.abort()
        raise
    return tls
