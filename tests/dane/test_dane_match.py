"""Chains held against TLSA records: our verdict, and OpenSSL's beside it (RFC 7671, RFC 7672)."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from smtp_sts.dane import Match, MatchError, Tlsa, match
from smtp_sts.dane.verify import MAX_CHAIN

from .chains import (
    CLIENT,
    DOMAIN,
    EARLY,
    HOST,
    INNER,
    LEAF,
    NOW,
    OLD,
    ROOT,
    SERVER,
    Cert,
    der,
    leaf,
    made,
    tlsa,
)
from .chains import write as write_pem

WHEN = NOW.timestamp()
OTHER = Cert("other root")
#: Bears INNER's name and key, and is no CA.
NO_CA = Cert("inner", ROOT, ca=False)
V1 = Cert("inner", ROOT, ca=None)
SHORT = Cert("root", path_length=0)
FAR = (
    "mx.bob.example.evil.example",
    "x.mx.bob.example",
    "*.*.example",
    "mx.*.example",
    "*.example",
    "*",
)


def chain(*certs: Cert) -> list[Cert]:
    return list(certs)


FULL = chain(LEAF, INNER, ROOT)
#: records as (parameters, certificate), chain as presented, and the result: depth or slug
CASES: dict[str, tuple[list[tuple[str, Cert]], list[Cert], int | str]] = {
    **{
        f"ee-{p}": ([(p, LEAF)], FULL, 0)
        for p in ("3 0 0", "3 0 1", "3 0 2", "3 1 0", "3 1 1", "3 1 2")
    },
    "ee-of-a-ca": ([("3 1 1", INNER)], FULL, "certificate-not-trusted"),
    "ee-expired": ([("3 1 1", leaf(days=OLD))], chain(leaf(days=OLD)), 0),
    "ee-other-name": ([("3 1 1", leaf(san=("x.example",)))], chain(leaf(san=("x.example",))), 0),
    "ee-self-signed": ([("3 0 1", Cert("alone"))], chain(Cert("alone")), 0),
    "ee-no-match": ([("3 1 1", OTHER)], FULL, "certificate-not-trusted"),
    "one-of-many": ([("3 1 1", OTHER), ("3 1 1", ROOT), ("3 1 1", LEAF)], FULL, 0),
    "ee-before-ta": ([("2 1 1", INNER), ("3 1 1", LEAF)], FULL, 0),
    "only-pkix": ([("1 1 1", LEAF), ("0 0 1", ROOT)], FULL, "tlsa-invalid"),
    "none": ([], FULL, "tlsa-invalid"),
    **{
        f"ta-root-{p}": ([(p, ROOT)], FULL, 2)
        for p in ("2 0 0", "2 0 1", "2 0 2", "2 1 0", "2 1 1", "2 1 2")
    },
    "ta-inner": ([("2 0 1", INNER)], FULL, 1),
    "ta-inner-without-root": ([("2 1 1", INNER)], chain(LEAF, INNER), 1),
    "ta-is-the-leaf": ([("2 1 1", LEAF)], FULL, "certificate-not-trusted"),
    "ta-not-presented-digest": ([("2 0 1", ROOT)], chain(LEAF, INNER), "certificate-not-trusted"),
    "ta-not-presented-certificate": ([("2 0 0", ROOT)], chain(LEAF, INNER), 2),
    "ta-not-presented-key": ([("2 1 0", ROOT)], chain(LEAF, INNER), 2),
    "ta-not-presented-inner-key": ([("2 1 0", INNER)], chain(LEAF), 1),
    "ta-inner-missing": ([("2 0 0", ROOT)], chain(LEAF, ROOT), "certificate-not-trusted"),
    "ta-other-key": ([("2 1 0", OTHER)], FULL, "certificate-not-trusted"),
    "ta-stranger-appended": (
        [("2 0 1", OTHER)], chain(LEAF, INNER, ROOT, OTHER), "certificate-not-trusted",
    ),
    "ta-out-of-order": ([("2 0 1", ROOT)], chain(LEAF, ROOT, OTHER, INNER), 2),
    "ta-forged-signature": (
        [("2 0 1", INNER)], chain(leaf(signer="mallory"), INNER), "certificate-not-trusted",
    ),
    "ta-forged-key-signature": (
        [("2 1 0", INNER)], chain(leaf(signer="mallory")), "certificate-not-trusted",
    ),
    "ta-rsa": ([("2 0 1", Cert("r", kind="rsa"))],
               chain(leaf(Cert("r", kind="rsa")), Cert("r", kind="rsa")), 1),
    "ta-rsa-key": ([("2 1 0", Cert("r", kind="rsa"))], chain(leaf(Cert("r", kind="rsa"))), 1),
    "ta-ed25519-key": (
        [("2 1 0", Cert("e", kind="ed25519"))], chain(leaf(Cert("e", kind="ed25519"))), 1,
    ),
    "ta-key-of-another-kind": (
        [("2 1 0", Cert("r", kind="rsa"))], FULL, "certificate-not-trusted",
    ),
    "ta-no-ca": ([("2 0 1", ROOT)], chain(leaf(NO_CA), NO_CA, ROOT), "certificate-not-trusted"),
    "ta-no-basic-constraints": (
        [("2 0 1", ROOT)], chain(leaf(V1), V1, ROOT), "certificate-not-trusted",
    ),
    "ta-may-not-sign": (
        [("2 0 1", ROOT)],
        chain(LEAF, Cert("inner", ROOT, may_sign=False), ROOT), "certificate-not-trusted",
    ),
    "ta-path-length-0": (
        [("2 0 1", SHORT)],
        chain(leaf(Cert("i", SHORT)), Cert("i", SHORT), SHORT), "certificate-not-trusted",
    ),
    "ta-path-length-0-holds": ([("2 0 1", SHORT)], chain(leaf(SHORT), SHORT), 1),
    "ta-leaf-expired": ([("2 0 1", ROOT)], chain(leaf(days=OLD), INNER, ROOT),
                        "certificate-expired"),
    "ta-leaf-early": ([("2 0 1", ROOT)], chain(leaf(days=EARLY), INNER, ROOT),
                      "certificate-expired"),
    "ta-inner-expired": (
        [("2 0 1", ROOT)],
        chain(leaf(Cert("inner", ROOT, days=OLD)), Cert("inner", ROOT, days=OLD), ROOT),
        "certificate-expired",
    ),
    "ta-expired": (
        [("2 0 1", Cert("root", days=OLD))],
        chain(LEAF, INNER, Cert("root", days=OLD)), "certificate-expired",
    ),
    "ta-name": ([("2 0 1", ROOT)], chain(leaf(san=("x.example",)), INNER, ROOT),
                "certificate-host-mismatch"),
    "ta-next-hop-name": ([("2 0 1", ROOT)], chain(leaf(san=("a.example", DOMAIN)), INNER, ROOT),
                         2),
    "ta-name-case": ([("2 0 1", ROOT)], chain(leaf(san=("MX.Bob.Example",)), INNER, ROOT), 2),
    "ta-wildcard": ([("2 0 1", ROOT)], chain(leaf(san=("*.bob.example",)), INNER, ROOT), 2),
    "ta-wildcards-that-do-not-count": (
        [("2 0 1", ROOT)], chain(leaf(san=FAR), INNER, ROOT), "certificate-host-mismatch",
    ),
    "ta-common-name": ([("2 0 1", ROOT)], chain(leaf(name=HOST, san=None), INNER, ROOT), 2),
    "ta-common-name-beside-san": (
        [("2 0 1", ROOT)], chain(leaf(name=HOST, san=("x.example",)), INNER, ROOT),
        "certificate-host-mismatch",
    ),
    "ta-permitted": (
        [("2 0 1", Cert("c", permitted=(DOMAIN,)))],
        chain(leaf(Cert("c", permitted=(DOMAIN,))), Cert("c", permitted=(DOMAIN,))), 1,
    ),
    "ta-not-permitted": (
        [("2 0 1", Cert("c", permitted=("x.example",)))],
        chain(leaf(Cert("c", permitted=("x.example",))), Cert("c", permitted=("x.example",))),
        "certificate-not-trusted",
    ),
    "ta-excluded": (
        [("2 0 1", Cert("c", excluded=(DOMAIN,)))],
        chain(leaf(Cert("c", excluded=(DOMAIN,))), Cert("c", excluded=(DOMAIN,))),
        "certificate-not-trusted",
    ),
    "ta-for-clients": ([("2 0 1", ROOT)], chain(leaf(purpose=CLIENT), INNER, ROOT),
                       "certificate-not-trusted"),
    "ta-for-servers": ([("2 0 1", ROOT)], chain(leaf(purpose=SERVER), INNER, ROOT), 2),
    "ta-unknown-critical-extension": (
        [("2 0 1", ROOT)], chain(leaf(strange=True), INNER, ROOT), "certificate-not-trusted",
    ),
    "second-anchor-holds": (
        [("2 0 1", Cert("root", days=OLD)), ("2 0 1", INNER)],
        chain(LEAF, INNER, Cert("root", days=OLD)), 1,
    ),
}  # fmt: skip


def ours(records: list[tuple[str, Cert]], presented: list[Cert]) -> Match:
    return match(
        [tlsa(*record) for record in records],
        [der(cert) for cert in presented],
        [HOST, DOMAIN],
        when=WHEN,
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_verdict(case: tuple[list[tuple[str, Cert]], list[Cert], int | str]) -> None:
    records, presented, want = case
    if isinstance(want, int):
        found = ours(records, presented)
        assert found.depth == want
        assert found.record in [tlsa(*record) for record in records]
    else:
        with pytest.raises(MatchError) as caught:
            ours(records, presented)
        assert caught.value.slug == want
        assert caught.value.sentence


@contextlib.contextmanager
def server(pem: Path) -> Iterator[int]:
    """A TLS server that takes connections one after the other; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with contextlib.suppress(OSError), connection:
                    connection.settimeout(5)
                    with context.wrap_socket(connection, server_side=True) as tls:
                        tls.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize("name", [n for n in CASES if n not in ("none", "only-pkix")])
