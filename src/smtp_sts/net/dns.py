"""Questions to the configured resolvers, over UDP and, after truncation, TCP.

Promises: an answer is taken only from the resolver that was asked, on a port and with an id that
cannot be guessed, and for the question that was asked; a question ends within `timeout` with an
`Answer` (also for a name that does not exist) or a `NetFailure` of the `dns-...` slugs; the AD bit
is shown only where the resolver may be trusted with it, and a question about DNSSEC is never
answered by one that may not while there is one that may. Must not cache: resolvers do.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import Sequence
from typing import Final

import msgspec

from smtp_sts.net import dnswire
from smtp_sts.net.aside import LARGE, aside
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
from smtp_sts.net.places import Places
from smtp_sts.policy.organisation import organisational_domain

#: One attempt at one resolver, seconds; all resolvers are tried in turn, and those that did not
#: answer once more.
ATTEMPT_SECONDS: Final = 1.5
ROUNDS: Final = 2
#: Questions that are out at the same time, each with a socket; one organisation gets its share.
QUESTIONS: Final = 2000
#: Codes of a resolver that does not know EDNS, or not this version of it (RFC 6891 section 7).
_WITHOUT_EDNS: Final = (dnswire.FORMERR, dnswire.NOTIMP, dnswire.BADVERS)
#: Failures that are a resolver's answer, and those that are the want of one.
_ANSWERED: Final = ("dns-servfail", "dns-refused", "dns-malformed")
_SILENT: Final = ("dns-timeout", "dns-unreachable")
#: Docker's resolver in each container: it validates nothing, and hands on the AD bit of whatever it
#: forwards to, or of whoever is on the way there. Docker also copies the options of the machine's
#: resolv.conf, so that `trust-ad` there is nobody's word about it.
DOCKER: Final = ipaddress.ip_address("127.0.0.11")
#: A resolver that was silent so many times in a row is asked last, for so long (seconds).
SILENT_TIMES: Final = 3
SILENT_SECONDS: Final = 30.0


class Answer(msgspec.Struct, frozen=True):
    """What the DNS says: `records` of the type asked for (see `dnswire.Rdata`), `ttl` seconds.

    `name` is the owner after CNAMEs; `ad` tells that a trusted resolver has validated it all; `cut`
    is `dnswire.Message.cut`.
    """

    rcode: int
    records: tuple[Rdata, ...]
    ttl: int
    ad: bool
    name: str
    cut: bool | None = None

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
        questions: int = QUESTIONS,
    ) -> None:
        self._timeout = timeout
        self._places = Places(questions)
        self._trust_ad = trust_ad
        self.nameservers: tuple[tuple[str, int], ...] = ()
        self._trusted: dict[tuple[str, int], bool] = {}
        #: resolver -> how often in a row it was silent, and until when it is asked last
        self._silent: dict[tuple[str, int], tuple[int, float]] = {}
        self.use(nameservers)

    def use(self, nameservers: Sequence[tuple[str, int]], *, trust_ad: bool = False) -> bool:
        """Ask these resolvers from the next question on; whether that is a change.

        `trust_ad`: who named them says that they validate (`options trust-ad` of resolv.conf(5)).
        What was said when this was made goes before it.
        """
        trusted = {
            server: _believed(server[0], named=trust_ad)
            if self._trust_ad is None
            else self._trust_ad
            for server in nameservers
        }
        if self.nameservers == tuple(nameservers) and self._trusted == trusted:
            return False
        self.nameservers, self._trusted, self._silent = tuple(nameservers), trusted, {}
        return True

    @property
    def trusts_ad(self) -> bool:
        """Whether any resolver is trusted to have validated its answers."""
        return any(self._trusted.values())

    async def query(
        self, name: str, rrtype: int, *, validated: bool = False, whose: str = ""
    ) -> Answer:
        """Ask for the records of a name. Raises NetFailure.

        It counts among the questions of `whose`, an organisational domain; by default of the one
        that the name belongs to.

        With `validated` only resolvers that may be trusted with the AD bit are asked, where there
        are such: that one of those is silent must not make a signed name look like an unsigned one
        (RFC 7672 section 2.1.1).
        """
        deadline = asyncio.get_running_loop().time() + self._timeout
        whose = whose or organisational_domain(name)
        if not self._places.take(whose):
            try:
                async with asyncio.timeout_at(deadline):
                    await self._places.wait(whose)
            except TimeoutError:
                raise NetFailure(
                    "dns-timeout",
                    f"too many questions for {whose} are not answered: none for {name} was asked",
                ) from None
        try:
            return await self._follow(name, rrtype, validated, deadline)
        finally:
            self._places.release(whose)

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

    async def _follow(self, name: str, rrtype: int, validated: bool, deadline: float) -> Answer:
        ad, ttl, asked, aliases = True, None, name, 0
        while aliases <= dnswire.MAX_ALIASES:
            message, trusted = await self._ask(asked, rrtype, validated, deadline)
            ad = ad and message.ad and trusted
            ttl = message.ttl if ttl is None else min(ttl, message.ttl)
            moved = message.name != asked.removesuffix(".").lower()
            if message.records or message.rcode == NXDOMAIN or not moved:
                return Answer(message.rcode, message.records, ttl, ad, message.name, message.cut)
            asked = message.name  # the resolver left out where the CNAME leads
            aliases += message.aliases
        raise NetFailure("dns-cname-loop", f"the CNAMEs of {name} lead nowhere")

    async def _ask(
        self, name: str, rrtype: int, validated: bool, deadline: float
    ) -> tuple[Message, bool]:
        loop = asyncio.get_running_loop()
        told: NetFailure | None = None
        silent: NetFailure | None = None
        servers = self._in_turn(validated)
        trusted = self._trusted
        for _ in range(ROUNDS):
            for server in tuple(servers):
                left = deadline - loop.time()
                try:
                    message = await _attempt(server, name, rrtype, min(left, ATTEMPT_SECONDS))
                except NetFailure as failure:
                    if failure.slug == "dns-timeout" and left < ATTEMPT_SECONDS:
                        raise NetFailure(
                            "dns-timeout",
                            f"no usable answer for {name} within {self._timeout:g} s",
                        ) from None
                    if failure.slug in _SILENT:
                        silent = failure
                        self._was_silent(server)
                        continue
                    self._silent.pop(server, None)
                    if failure.slug not in _ANSWERED:
                        raise
                    servers.remove(server)  # asking it again at once changes nothing
                    told = told or failure
                else:
                    self._silent.pop(server, None)
                    return message, trusted[server]
        # What a resolver said tells more than that another one was silent.
        raise told or silent or NetFailure("dns-unreachable", "no name server is configured")

    def _in_turn(self, validated: bool) -> list[tuple[str, int]]:
        """The resolvers in the order in which they are asked."""
        servers = list(self.nameservers)
        if validated and self.trusts_ad:
            servers = [server for server in servers if self._trusted[server]]
        if self._silent:
            now = asyncio.get_running_loop().time()
            servers.sort(key=lambda server: self._silent.get(server, (0, 0.0))[1] > now)
        return servers

    def _was_silent(self, server: tuple[str, int]) -> None:
        times = self._silent.get(server, (0, 0.0))[0] + 1
        until = asyncio.get_running_loop().time() + SILENT_SECONDS if times >= SILENT_TIMES else 0.0
        self._silent[server] = (times, until)


def _believed(address: str, *, named: bool) -> bool:
    """Whether the AD bit of a resolver is believed where the configuration says nothing of it."""
    found = ipaddress.ip_address(address.partition("%")[0])
    found = getattr(found, "ipv4_mapped", None) or found
    return found != DOCKER and (named or found.is_loopback)


async def _attempt(server: tuple[str, int], name: str, rrtype: int, seconds: float) -> Message:
    """One question to one resolver, answered with NOERROR or NXDOMAIN. Raises NetFailure."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    try:
        message = await _exchange(server, name, rrtype, seconds)
        if message.rcode in _WITHOUT_EDNS:
            left = deadline - loop.time()
            message = await _exchange(server, name, rrtype, left, edns=False)
    except TimeoutError:
        raise NetFailure(
            "dns-timeout", f"resolver {_shown(server)} did not answer for {name}"
        ) from None
    except OSError as error:
        raise NetFailure(
            "dns-unreachable", f"resolver {_shown(server)} cannot be reached: {error.strerror}"
        ) from None
    except AliasLoop as error:
        raise NetFailure("dns-cname-loop", f"{name}: {error}") from None
    except WireError as error:
        raise NetFailure(
            "dns-malformed", f"resolver {_shown(server)}, question for {name}: {error}"
        ) from None
    if message.rcode == dnswire.SERVFAIL:
        raise NetFailure("dns-servfail", f"resolver {_shown(server)} says SERVFAIL for {name}")
    if message.rcode not in (NOERROR, NXDOMAIN):
        raise NetFailure(
            "dns-refused", f"resolver {_shown(server)} refuses {name} with code {message.rcode}"
        )
    return message


