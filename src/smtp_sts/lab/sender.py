"""alice's sending client: what a Postfix that obeys the daemon's replies does, and no more.

Promises: the TLS policy asked for at each delivery, MX hosts tried in order, `secure` obeyed
(STARTTLS, chain and name, or no delivery), `mx_host_pattern` obeyed, `dane` and `dane-only` obeyed
(smtp_dns_support_level = dnssec; by the records at the port of the next hop), everything else
opportunistic TLS. A delivery never raises: it ends delivered or deferred, with its story. Must not:
resolve or connect outside the lab.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from smtp_sts.dane import MatchError, Tlsa, TlsaError, match, unusable
from smtp_sts.mta.client import ClientError

Tls = Literal["none", "unverified", "verified"]

#: The levels that a daemon may answer in the lab.
LEVELS: Final = ("secure", "may", "dane", "dane-only")
_DANE: Final[dict[str, Literal["dane", "dane-only"]]] = {"dane": "dane", "dane-only": "dane-only"}
_DNS_ATTEMPT: Final = 10.0  # seconds; there are two
_DER: Final = 2  # _ssl.ENCODING_DER
_STEP: Final = 20.0  # one SMTP session, seconds


class ReplyError(Exception):
    """A reply with which Postfix defers the mail."""


class _Refused(Exception):
    """This MX host cannot be used; the reason as a sentence."""


@dataclass(frozen=True)
class Delivery:
    """How one message fared: `delivered` over which `tls` to which MX `host`, or deferred."""

    delivered: bool
    host: str
    tls: Tls
    reply: str
    waited: float  # for the daemon's answer, seconds
    story: tuple[str, ...]


@dataclass(frozen=True)
class _TlsPolicy:
    secure: bool = False
    match: tuple[str, ...] = ()
    mx_patterns: tuple[str, ...] = ()
    #: the level is `dane` or `dane-only`
    dane: Literal["", "dane", "dane-only"] = ""


@dataclass(frozen=True)
class _Found:
    """A DNS answer: its `owner` after aliases, texts and data of the records, and the AD bit."""

    owner: str
    texts: tuple[str, ...]
    data: tuple[bytes, ...]
    secure: bool


def read_reply(reply: str) -> _TlsPolicy:
    """A socketmap reply as Postfix takes it. Raises ReplyError for one that defers mail."""
    status, _, text = reply.partition(" ")
    if status == "NOTFOUND":
        return _TlsPolicy()
    words = text.split("{")[0].split()
    if status != "OK" or not words or words[0] not in LEVELS:
        raise ReplyError(f"TLS policy lookup error: {reply!r}")
    attributes = [tuple(word.split("=", 1)) for word in words[1:]]
    if any(len(attribute) != 2 for attribute in attributes):
        raise ReplyError(f"client TLS configuration problem: {reply!r}")
    match = [value for name, value in attributes if name == "match"]
    if words[0] == "secure" and len(match) != 1:
        raise ReplyError(f"client TLS configuration problem: {reply!r}")
    return _TlsPolicy(
        secure=words[0] == "secure",
        match=tuple(match[0].split(":")) if match else (),
        mx_patterns=tuple(value for name, value in attributes if name == "mx_host_pattern"),
        dane=_DANE.get(words[0], ""),
    )


def name_matches(pattern: str, name: str) -> bool:
    """Whether a name is covered: `a.example` itself, `.example` any depth, `*.example` one label.

    >>> name_matches("*.example", "a.example"), name_matches("*.example", "a.b.example")
    (True, False)
    """
    pattern, name = pattern.lower(), name.lower()
    if pattern.startswith("*."):  # RFC 8461 section 4.1: the left-most label alone
        return name.partition(".")[2] == pattern[2:]
    return name.endswith(pattern) if pattern.startswith(".") else name == pattern


def certificate_matches(pattern: str, presented: str) -> bool:
    """Whether a DNS name of a certificate, itself perhaps a wildcard, satisfies a match pattern."""
    if pattern.startswith("."):
        return name_matches(pattern, presented)
    return name_matches(presented, pattern)


class Sender:
    """alice: sends messages to recipients, protected by a daemon's socket or by nothing."""

    def __init__(
        self,
        nameserver: tuple[str, int],
        smtp_port: int,
        ca_file: Path,
        *,
        ask: Callable[[str], Awaitable[str]] | None = None,
    ) -> None:
        """`ask` gets the daemon's reply to a next hop; None sends with opportunistic TLS always."""
        self._nameserver = nameserver
        self._port = smtp_port
        self._ask = ask
        self._verifying = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._verifying.check_hostname = False  # names are checked against match= below
        self._verifying.load_verify_locations(str(ca_file))
        self._trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._trusting.check_hostname = False
        self._trusting.verify_mode = ssl.CERT_NONE

    async def send(
        self, recipient: str, *, via: str = "", text: str = "Subject: hello\r\n\r\nHello."
    ) -> Delivery:
        """Deliver one message, or defer it; `via` is a relay as Postfix's transport(5) has it."""
        next_hop = via or recipient.rpartition("@")[2]
        story: list[str] = []
        reply, waited = "", 0.0
        try:
            policy = _TlsPolicy()
            if self._ask:
                began = asyncio.get_running_loop().time()
                reply = await self._ask(next_hop)
                waited = asyncio.get_running_loop().time() - began
                policy = read_reply(reply)
            hosts = await self._hosts(next_hop)
        except (ClientError, ReplyError, _Refused) as error:
            return Delivery(False, "", "none", reply, waited, (str(error),))
        for at in hosts:
            host = at[0]
            try:
                tls = await self._deliver(at, policy, recipient, text, next_hop)
            except _Refused as error:
                story.append(f"{host}: {error}")
            else:
                return Delivery(True, host, tls, reply, waited, (*story, f"{host}: delivered"))
        return Delivery(False, "", "none", reply, waited, tuple(story))

    async def _look_up(self, name: str, rrtype: str) -> _Found:
        query = dns.message.make_query(name, rrtype, want_dnssec=True)
        host, port = self._nameserver
        for last in (False, True):
            try:
                answer, _ = await dns.asyncquery.udp_with_fallback(
                    query, host, port=port, timeout=_DNS_ATTEMPT
                )
                break
            except (dns.exception.DNSException, OSError) as error:
                if last:
                    raise _Refused(f"no answer from DNS for {name} {rrtype}") from error
        if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise _Refused(f"DNS says {dns.rcode.to_text(answer.rcode())} for {name} {rrtype}")
        wanted = dns.rdatatype.from_text(rrtype)
        records = [r for rrset in answer.answer if rrset.rdtype == wanted for r in rrset]
        owners = [rrset.name.to_text().rstrip(".") for rrset in answer.answer]
        return _Found(
            owners[-1] if owners else name,
            tuple(record.to_text().lower() for record in records),
            tuple(record.to_wire() or b"" for record in records),
            bool(answer.flags & dns.flags.AD),
        )

    async def _hosts(self, next_hop: str) -> list[tuple[str, bool]]:
        """The hosts to try, in order, and whether DNSSEC vouches for each."""
        name = next_hop.partition("]")[0].strip("[") if "[" in next_hop else next_hop
        name = name.partition(":")[0]
        if "[" in next_hop:  # no MX look-up; the name comes from alice's own configuration
            return [(name, True)]
        mx = await self._look_up(name, "MX")
        found = sorted((int(number), host) for number, host in (t.split() for t in mx.texts))
        hosts = [host.rstrip(".") for _, host in found] or [name]  # RFC 5321 section 5.1
        return [(host, mx.secure) for host in hosts]

    async def _tlsa(self, at: tuple[str, bool], port: int) -> tuple[str, list[Tlsa]]:
        """The TLSA base domain of a host and its secure records (RFC 7672 section 2.2)."""
        host, mx_secure = at
        address = await self._look_up(host, "A")
        if not mx_secure or not address.secure:
            return "", []
        for base in dict.fromkeys((address.owner, host)):
            found = await self._look_up(f"_{port}._tcp.{base}", "TLSA")
            records = []
            for data in found.data if found.secure else ():
                try:
                    records.append(Tlsa.parse(data))
                except TlsaError:
                    continue
            if records:
                return base, records
        return "", []

    async def _deliver(
        self, at: tuple[str, bool], policy: _TlsPolicy, recipient: str, text: str, next_hop: str
    ) -> Tls:
        host = at[0]
        patterns = policy.mx_patterns if policy.secure else ()
        if patterns and not any(name_matches(pattern, host) for pattern in patterns):
            raise _Refused("the policy does not list this MX host")
        names = (host,) if patterns else policy.match
        tlsa_port = _port_of(next_hop) or self._port
        base, records = await self._tlsa(at, tlsa_port) if policy.dane else ("", [])
        if any(unusable(record) is None for record in records):
            policy = replace(policy, secure=True)
        elif policy.dane == "dane-only":
            raise _Refused("has no usable TLSA records")
        # RFC 7672 section 2.2: TLS is a must where there are records, though none is usable
        encrypted = policy.secure or bool(records)
        addresses = (await self._look_up(host, "A")).texts
        if not addresses:
            raise _Refused("has no address")
        for attempt_tls in (True,) if encrypted else (True, False):
            session = _Session()
            try:
                async with asyncio.timeout(_STEP):
                    await session.open(addresses[0], self._port)
                    tls: Tls = "none"
                    if policy.secure:
                        if not session.starttls:
                            raise _Refused("TLS is required, but was not offered")
                        if policy.dane:
                            await session.secure(self._trusting, base)
                            match(records, session.chain(), (base, next_hop), when=time.time())
                        else:
                            await session.secure(self._verifying, host)
                            _check_name(session.certificate_names(), names)
                        tls = "verified"
                    elif encrypted and not session.starttls:
                        raise _Refused("TLS is required, but was not offered")
                    elif attempt_tls and session.starttls:
                        await session.secure(self._trusting, host)
                        tls = "unverified"
                    await session.message(recipient, text)
                    return tls
            except MatchError as error:
                raise _Refused(f"DANE: {error.sentence}") from error
            except ssl.SSLCertVerificationError as error:
                raise _Refused(f"certificate not trusted: {error.verify_message}") from error
            except ssl.SSLError as error:
                if encrypted or not attempt_tls:
                    raise _Refused(f"TLS failed: {error.reason}") from error
            except (OSError, EOFError, ValueError) as error:
                raise _Refused(f"lost: {error or type(error).__name__}") from error
            finally:
                session.abort()
        raise _Refused("no way in")


