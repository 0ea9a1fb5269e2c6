"""What stands in the clear of what a TLS server sends: records, and how it opens (RFC 8446).

OpenSSL takes from a server what this side would rather not compute, and Python's `ssl` has no
switch for it before 3.15: a HelloRetryRequest to finite-field groups (90 ms for ffdhe8192), and
records of one byte (4 microseconds each, for one byte). Both can be seen before OpenSSL does.

Promises: `take` says what is wrong, or "", for any bytes cut anywhere, in time that grows with the
records it counts. No I/O. Must not: decide what a handshake means; OpenSSL does.
"""

from __future__ import annotations

from typing import Final

#: Records of one connection. A policy of 64 KiB comes in some 50 where a server sends what fits an
#: IP packet; servers that send a record for each piece of a body stay below it too (`MAX_EVENTS` of
#: `exchange.py`).
MAX_RECORDS: Final = 1000
#: What `take` says of bytes that are no records.
NOT_TLS: Final = "it does not speak TLS"
_HEADER: Final = 5
#: Section 5.1: ChangeCipherSpec, alert, handshake, application data.
_KINDS: Final = range(20, 24)
_HANDSHAKE: Final = 22
#: The first byte of all versions, and the length of a record, in TLS 1.2 (RFC 5246 section 6.2.3).
_MAJOR: Final = 3
_LONGEST: Final = 16384 + 2048
_HELLO_REQUEST: Final = 0
_SERVER_HELLO: Final = 2
_KEY_SHARE: Final = 51
#: Section 4.1.3: the random of a ServerHello that is a HelloRetryRequest.
_RETRY: Final = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
#: Section 4.2.7: the numbers of finite-field groups.
_FINITE_FIELD: Final = range(0x0100, 0x0200)


class Records:
    """Follows the records of one connection."""

    def __init__(self) -> None:
        #: whether what was taken ends with a record
        self.whole = True
        self._count = 0
        self._left = 0
        self._header = b""
        self._kind = 0
        #: of the handshake's messages, until the server's first one has been seen
        self._opening: bytearray | None = bytearray()

    def take(self, data: bytes) -> str:
        """The next bytes of the connection."""
        at, size = 0, len(data)
        while at < size:
            if not self._left:
                header = self._header + data[at : at + _HEADER - len(self._header)]
                at += len(header) - len(self._header)
                if len(header) < _HEADER:
                    self._header = header
                    break
                self._header = b""
                self._kind = header[0]
                self._left = header[3] << 8 | header[4]
                if self._kind not in _KINDS or header[1] != _MAJOR or self._left > _LONGEST:
                    return NOT_TLS
                self._count += 1
                if self._count > MAX_RECORDS:
                    return f"it sends more than {MAX_RECORDS} TLS records"
            some = min(self._left, size - at)
            if self._opening is not None and self._kind == _HANDSHAKE:
                self._opening += data[at : at + some]
            at += some
            self._left -= some
        self.whole = not self._left and not self._header
        if self.whole and self._opening is not None:
            return self._opened()
        return ""

    def _opened(self) -> str:
        seen = self._opening
        assert seen is not None
        while len(seen) >= 4:
            length = int.from_bytes(seen[1:4], "big")
            if seen[0] == _HELLO_REQUEST and not length:  # OpenSSL passes over it
                del seen[:4]
                continue
            if len(seen) < 4 + length:
                return ""
            message = bytes(seen[4 : 4 + length])
            kind, self._opening = seen[0], None
            if kind == _SERVER_HELLO and _group_of_retry(message) in _FINITE_FIELD:
                return "it wants finite-field Diffie-Hellman, which costs too much"
            return ""
        return ""


def _group_of_retry(message: bytes) -> int:
    """The group that a HelloRetryRequest asks for; 0 for any other ServerHello."""
    if message[2:34] != _RETRY or len(message) < 35:
        return 0
    at = 35 + message[34] + 2 + 1 + 2  # session id, cipher suite, compression, their length
    while at + 4 <= len(message):
        kind = int.from_bytes(message[at : at + 2], "big")
        end = at + 4 + int.from_bytes(message[at + 2 : at + 4], "big")
        if kind == _KEY_SHARE:
            return int.from_bytes(message[at + 4 : at + 6], "big")
        at = end
    return 0
