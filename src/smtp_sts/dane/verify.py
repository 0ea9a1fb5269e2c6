"""Whether a server's certificate chain keeps to its TLSA records (RFC 7671, RFC 7672 section 3).

Promises: `match` says which record matched or raises `MatchError`, for arbitrary bytes, in bounded
time. No I/O: `when` is the caller's clock.

Why not `cryptography.x509.verification`: it holds chains to the rules of the public Web (SAN, key
identifiers, key sizes), to which the private CAs behind DANE-TA and the MTAs that check them do
not keep. Signatures are checked by `cryptography`; the rest of RFC 5280 section 6 that matters
here stands below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from smtp_sts.dane.certificate import Certificate, read
from smtp_sts.dane.errors import MatchError
from smtp_sts.dane.faults import FAULTS
from smtp_sts.dane.tlsa import CERT, DANE_EE, DANE_TA, FULL, SPKI, Tlsa, unusable

#: Certificates of a chain that are looked at.
MAX_CHAIN: Final = 16
#: Signatures that are checked for all records together; an honest chain has three or four. Those of
#: keys that are taken (`certificate.py`) cost 1 ms at most.
MAX_SIGNATURES: Final = 64
#: Names of a certificate that a sentence shows.
_SHOWN: Final = 4

#: From the leaf up to what the trust anchor has signed, or to the trust anchor itself.
_Path = tuple[Certificate, ...]


class Match(msgspec.Struct, frozen=True):
    """The record that authenticates the chain; `depth` 0 is the leaf.

    `depth` of a trust anchor that was not presented is one above the last certificate below it.
    """

    record: Tlsa
    depth: int


def match(
    records: Iterable[Tlsa], chain: Sequence[bytes], names: Sequence[str], *, when: float
) -> Match:
    """Which record authenticates `chain`, DER, leaf first, as presented. Raises MatchError.

    `names` are the reference identifiers: the TLSA base domain and the next-hop domain (RFC 7672
    section 3.2.2); they and `when`, seconds since the epoch, count for usage DANE-TA only.
    """
    usable = _agile([record for record in records if unusable(record) is None])
    if not usable:
        raise MatchError(FAULTS["tlsa-unusable"], "there is no TLSA record that SMTP can use")
    if not chain:
        raise MatchError(FAULTS["certificate-absent"], "the server presents no certificate")
    leaf = read(chain[0])
    if leaf is None:
        raise MatchError(
            FAULTS["certificate-unreadable"], "the server's certificate cannot be read"
        )
    for record in usable:
        # RFC 7672 section 3.1.1: neither names nor dates count.
        if record.usage == DANE_EE and record.covers(leaf.der, leaf.spki):
            return Match(record, 0)
    presented = [found for der in chain[1:MAX_CHAIN] if (found := read(der)) is not None]
    signatures = _Signatures()
    paths = _paths(leaf, presented, signatures)
    failure: MatchError | None = None
    for record in usable:
        if record.usage == DANE_TA and (path := _climb(record, leaf, presented, paths, signatures)):
            try:
                _check(path, names, when)
            except MatchError as error:
                failure = failure or error
                continue
            top = path[-1]
            anchored = len(path) > 1 and record.covers(top.der, top.spki)
            return Match(record, len(path) - 1 if anchored else len(path))
    raise failure or _unmatched(usable)


def _unmatched(usable: list[Tlsa]) -> MatchError:
    shown = sorted({record.parameters for record in usable})
    what = "no TLSA record"
    if all(record.usage == DANE_EE for record in usable):
        text = f"the server's certificate matches {what} ({', '.join(shown)})"
    else:
        text = f"the chain leads to no trust anchor: it matches {what} ({', '.join(shown)})"
    return MatchError(FAULTS["certificate-unmatched"], text)


def _agile(usable: list[Tlsa]) -> list[Tlsa]:
    """RFC 7671 section 9: of the digests of one usage and selector only the strongest counts."""
    strongest: dict[tuple[int, int], int] = {}
    for record in usable:
        kind = (record.usage, record.selector)
        strongest[kind] = max(record.matching, strongest.get(kind, FULL))
    return [
        record
        for record in usable
        if record.matching in (FULL, strongest[record.usage, record.selector])
    ]


class _Signatures:
    """Who has signed whom; each signature is checked once, and `MAX_SIGNATURES` of them."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bytes], bool] = {}

    def issued(self, lower: Certificate, issuer: Certificate) -> bool:
        """Whether `issuer` has signed `lower`, by name and key."""
        if lower.x509.issuer != issuer.x509.subject:
            return False
        return self._checked((lower.der, issuer.der), lambda: lower.issued_by(issuer))

    def signed(self, lower: Certificate, spki: bytes) -> bool:
        """Whether a key has signed `lower`."""
        return self._checked((lower.der, spki), lambda: lower.signed_with(spki))

    def _checked(self, pair: tuple[bytes, bytes], check: Callable[[], bool]) -> bool:
        if pair not in self._known:
            if len(self._known) >= MAX_SIGNATURES:
                return False
            self._known[pair] = check()
        return self._known[pair]


