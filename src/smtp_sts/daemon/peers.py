"""Each domain has one worker that discovers, rechecks and refreshes it; the others ask that one.

So there is one fetch for a domain however many ask and whichever worker they reach, and one place
that knows of its failures. Promises: `decide` falls back to this worker's own resolver where the
owner cannot be reached. The workers of one daemon talk over unix sockets in the abstract name
space, which take connections of the same user only.

On the wire: a length of 4 bytes, then msgpack of `Call` or `Reply`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, cast

import msgspec

from smtp_sts.policy import NextHop
from smtp_sts.resolver import Decision, Resolver
from smtp_sts.resolver.stored import domain_of
from smtp_sts.resolver.upkeep import Renewal, Upkeep
from smtp_sts.resolver.waiting import wait_for_work
from smtp_sts.store import Stored

#: What needs no network is waited for no longer, seconds.
PEER_SECONDS: Final = 3.0
#: An owner that has not answered by then, though the store holds a policy in force, hangs
#: (seconds); and for so long it is not waited for again.
HUNG_SECONDS: Final = 1.8
HUNG_AGAIN: Final = 30.0
#: Who stands in for an owner waits for the store no longer, seconds.
STORE_SECONDS: Final = 1.0

_LENGTH: Final = struct.Struct("!I")
_log = logging.getLogger(__name__)


class Call(msgspec.Struct, frozen=True, array_like=True):
    """`forget`, `learn` and `failed` want no reply; `domains` are those of `upkeep`, `before` is of
    `purge`, `stored` of `learn`, `next_hop` of `decide`, where it is more than a mail domain."""

    number: int
    what: Literal[
        "decide", "refresh", "forget", "learn", "failed", "renew", "purge", "upkeep", "counts"
    ]
    domain: str = ""
    domains: tuple[str, ...] = ()
    force: bool = False
    before: float = 0.0
    stored: Stored | None = None
    next_hop: NextHop | None = None


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """`decision` answers `decide`, `renewal` `renew`, `lasting` `purge`, the others their own."""

    number: int
    decision: Decision | None = None
    renewal: Renewal | None = None
    lasting: bool = True
    upkeep: tuple[Upkeep | None, ...] = ()
    counts: dict[str, int] = {}


_calls: Final = msgspec.msgpack.Decoder(Call)
_replies: Final = msgspec.msgpack.Decoder(Reply)


def listener() -> socket.socket:
    """A listening socket in the abstract name space, for one worker."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind("")  # autobind, unix(7)
    sock.listen(64)
    sock.setblocking(False)
    return sock


def accept(listening: socket.socket) -> socket.socket | None:
    """A connection that waits, non-blocking; None where there is none, or it is another user's."""
    try:
        sock, _ = listening.accept()
    except (BlockingIOError, ConnectionAbortedError):
        return None
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    if struct.unpack("3i", credentials)[1] != os.getuid():
        sock.close()
        return None
    sock.setblocking(False)
    return sock


class _Link(asyncio.Protocol):
    """A connection between two workers, either end."""

    def __init__(self, take: Callable[[bytes, _Link], None], lost: Callable[[], None]) -> None:
        self._take = take
        self._lost = lost
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()

    def send(self, message: Call | Reply) -> None:
        data = msgspec.msgpack.encode(message)
        if not self.transport.is_closing():
            self.transport.write(_LENGTH.pack(len(data)) + data)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        position = 0
        while len(data) - position >= 4:
            end = position + 4 + _LENGTH.unpack_from(data, position)[0]
            if len(data) < end:
                break
            self._take(data[position + 4 : end], self)
            position = end
        self._buffer = data[position:]


