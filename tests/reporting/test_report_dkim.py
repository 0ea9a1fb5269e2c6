"""Signatures that receivers take: checked by dkimpy, with the key as it is published."""

from __future__ import annotations

import asyncio
import base64
import re
from datetime import UTC, datetime
from pathlib import Path

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from smtp_sts.lab.world import World
from smtp_sts.net.dns import Dns
from smtp_sts.reporting.dkim import KeyTrouble, Signer, make_signer, record_faults
from smtp_sts.tlsrpt import SIGNED_HEADERS, compose

from ..tlsrpt.samples import REPORT

RSA = rsa.generate_private_key(65537, 2048)
ED25519 = ed25519.Ed25519PrivateKey.generate()
MAIL = compose(REPORT, "company-y.example", "r@y.example", "1", datetime(2026, 4, 2, tzinfo=UTC))


def pem(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
        form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8,
        phrase: bytes = b"") -> bytes:  # fmt: skip
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if phrase:
        encryption = serialization.BestAvailableEncryption(phrase)
    return key.private_bytes(serialization.Encoding.PEM, form, encryption)


def signer(tmp_path: Path, data: bytes = b"") -> Signer:
    (tmp_path / "key").write_bytes(data or pem(RSA))
    return make_signer("company-x.example", "s1", str(tmp_path / "key"))


SEED = ED25519.private_bytes(
    serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
)


@pytest.mark.parametrize(
    "data",
    [
        pem(RSA),
        pem(RSA, serialization.PrivateFormat.TraditionalOpenSSL),
        pem(ED25519),
        base64.b64encode(SEED) + b"\n",
    ],
    ids=["rsa", "rsa-pkcs1", "ed25519", "ed25519-dknewkey"],
)
def test_dkimpy_takes_the_signature_and_finds_all_of_the_mail_in_it(
    tmp_path: Path, data: bytes
) -> None:
    made = signer(tmp_path, data)
    signed = made.sign(MAIL)

    def txt(name: bytes, timeout: int = 5) -> bytes:
        assert name == b"s1._domainkey.company-x.example."
        return made.record.encode()

    assert dkim.verify(signed, dnsfunc=txt, tlsrpt=True)
    head = signed.partition(b"\r\nFrom:")[0].decode().replace("\r\n", "")
    assert not re.search(r"[;\s]l=", head)
    covered = re.search(r"h=([^;]+);", head)
    assert covered is not None
    names = [name.strip() for name in covered[1].split(":")]
    assert sorted(names) == sorted(["from", *(name.lower() for name in SIGNED_HEADERS)])
    for change in (
        (b"TLS-Report-Domain: company-y", b"TLS-Report-Domain: mallory"),
        (b"TLS-Report-Submitter: company-x", b"TLS-Report-Submitter: mallory"),
        (b"TLS-Required: No", b"TLS-Required: Yes"),
        (b"\r\nFrom:", b"\r\nFrom: mallory@mallory.example\r\nFrom:"),
        (b"--\r\n", b"--\r\nappended\r\n"),
    ):
        forged = signed.replace(*change)
        assert forged != signed
        assert not dkim.verify(forged, dnsfunc=txt)


