"""DNS and policy host of the benchmark, the same for every daemon measured.

Promises: answers for any name under bench (policies) and silent (policy hosts that accept and never
say a word), each a domain of somebody else's, fast enough not to be what is measured. Must not:
leave loopback.
Usage: world.py DNS_PORT HTTPS_PORT DOMAINS FOLDER; writes FOLDER/ca.pem, then prints "ready".
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ssl
import sys
from pathlib import Path
from typing import cast

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: mx.bench.example\r\nmax_age: 604800\r\n"
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
    b"Connection: close\r\n\r\n%b" % (len(POLICY), POLICY)
)
RECORD = b"v=STSv1; id=1;"
#: Of the first draft, for names under draft, which have no policy of RFC 8461.
DRAFT = b"v=STS1; to=false; mx=mx.bench.example; e=86400"
TTL = (3600).to_bytes(4, "big")
NAMES_PER_CERTIFICATE = 50


def answer(query: bytes) -> bytes:
    """The response to a DNS query of one question."""
    at = 12
    labels: list[bytes] = []
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].lower())
        at += 1 + query[at]
    rrtype = int.from_bytes(query[at + 1 : at + 3], "big")
    question = query[12 : at + 5]
    data = b""
    if labels[0] == b"_mta-sts" and b"draft" not in labels and rrtype == 16:
        data = bytes([len(RECORD)]) + RECORD
    elif labels[0] == b"_smtp_sts" and b"draft" in labels and rrtype == 16:
        data = bytes([len(DRAFT)]) + DRAFT
    elif labels[0] == b"mta-sts" and rrtype == 1:
        data = b"\x7f\0\0\x03" if b"silent" in labels else b"\x7f\0\0\x02"
    head = query[:2] + b"\x85\x80\0\x01" + (b"\0\x01" if data else b"\0\0") + b"\0\0\0\0"
    if not data:
        return head + question
    fixed = b"\xc0\x0c" + rrtype.to_bytes(2, "big") + b"\0\x01" + TTL
    return head + question + fixed + len(data).to_bytes(2, "big") + data


class Resolver(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(answer(data), addr)


class PolicyHost(asyncio.Protocol):
    """TLS over memory BIOs: the loop's own layer would take CPU from what is measured."""

    context: ssl.SSLContext

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = self.context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.seen = b""

    def data_received(self, data: bytes) -> None:
        self.incoming.write(data)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
            self.seen += self.tls.read(16384)
        answered = b"\r\n\r\n" in self.seen
        if answered:
            self.tls.write(RESPONSE)
        if self.outgoing.pending:
            self.transport.write(self.outgoing.read())
        if answered:
            self.transport.close()


class Silence(asyncio.Protocol):
    pass


def certificates(domains: int, folder: Path) -> ssl.SSLContext:
    """A CA in folder/ca.pem, and a context that chooses among its certificates by SNI."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench CA")])
    now = datetime.datetime.now(datetime.UTC)

    def build(names: list[str]) -> bytes:
        leaf = bool(names)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench host")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject if leaf else issuer)
            .issuer_name(issuer)
            .public_key((leaf_key if leaf else key).public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=not leaf, path_length=None), True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False
            )
        )
        if leaf:
            sans = x509.SubjectAlternativeName([x509.DNSName(n) for n in names])
            builder = builder.add_extension(sans, False)
        else:
            ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
            builder = builder.add_extension(ski, False).add_extension(
                x509.KeyUsage(False, False, False, False, False, True, True, False, False), True
            )
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    leaf_key = ec.generate_private_key(ec.SECP256R1())
    secret = leaf_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "ca.pem").write_bytes(build([]))
    by_name: dict[str, ssl.SSLContext] = {}
    for start in range(0, domains, NAMES_PER_CERTIFICATE):
        names = [f"mta-sts.d{n}.bench" for n in range(start, start + NAMES_PER_CERTIFICATE)]
        file = folder / "leaf.pem"
        file.write_bytes(secret + build(names))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        by_name.update(dict.fromkeys(names, context))
    front = next(iter(by_name.values()))

    def choose(tls: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        tls.context = by_name.get(name or "", front)

    front.sni_callback = choose
    return front


async def main() -> None:
    dns_port, https_port, domains = (int(a) for a in sys.argv[1:4])
    PolicyHost.context = certificates(domains, Path(sys.argv[4]))
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(Resolver, local_addr=("127.0.0.1", dns_port))
    await loop.create_server(PolicyHost, "127.0.0.2", https_port, backlog=1024)
    await loop.create_server(Silence, "127.0.0.3", https_port, backlog=1024)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
