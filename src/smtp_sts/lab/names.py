"""The lab's DNS: one server on UDP and TCP that answers for the whole small Internet.

Promises: answers as a validating resolver would (RA set, CNAMEs followed, AD set where every name
on the way lies in a zone that is said to be signed), with the defects it is told to have; every
answer is rendered once, so thousands of names are cheap.
Must not: ask any other server.
"""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from typing import Final, Literal, cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

#: `truncated`: TC over UDP, whole over TCP. `cut`: TC over UDP, and TCP closes unanswered. `bogus`:
#: its signature does not fit. `stale`: its signature has expired.
Defect = Literal["servfail", "refused", "nxdomain", "timeout", "truncated", "cut", "bogus", "stale"]

TTL: Final = 60
#: How long the absence of a name or type may be remembered, seconds.
NEGATIVE_TTL: Final = 30
_CHAIN: Final = 12


def _key(name: str) -> str:
    return name.rstrip(".").lower()


class Names:
    """Records by (name, type) as text, and defects by name; `address` is where it answers."""

    def __init__(self, ttl: int = TTL, negative_ttl: int = NEGATIVE_TTL) -> None:
        """Know no name, and listen nowhere yet; the times to live are seconds."""
        self._ttl = ttl
        self._root = dns.rrset.from_text(
            ".", ttl, "IN", "SOA", f". mallory.example. 1 7200 3600 86400 {negative_ttl}"
        )
        self.address: tuple[str, int] = ("127.0.0.1", 0)
        #: How often each (name, type) was asked for.
        self.queries: Counter[tuple[str, str]] = Counter()
        self._records: dict[tuple[str, str], tuple[str, ...]] = {}
        self._known: Counter[str] = Counter()
        self._defects: dict[tuple[str, str], Defect] = {}
        self._signed: dict[str, bool] = {}
        self._stale: set[str] = set()
        self._rendered: dict[bytes, tuple[tuple[str, str], bytes, bytes]] = {}
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    def put(self, name: str, rrtype: str, *texts: str) -> None:
        """Make `texts` (presentation format, TXT in quotes) the whole RRset of a name."""
        self.drop(name, rrtype)
        self._records[_key(name), rrtype] = texts
        self._known[_key(name)] += 1

    def drop(self, name: str, rrtype: str) -> None:
        """Forget an RRset."""
        if self._records.pop((_key(name), rrtype), None) is not None:
            self._known[_key(name)] -= 1
        self._rendered.clear()

    def spoil(self, name: str, defect: Defect, rrtype: str = "*") -> None:
        """Answer every (or one) type of a name with a defect; `stale` is the whole zone's."""
        self._defects[_key(name), rrtype] = defect
        if defect == "stale":
            self._stale.add(_key(name))
        self._rendered.clear()

    def mend(self, name: str, rrtype: str = "*") -> None:
        """Take a defect away."""
        self._defects.pop((_key(name), rrtype), None)
        self._rendered.clear()

    def sign(self, zone: str, *, signed: bool = True) -> None:
        """Say that a zone and what is below it is signed, or that it is not."""
        self._signed[_key(zone)] = signed
        self._rendered.clear()

    def delegate(self, zone: str, *, signed: bool) -> None:
        """Make a zone of its own, to which the zone above leads; signed, with a DS record there."""
        self.sign(zone, signed=signed)
        if signed:
            self.put(zone, "DS", f"1 13 2 {'00' * 32}")

    async def forge(self, name: str, rrtype: str, *texts: str) -> None:
        """mallory answers in the place of the zone; in a signed one validation finds her out."""
        if self.is_signed(name):
            self.spoil(name, "bogus", rrtype)
        elif texts:
            self.put(name, rrtype, *texts)
        else:
            self.drop(name, rrtype)

    async def settle(self) -> None:
        """Return when what was changed is what is answered."""

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen on one port, UDP and TCP; 0 takes a free one. Raises OSError."""
        loop = asyncio.get_running_loop()
        wanted = port
        for last in (False,) * (0 if wanted else 9) + (True,):
            self._tcp = await asyncio.start_server(self._serve_tcp, host, wanted)
            port = self._tcp.sockets[0].getsockname()[1]
            try:
                self._udp, _ = await loop.create_datagram_endpoint(
                    lambda: _Udp(self), local_addr=(host, port)
                )
            except OSError:
                self._tcp.close()
                if last:
                    raise
            else:
                self.address = (host, port)
                return

    async def close(self) -> None:
        """Stop answering."""
        if self._udp:
            self._udp.close()
        if self._tcp:
            self._tcp.close()
            for writer in list(self._open):
                writer.close()
            await asyncio.sleep(0)  # not wait_closed: that may wait for a peer

    def answer(self, query: bytes, *, udp: bool) -> bytes | None:
        """The answer to a message, or None for silence."""
        if len(query) < 12:
            return None
        if query[2:] not in self._rendered:
            try:
                message = dns.message.from_wire(query)
            except dns.exception.DNSException:
                return None
            self._rendered[query[2:]] = self._render(message)
        asked, small, whole = self._rendered[query[2:]]
        self.queries[asked] += 1
        found = small if udp else whole
        return query[:2] + found if found else None

    def _render(self, message: dns.message.Message) -> tuple[tuple[str, str], bytes, bytes]:
        question = message.question[0]
        name, rrtype = _key(question.name.to_text()), dns.rdatatype.to_text(question.rdtype)
        reply = dns.message.make_response(message, recursion_available=True)
        defect = self._defect(name, rrtype)
        if defect == "timeout":
            return (name, rrtype), b"", b""
        if defect in ("servfail", "bogus", "stale"):
            reply.set_rcode(dns.rcode.SERVFAIL)
        elif defect == "refused":
            reply.set_rcode(dns.rcode.REFUSED)
        elif defect == "nxdomain":
            reply.set_rcode(dns.rcode.NXDOMAIN)
            reply.authority.append(self._root)
        else:
            self._fill(reply, name, rrtype, proof=bool(message.ednsflags & dns.flags.DO))
        whole = reply.to_wire(max_size=65535)[2:]
        cut = dns.message.make_response(message, recursion_available=True)
        cut.flags |= dns.flags.TC
        limit = max(512, message.payload if message.edns >= 0 else 0)
        if defect in ("truncated", "cut") or len(whole) + 2 > limit:
            return (name, rrtype), cut.to_wire()[2:], b"" if defect == "cut" else whole
        return (name, rrtype), whole, whole

    def _defect(self, name: str, rrtype: str) -> Defect | None:
        defect = self._defects.get((name, "*")) or self._defects.get((name, rrtype))
        if defect in ("bogus", "stale"):
            # The zone above signs the DS record; and without signatures nothing is wrong with them.
            return defect if rrtype != "DS" and self.is_signed(name) else None
        if defect is None and self._stale and rrtype != "DS":
            labels = name.split(".")
            if any(".".join(labels[n:]) in self._stale for n in range(len(labels))):
                return "stale"
        return defect

    def is_signed(self, name: str) -> bool:
        """Whether a name lies in a signed zone."""
        labels = _key(name).split(".")
        zones = (".".join(labels[n:]) for n in range(len(labels)))
        return next((self._signed[zone] for zone in zones if zone in self._signed), False)

    def _fill(
        self, reply: dns.message.Message, name: str, rrtype: str, *, proof: bool = False
    ) -> None:
        reply.flags |= dns.flags.AD
        for _ in range(_CHAIN):
            # A DS record, and the proof that there is none, lie in the zone above (RFC 4035).
            above = name.partition(".")[2] if rrtype == "DS" else name
            if not (self.is_signed(name) or self.is_signed(above)):
                reply.flags &= ~dns.flags.AD
            owner = dns.name.from_text(name)
            if texts := self._records.get((name, rrtype)):
                reply.answer.append(dns.rrset.from_text_list(owner, self._ttl, "IN", rrtype, texts))
                return
            target = self._records.get((name, "CNAME"))
            if not target:
                if not self._known[name]:
                    reply.set_rcode(dns.rcode.NXDOMAIN)
                reply.authority.append(self._root)  # RFC 2308 section 3
                if proof and rrtype == "DS" and reply.flags & dns.flags.AD:
                    reply.authority.append(self._denial(owner, name))
                return
            reply.answer.append(dns.rrset.from_text_list(owner, self._ttl, "IN", "CNAME", target))
            name = _key(target[0])
        reply.set_rcode(dns.rcode.SERVFAIL)

    def _denial(self, owner: dns.name.Name, name: str) -> dns.rrset.RRset:
        """That there is no DS record, as the zone above says it: with NS where a zone begins."""
        types = "NS RRSIG NSEC" if self._signed.get(name) is False else "RRSIG NSEC"
        return dns.rrset.from_text(owner, self._ttl, "IN", "NSEC", f"\\000.{owner} {types}")

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                reply = self.answer(await reader.readexactly(length), udp=False)
                if reply is None:
                    return
                writer.write(struct.pack("!H", len(reply)) + reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self._open.discard(writer)
            writer.close()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, names: Names) -> None:
        self._names = names
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = self._names.answer(data, udp=True)
        if reply is not None and self._transport:
            self._transport.sendto(reply, addr)
