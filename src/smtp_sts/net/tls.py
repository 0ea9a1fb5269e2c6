"""TLS as a client, between a connection of the event loop and a protocol: the standard library's
`ssl.SSLObject` with as little around it as one short exchange needs.

Why not the loop's own TLS: what it puts around a handshake costs 0.2 ms of CPU a connection, and a
discovery is one connection.

Promises: nothing goes to or comes from the protocol before the handshake is done and the peer is
who the context wants it to be; what the peer sends is decrypted piece by piece, never more at once
than has arrived. Must not: judge certificates (the context does), or hold an end of the
connection for the peer's: whoever has what they wanted calls `abort`.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final, cast

#: A record holds no more (RFC 8446 section 5.1), bytes.
_RECORD: Final = 16384


class Tls(asyncio.Protocol, asyncio.Transport):
    """The protocol of a TCP connection, and the transport of the protocol within."""

    def __init__(self, context: ssl.SSLContext, host: str, inner: asyncio.Protocol) -> None:
        """`host` is sent (SNI) and checked for."""
        asyncio.Transport.__init__(self)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._inner = inner
        self._transport: asyncio.Transport | None = None
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
        if self._transport is not None:
            self._transport.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`ssl_object`, or what the TCP connection knows."""
        if name == "ssl_object":
            return self._tls
        return default if self._transport is None else self._transport.get_extra_info(name, default)

    # -- the protocol of the TCP connection ---------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP is there: begin the handshake."""
        self._transport = cast(asyncio.Transport, transport)
        self._shake_hands()

    def data_received(self, data: bytes) -> None:
        """A piece of the handshake, or of what the peer says after it."""
        if self._ended:
            return
        self._incoming.write(data)
        if self._up or self._shake_hands():
            self._read()

    def eof_received(self) -> bool:
        """The peer sends no more."""
        if self._up and not self._ended:
            self._ended = True
            self._inner.eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._ended = True
        if self._up:
            self._inner.connection_lost(exc)
        elif not self.secured.done():
            self.secured.set_exception(exc or ConnectionResetError("closed within the handshake"))

    def _shake_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as error:
            self._ended = True
            self._flush()  # the alert that tells the peer why
            if not self.secured.done():
                self.secured.set_exception(error)
            return False  # who waits for it aborts
        self._up = True
        self.secured.set_result(None)
        self._inner.connection_made(self)
        self._flush()
        return True

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
        if self._outgoing.pending and self._transport is not None:
            self._transport.write(self._outgoing.read())


async def connect(
    inner: asyncio.Protocol, host: str, address: str, port: int, context: ssl.SSLContext
) -> Tls:
    """Connect to an address as `host`; the handshake is done. Raises OSError, as ssl.SSLError for
    TLS."""
    tls = Tls(context, host, inner)
    try:
        await asyncio.get_running_loop().create_connection(lambda: tls, address, port)
        await tls.secured
    except BaseException:
        tls.abort()
        raise
    return tls