@pytest.mark.parametrize(
    ("service", "reports", "mail", "strict"),
    [
        ("", True, True, False),
        ("s=*; ", True, True, False),
        ("s=tlsrpt; ", True, False, True),
        ("s=email:tlsrpt; ", False, False, False),
    ],
)
def test_who_takes_which_key_record(
    tmp_path: Path, service: str, reports: bool, mail: bool, strict: bool
) -> None:
    """The rows of docs/tls-reports-delivery.md that dkimpy can play: as a reader of reports, as a
    verifier of all mail, and as a reader that wants the service type (RFC 8460 section 3: MAY)."""
    made = signer(tmp_path)
    signed = made.sign(MAIL)
    record = made.record.replace("p=", f"{service}p=").encode()

    def verified(tlsrpt: bool | str) -> bool:
        try:
            return bool(dkim.verify(signed, dnsfunc=lambda *_, **__: record, tlsrpt=tlsrpt))
        except AttributeError:  # of the list it makes no key
            return False

    assert (verified(True), verified(False), verified("strict")) == (reports, mail, strict)
    assert "s=" not in made.record


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no private key"),
        (b"nonsense", "no private key"),
        (b"-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n", "cannot be read"),
        (pem(RSA, phrase=b"secret"), "pass phrase"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "RSA and Ed25519"),
    ],
)
def test_a_key_that_cannot_be_used_is_refused_with_advice(
    tmp_path: Path, data: bytes, says: str
) -> None:
    (tmp_path / "key").write_bytes(data)
    with pytest.raises(KeyTrouble, match=says):
        make_signer("alice.example", "s1", str(tmp_path / "key"))
    with pytest.raises(KeyTrouble, match="No such file"):
        make_signer("alice.example", "s1", str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("domain", "selector"),
    [
        ("", "s"),
        ("A.example", "s"),
        ("a.example", ""),
        ("a.example", "s;l=1"),
        ("a.example", "a b"),
    ],
)
def test_names_that_cannot_be_in_a_signature(tmp_path: Path, domain: str, selector: str) -> None:
    (tmp_path / "key").write_bytes(pem(RSA))
    with pytest.raises(KeyTrouble, match=r"is no (domain name|selector)"):
        make_signer(domain, selector, str(tmp_path / "key"))


def test_a_key_does_not_show_itself(tmp_path: Path) -> None:
    assert "PRIVATE" not in repr(signer(tmp_path))
    assert base64.b64encode(SEED).decode() not in repr(signer(tmp_path, pem(ED25519)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("", ""), ""),
        (("p=", "s=*; p="), ""),
        (("p=", "s=tlsrpt:*; p="), ""),
        (("p=", "s=email : tlsrpt; p="), "does not read a list"),
        (("v=DKIM1; ", ""), ""),
        (("p=", "s=email; p="), "does not allow TLS reports"),
        (("p=", "s=tlsrpt; p="), "does not allow mail: mox"),
        (("p=", "p=x"), "another key"),
        (("k=rsa", "k=ed25519"), "another key"),
        (("p=", "h=sha1; p="), "sha256"),
        (("p=", "t=y:s; p="), "t=y"),
        (("v=DKIM1", "v=DKIM2"), "no DKIM key record"),
    ],
)
def test_the_published_key_is_looked_at(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    async def scene() -> list[str]:
        async with World() as world:
            made = signer(tmp_path)
            record = made.record.replace(*change)
            pieces = [record[n : n + 200] for n in range(0, len(record), 200)]
            world.names.put(made.record_name, "TXT", " ".join(f'"{p}"' for p in pieces))
            return await record_faults(made, Dns([world.names.address]))

    found = asyncio.run(scene())
    assert len(found) == bool(says)
    assert says in "".join(found)


def test_a_key_that_is_not_published_is_told_with_what_to_publish(tmp_path: Path) -> None:
    async def scene() -> None:
        async with World() as world:
            made = signer(tmp_path)
            dns = Dns([world.names.address])
            (absent,) = await record_faults(made, dns)
            assert absent == f"{made.record_name}: no DKIM key record; publish: {made.record}"
            world.names.put(made.record_name, "TXT", '"v=DKIM1; p="')
            assert "revoked" in (await record_faults(made, dns))[0]
            world.names.put(made.record_name, "TXT", '"v=DKIM1; p=x"', '"v=DKIM1; p=y"')
            assert "2 TXT records" in (await record_faults(made, dns))[0]
            world.names.spoil(made.record_name, "servfail")
            assert "could not be looked up" in (await record_faults(made, dns))[0]

    asyncio.run(scene())
