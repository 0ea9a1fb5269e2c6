"""The lab's certificate authority: servers' certificates, good ones and every bad one mallory has.

Promises: ECDSA P-256 keys, made in memory; each certificate in one PEM file with its key, in the
directory given. Must not: make anything that a system outside the lab would trust.
"""

from __future__ import annotations

import datetime
import hashlib
import ssl
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

#: `wildcard`: for the whole first label; `common-name`: the name stands nowhere else; `stranger`:
#: of an authority that nobody trusts; `ending`: good for `ENDING` from when it was issued; `days`:
#: good for three days more
Variant = Literal[
    "good", "expired", "not-yet", "self-signed", "other-name", "wildcard", "common-name",
    "stranger", "ending", "days",
]  # fmt: skip

#: The one version of TLS that a server speaks; "" for every one.
TlsVersion = Literal["", "1.2", "1.3"]

#: The name in certificates of the variant `other-name`.
OTHER_NAME: Final = "mallory.example"
_DAY: Final = datetime.timedelta(days=1)
#: How long a certificate of the variant `ending` is good.
ENDING: Final = datetime.timedelta(seconds=3)
_PERIODS: Final = {
    "expired": (-30 * _DAY, -_DAY),
    "not-yet": (_DAY, 30 * _DAY),
    "ending": (-30 * _DAY, ENDING),
    "days": (-30 * _DAY, 3 * _DAY),
}
_CA_USAGE: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _key_digest(certificate: x509.Certificate) -> str:
    key = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(key).hexdigest()


class Authority:
    """A certificate authority; `ca_file` is the PEM file that its believers trust."""

    def __init__(self, home: Path) -> None:
        """Make the key, and the certificate in `home`, an existing directory."""
        self._home = home
        self._contexts: dict[tuple[tuple[str, ...], Variant, TlsVersion], ssl.SSLContext] = {}
        self._issued: dict[tuple[tuple[str, ...], Variant], Path] = {}
        now = datetime.datetime.now(datetime.UTC)
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = _name("Lab CA")
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 400 * _DAY)
            .not_valid_after(now + 400 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_CA_USAGE, critical=True)  # OpenSSL's strict mode wants it
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        self.ca_file = home / "ca.pem"
        self.ca_file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, *names: str, variant: Variant = "good") -> Path:
        """A PEM file with a certificate for `names` (the variant may say otherwise) and its key."""
        if variant == "other-name":
            names = (OTHER_NAME,)
        elif variant == "wildcard":
            names = tuple(f"*.{name.partition('.')[2]}" for name in names)
        key = ec.generate_private_key(ec.SECP256R1())
        begin, end = _PERIODS.get(variant, (-30 * _DAY, 30 * _DAY))
        now = datetime.datetime.now(datetime.UTC)
        issuer_key, issuer = self._key, self._certificate.subject
        if variant == "self-signed":
            issuer_key, issuer = key, _name(names[0])
        elif variant == "stranger":
            issuer_key, issuer = ec.generate_private_key(ec.SECP256R1()), _name("Mallory CA")
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(names[0]))
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begin)
            .not_valid_after(now + end)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
                critical=False,
            )
        )
        if variant != "common-name":
            alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
            builder = builder.add_extension(alternatives, critical=False)
        certificate = builder.sign(issuer_key, hashes.SHA256())
        path = self._home / f"{certificate.serial_number:x}.pem"
        chain = [certificate]
        if variant not in ("self-signed", "stranger"):
            chain.append(self._certificate)  # for those to whom it is a DANE trust anchor
        path.write_bytes(
            b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return path

    def certificate(self, *names: str, variant: Variant = "good") -> Path:
        """As `issue`; asked again, the same file."""
        if (names, variant) not in self._issued:
            self._issued[names, variant] = self.issue(*names, variant=variant)
        return self._issued[names, variant]

    def key_digest(self, *names: str, variant: Variant = "good") -> str:
        """The SHA-256 of the public key of such a certificate, as a TLSA record has it."""
        pem = self.certificate(*names, variant=variant).read_bytes()
        return _key_digest(x509.load_pem_x509_certificate(pem))

    @property
    def own_key_digest(self) -> str:
        """The SHA-256 of the authority's own public key."""
        return _key_digest(self._certificate)

    def server_context(
        self, *names: str, variant: Variant = "good", tls: TlsVersion = ""
    ) -> ssl.SSLContext:
        """A server's TLS context for `names`; asked again, the same one."""
        if (names, variant, tls) not in self._contexts:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate(*names, variant=variant))
            if tls:
                version = ssl.TLSVersion.TLSv1_2 if tls == "1.2" else ssl.TLSVersion.TLSv1_3
                context.minimum_version = context.maximum_version = version
            self._contexts[names, variant, tls] = context
        return self._contexts[names, variant, tls]