def _paths(leaf: Certificate, pool: list[Certificate], signatures: _Signatures) -> list[_Path]:
    """All paths of good signatures from the leaf up, one to each certificate, the shortest first.
    The leaf is never its own trust anchor."""
    seen = {leaf.der}
    paths: list[_Path] = [(leaf,)]
    for path in paths:
        for issuer in pool:
            if issuer.der not in seen and issuer.signs and signatures.issued(path[-1], issuer):
                seen.add(issuer.der)
                paths.append((*path, issuer))
    return paths


def _climb(
    record: Tlsa,
    leaf: Certificate,
    presented: list[Certificate],
    paths: list[_Path],
    signatures: _Signatures,
) -> _Path | None:
    """The shortest path to the trust anchor that `record` names; `paths` are those of what was
    presented.

    The trust anchor may be missing from the chain where the record holds the whole of it (RFC 7671
    section 5.2: 2 0 0 and 2 1 0).
    """
    if record.matching == FULL and record.selector == CERT:
        whole = read(record.data)
        paths = _paths(leaf, [*presented, *([whole] if whole else [])], signatures)
    for path in paths:
        top = path[-1]
        if len(path) > 1 and record.covers(top.der, top.spki):
            return path
        if (
            record.matching == FULL
            and record.selector == SPKI
            and signatures.signed(top, record.data)
        ):
            return path
    return None


def _check(path: _Path, names: Sequence[str], when: float) -> None:
    """Dates, constraints and names of a path whose signatures hold. Raises MatchError."""
    leaf = path[0]
    for depth, certificate in enumerate(path):
        which = f"certificate {depth + 1} of the chain ({_names(certificate)})"
        if when > certificate.not_after:
            raise MatchError(FAULTS["certificate-expired"], f"{which} has expired")
        if when < certificate.not_before:
            raise MatchError(FAULTS["certificate-not-yet-valid"], f"{which} is not valid yet")
        if certificate.unknown:
            text = f"{which} has a critical extension that is unknown: {certificate.unknown}"
            raise MatchError(FAULTS["certificate-invalid"], text)
        below = sum(not inner.self_issued for inner in path[1:depth])
        if depth and certificate.path_length is not None and below > certificate.path_length:
            raise MatchError(FAULTS["certificate-invalid"], f"{which} allows no chain so long")
        if depth and not _within(leaf.dns_names, certificate):
            text = f"{which} is not allowed to issue for {_names(leaf)}"
            raise MatchError(FAULTS["certificate-invalid"], text)
    if not leaf.serves:
        raise MatchError(FAULTS["certificate-invalid"], "the certificate is not for TLS servers")
    if not any(_is_named(pattern, name) for pattern in leaf.dns_names for name in names):
        text = f"the certificate is for {_names(leaf)}, not for {' or '.join(names)}"
        raise MatchError(FAULTS["certificate-name-mismatch"], text)


def _names(certificate: Certificate) -> str:
    shown = [name[:64] for name in certificate.dns_names[:_SHOWN]]
    return ", ".join(shown) + (", ..." if len(certificate.dns_names) > _SHOWN else "") or "no name"


def _within(names: Iterable[str], issuer: Certificate) -> bool:
    """dNSName constraints (RFC 5280 section 4.2.1.10)."""

    def under(name: str, trees: Iterable[str]) -> bool:
        return any(f".{name.lower()}".endswith(f".{tree.removeprefix('.')}") for tree in trees)

    return all(
        (issuer.permitted is None or under(name, issuer.permitted))
        and not under(name, issuer.excluded)
        for name in names
    )


def _is_named(pattern: str, name: str) -> bool:
    """RFC 6125 section 6.4: the whole left-most label may be a wildcard, for exactly one label."""
    if not pattern.isascii():  # no lower() of another script may turn into a name's letters
        return False
    pattern, name = pattern.lower(), name.lower().removesuffix(".")
    if pattern.startswith("*.") and "." in pattern[2:]:
        label, dot, rest = name.partition(".")
        return bool(label and dot) and rest == pattern[2:]
    return pattern == name