def _shown(server: tuple[str, int]) -> str:
    return f"{server[0]}:{server[1]}"


async def _exchange(
    server: tuple[str, int], name: str, rrtype: int, seconds: float, *, edns: bool = True
) -> Message:
    """One question to one resolver. Raises OSError, WireError, TimeoutError."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    message_id = int.from_bytes(os.urandom(2), "big")
    packet = dnswire.query(message_id, name, rrtype, edns=edns)
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    answered: asyncio.Future[Message] = loop.create_future()

    def readable() -> None:
        try:
            # Far more than we have said that we take: what is longer is cut, and so malformed.
            data = udp.recv(LARGE)
            message = dnswire.parse(data, message_id, name, rrtype)
        except BlockingIOError:
            return
        except WireError as error:
            # A forged packet must not end the wait for the true one; but one that has our id
            # and is broken is the resolver's.
            ours = data[:2] == packet[:2] and len(data) >= 12 and data[2] & 0x80
            if ours and not answered.done():
                answered.set_exception(error)
        except OSError as error:
            if not answered.done():
                answered.set_exception(error)
        else:
            if not answered.done():
                answered.set_result(message)

    def late() -> None:
        if not answered.done():
            answered.set_exception(TimeoutError())

    # A socket of its own for each question: the kernel gives it an unpredictable source port, and
    # being connected it takes nothing from another address.
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as udp:
        udp.connect(server)
        udp.send(packet)
        loop.add_reader(udp, readable)
        timer = loop.call_later(seconds, late)
        try:
            message = await answered
        finally:
            timer.cancel()
            loop.remove_reader(udp)
    if not message.truncated:
        return message
    async with asyncio.timeout_at(deadline):
        return await _over_tcp(server, packet, message_id, name, rrtype)


async def _over_tcp(
    server: tuple[str, int], packet: bytes, message_id: int, name: str, rrtype: int
) -> Message:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(len(packet).to_bytes(2, "big") + packet)
        size = int.from_bytes(await reader.readexactly(2), "big")
        data = await reader.readexactly(size)
        message = await aside(size, lambda: dnswire.parse(data, message_id, name, rrtype))
    except asyncio.IncompleteReadError:
        raise WireError("the TCP answer is cut off") from None
    finally:
        writer.transport.abort()
    if message.truncated:
        raise WireError("truncated over TCP too")
    return message
