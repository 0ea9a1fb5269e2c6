"""Our own look at the MX hosts of a domain: what a sender that keeps to its policy would meet.

Promises: hosts are tried as an MTA tries them (RFC 5321 section 5.1): those of the next preference
only where none of this one answers. A host and address is looked at once in `LOOK_AGAIN` seconds,
whoever asks; never over two connections to a host or to an address at a time, with a pause between
two to one address, and over no more than `at_once` in all, of which one organisation's domains take
their share: a stranger who names somebody else's server as MX host does no harm to it, and with
servers that never answer keeps nobody else from being looked at. Private addresses are not
connected to unless that is allowed.
Must not: know of policies or of what is reported, or keep anything that lasts.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable
from itertools import groupby
from typing import Final, Protocol, TypeVar

import msgspec

from smtp_sts.net.dns import Dns
from smtp_sts.net.dnswire import MX
from smtp_sts.net.failure import NetFailure
from smtp_sts.net.places import Places
from smtp_sts.net.smtp import MxLook, look
from smtp_sts.policy.organisation import organisational_domain
from smtp_sts.policy.pattern import is_host_name

#: What was seen of a host and address is used so long, seconds.
LOOK_AGAIN: Final = 3600.0
#: What could not be told is looked at again sooner (seconds).
UNSEEN_AGAIN: Final = 600.0
#: Hosts of a domain, and addresses of a host, that are looked at.
MAX_HOSTS: Final = 10
MAX_ADDRESSES: Final = 4
#: How long all hosts of a domain may keep us waiting (seconds); what was seen by then counts.
DOMAIN_SECONDS: Final = 60.0
#: Connections at once, and of those for the domains of one organisation; the time between two to
#: the same address, seconds.
AT_ONCE: Final = 16
SHARE: Final = 2
PAUSE: Final = 1.0
#: Looks that are remembered.
REMEMBERED: Final = 20_000

_K = TypeVar("_K")
_V = TypeVar("_V")


class MxHosts(msgspec.Struct, frozen=True):
    """The MX hosts of a domain with their preferences, the best first. `text` says why there are
    none; `failed` where the DNS did not tell."""

    hosts: tuple[tuple[int, str], ...]
    text: str = ""
    failed: bool = False


class MxCheck(msgspec.Struct, frozen=True):
    """What was seen. `looks` are all of them; `text` says why there are none."""

    mx: MxHosts
    looks: tuple[MxLook, ...] = ()
    text: str = ""

    @property
    def seen(self) -> tuple[MxLook, ...]:
        """The looks that tell something, at the hosts that mail goes to."""
        return tuple(found for found in self.looks if found.seen)


class Look(Protocol):
    """`net.smtp.look`."""

    def __call__(
        self, host: str, address: str, *, context: ssl.SSLContext, own_name: str, port: int,
        allow_private: bool,
    ) -> Awaitable[MxLook]: ...  # fmt: skip


class MxChecker:
    """Looks at MX hosts. Of one event loop; `own_name` is said in EHLO."""

    def __init__(
        self,
        dns: Dns,
        context: ssl.SSLContext,
        *,
        own_name: str,
        port: int = 25,
        allow_private: bool = False,
        at_once: int = AT_ONCE,
        pause: float = PAUSE,
        look: Look = look,
    ) -> None:
        self._dns = dns
        self._context = context
        self._own_name = own_name
        self._port = port
        self._allow_private = allow_private
        self._pause = pause
        self._look = look
        self._places = Places(at_once, SHARE)
        self._turns = _Turns()
        #: host and address -> until when (of the loop's clock), and what was seen
        self._known: OrderedDict[tuple[str, str], tuple[float, MxLook]] = OrderedDict()
        #: address -> when it may be connected to again
        self._rest: OrderedDict[str, float] = OrderedDict()
        #: connections made
        self.connections = 0

    async def hosts(self, domain: str) -> MxHosts:
        """The MX hosts of a domain, by name alone. Does not raise for what the network does."""
        try:
            answer = await self._dns.query(domain, MX)
        except NetFailure as failure:
            return MxHosts((), failure.sentence, failed=True)
        if answer.nxdomain:
            return MxHosts((), f"{domain} does not exist")
        pairs = sorted({record for record in answer.records if isinstance(record, tuple)})
        if [host for _, host in pairs] == [""]:
            return MxHosts((), f"{domain} takes no mail (null MX)")
        # RFC 5321 section 5.1: without an MX record the domain is its own MX host.
        found = [(rank, host) for rank, host in pairs if is_host_name(host)]
        if not pairs:
            found = [(0, domain)]
        if not found:
            return MxHosts((), f"the MX records of {domain} name no host")
        return MxHosts(tuple(found))

    async def check(self, domain: str) -> MxCheck:
        """Look at the hosts that mail for `domain` goes to. Does not raise for what they do."""
        mx = await self.hosts(domain)
        looks: list[MxLook] = []
        whose = organisational_domain(domain)
        end = time.monotonic() + DOMAIN_SECONDS
        for _, group in groupby(mx.hosts[:MAX_HOSTS], key=lambda pair: pair[0]):
            hosts = [asyncio.ensure_future(self._until(end, host, whose)) for _, host in group]
            try:
                found = await asyncio.gather(*hosts)
            finally:
                for one in hosts:
                    one.cancel()
            looks = [look for several in found for look in several]
            if any(one.seen for one in looks):
                return MxCheck(mx, tuple(looks))
        why = looks[-1].text if looks else "no MX host has an address"
        return MxCheck(mx, tuple(looks), mx.text or f"no MX host of {domain} can be seen: {why}")

    async def _until(self, end: float, host: str, whose: str) -> list[MxLook]:
        """What a host shows, or that it took too long (`end` is of the monotonic clock)."""
        try:
            async with asyncio.timeout(max(0.0, end - time.monotonic())):
                return await self._host(host, whose)
        except TimeoutError:
            text = f"{host} has not shown what it offers within {DOMAIN_SECONDS:.0f} s"
            return [MxLook(host, "", False, text=text)]

    async def _host(self, host: str, whose: str) -> list[MxLook]:
        async with self._turns.of(f"host {host}"):
            try:
                addresses = await self._dns.addresses(host)
            except NetFailure as failure:
                return [MxLook(host, "", False, text=failure.sentence)]
            return [await self._address(host, one, whose) for one in addresses[:MAX_ADDRESSES]]

    async def _address(self, host: str, address: str, whose: str) -> MxLook:
        loop = asyncio.get_running_loop()
        known = self._known.get((host, address))
        if known is not None and loop.time() < known[0]:
            return known[1]
        async with self._turns.of(f"address {address}"):
            await asyncio.sleep(max(0.0, self._rest.get(address, 0.0) - loop.time()))
            async with self._places.of(whose):
                self.connections += 1
                found = await self._look(
                    host, address, context=self._context, own_name=self._own_name,
                    port=self._port, allow_private=self._allow_private,
                )  # fmt: skip
            # a chain is of no use here, and large
            found = msgspec.structs.replace(found, chain=())
            _remember(self._rest, address, loop.time() + self._pause)
        again = LOOK_AGAIN if found.seen else UNSEEN_AGAIN
        _remember(self._known, (host, address), (loop.time() + again, found))
        return found


class _Turns:
    """One at a time for each name; nothing is kept of names that nobody waits for."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, list[None]]] = {}

    @contextlib.asynccontextmanager
    async def of(self, name: str) -> AsyncIterator[None]:
        lock, users = self._locks.setdefault(name, (asyncio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                yield
        finally:
            users.pop()
            if not users:
                del self._locks[name]


def _remember(kept: OrderedDict[_K, _V], key: _K, what: _V) -> None:
    kept[key] = what
    kept.move_to_end(key)
    if len(kept) > REMEMBERED:
        kept.popitem(last=False)