class Owners:
    """The workers of one daemon, as whoever has something to ask of them sees them."""

    def __init__(self, listeners: Sequence[socket.socket], elders: Sequence[bytes] = ()) -> None:
        self._count = len(listeners)
        self._addresses = [*(sock.getsockname() for sock in listeners), *elders]
        self._links: dict[int, _Link] = {}
        self._waiting: dict[int, tuple[int, asyncio.Future[Reply]]] = {}
        self._numbers = itertools.count()
        self._locks = [asyncio.Lock() for _ in self._addresses]

    def owner(self, domain: str) -> int:
        """The worker that a domain belongs to, by either key of it in the store."""
        return zlib.crc32(domain_of(domain).encode()) % self._count

    async def ask(self, domain: str) -> Decision | None:
        """What the owner says of a policy domain. Raises OSError where it cannot be reached."""
        return (await self._call(self.owner(domain), "decide", domain)).decision

    def close(self) -> None:
        """Ask no more."""
        for link in list(self._links.values()):
            link.transport.abort()

    async def failed(self, domain: str) -> None:
        """Tell the owner that mail to a policy domain met with a failure."""
        try:
            link = await self._link(self.owner(domain))
            link.send(Call(next(self._numbers), "failed", domain))
        except OSError as error:
            _log.debug("the owner of %s cannot be reached: %s", domain, error)

    async def _call(
        self,
        index: int,
        what: Literal["decide", "refresh", "renew", "purge", "upkeep", "counts"],
        domain: str = "",
        *,
        domains: tuple[str, ...] = (),
        force: bool = False,
        before: float = 0.0,
        next_hop: NextHop | None = None,
    ) -> Reply:
        link = await self._link(index)
        number = next(self._numbers)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (index, future)
        try:
            link.send(Call(number, what, domain, domains, force, before, next_hop=next_hop))
            return await future
        finally:
            del self._waiting[number]

    async def _link(self, index: int) -> _Link:
        async with self._locks[index]:
            link = self._links.get(index)
            if link is None or link.transport.is_closing():
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                sock.setblocking(False)
                try:
                    # Connected here: uvloop does not take an address of the abstract name space.
                    sock.connect(self._addresses[index])
                    _, link = await asyncio.get_running_loop().create_unix_connection(
                        lambda: _Link(self._take_reply, lambda: self._lost(index)), sock=sock
                    )
                except OSError:
                    sock.close()
                    raise
                self._links[index] = link
            return link

    def _lost(self, index: int) -> None:
        self._links.pop(index, None)
        for owner, future in list(self._waiting.values()):
            if owner == index and not future.done():
                future.set_exception(ConnectionResetError("the worker has gone"))

    def _take_reply(self, data: bytes, _link: _Link) -> None:
        reply = _replies.decode(data)
        _, future = self._waiting.get(reply.number, (0, None))
        if future is not None and not future.done():
            future.set_result(reply)


