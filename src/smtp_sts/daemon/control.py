"""The control socket: what an operator asks of the running daemon, and its answers.

One request a connection, a line of JSON: `{"command": "purge", "domains": ["bob.example"]}`. Then
answers, a line of JSON each: `{"data": {...}}` as many as there are, and at the end `{"end": true}`
or `{"error": "..."}`: a connection that closes before that was cut off.

    list                     every policy kept, by name: `Entry`
    show     one domain      `Shown`; no data where nothing is known of it
    query    one next hop    the decision, as `smtp-sts query --json` has it
    refresh  domains, force  fetch their policies now: `Refreshed` each, as they come
    purge    domains         forget what was learnt of them: `Purged` each

Promises: what is asked and the number of those who ask are bounded, a client that does not read
costs its connection and nothing else (law 7); bad requests get an error that says what is known;
every purge and refresh is logged with the user who asked. Must not: be reached from the network
(`sockets.open_control` takes a path), or keep the worker from answering MTAs: long answers go out
piece by piece.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import logging
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from smtp_sts.daemon.peers import Peers
from smtp_sts.mta.told import replies
from smtp_sts.policy import NextHopError, draft_record_name, parse_next_hop, policy_domain
from smtp_sts.resolver import Keeper
from smtp_sts.resolver.decision import as_data
from smtp_sts.resolver.upkeep import Renewal, Upkeep
from smtp_sts.store import Stored, StoreError

#: A request has no more bytes.
MAX_REQUEST: Final = 64 * 1024
#: And names no more domains.
MAX_DOMAINS: Final = 100
#: Connections at a time.
MAX_CONNECTIONS: Final = 16
#: A request has come after this long (seconds).
REQUEST_SECONDS: Final = 5.0
#: A client that takes nothing for so long is cut off (seconds): it may be a pager at lunch.
STALL_SECONDS: Final = 600.0
#: One domain's fetch, and what it has to wait for, takes no longer (seconds).
REFRESH_SECONDS: Final = 150.0
REFRESH_PARALLEL: Final = 10
#: Policies that are read and sent in one piece.
PAGE: Final = 50

_log = logging.getLogger(__name__)


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator asks."""

    command: str
    domains: list[str] = []
    force: bool = False


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of an answer: data, the end, or an error, which is an end too."""

    data: Any = None
    end: bool = False
    error: str = ""


class Entry(msgspec.Struct, frozen=True):
    """A policy that is kept, and how its upkeep goes where the daemon knows."""

    stored: Stored
    upkeep: Upkeep | None = None


class Shown(msgspec.Struct, frozen=True):
    """What is known of one domain; `decision` is what applies now, in the form of `as_data`."""

    domain: str
    stored: Stored | None
    upkeep: Upkeep | None
    decision: dict[str, Any]


class Refreshed(msgspec.Struct, frozen=True):
    """What came of a refresh; `decision` is what applies now, in the form of `as_data`."""

    domain: str
    renewal: Renewal
    decision: dict[str, Any]


class Purged(msgspec.Struct, frozen=True):
    """What was forgotten: `stored` is None where no policy was kept.

    Without `lasting` the store has refused to delete it; `deaf` workers have not confirmed.
    """

    domain: str
    stored: Stored | None
    lasting: bool
    deaf: int


class ControlError(Exception):
    """A request that cannot be carried out; the message says why and what to do."""


_encode: Final = msgspec.json.Encoder().encode
_requests: Final = msgspec.json.Decoder(Request)
_Send = Callable[[Any], Awaitable[None]]


class Control:
    """The control socket of one worker."""

    def __init__(self, peers: Peers, keeper: Keeper, count: Callable[[str], None]) -> None:
        self._peers = peers
        self._keeper = keeper
        self._count = count
        self._tasks: set[asyncio.Task[None]] = set()
        self._commands: dict[str, Callable[[Request, _Send], Awaitable[None]]] = {
            "list": self._list,
            "show": self._show,
            "query": self._query,
            "refresh": self._refresh,
            "purge": self._purge,
        }

    def connection(self) -> asyncio.BaseProtocol:
        """What speaks with one client."""
        reader = asyncio.StreamReader(limit=MAX_REQUEST)
        return asyncio.StreamReaderProtocol(reader, self._connected)

    async def close(self) -> None:
        """Cut off those who are still served."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            # Who goes away in the middle, or takes too long, is nobody's trouble.
            with contextlib.suppress(OSError):
                await self._talk(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def send(answer: Answer) -> None:
            writer.write(_encode(answer) + b"\n")
            async with asyncio.timeout(STALL_SECONDS):
                await writer.drain()

        try:
            if len(self._tasks) > MAX_CONNECTIONS:
                raise ControlError(f"{MAX_CONNECTIONS} others are served already; try again")
            request = await _read(reader)
            self._log_change(request, writer)
            await self._commands[request.command](request, lambda data: send(Answer(data=data)))
        except ControlError as error:
            self._count("control-errors")
            await send(Answer(error=str(error)))
        except StoreError as error:
            await send(Answer(error=str(error)))
        except asyncio.CancelledError:
            writer.write(
                _encode(Answer(error="the daemon ends or has a new configuration")) + b"\n"
            )
            raise
        else:
            await send(Answer(end=True))

    def _log_change(self, request: Request, writer: asyncio.StreamWriter) -> None:
        if request.command not in self._commands:
            near = difflib.get_close_matches(request.command, self._commands, n=1)
            known = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(self._commands)}"
            raise ControlError(f"unknown command {request.command[:60]!r}: {known}")
        if request.command in ("refresh", "purge"):
            who = _user_of(writer.get_extra_info("socket"))
            for domain in _domains(request, MAX_DOMAINS):
                _log.warning(
                    "%s: %s asked for by user %d", domain, request.command, who,
                    extra={"fields": {"event": request.command, "domain": domain, "user": who}},
                )  # fmt: skip

    # -- commands -----------------------------------------------------------------------------

    async def _list(self, _request: Request, send: _Send) -> None:
        behind = ""
        while True:
            found, behind = await self._keeper.page(behind, PAGE)
            upkeep = await self._peers.upkeep([stored.domain for stored in found])
            for stored in found:
                await send(Entry(stored, upkeep.get(stored.domain)))
                await asyncio.sleep(0)  # a client that reads fast is no reason for others to wait
            if not behind:
                return

    async def _show(self, request: Request, send: _Send) -> None:
        (domain,) = _domains(request, 1)
        stored = await self._stored(domain)
        key = stored.domain if stored is not None else domain
        upkeep = (await self._peers.upkeep([key])).get(key)
        if stored is not None or upkeep is not None:
            decision = await self._decision(request.domains[0])
            await send(Shown(domain, stored, upkeep, decision))

    async def _stored(self, domain: str) -> Stored | None:
        """The policy kept for a domain; where there are two in force, that of RFC 8461."""
        stored = await self._keeper.get(domain)
        if stored is not None and stored.expires_at > time.time():
            return stored
        return await self._keeper.get(draft_record_name(domain)) or stored

    async def _query(self, request: Request, send: _Send) -> None:
        _domains(request, 1)
        await send(await self._decision(request.domains[0]))

    async def _decision(self, next_hop: str) -> dict[str, Any]:
        decision = await self._peers.decide(parse_next_hop(next_hop))
        return as_data(next_hop, decision, replies(decision))

    async def _refresh(self, request: Request, send: _Send) -> None:
        places = asyncio.Semaphore(REFRESH_PARALLEL)

        async def one(domain: str) -> Refreshed:
            async with places:
                try:
                    async with asyncio.timeout(REFRESH_SECONDS):
                        renewal = await self._peers.renew(domain, force=request.force)
                except OSError as error:
                    told = str(error) or f"no end after {REFRESH_SECONDS:g} s"
                    renewal = Renewal("failed", "internal-error", told)
                return Refreshed(domain, renewal, await self._decision(domain))

        tasks = [asyncio.create_task(one(d)) for d in _domains(request, MAX_DOMAINS)]
        try:
            for done in asyncio.as_completed(tasks):
                await send(await done)
        finally:
            for task in tasks:
                task.cancel()

    async def _purge(self, request: Request, send: _Send) -> None:
        for domain in _domains(request, MAX_DOMAINS):
            stored = await self._stored(domain)
            lasting, deaf = await self._peers.purge(domain, time.time())
            await send(Purged(domain, stored, lasting, deaf))


async def _read(reader: asyncio.StreamReader) -> Request:
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            line = await reader.readuntil(b"\n")
    except TimeoutError:
        raise ControlError(f"no request within {REQUEST_SECONDS:g} s") from None
    except asyncio.IncompleteReadError:
        raise ControlError("a request is one line of JSON, with its line end") from None
    except asyncio.LimitOverrunError:
        raise ControlError(f"a request has at most {MAX_REQUEST} bytes") from None
    try:
        return _requests.decode(line)
    except msgspec.DecodeError as error:  # ValidationError is one
        raise ControlError(f"a request is one line of JSON: {error}") from None


def _domains(request: Request, most: int) -> list[str]:
    """The policy domains that a request names, each once. Raises ControlError."""
    if not 1 <= len(request.domains) <= most:
        number = "one domain" if most == 1 else f"1 to {most} domains"
        raise ControlError(
            f"{request.command} takes {number} in a request, not {len(request.domains)}"
        )
    try:
        return list(dict.fromkeys(policy_domain(name) for name in request.domains))
    except NextHopError as error:
        raise ControlError(str(error)) from None


def _user_of(sock: socket.socket) -> int:
    """The user id at the other end, unix(7)."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    user: int = struct.unpack("3i", credentials)[1]
    return user
