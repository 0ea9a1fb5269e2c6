"""DKIM for reports by mail: key, signature, and what the DNS says of it (RFC 8460 section 3).

Promises: a signature is of the reporting domain, covers the whole body (no `l=`) and every header
that section 5.3 names; `record_faults` says in sentences what would make receivers ignore it, and
what to publish. The private key stays in memory and goes into no message.
"""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from smtp_sts.net.dns import Dns
from smtp_sts.net.failure import NetFailure
from smtp_sts.tlsrpt import SIGNED_HEADERS
from smtp_sts.tlsrpt.names import clean, domain_name

#: RFC 8301 section 3.2: shorter keys are not to be used.
MIN_BITS: Final = 1024
_LABELS: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?", re.ASCII)
_PEM: Final = serialization.Encoding.PEM
_PLAIN: Final = serialization.NoEncryption()


class KeyTrouble(ValueError):
    """A key that cannot be used; the message says why and what to do."""


class Key(msgspec.Struct, frozen=True):
    """A private key as dkimpy takes it. `kind` and `public` are as the key record has them:
    `rsa` or `ed25519`, and base64."""

    kind: str
    private: bytes
    public: str
    bits: int

    def __repr__(self) -> str:
        return f"Key({self.kind}, {self.bits} bits)"


class Signer(msgspec.Struct, frozen=True):
    """Signs for a domain under a selector."""

    domain: str
    selector: str
    key: Key

    @property
    def record_name(self) -> str:
        """Where the public key is published (RFC 6376 section 3.6.2.1)."""
        return f"{self.selector}._domainkey.{self.domain}"

    @property
    def record(self) -> str:
        """What is to be published there. Without `s=`: with `s=tlsrpt`, which RFC 8460 section 3
        asks for, those that verify all mail fail the signature (docs/tls-reports-delivery.md)."""
        return f"v=DKIM1; k={self.key.kind}; p={self.key.public}"

    def sign(self, message: bytes) -> bytes:
        """The message with a signature in front; it takes milliseconds (RSA)."""
        import dkim

        signature: bytes = dkim.sign(
            message,
            self.selector.encode(),
            self.domain.encode(),
            self.key.private,
            canonicalize=(b"relaxed", b"relaxed"),
            signature_algorithm=f"{self.key.kind}-sha256".encode(),
            # From once more than it stands there: nobody can add another (RFC 6376 section 5.4.2)
            include_headers=[name.encode() for name in ("From", *SIGNED_HEADERS)],
            length=False,  # section 3: "must not use the "l=" attribute"
        )
        return signature + message


def make_signer(domain: str, selector: str, key_file: str) -> Signer:
    """Read the key. Raises KeyTrouble."""
    if not domain or domain_name(domain) != domain:
        raise KeyTrouble(f"{domain!r} is no domain name in lower case")
    if not _LABELS.fullmatch(selector) or not domain_name(selector.replace(".", "-")):
        raise KeyTrouble(f"{selector!r} is no selector")
    return Signer(domain, selector, read_key(key_file))


def read_key(path: str) -> Key:
    """A private key from a file: PEM, RSA or Ed25519; or the base64 that dknewkey writes for
    Ed25519. Raises KeyTrouble."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise KeyTrouble(
            f"{path}: cannot be read: {error.strerror}; it must be readable for the daemon's user"
        ) from None
    return _parse_key(path, data)


def _parse_key(path: str, data: bytes) -> Key:
    if b"-----BEGIN" not in data:
        try:
            seed = base64.b64decode(data.strip(), validate=True)
            return _ed25519(ed25519.Ed25519PrivateKey.from_private_bytes(seed))
        except (binascii.Error, ValueError):
            raise KeyTrouble(
                f"{path}: no private key in it; make one: openssl genpkey -algorithm RSA "
                "-pkeyopt rsa_keygen_bits:2048 -out FILE"
            ) from None
    try:
        key = serialization.load_pem_private_key(data, None)
    except TypeError:
        raise KeyTrouble(f"{path}: the key has a pass phrase: write it without") from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyTrouble(f"{path}: the private key in it cannot be read") from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return _ed25519(key)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise KeyTrouble(f"{path}: DKIM knows RSA and Ed25519 keys only")
    if key.key_size < MIN_BITS:
        raise KeyTrouble(f"{path}: an RSA key of {key.key_size} bits; receivers want 2048")
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return Key(
        "rsa",
        key.private_bytes(_PEM, serialization.PrivateFormat.TraditionalOpenSSL, _PLAIN),
        base64.b64encode(public).decode(),
        key.key_size,
    )


def _ed25519(key: ed25519.Ed25519PrivateKey) -> Key:
    raw = serialization.Encoding.Raw
    seed = key.private_bytes(raw, serialization.PrivateFormat.Raw, _PLAIN)
    public = key.public_key().public_bytes(raw, serialization.PublicFormat.Raw)
    return Key("ed25519", base64.b64encode(seed), base64.b64encode(public).decode(), 256)


async def record_faults(signer: Signer, dns: Dns) -> list[str]:
    """What is wrong with the published key, in sentences; empty where receivers can use it."""
    name = signer.record_name
    try:
        answer = await dns.txt(name)
    except NetFailure as failure:
        return [f"{name}: the DKIM key record could not be looked up: {failure.sentence}"]
    records = [record for record in answer.records if isinstance(record, bytes)]
    if not records:
        return [f"{name}: no DKIM key record; publish: {signer.record}"]
    if len(records) > 1:
        return [f"{name}: {len(records)} TXT records; publish one: {signer.record}"]
    return _faults(signer, records[0])


def _faults(signer: Signer, record: bytes) -> list[str]:
    """RFC 6376 section 3.6.1, read for what keeps a report from being taken."""
    name = signer.record_name
    tags = {}
    for field in record.decode("utf-8", "replace").split(";"):
        tag, equals, value = field.partition("=")
        if equals:
            tags[tag.strip()] = "".join(value.split())
    advice = f"publish: {signer.record}"
    if tags.get("v", "DKIM1") != "DKIM1" or "p" not in tags:
        return [f"{name}: no DKIM key record; {advice}"]
    if not tags["p"]:
        return [f"{name}: the key is revoked (p= is empty); {advice}"]
    found = []
    # RFC 8460 section 3: a key for mail alone (s=email) does not sign reports; RFC 6376 section
    # 3.6.1: one for reports alone does not sign mail. All services (*) is the default.
    services = tags.get("s", "*").split(":")
    shown = f"{name}: s={clean(tags.get('s', ''), 60)}"
    if not {"*", "tlsrpt"} & set(services):
        found.append(f"{shown} does not allow TLS reports: receivers may ignore them; leave s= out")
    elif not {"*", "email"} & set(services):
        found.append(
            f"{shown} does not allow mail: mox, OpenDKIM and others that verify every mail fail "
            "the signature, and reports are dropped; leave s= out"
        )
    elif "*" not in services:
        found.append(f"{shown}: dkimpy, for one, does not read a list there; leave s= out")
    if tags.get("k", "rsa") != signer.key.kind or tags["p"] != signer.key.public:
        found.append(f"{name}: another key than that in tls_reports.dkim_key; {advice}")
    if "h" in tags and "sha256" not in tags["h"].split(":"):
        found.append(f"{name}: h= does not allow sha256; leave h= out")
    if "y" in tags.get("t", "").split(":"):
        found.append(f"{name}: t=y: receivers treat the mail as if it was not signed")
    return found
