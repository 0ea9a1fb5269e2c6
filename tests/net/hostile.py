"""TLS servers that make their clients compute, in a process of their own.

`python hostile.py PORT FOLDER ADDRESS=KIND...` prints the port when it listens; `prepare` makes the
files in FOLDER. Each is the real thing as OpenSSL has it, but for `retry`, which answers every
ClientHello with a HelloRetryRequest to ffdhe8192 and waits: a server that costs its owner nothing.
"""

from __future__ import annotations

import base64
import contextlib
import random
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from smtp_sts.lab.authority import Authority
from smtp_sts.lab.costly import retry, session_of

BODY = b"version: STSv1\r\nmode: enforce\r\nmx: mx.eve.example\r\nmax_age: 86400\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
#: How many records, of one byte each.
RECORDS = 8000
DHE_BITS = 10_000
#: Certificates of a long chain, which no client trusts.
CHAIN = 95


def prepare(authority: Authority, names: list[str], folder: Path) -> None:
    """The certificates and the DHE group: `names` are what clients ask for."""
    key = rsa.generate_private_key(65537, 2048)
    leaf = _certificate(names[0], authority._certificate.subject, key, authority._key, names)
    (folder / "rsa.pem").write_bytes(_pem(leaf) + _private(key))
    mine = ec.generate_private_key(ec.SECP256R1())
    mallory = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mallory")])
    longest = [_certificate(names[0], mallory, mine, mine, names)]
    longest += [_certificate("mallory", mallory, mine, mine) for _ in range(CHAIN)]
    (folder / "chain.pem").write_bytes(_pem(*longest) + _private(mine))
    many = [*names, *(f"a-name-that-is-long-{n}.mallory.example" for n in range(1700))]
    large = _certificate(names[0], authority._certificate.subject, mine, authority._key, many)
    (folder / "large.pem").write_bytes(_pem(large) + _private(mine))
    (folder / "dh.pem").write_bytes(dh_group(DHE_BITS))
    group = ec.generate_private_key(ec.SECP256R1())
    good = _certificate(names[0], authority._certificate.subject, group, authority._key, names)
    (folder / "good.pem").write_bytes(_pem(good) + _private(group))


def dh_group(bits: int) -> bytes:
    """A group as a server would offer it to cost its clients much, and itself little: the private
    value may be short (PKCS #3). That the modulus is no prime no client can find out in time."""
    modulus = 1 << bits - 1 | random.Random(1).getrandbits(bits - 2) | 1
    content = b"".join(map(_integer, (modulus, 2, 256)))
    text = base64.encodebytes(b"\x30" + _length(len(content)) + content)
    return b"-----BEGIN DH PARAMETERS-----\n" + text + b"-----END DH PARAMETERS-----\n"


def _integer(number: int) -> bytes:
    content = number.to_bytes(number.bit_length() // 8 + 1, "big")
    return b"\x02" + _length(len(content)) + content


def _length(number: int) -> bytes:
    if number < 128:
        return bytes([number])
    content = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(content)]) + content


def _certificate(
    subject: str,
    issuer: x509.Name,
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    names: list[str] | None = None,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
    )
    if names:
        alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(alternatives, critical=False)
    return builder.sign(signer, hashes.SHA256())


def _pem(*chain: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain)


def _private(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@contextmanager
def servers(folder: Path, kinds: Mapping[str, str], port: int = 0) -> Iterator[int]:
    """Servers at these addresses, by kind, on one port."""
    arguments = [f"{address}={kind}" for address, kind in kinds.items()]
    process = subprocess.Popen(
        [sys.executable, __file__, str(port), str(folder), *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def _context(kind: str, folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    file = {"dhe": "rsa", "chain": "chain", "large": "large"}.get(kind, "good")
    context.load_cert_chain(folder / f"{file}.pem")
    name, _, group = kind.partition(":")
    if kind == "dhe":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("DHE:@SECLEVEL=1")
        context.load_dh_params(str(folder / "dh.pem"))
    elif name in ("1.2", "1.3"):
        version = ssl.TLSVersion.TLSv1_2 if name == "1.2" else ssl.TLSVersion.TLSv1_3
        context.minimum_version = context.maximum_version = version
        if group:
            context.set_ecdh_curve(group)
    return context


def _serve(connection: socket.socket, kind: str, context: ssl.SSLContext) -> None:
    with contextlib.suppress(OSError), connection:
        if kind == "retry":
            _retry(connection)
            return
        with context.wrap_socket(connection, server_side=True) as tls:
            while b"\r\n\r\n" not in tls.recv(65536):
                pass
            answer = HEAD % len(BODY) + BODY
            if kind == "records":
                body = BODY + b"x: y\r\n" * (RECORDS // 6)
                answer = HEAD % len(body) + body
                for byte in answer:
                    tls.write(bytes([byte]))
            else:
                tls.sendall(answer)
            tls.recv(1)


def _retry(connection: socket.socket) -> None:
    hello = connection.recv(65536)
    connection.sendall(retry(session_of(hello)))
    while connection.recv(65536):
        pass


def main() -> None:
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    listeners = []
    for argument in sys.argv[3:]:
        address, _, kind = argument.partition("=")
        listener = socket.create_server((address, port), backlog=1000)
        port = listener.getsockname()[1]
        listeners.append((listener, kind))
    contexts = {kind: _context(kind, folder) for _, kind in listeners}

    def accept(listener: socket.socket, kind: str) -> None:
        while True:
            connection, _ = listener.accept()
            connection.settimeout(20)
            serve = (connection, kind, contexts[kind])
            threading.Thread(target=_serve, args=serve, daemon=True).start()

    for listener, kind in listeners:
        threading.Thread(target=accept, args=(listener, kind), daemon=True).start()
    print(port, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
