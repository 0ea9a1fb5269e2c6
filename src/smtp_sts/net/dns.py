"""Questions to the configured resolvers, over UDP and, after truncation, TCP.

Promises: an answer is taken only from the resolver that was asked, on a port and with an id that
cannot be guessed, and for the question that was asked; a question ends within `timeout` with an
`Answer` (also for a name that does not exist) or a `NetFailure` of the `dns-...` slugs; the AD bit
is shown only where the resolver may be trusted with it. Must not cache: resolvers do.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from smtp_sts.net import dnswire
from smtp_sts.net.dnswire import (
    AAAA,
    NOERROR,
    NXDOMAIN,
    TXT,
    A,
    AliasLoop,
    Message,
    Rdata,
    WireError,
)
from smtp_sts.net.failure import NetFailure

#: One attempt at one resolver, seconds; all resolvers are tried in turn, and those that did not
#: answer once more.
ATTEMPT_SECONDS: Final = 1.5
ROUNDS: Final = 2
#: CNAMEs whose target the resolver left out are asked for by us, so many times.
MAX_ALIASES: Final = 8
#: Failures that are a resolver's answer, and those that are the want of one.
_ANSWERED: Final = ("dns-servfail", "dns-refused", "dns-malformed")
_SILENT: Final = ("dns-timeout", "dns-unreachable")
_MAX_RESOLVERS: Final = 3  # as resolv.conf(5) has it


class Answer(msgspec.Struct, frozen=True):
    """What the DNS says: `records` of the type asked for (see `dnswire.Rdata`), `ttl` seconds.

    `name` is the owner after CNAMEs; `ad` tells that a trusted resolver has validated it all.
    """

    rcode: int
    records: tuple[Rdata, ...]
    ttl: int
    ad: bool
    name: str

    @property
    def nxdomain(self) -> bool:
        """The name does not exist."""
        return self.rcode == NXDOMAIN


class Dns:
    """Asks the resolvers `nameservers`, (address, port) each, in their order."""

    def __init__(
        self,
        nameservers: Sequence[tuple[str, int]],
        *,
        timeout: float = 5.0,
        trust_ad: bool | None = None,
    ) -> None:
        self.nameservers = tuple(nameservers)
        self._timeout = timeout
        self._trusted = {
            server: ipaddress.ip_address(server[0].partition("%")[0]).is_loopback
            if trust_ad is None
            else trust_ad
            for server in self.nameservers
        }

    @property
    def trusts_ad(self) -> bool:
        """Whether any resolver is trusted to have validated its answers."""
        return any(self._trusted.values())

    async def query(self, name: str, rrtype: int) -> Answer:
        """Ask for the records of a name. Raises NetFailure."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._follow(name, rrtype)
        except TimeoutError:
            raise NetFailure(
                "dns-timeout", f"no usable answer for {name} within {self._timeout:g} s"
            ) from None

    async def txt(self, name: str) -> Answer:
        """The TXT records of a name, `bytes` each. Raises NetFailure."""
        return await self.query(name, TXT)

    async def addresses(self, name: str) -> list[str]:
        """IPv6 and IPv4 addresses of a name, IPv4 first; raises NetFailure where both fail."""
        results = await asyncio.gather(
            self.query(name, A), self.query(name, AAAA), return_exceptions=True
        )
        found: list[str] = []
        failure: NetFailure | None = None
        for result in results:
            if isinstance(result, NetFailure):
                failure = failure or result
            elif isinstance(result, BaseException):
                raise result
            else:
                found += [r for r in result.records if isinstance(r, str)]
        if not found and failure is not None:
            raise failure
        return found

    def close(self) -> None:
        """Nothing is held between questions; here so that a caller need not know."""

    async def _follow(self, name: str, rrtype: int) -> Answer:
        ad, ttl, asked = True, None, name
        for _ in range(MAX_ALIASES + 1):
            message, trusted = await self._ask(asked, rrtype)
            ad = ad and message.ad and trusted
            ttl = message.ttl if ttl is None else min(ttl, message.ttl)
            moved = message.name != asked.removesuffix(".").lower()
            if message.records or message.rcode == NXDOMAIN or not moved:
                return Answer(message.rcode, message.records, ttl, ad, message.name)
            asked = message.name
        raise NetFailure("dns-cname-loop", f"the CNAMEs of {name} lead nowhere")

    async def _ask(self, name: str, rrtype: int) -> tuple[Message, bool]:
        told: NetFailure | None = None
        silent = NetFailure("dns-unreachable", "no name server is configured")
        servers = list(self.nameservers)
        for _ in range(ROUNDS):
            for server in tuple(servers):
                try:
                    return await _attempt(server, name, rrtype), self._trusted[server]
                except NetFailure as failure:
                    if failure.slug in _ANSWERED:  # asking it again at once changes nothing
                        servers.remove(server)
                        told = told or failure
                    elif failure.slug in _SILENT:
                        silent = failure
                    else:
                        raise
        # What a resolver said tells more than that another one was silent.
        raise told or silent