def test_openssl_says_the_same(name: str, tmp_path: Path) -> None:
    records, presented, want = CASES[name]
    write_pem(tmp_path / "server.pem", presented)
    command = ["openssl", "s_client", "-no-CApath", "-no-CAfile", "-no-CAstore", "-brief"]
    command += ["-dane_ee_no_namechecks", "-verify_return_error", "-dane_tlsa_domain", HOST]
    for record in records:
        command += ["-dane_tlsa_rrdata", str(tlsa(*record))]
    # The next-hop domain is a second reference identifier, for which s_client has no option.
    if name == "ta-next-hop-name":
        command[command.index(HOST)] = DOMAIN
    with server(tmp_path / "server.pem") as port:
        command += ["-connect", f"127.0.0.1:{port}"]
        done = subprocess.run(command, input="", capture_output=True, text=True, timeout=20)
    assert ("Verification: OK" in done.stderr) == isinstance(want, int), done.stderr


def test_digest_agility_only_the_strongest_digest_of_a_usage_and_selector_counts() -> None:
    stale = tlsa("3 1 2", OTHER)
    with pytest.raises(MatchError):  # RFC 7671 section 9
        match([stale, tlsa("3 1 1", LEAF)], [der(LEAF)], [HOST], when=WHEN)
    for good in (tlsa("3 0 1", LEAF), tlsa("3 1 0", LEAF), tlsa("3 1 2", LEAF)):
        assert match([stale, good], [der(LEAF)], [HOST], when=WHEN).record == good
    broken = Tlsa(3, 1, 2, bytes(63))  # an unusable record outdoes none
    assert match([broken, tlsa("3 1 1", LEAF)], [der(LEAF)], [HOST], when=WHEN).depth == 0