class Peers(Owners):
    """The workers of one daemon, as one of them sees them."""

    def __init__(self, index: int, listeners: Sequence[socket.socket], resolver: Resolver,
                 forget: Callable[[str], None], elders: Sequence[bytes],
                 counts: Mapping[str, int]) -> None:  # fmt: skip
        super().__init__(listeners, elders)
        self._index = index
        #: workers of before a reload, which may still have clients: behind ours
        self._elders = range(len(listeners), len(listeners) + len(elders))
        self._listener = listeners[index]
        self._resolver = resolver
        self._forget = forget
        self._counts = counts
        self._tasks: set[asyncio.Task[None]] = set()
        #: owner -> until when it is known to hang, by the clock of the loop
        self._hung: dict[int, float] = {}

    async def start(self) -> None:
        """Take calls of the other workers."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._listener.fileno(), self._accept)

    async def decide(self, where: NextHop) -> Decision:
        """The owner's decision; our own where the owner cannot be reached."""
        domain = where.domain
        owner = self.owner(domain)
        if owner != self._index:
            try:
                decision = await self._asked(owner, where)
                if decision is not None:
                    return decision
            except OSError as error:
                _log.warning("worker %d cannot be reached, deciding here: %s", owner, error)
            # Law 1: what the owner has found since we last stood in for it is in the store, which
            # must not hold up what we know ourselves (law 6).
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STORE_SECONDS):
                    for stored in await self._resolver.kept(domain):
                        await self._resolver.learn(stored)
        return await self._resolver.decide(where)

    async def recall(self, where: NextHop) -> Decision | None:
        """What memory and store know of a next hop, without its owner and the network; None where
        that is nothing."""
        domain = where.domain
        if self.owner(domain) != self._index:
            for stored in await self._resolver.kept(domain):
                await self._resolver.learn(stored)
        return await self._resolver.recall(where)

    async def _asked(self, owner: int, where: NextHop) -> Decision | None:
        """The owner's decision; None where it hangs. Raises OSError."""
        domain, more = where.domain, None if where.plain else where
        call = asyncio.ensure_future(self._call(owner, "decide", domain, next_hop=more))
        now = asyncio.get_running_loop().time()
        known = now < self._hung.get(owner, 0.0)
        try:
            await wait_for_work([call], 0.1 if known else HUNG_SECONDS)
            # Law 1: with a policy in force the owner answers at once, or something is wrong with
            # it: that must not let mail out as if there was none.
            if not call.done() and await self._resolver.holds(domain) and not call.done():
                if not known:
                    self._hung[owner] = now + HUNG_AGAIN
                    _log.error("worker %d hangs, deciding here for it", owner)
                return None
            return (await call).decision
        finally:
            call.cancel()

    async def refresh(self, domain: str) -> None:
        """Have the owner fetch the policy anew."""
        owner = self.owner(domain)
        if owner != self._index:
            try:
                await self._call(owner, "refresh", domain)
                return
            except OSError as error:
                _log.debug("worker %d cannot be reached: %s", owner, error)
        await self._resolver.refresh(domain)

    async def renew(self, domain: str, *, force: bool) -> Renewal:
        """Have the owner fetch the policy now, at an operator's word. Raises OSError."""
        owner = self.owner(domain)
        if owner != self._index:
            reply = await self._call(owner, "renew", domain, force=force)
            if reply.renewal is not None:
                return reply.renewal
        return await self._resolver.renew(domain, force=force)

    async def upkeep(self, domains: Sequence[str]) -> dict[str, Upkeep]:
        """What the owners know of these domains beside their policies.

        Of an owner that cannot be reached nothing is known.
        """
        shares: dict[int, list[str]] = {}
        for domain in domains:
            shares.setdefault(self.owner(domain), []).append(domain)
        found: dict[str, Upkeep] = {}
        for owner, share in shares.items():
            told: Sequence[Upkeep | None]
            if owner == self._index:
                told = [self._resolver.upkeep(domain) for domain in share]
            else:
                try:
                    async with asyncio.timeout(PEER_SECONDS):
                        told = (await self._call(owner, "upkeep", domains=tuple(share))).upkeep
                except OSError as error:
                    _log.warning("worker %d cannot be reached: %s", owner, error or "no answer")
                    continue
            found.update((d, one) for d, one in zip(share, told, strict=True) if one is not None)
        return found

    async def counts(self) -> dict[str, int]:
        """What all workers have counted since they were started."""
        total = Counter(self._counts)
        for index in range(self._count):
            if index != self._index:
                try:
                    async with asyncio.timeout(PEER_SECONDS):
                        total.update((await self._call(index, "counts")).counts)
                except OSError as error:
                    _log.warning("worker %d cannot be reached: %s", index, error or "no answer")
        return dict(total)

    async def purge(self, domain: str, before: float) -> tuple[bool, int]:
        """Have every worker forget a domain, those of before a reload too.

        Returns whether the store has forgotten it, and how many workers have not answered.
        """
        indexes = range(len(self._addresses))
        told = await asyncio.gather(*(self._purge_at(index, domain, before) for index in indexes))
        # An answer that left its owner just before may have been made ready since.
        self._forget(domain)
        await asyncio.gather(*(self._tell(i, domain) for i in indexes if i != self._index))
        ours = [one for index, one in enumerate(told) if index not in self._elders]
        return all(one is not False for one in told), sum(one is None for one in ours)

    async def _purge_at(self, index: int, domain: str, before: float) -> bool | None:
        if index == self._index:
            lasting = await self._resolver.purge(domain, before)
            self._forget(domain)
            return lasting
        try:
            async with asyncio.timeout(PEER_SECONDS):
                return (await self._call(index, "purge", domain, before=before)).lasting
        except OSError as error:
            if index not in self._elders:  # those end when their clients have gone
                _log.warning("worker %d cannot be reached: %s", index, error or "no answer")
            return None

    async def learn(self, stored: Stored) -> None:
        """Tell the owner what the store holds now, by another's hand."""
        owner = self.owner(stored.domain)
        if owner != self._index:
            try:
                call = Call(next(self._numbers), "learn", stored.domain, stored=stored)
                (await self._link(owner)).send(call)
                return
            except OSError as error:
                _log.debug("worker %d cannot be reached: %s", owner, error)
        await self._resolver.learn(stored)

    def changed(self, domain: str) -> None:
        """Our resolver has a new decision for a domain: ready replies to it are void everywhere,
        and its owner, where we stand in for it, has to know what we found."""
        self._forget(domain)
        if self.owner(domain) != self._index:
            self._run(self._hand_over(domain))
        for index in range(self._count):
            if index != self._index:
                self._run(self._tell(index, domain))

    async def _hand_over(self, domain: str) -> None:
        for stored in await self._resolver.kept(domain):
            await self.learn(stored)

    def close(self) -> None:
        """Take no more calls."""
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        super().close()

    async def _tell(self, index: int, domain: str) -> None:
        try:
            (await self._link(index)).send(Call(next(self._numbers), "forget", domain))
        except OSError as error:
            # Its table forgets by itself when the replies' time is over.
            _log.debug("worker %d cannot be reached: %s", index, error)

    def _accept(self) -> None:
        sock = accept(self._listener)
        if sock is not None:
            self._run(self._attach(sock))

    async def _attach(self, sock: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: _Link(self._take_call, lambda: None), sock
        )

    def _take_call(self, data: bytes, link: _Link) -> None:
        self._run(self._serve(_calls.decode(data), link))

    async def _serve(self, call: Call, link: _Link) -> None:
        if call.what == "forget":
            self._forget(call.domain)
        elif call.what == "learn":
            if call.stored is not None:
                await self._resolver.learn(call.stored)
        elif call.what == "failed":
            self._resolver.failed(call.domain)
        elif call.what == "refresh":
            await self._resolver.refresh(call.domain)
            link.send(Reply(call.number))
        elif call.what == "renew":
            renewal = await self._resolver.renew(call.domain, force=call.force)
            link.send(Reply(call.number, renewal=renewal))
        elif call.what == "purge":
            lasting = await self._resolver.purge(call.domain, call.before)
            self._forget(call.domain)
            link.send(Reply(call.number, lasting=lasting))
        elif call.what == "upkeep":
            upkeep = tuple(self._resolver.upkeep(domain) for domain in call.domains)
            link.send(Reply(call.number, upkeep=upkeep))
        elif call.what == "counts":
            link.send(Reply(call.number, counts=dict(self._counts)))
        else:
            link.send(Reply(call.number, await self._resolver.decide(call.next_hop or call.domain)))

    def _run(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