async def _attempt(server: tuple[str, int], name: str, rrtype: int) -> Message:
    """One question to one resolver, answered with NOERROR or NXDOMAIN. Raises NetFailure."""
    shown = f"{server[0]}:{server[1]}"
    try:
        async with asyncio.timeout(ATTEMPT_SECONDS):
            message = await _exchange(server, name, rrtype)
    except TimeoutError:
        raise NetFailure("dns-timeout", f"resolver {shown} did not answer for {name}") from None
    except OSError as error:
        raise NetFailure(
            "dns-unreachable", f"resolver {shown} cannot be reached: {error.strerror}"
        ) from None
    except AliasLoop as error:
        raise NetFailure("dns-cname-loop", f"{name}: {error}") from None
    except WireError as error:
        raise NetFailure(
            "dns-malformed", f"resolver {shown}, question for {name}: {error}"
        ) from None
    if message.rcode == dnswire.SERVFAIL:
        raise NetFailure("dns-servfail", f"resolver {shown} says SERVFAIL for {name}")
    if message.rcode not in (NOERROR, NXDOMAIN):
        raise NetFailure(
            "dns-refused", f"resolver {shown} refuses {name} with code {message.rcode}"
        )
    return message


async def _exchange(server: tuple[str, int], name: str, rrtype: int) -> Message:
    """One question to one resolver. Raises OSError, WireError, TimeoutError (of the caller's)."""
    loop = asyncio.get_running_loop()
    message_id = int.from_bytes(os.urandom(2), "big")
    packet = dnswire.query(message_id, name, rrtype)
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    # A socket of its own for each question: the kernel gives it an unpredictable source port, and
    # being connected it takes nothing from another address.
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as udp:
        udp.connect(server)
        udp.send(packet)
        while True:
            data = await loop.sock_recv(udp, 65535)
            try:
                message = dnswire.parse(data, message_id, name, rrtype)
            except WireError:
                # A forged packet must not end the wait for the true one; but one that has our id
                # and is broken is the resolver's.
                if data[:2] == packet[:2] and len(data) >= 12 and data[2] & 0x80:
                    raise
                continue
            break
    return (
        await _over_tcp(server, packet, message_id, name, rrtype) if message.truncated else message
    )


async def _over_tcp(
    server: tuple[str, int], packet: bytes, message_id: int, name: str, rrtype: int
) -> Message:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(len(packet).to_bytes(2, "big") + packet)
        size = int.from_bytes(await reader.readexactly(2), "big")
        message = dnswire.parse(await reader.readexactly(size), message_id, name, rrtype)
    except asyncio.IncompleteReadError:
        raise WireError("the TCP answer is cut off") from None
    finally:
        writer.transport.abort()
    if message.truncated:
        raise WireError("truncated over TCP too")
    return message


def system_nameservers(path: str = "/etc/resolv.conf") -> list[tuple[str, int]]:
    """The name servers of resolv.conf(5); the local one where it names none or is not there."""
    found: list[tuple[str, int]] = []
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                ipaddress.ip_address(words[1].partition("%")[0])
            except ValueError:
                continue
            found.append((words[1], 53))
    return found[:_MAX_RESOLVERS] or [("127.0.0.1", 53)]