def _port_of(next_hop: str) -> int:
    """The port that a next hop names (in the lab all hosts listen at one); 0 for none."""
    name = next_hop.rpartition(":")[2] if ":" in next_hop else ""
    return int(name) if name.isdigit() else {"submission": 587}.get(name, 0)


def _check_name(presented: list[str], match: tuple[str, ...]) -> None:
    for name in presented:
        if any(certificate_matches(pattern, name) for pattern in match):
            return
    raise _Refused(f"certificate is for {', '.join(presented) or 'nobody'}")


class _Session:
    """One SMTP session, as little of it as a delivery needs."""

    starttls = False

    def __init__(self) -> None:
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, address: str, port: int) -> None:
        self._reader, self._writer = await asyncio.open_connection(address, port)
        await self._expect("220")
        await self._ehlo()

    async def secure(self, context: ssl.SSLContext, host: str) -> None:
        assert self._writer
        await self._say("STARTTLS", "220")
        await self._writer.start_tls(context, server_hostname=host)
        await self._ehlo()

    async def message(self, recipient: str, text: str) -> None:
        await self._say("MAIL FROM:<alice@alice.example>", "250")
        await self._say(f"RCPT TO:<{recipient}>", "250")
        await self._say("DATA", "354")
        await self._say(text.replace("\r\n.", "\r\n..") + "\r\n.", "250")
        await self._say("QUIT", "221")

    def certificate_names(self) -> list[str]:
        assert self._writer
        certificate: Mapping[str, tuple[tuple[str, str], ...]] = (
            self._writer.get_extra_info("peercert") or {}
        )
        return [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]

    def chain(self) -> list[bytes]:
        """The server's certificates, DER, leaf first."""
        assert self._writer
        tls = self._writer.get_extra_info("ssl_object")
        if sys.version_info >= (3, 13):
            return list(tls.get_unverified_chain())
        # Before 3.13 only the object behind it can tell.
        return [one.public_bytes(_DER) for one in tls._sslobj.get_unverified_chain()]

    def abort(self) -> None:
        if self._writer:
            self._writer.transport.abort()

    async def _ehlo(self) -> None:
        self.starttls = "STARTTLS" in await self._say("EHLO alice.example", "250")

    async def _say(self, line: str, code: str) -> list[str]:
        assert self._writer
        self._writer.write(line.encode() + b"\r\n")
        return await self._expect(code)

    async def _expect(self, code: str) -> list[str]:
        assert self._reader
        lines: list[str] = []
        while True:
            line = (await self._reader.readuntil(b"\n")).decode("ascii", "replace").rstrip("\r\n")
            lines.append(line[4:].upper())
            if line[3:4] != "-":
                break
        if not line.startswith(code):
            raise ValueError(line)
        return lines
