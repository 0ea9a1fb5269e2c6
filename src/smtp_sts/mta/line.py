"""The line protocol: one question a connection, as Exim's `${readsocket ...}` asks it.

    request   example.com LF        (a next hop; CR LF and an end of file will do for LF)
    answer    enforce mx1.example.com:*.example.net LF
              none LF

`enforce` is followed by the policy's mx patterns, joined by colons: mail may go only to an MX
host that one of them matches (RFC 8461 section 4.1; `*` is one label), over TLS with a certificate
that is valid for that host. Of a policy with more patterns than fit into `limits.EXIM_LIST` bytes,
some are named. `none` asks for nothing. Whoever reads any other answer, or none at all, or one
without its LF, must not send: it is no answer of this daemon.

Promises: one line, then the connection is closed; the patterns are validated parts alone (law 5); a
client has `PATIENCE` for the whole exchange. `enforce` is said for a domain with DANE too, where it
has an enforced policy: Exim lets usable TLSA records win by itself.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from smtp_sts.mta.limits import EXIM_LIST, fitting
from smtp_sts.mta.service import Connection, Service
from smtp_sts.resolver.decision import Decision, enforced

#: No longer request is read, bytes.
MAX_REQUEST: Final = 4096
#: A connection that has not ended by then is cut, seconds. Exim waits for 5.
PATIENCE: Final = 10.0

_NONE: Final = b"none\n"
_log = logging.getLogger(__name__)


def answer(decision: Decision) -> bytes:
    """The answer to a decision."""
    policy = enforced(decision)
    if policy is None:
        return _NONE
    return f"enforce {':'.join(fitting(policy.mx, EXIM_LIST))}\n".encode("ascii")


class Line(Connection):
    """One connection, which is one question."""

    __slots__ = ("_patience", "_timer")

    def __init__(self, service: Service, *, patience: float = PATIENCE) -> None:
        super().__init__(service)
        self._patience = patience

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected; its time begins."""
        super().connection_made(transport)
        self._timer = asyncio.get_running_loop().call_later(self._patience, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._timer.cancel()
        super().connection_lost(exc)

    def eof_received(self) -> bool:
        """The client sends no more (Exim does so at once): what it has sent is the question."""
        if self._buffer and not self._closing:
            self._question(self._buffer)
        return super().eof_received()

    def _requests(self, data: bytes) -> int:
        line, end, _ = data.partition(b"\n")
        if len(line) > MAX_REQUEST:
            self._service.count("long-lines")
            _log.debug("a line of more than %d bytes", MAX_REQUEST)
            raise ValueError("line too long")
        if end:
            self._question(line)
        return 0

    def _question(self, line: bytes) -> None:
        where = self._service.next_hop_of(line.removesuffix(b"\r"), "line")
        if where is None:
            self._reply(_NONE)
        else:
            self._ask(where, answer, _NONE, "line")
        self.drain()

    def _late(self) -> None:
        self._service.count("slow-clients")
        _log.debug("a client took more than %g s", self._patience)
        self._transport.abort()
