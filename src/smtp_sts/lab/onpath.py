"""Real DNS: NSD has signed zones, unbound validates for alice, mallory sits on the path between.

Promises: the same names as `names.py`, answered by unbound at 127.0.0.1 from a signed root down;
what bob changes is signed and served, what mallory forges goes out unsigned, and unbound finds out
by itself. Needs namespaces of its own (`apart.py`), NSD and unbound. Must not: decide what
validation makes of an answer.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.zone

from smtp_sts.lab.names import NEGATIVE_TTL, TTL, Defect, Names
from smtp_sts.lab.signed import ZoneKey, nsd_config, unbound_config, unbound_program

#: Where NSD answers, to mallory alone.
_NSD: Final = "45.45.0.53"
#: Delegations, keys and what the upper zones say do not change; seconds.
_LASTING: Final = 300
#: How long ago stale signatures expired, seconds: validators forgive up to a day.
_STALE: Final = 2 * 86400
_START_LIMIT: Final = 15.0
_FORWARD_LIMIT: Final = 5.0
#: Nothing is remembered beyond its second, so that changes are seen; a server that mallory has
#: silenced for one name is asked again for the next; nothing is concluded from other answers.
_UNBOUND: Final = (
    "cache-max-negative-ttl: 1",
    "val-bogus-ttl: 1",
    "infra-host-ttl: 1",
    "unknown-server-time-limit: 1000",
    "infra-keep-probing: yes",
    "aggressive-nsec: no",
    "harden-below-nxdomain: no",
    'target-fetch-policy: "0 0 0 0 0"',
    "val-log-level: 1",
    "log-servfail: yes",
)


class DnsServerError(OSError):
    """NSD or unbound does not run; the message has its last words."""


@dataclass
class _Zone:
    name: str
    key: ZoneKey | None
    #: its name server's, so that trouble with one zone is trouble with one zone
    address: str
    serial: int = 0
    stale: bool = False
    records: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    @property
    def file(self) -> str:
        return f"{self.name or 'root'}.zone"


def _key(name: str) -> str:
    return name.rstrip(".").lower()


class OnPath(Names):
    """The lab's names, really signed and really validated."""

    def __init__(self, home: Path, ttl: int = TTL, negative_ttl: int = NEGATIVE_TTL) -> None:
        """`home` is an existing directory for the servers' files."""
        super().__init__(ttl, negative_ttl)
        self._home = home
        self._negative_ttl = negative_ttl
        self._zones: dict[str, _Zone] = {}
        self._numbers = itertools.count()
        self._dirty: set[str] = set()
        self._changed: set[str] = set()
        self._forged: dict[tuple[str, str], tuple[str, ...]] = {}
        self._lock = asyncio.Lock()
        self._nsd: asyncio.subprocess.Process | None = None
        self._unbound: asyncio.subprocess.Process | None = None
        self._servers: list[asyncio.Server] = []
        self._sockets: list[asyncio.DatagramTransport] = []
        self._placed: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.delegate("", signed=True)

    # ---- what bob publishes --------------------------------------------------------------------

    def delegate(self, zone: str, *, signed: bool) -> None:
        """As `Names.delegate`; the DS record is that of the zone's own key."""
        zone = _key(zone)
        self.sign(zone, signed=signed)
        number = next(self._numbers)
        address = f"45.45.{200 + number // 250}.{1 + number % 250}"
        made = _Zone(zone, ZoneKey() if signed else None, address)
        above = self._zone(zone) if zone else None
        self._zones[zone] = made
        self._dirty.add(zone)
        if above is not None:
            for name, rrtype in list(above.records):
                if name == zone or name.endswith(f".{zone}"):
                    made.records[name, rrtype] = above.records.pop((name, rrtype))
            above.records[zone, "NS"] = (f"ns.{zone}.",)
            above.records[f"ns.{zone}", "A"] = (address,)
            if made.key:
                above.records[zone, "DS"] = (made.key.ds(zone),)
            self._dirty.add(above.name)

    def _zone(self, name: str) -> _Zone:
        """The zone in which a name lies."""
        labels = _key(name).split(".")
        above = (".".join(labels[n:]) for n in range(len(labels)))
        return next((self._zones[z] for z in above if z in self._zones), self._zones[""])

    def put(self, name: str, rrtype: str, *texts: str) -> None:
        """As `Names.put`; answered so when settled."""
        self._zone(name).records[_key(name), rrtype] = texts
        self._dirty.add(self._zone(name).name)

    def drop(self, name: str, rrtype: str) -> None:
        """As `Names.drop`; answered so when settled."""
        self._zone(name).records.pop((_key(name), rrtype), None)
        self._dirty.add(self._zone(name).name)

    # ---- what mallory does ---------------------------------------------------------------------

    async def forge(self, name: str, rrtype: str, *texts: str) -> None:
        """Answer so in the place of the zone, without a signature."""
        self._forged[_key(name), rrtype] = texts
        self._changed.add(self._zone(name).name)

    def spoil(self, name: str, defect: Defect, rrtype: str = "*") -> None:
        """As `Names.spoil`; `stale` has the whole zone signed for the past."""
        if defect == "stale":
            self._zone(name).stale = True
            self._dirty.add(self._zone(name).name)
            return
        super().spoil(name, defect, rrtype)
        self._changed.add(self._zone(name).name)

    def mend(self, name: str, rrtype: str = "*") -> None:
        """As `Names.mend`."""
        super().mend(name, rrtype)
        self._changed.add(self._zone(name).name)

    # ---- the servers ---------------------------------------------------------------------------

    async def start(self, host: str = "127.0.0.1", port: int = 53) -> None:
        """Take the address; the servers start when the first names settle."""
        self.address = (host, port)

    async def close(self) -> None:
        """End the servers."""
        for process in (self._unbound, self._nsd):
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()
        for server in self._servers:
            server.close()
        for transport in self._sockets:
            transport.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def settle(self) -> None:
        """Sign and serve what was changed, and have unbound forget what was. Raises OSError."""
        async with self._lock:
            dirty, self._dirty = self._dirty, set()
            changed, self._changed = self._changed, set()
            for name in sorted(dirty):
                await asyncio.to_thread(self._write, self._zones[name])
                if name not in self._placed:
                    await self._listen(name, self._zones[name].address)
            if self._nsd is None:
                await self._start_servers()
                return
            if dirty:
                await self._serve_changed(dirty)
            for name in sorted(dirty | changed):
                said = await self._control("unbound", f"UBCT1 flush_zone {name}.\n")
                if not said.startswith("ok"):
                    raise DnsServerError(f"unbound: flush_zone {name}.: {said}")

    def _write(self, zone: _Zone) -> None:
        zone.serial += 1
        at = f"{zone.name}."
        lasting = self._ttl if zone.name.count(".") > 1 else _LASTING
        negative = self._negative_ttl if zone.name.count(".") > 1 else _LASTING
        server = f"ns.{zone.name}." if zone.name else "ns."
        lines = [
            f"{at} {_LASTING} SOA {server} {server} {zone.serial} 3600 600 86400 {negative}",
            f"{at} {_LASTING} NS {server}",
            f"{server} {_LASTING} A {zone.address}",
        ]
        for (name, rrtype), texts in list(zone.records.items()):
            lines += [f"{name}. {lasting} {rrtype} {text}" for text in texts]
        made = dns.zone.from_text("\n".join(lines), at, relativize=False)
        if zone.key:
            zone.key.sign(made, end=time.time() - _STALE if zone.stale else None)
        made.to_file(str(self._home / zone.file), relativize=False)

    def _write_nsd(self) -> None:
        control = (
            f'remote-control:\n  control-enable: yes\n  control-interface: "{self._home}/nsd"\n'
        )
        zones = {f"{zone.name}.": zone.file for zone in self._zones.values()}
        text = nsd_config(self._home, _NSD, zones, more=control)
        (self._home / "nsd.conf").write_text(text, encoding="ascii")
        self._served = set(self._zones)

    async def _start_servers(self) -> None:
        self._write_nsd()
        root = self._zones[""]
        control = (
            "remote-control:\n  control-enable: yes\n  control-use-cert: no\n"
            f'  control-interface: "{self._home}/unbound"\n'
        )
        assert root.key
        anchor = f". DS {root.key.ds('')}"
        text = unbound_config(self._home, root.address, anchor, lines=_UNBOUND, more=control)
        (self._home / "unbound.conf").write_text(text, encoding="ascii")
        self._nsd = await self._run("nsd", "nsd")
        self._unbound = await self._run(str(unbound_program(self._home)), "unbound")
        for address, name in ((_NSD, "nsd"), ("127.0.0.1", "unbound")):
            await self._until(address, ".", 1, name)

    async def _run(self, program: str, name: str) -> asyncio.subprocess.Process:
        with (self._home / f"{name}.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                program, "-d", "-c", str(self._home / f"{name}.conf"),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    async def _serve_changed(self, dirty: set[str]) -> None:
        if set(self._zones) != self._served:
            self._write_nsd()
            await self._control("nsd", "NSDCT1 reconfig\n")
        for name in sorted(dirty):
            await self._control("nsd", f"NSDCT1 reload {name}.\n")
        for name in sorted(dirty):
            await self._until(_NSD, f"{name}.", self._zones[name].serial, "nsd")

    async def _until(self, address: str, zone: str, serial: int, name: str) -> None:
        """Return when a server's answer for the zone is as new as that."""
        query = dns.message.make_query(zone, "SOA")
        limit = time.monotonic() + _START_LIMIT
        seen = "no answer"
        while time.monotonic() < limit:
            try:
                answer = await dns.asyncquery.udp(query, address, timeout=0.5)
                seen = dns.rcode.to_text(answer.rcode())
                if any(found[0].serial >= serial for found in answer.answer):
                    return
            except (OSError, dns.exception.DNSException) as error:
                seen = str(error)
            await asyncio.sleep(0.01)
        said = (self._home / f"{name}.log").read_text(errors="replace").strip().splitlines()[-5:]
        words = "".join(f"\n  {line}" for line in said)
        raise DnsServerError(f"{name} does not serve {zone} ({seen}); it said:{words}")

    async def _control(self, name: str, command: str) -> str:
        """Tell a server something, over its control socket."""
        reader, writer = await asyncio.open_unix_connection(str(self._home / name))
        try:
            writer.write(command.encode("ascii"))
            return (await reader.read()).decode("ascii", "replace")
        finally:
            writer.close()

    # ---- the path between them -----------------------------------------------------------------

    async def _listen(self, name: str, address: str) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Udp(self), local_addr=(address, 53)
        )
        self._sockets.append(transport)
        self._servers.append(await asyncio.start_server(self._serve_tcp, address, 53))
        self._placed.add(name)

    def keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task until it is done."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def relay(self, query: bytes, *, udp: bool) -> bytes | None:
        """The answer that goes out, NSD's or mallory's; None for silence."""
        try:
            message = dns.message.from_wire(query)
        except dns.exception.DNSException:
            return None
        question = message.question[0]
        name, rrtype = _key(question.name.to_text()), dns.rdatatype.to_text(question.rdtype)
        self.queries[name, rrtype] += 1
        defect = self._defects.get((name, "*")) or self._defects.get((name, rrtype))
        if defect == "timeout" or (defect == "cut" and not udp):
            return None
        if defect in ("servfail", "refused", "nxdomain"):
            reply = self._reply(message, ())
            reply.set_rcode(dns.rcode.from_text(defect.upper()))
            return reply.to_wire()
        if defect in ("truncated", "cut") and udp:
            reply = self._reply(message, ())
            reply.flags |= dns.flags.TC
            return reply.to_wire()
        for kind in (rrtype, "CNAME"):
            if texts := self._forged.get((name, kind)):
                owner = dns.name.from_text(name)
                rrset = dns.rrset.from_text_list(owner, self._ttl, "IN", kind, texts)
                return self._reply(message, [rrset]).to_wire()
        if (name, rrtype) in self._forged:
            return self._reply(message, ()).to_wire()
        answer = await (_ask_udp(query) if udp else _ask_tcp(query))
        return _spoilt(answer) if defect == "bogus" and answer else answer

    def _reply(
        self, message: dns.message.Message, rrsets: Sequence[dns.rrset.RRset]
    ) -> dns.message.Message:
        """What mallory says: authoritative, and without a signature."""
        reply = dns.message.make_response(message)
        reply.flags |= dns.flags.AA
        if rrsets:
            reply.answer.extend(rrsets)
        else:  # RFC 2308: so long may it be remembered
            zone = self._zone(message.question[0].name.to_text())
            soa = f"ns.{zone.name}. ns.{zone.name}. 1 3600 600 86400 {self._negative_ttl}"
            owner = dns.name.from_text(zone.name)
            reply.authority.append(dns.rrset.from_text(owner, self._negative_ttl, "IN", "SOA", soa))
        return reply

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                reply = await self.relay(await reader.readexactly(length), udp=False)
                if reply is None:
                    return
                writer.write(struct.pack("!H", len(reply)) + reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            return
        finally:
            writer.close()


def _spoilt(answer: bytes) -> bytes:
    """An answer of which no signature fits any more."""
    message = dns.message.from_wire(answer)
    for section in (message.answer, message.authority):
        for number, rrset in enumerate(section):
            if rrset.rdtype == dns.rdatatype.RRSIG:
                spoilt = [r.replace(signature=bytes(len(r.signature))) for r in rrset]
                section[number] = dns.rrset.from_rdata_list(rrset.name, rrset.ttl, spoilt)
    return message.to_wire(max_size=65535)


async def _ask_udp(query: bytes) -> bytes | None:
    """NSD's answer to one datagram."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _Once(answer), remote_addr=(_NSD, 53)
    )
    try:
        transport.sendto(query)
        return await asyncio.wait_for(answer, _FORWARD_LIMIT)
    except (TimeoutError, OSError):
        return None
    finally:
        transport.close()


async def _ask_tcp(query: bytes) -> bytes | None:
    reader, writer = await asyncio.open_connection(_NSD, 53)
    try:
        writer.write(struct.pack("!H", len(query)) + query)
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        return await reader.readexactly(length)
    finally:
        writer.close()


class _Once(asyncio.DatagramProtocol):
    """Waits for one datagram."""

    def __init__(self, answer: asyncio.Future[bytes]) -> None:
        self._answer = answer

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if not self._answer.done():
            self._answer.set_result(data)

    def error_received(self, error: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(error)


class _Udp(asyncio.DatagramProtocol):
    """One zone's name server, as the path shows it."""

    def __init__(self, names: OnPath) -> None:
        self._names = names
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._names.keep(asyncio.ensure_future(self._answer(data, addr)))

    async def _answer(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = await self._names.relay(data, udp=True)
        if reply is not None and self._transport and not self._transport.is_closing():
            self._transport.sendto(reply, addr)