def test_a_failed_name_is_told_with_both_names_and_without_control_characters() -> None:
    stranger = leaf(name="a\x1b[2J\nb", san=None)
    with pytest.raises(MatchError) as caught:
        match([tlsa("2 0 1", INNER)], [der(stranger), der(INNER)], [HOST, DOMAIN], when=WHEN)
    assert caught.value.sentence == (
        "the certificate is for a?[2J?b, not for mx.bob.example or bob.example"
    )


def test_an_endless_chain_costs_no_more_than_a_long_one() -> None:
    certs = [Cert("inner", ROOT, kind="ec", days=(-10, n)) for n in range(1, 60)]
    presented = [der(LEAF), *map(der, certs), der(ROOT)]
    with pytest.raises(MatchError, match="no trust anchor"):
        match([tlsa("2 0 1", ROOT)], presented, [HOST], when=WHEN)
    presented[MAX_CHAIN - 1] = der(ROOT)
    assert match([tlsa("2 0 1", ROOT)], presented, [HOST], when=WHEN).depth == 2


@pytest.mark.parametrize("kind", ["costly", "rsa"])
def test_law_6_signatures_beyond_measure_are_not_checked(kind: str) -> None:
    """Fifteen issuers of the right name, a hundred records; none of it leads anywhere."""
    issuers = [Cert("x", kind=kind, days=(-10, n)) for n in range(1, MAX_CHAIN)]
    presented = [der(leaf(issuers[0], signer="another")), *map(der, issuers)]
    records = [Tlsa(2, 0, 1, bytes([n]) * 32) for n in range(100)]
    records += [tlsa("2 1 0", Cert("another key", kind=kind))]
    began = time.process_time()
    with pytest.raises(MatchError, match="no trust anchor"):
        match(records, presented, [HOST], when=WHEN)
    assert time.process_time() - began < 0.1


@given(st.data())
def test_nothing_but_match_errors_comes_out_of_broken_chains(data: st.DataObject) -> None:
    presented = [bytearray(der(cert)) for cert in (LEAF, INNER, ROOT)]
    for _ in range(data.draw(st.integers(1, 3))):
        one = presented[data.draw(st.integers(0, 2))]
        one[data.draw(st.integers(0, len(one) - 1))] = data.draw(st.integers(0, 255))
    garbage = data.draw(st.lists(st.binary(max_size=60), max_size=2))
    anchors = [
        tlsa("2 0 0", ROOT),
        tlsa("2 1 0", INNER),
        Tlsa(2, 0, 1, bytes(32)),
        Tlsa(2, 0, 0, bytes(presented[2])),
    ]
    records = data.draw(st.lists(st.sampled_from(anchors), min_size=1, max_size=2))
    for broken in ([*map(bytes, presented), *garbage], [*garbage, *map(bytes, presented)], garbage):
        try:
            found = match(records, broken, [HOST], when=WHEN)
        except MatchError as error:
            assert error.sentence.isprintable()
        else:
            x509.load_der_x509_certificate(broken[0])
            assert found.record in records


def test_the_key_is_digested_as_it_was_sent() -> None:
    """OpenSSL's digest of the key of every kind of certificate is ours."""
    for kind in ("ec", "rsa", "ed25519"):
        cert = Cert(f"kind {kind}", kind=kind)
        assert made(cert).public_key() == cert.key.public_key()
        assert match([tlsa("3 1 1", cert)], [der(cert)], [], when=WHEN).depth == 0
