"""What every protocol of this room does alike: keys in, decisions out, connections that end well.

Promises: an answer comes within `DEADLINE` (law 6), and only where nothing is known of a domain it
fails open (law 4): a policy that is kept is never answered otherwise (law 1); replies go out in the
order of the requests; a client that sends without reading is not read from, and an unfinished
request is bounded (law 7); what was asked before a drain is still answered.
Must not: know what the bytes of a protocol mean. That is its module's part.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, cast

from smtp_sts.mta.limits import ROOM, size
from smtp_sts.mta.ready import ReadyTable
from smtp_sts.mta.tally import Tally
from smtp_sts.policy import NextHop, NextHopError, parse_next_hop
from smtp_sts.resolver.decision import Decision, enforced
from smtp_sts.resolver.waiting import GRACE, wait_for_work

#: Requests of one connection that may wait for a discovery before it is not read from, for now.
MAX_PENDING: Final = 256
#: Law 6, whatever hangs behind a look-up (another worker, the disk), seconds.
DEADLINE: Final = 4.9
#: So long before that it is looked for what is known without the look-up, seconds.
RECALL_SECONDS: Final = 0.7

_log = logging.getLogger(__name__)
Decide = Callable[[NextHop], Awaitable[Decision]]
#: What memory knows of a next hop, and what the store does; None where it is nothing.
Known = Callable[[NextHop], Decision | None]
Recall = Callable[[NextHop], Awaitable[Decision | None]]
#: A decision as a reply on the wire.
Render = Callable[[Decision], bytes]


class Drainable(Protocol):
    """A connection that can be told to finish."""

    def drain(self) -> None:
        """Answer what was asked, then close."""


class Service:
    """What the connections of one process share."""

    __slots__ = ("_known", "_recall", "_tally", "connections", "counts", "deadline", "decide",
                 "idle", "table", "tasks")  # fmt: skip

    def __init__(
        self,
        decide: Decide,
        table: ReadyTable,
        counts: dict[str, int],
        *,
        deadline: float = DEADLINE,
        known: Known = lambda _where: None,
        recall: Recall | None = None,
    ) -> None:
        """`known` and `recall` are asked where `decide` is not in time."""
        self.decide = decide
        self._known = known
        self._recall = recall
        self.deadline = deadline
        self.table = table
        self.counts = counts
        self._tally = Tally(counts)
        self.connections: set[Drainable] = set()
        #: set while there is no connection
        self.idle = asyncio.Event()
        self.idle.set()
        self.tasks: set[asyncio.Task[None]] = set()

    def count(self, name: str) -> None:
        """One more of something worth counting."""
        self.counts[name] = self.counts.get(name, 0) + 1

    def answered(self, profile: str, outcome: str) -> None:
        """One more answer that was not a ready one."""
        kind = f"{profile} {outcome}"
        self._tally.answers[kind] = self._tally.answers.get(kind, 0) + 1

    def told(self, profile: str, decision: Decision) -> None:
        """Count, and say in the log, where a reply names a part of the policy's patterns alone."""
        room = ROOM.get(profile)
        policy = enforced(decision) if room else None
        if room is None or policy is None or (has := size(policy.mx)) <= room:
            return
        self.count("policy-too-long")
        _log.info(
            "%s: its policy names %d MX host patterns, of which %s is told a part (%d bytes of %d)",
            decision.policy_domain,
            len(policy.mx),
            profile,
            room,
            has,
            extra={"fields": {"event": "policy-too-long", "domain": decision.policy_domain}},
        )

    def tally(self) -> Tally:
        """What was counted by now, for the caller to keep."""
        ready = self.table.answered()
        found = Tally(sources={"replies": sum(ready.values())})
        found.add(self._tally)
        found.add(Tally(answers=ready))
        return found

    def opened(self, connection: Drainable) -> None:
        """A client has connected."""
        self.connections.add(connection)
        self.idle.clear()

    def closed(self, connection: Drainable) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        if not self.connections:
            self.idle.set()

    def next_hop_of(self, key: bytes, profile: str) -> NextHop | None:
        """What a key says; None, counted, where it can have no policy domain.

        An address, a .parent key or garbage: asking costs nothing.
        """
        try:
            return parse_next_hop(key.decode("utf-8"))
        except (NextHopError, UnicodeDecodeError):
            self.count("keys-without-policy")
            self.answered(profile, "no-policy-domain")
            return None

    async def decision(self, where: NextHop) -> Decision:
        """The decision for a next hop, in time: where it would not be, what is known of it;
        "no policy" where that is nothing (law 4)."""
        begun = time.monotonic()
        work = asyncio.ensure_future(self.decide(where))
        try:
            await wait_for_work([work], self.deadline - RECALL_SECONDS)
            decision = work.result() if work.done() else await self._late(where, work, begun)
        finally:
            work.cancel()
        source = "policies" if decision.source == "cache" else "network"
        self._tally.sources[source] = self._tally.sources.get(source, 0) + 1
        if source == "network":
            self._tally.wait(time.monotonic() - begun)
        return decision

    async def _late(self, where: NextHop, work: asyncio.Future[Decision], begun: float) -> Decision:
        """What has finished by the deadline, else what memory knows, else what the store does."""
        recalled = asyncio.ensure_future(self._recalled(where))
        try:
            left = begun + self.deadline - time.monotonic()
            # The store and the look-up are waited for side by side, and after a stall still so
            # long as it takes to see what has finished: an answer in time that is wrong is none.
            await wait_for_work([work], left if left > 0 else GRACE)
            if work.done():
                return work.result()
            self.count("answer-deadline")
            found = self._known(where)
            if found is None and recalled.done():
                found = recalled.result()
            return found or Decision(where.domain, "no-policy", "discovery-timeout")
        finally:
            recalled.cancel()

    async def _recalled(self, where: NextHop) -> Decision | None:
        return None if self._recall is None else await self._recall(where)


