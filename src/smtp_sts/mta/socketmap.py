"""socketmap, as Postfix and Sendmail speak it: the hot path.

Promises: replies go out in the order of the requests; a request whose reply is ready is answered
without leaving `data_received`; bytes that are no netstring close that connection and are counted,
nothing more; a client that sends without reading is not read from (bounded memory); an idle
connection is kept (Postfix before 3.10 takes an idle close for a failed look-up).
Must not log, lock or await on the way of a ready reply.

Why the hot path may split at commas: the keys of the ready table are whole netstrings without
their final comma and without one inside, and netstrings are a prefix-free code. So where the text
up to the next comma is such a key, it is that request and no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from time import time
from typing import Final, cast

import msgspec

from smtp_sts.mta import netstring
from smtp_sts.mta.profiles import NOT_FOUND, profile_of, replies
from smtp_sts.mta.ready import ReadyTable
from smtp_sts.policy import NextHopError, policy_domain
from smtp_sts.resolver.decision import Decision, as_data

#: Requests of one connection that may wait for a discovery before it is not read from, for now.
MAX_PENDING: Final = 256
#: Bytes of an unfinished request, at most.
MAX_BUFFER: Final = netstring.MAX_REQUEST + 16
#: Law 6, whatever hangs behind a look-up (another worker, the disk), seconds.
DEADLINE: Final = 4.9
#: The map that answers with the whole decision, for `smtp-sts query --server`.
EXPLAIN: Final = "explain"

_NOT_FOUND: Final = netstring.encode(NOT_FOUND.encode())
_log = logging.getLogger(__name__)

Decide = Callable[[str], Awaitable[Decision]]


class Service:
    """What the connections of one process share."""

    __slots__ = ("connections", "counts", "deadline", "decide", "idle", "table", "tasks")

    def __init__(
        self,
        decide: Decide,
        table: ReadyTable,
        counts: dict[str, int],
        *,
        deadline: float = DEADLINE,
    ) -> None:
        self.decide = decide
        self.deadline = deadline
        self.table = table
        self.counts = counts
        self.connections: set[Socketmap] = set()
        #: set while there is no connection
        self.idle = asyncio.Event()
        self.idle.set()
        self.tasks: set[asyncio.Task[None]] = set()

    def count(self, name: str) -> None:
        """One more of something worth counting."""
        self.counts[name] = self.counts.get(name, 0) + 1


class Socketmap(asyncio.Protocol):
    """One connection of an MTA."""

    __slots__ = ("_buffer", "_closing", "_paused", "_pending", "_service", "_table", "_transport",
                 "_write", "_writing")  # fmt: skip

    def __init__(self, service: Service) -> None:
        self._service = service
        self._table = service.table
        self._buffer = b""
        self._pending: deque[_Slot] = deque()
        self._paused = False
        self._writing = True
        self._closing = False

    # -- the hot path -------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes of one or more requests, or of a part of one."""
        table = self._table
        if time() >= table.due:
            table.sweep(time())
        if not self._buffer and not self._pending:
            reply = table.replies.get(data[:-1])
            if reply is not None and data[-1] == 0x2C:
                self._write(reply)
                return
            get = table.replies.get
            parts = data.split(b",")
            if len(parts) > 2:
                ready = [get(part) for part in parts[:-1]]
                if not parts[-1] and None not in ready:
                    self._write(b"".join(cast("list[bytes]", ready)))
                    return
        self._slow(data)

    # -- everything else ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast(asyncio.Transport, transport)
        self._write = self._transport.write
        self._service.connections.add(self)
        self._service.idle.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; what still waits for a discovery goes on for the others."""
        self._service.connections.discard(self)
        if not self._service.connections:
            self._service.idle.set()
        self._pending.clear()
        self._closing = True

    def eof_received(self) -> bool:
        """The client sends no more; it still gets what it has asked for."""
        self._closing = True
        self._buffer = b""
        return bool(self._pending)

    def pause_writing(self) -> None:
        """The client does not read: stop reading from it."""
        self._writing = False
        self._throttle()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._writing = True
        self._throttle()

    def drain(self) -> None:
        """Answer what was asked, then close."""
        self._closing = True
        if not self._pending:
            self._transport.close()
        elif not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _throttle(self) -> None:
        full = not self._writing or len(self._pending) >= MAX_PENDING
        if full != self._paused and not self._closing:
            self._paused = full
            if full:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _slow(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        position = 0
        try:
            while position < len(data):
                found = netstring.parse(data, position)
                if found is None:
                    break
                payload, after = found
                self._request(payload, data[position : after - 1])
                position = after
        except netstring.NetstringError as error:
            # Nothing after this can be understood: this connection ends, the daemon goes on.
            self._service.count("bad-netstrings")
            _log.debug("bad netstring: %s", error)
            self._buffer = b""
            self._closing = True
            if not self._pending:
                self._transport.close()
            else:
                self.drain()
            return
        self._buffer = data[position:]
        self._throttle()

    def _request(self, payload: bytes, request: bytes) -> None:
        ready = self._table.replies.get(request)
        if ready is not None:
            self._reply(ready)
            return
        name, blank, key = payload.partition(b" ")
        try:
            map_name = name.decode("ascii")
            domain = policy_domain(key.decode("utf-8")) if blank else ""
        except (NextHopError, UnicodeDecodeError):
            # An address, a .parent key or garbage: it can have no policy, and asking costs nothing.
            self._service.count("keys-without-policy")
            self._reply(_NOT_FOUND)
            return
        if not domain:
            self._service.count("keys-without-policy")
            self._reply(_NOT_FOUND)
            return
        slot = _Slot()
        self._pending.append(slot)
        task = asyncio.ensure_future(self._answer(slot, map_name, key, domain, request))
        self._service.tasks.add(task)
        task.add_done_callback(self._service.tasks.discard)

    def _reply(self, reply: bytes) -> None:
        if self._pending:
            self._pending.append(_Slot(reply))
        else:
            self._write(reply)

    async def _answer(
        self, slot: _Slot, map_name: str, key: bytes, domain: str, request: bytes
    ) -> None:
        try:
            async with asyncio.timeout(self._service.deadline):
                decision = await self._service.decide(domain)
            if map_name == EXPLAIN:
                data = as_data(key.decode("utf-8"), decision, replies(decision))
                slot.reply = netstring.encode(b"OK " + msgspec.json.encode(data))
            else:
                slot.reply = netstring.encode(profile_of(map_name)(decision).encode("ascii"))
                if decision.valid_until > time() and b"," not in request:
                    self._table.add(request, slot.reply, domain, decision.valid_until)
        except TimeoutError:
            self._service.count("answer-deadline")
            slot.reply = _NOT_FOUND  # law 4: fail open
        finally:
            if slot.reply is None:  # law 4: a defect of ours lets mail through
                self._service.count("internal-errors")
                slot.reply = _NOT_FOUND
            self._flush()

    def _flush(self) -> None:
        pending = self._pending
        out = []
        while pending and pending[0].reply is not None:
            out.append(pending.popleft().reply)
        if out and not self._transport.is_closing():
            self._write(b"".join(cast("list[bytes]", out)))
        if self._closing and not pending:
            self._transport.close()
        else:
            self._throttle()


class _Slot:
    """The place of one reply in the order of a connection; None until it is there."""

    __slots__ = ("reply",)

    def __init__(self, reply: bytes | None = None) -> None:
        self.reply = reply
