"""Certificate chains for tests of DANE: made once, of every shape that matters."""

from __future__ import annotations

import datetime
import functools
import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from smtp_sts.dane import Tlsa

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

NOW = datetime.datetime.now(datetime.UTC)
HOST = "mx.bob.example"
DOMAIN = "bob.example"


@functools.cache
def key(kind: str, name: str) -> Key:
    """The key of that name; always the same one."""
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    if kind == "costly":
        return _costly()
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1())


def _costly() -> rsa.RSAPrivateKey:
    """An RSA key whose public exponent is as long as its modulus: 50 times as dear to check."""
    numbers = rsa.generate_private_key(65537, 2048).private_numbers()
    p, q = numbers.p, numbers.q
    group = (p - 1) * (q - 1)
    e = (1 << 2045) + 1
    while math.gcd(e, group) != 1:
        e += 2
    d = pow(e, -1, group)
    public = rsa.RSAPublicNumbers(e, p * q)
    private = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public)
    return private.private_key(unsafe_skip_rsa_key_validation=True)


@dataclass(frozen=True)
class Cert:
    """What a certificate is to say; `issuer` None for one that signs itself.

    `days` are those of its validity, counted from now. `san` None leaves the extension out.
    """

    name: str
    issuer: Cert | None = None
    kind: str = "ec"
    ca: bool | None = True
    path_length: int | None = None
    days: tuple[int, int] = (-10, 10)
    san: tuple[str, ...] | None = None
    permitted: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    purpose: x509.ObjectIdentifier | None = None
    may_sign: bool = True
    strange: bool = False
    signer: str = field(default="", kw_only=True)

    @property
    def key(self) -> Key:
        """Its private key."""
        return key(self.kind, self.name)


def name(common: str) -> x509.Name:
    """A subject."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


@functools.cache
def made(cert: Cert) -> x509.Certificate:
    """The certificate itself."""
    issuer = cert.issuer or cert
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(cert.name))
        .issuer_name(name(issuer.name))
        .public_key(cert.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + datetime.timedelta(days=cert.days[0]))
        .not_valid_after(NOW + datetime.timedelta(days=cert.days[1]))
    )
    if cert.ca is not None:
        constraints = x509.BasicConstraints(ca=cert.ca, path_length=cert.path_length)
        builder = builder.add_extension(constraints, critical=True)
    if cert.san is not None:
        names = x509.SubjectAlternativeName([x509.DNSName(n) for n in cert.san])
        builder = builder.add_extension(names, critical=False)
    if cert.permitted or cert.excluded:
        trees = x509.NameConstraints(
            permitted_subtrees=[x509.DNSName(n) for n in cert.permitted] or None,
            excluded_subtrees=[x509.DNSName(n) for n in cert.excluded] or None,
        )
        builder = builder.add_extension(trees, critical=True)
    if cert.purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([cert.purpose]), critical=False)
    if not cert.may_sign:
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        builder = builder.add_extension(usage, critical=True)
    if cert.strange:
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\5\0")
        builder = builder.add_extension(unknown, critical=True)
    signer = key(cert.issuer.kind, cert.signer) if cert.signer and cert.issuer else issuer.key
    digest = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signer, digest)


def der(cert: Cert) -> bytes:
    """The certificate as it is presented."""
    return made(cert).public_bytes(serialization.Encoding.DER)


def spki(cert: Cert) -> bytes:
    """Its SubjectPublicKeyInfo."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return cert.key.public_key().public_bytes(serialization.Encoding.DER, form)


def tlsa(parameters: str, cert: Cert) -> Tlsa:
    """The record of these parameters for a certificate."""
    usage, selector, matching = map(int, parameters.split())
    data = spki(cert) if selector else der(cert)
    if matching:
        data = (hashlib.sha256 if matching == 1 else hashlib.sha512)(data).digest()
    return Tlsa(usage, selector, matching, data)


def write(path: Path, chain: list[Cert]) -> None:
    """A PEM file for a server: the leaf's key, and the chain."""
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = chain[0].key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(private + b"".join(made(cert).public_bytes(pem) for cert in chain))


ROOT = Cert("root")
INNER = Cert("inner", ROOT)
LEAF = Cert("leaf", INNER, ca=False, san=(HOST,))


def leaf(issuer: Cert = INNER, **more: object) -> Cert:
    """A leaf for HOST that differs in what is said."""
    said: dict[str, object] = {"name": "leaf", "issuer": issuer, "ca": False, "san": (HOST,)}
    return Cert(**{**said, **more})  # type: ignore[arg-type]


OLD = (-10, -1)
EARLY = (1, 10)
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