class Connection(asyncio.Protocol):
    """One connection of a client whose requests are answered in their order.

    A protocol overrides `_requests`, and `data_received` where it has a faster way.
    """

    __slots__ = ("_buffer", "_closing", "_paused", "_pending", "_service", "_transport", "_write",
                 "_writing")  # fmt: skip

    def __init__(self, service: Service) -> None:
        self._service = service
        self._buffer = b""
        self._pending: deque[_Slot] = deque()
        self._paused = False
        self._writing = True
        self._closing = False

    def _requests(self, data: bytes) -> int:
        """Answer the whole requests in `data`; where the unfinished one begins.

        Raises ValueError where nothing after this can be understood.
        """
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        """Bytes of one or more requests, or of a part of one."""
        if self._closing:
            return
        data = self._buffer + data if self._buffer else data
        self._buffer = b""
        try:
            position = self._requests(data)
        except ValueError:
            self.drain()  # this connection ends, the daemon goes on
            return
        if not self._closing:
            self._buffer = data[position:]
        self._throttle()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast(asyncio.Transport, transport)
        self._write = self._transport.write
        self._service.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; what still waits for a discovery goes on for the others."""
        self._service.closed(self)
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

    def _reply(self, reply: bytes) -> None:
        if self._pending:
            self._pending.append(_Slot(reply))
        else:
            self._write(reply)

    def _ask(
        self,
        where: NextHop,
        render: Render,
        otherwise: bytes,
        profile: str,
        answered: Callable[[], None] = lambda: None,
    ) -> None:
        """Reply with the decision for a next hop; `otherwise` is the reply that fails open.

        `profile` is what the answer counts as; `answered` is called in the end, whatever happens.
        """
        slot = _Slot()
        self._pending.append(slot)
        task = asyncio.ensure_future(self._answer(slot, where, render, otherwise, profile))
        self._service.tasks.add(task)
        task.add_done_callback(self._service.tasks.discard)
        task.add_done_callback(lambda _done: answered())

    async def _answer(
        self, slot: _Slot, where: NextHop, render: Render, otherwise: bytes, profile: str
    ) -> None:
        try:
            decision = await self._service.decision(where)
            slot.reply = render(decision)
            self._service.answered(profile, decision.outcome)
            self._service.told(profile, decision)
        finally:
            if slot.reply is None:  # law 4: a defect of ours lets mail through
                self._service.count("internal-errors")
                slot.reply = otherwise
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
