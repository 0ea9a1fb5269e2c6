"""What is read out of a certificate before it is believed (RFC 5280). No I/O.

Promises: arbitrary bytes give a `Certificate` or None, and nothing is raised. Must not: judge.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: What `cryptography` raises for certificates that are broken or beyond it.
_BROKEN: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
#: RSA keys beyond these count as having signed nothing: 3072 bits with an exponent as long take
#: 9 ms to check; what is in use takes 0.1 ms (exponents are 65537 or 3).
MAX_RSA_BITS: Final = 8192
MAX_EXPONENT_BITS: Final = 64
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
#: Critical extensions that `Certificate` and `verify.py` take account of between them.
_UNDERSTOOD: Final = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.NameConstraints,
    x509.SubjectAlternativeName,
    x509.CertificatePolicies,
)


class Certificate(msgspec.Struct, frozen=True, eq=False):
    """A certificate; times are seconds since the epoch.

    `signs`: it may issue certificates (basicConstraints, keyUsage). `path_length`: how many
    intermediate ones may stand below it, None for any number. `serves`: it may be a TLS server's.
    `dns_names`: the SAN dNSNames, else (RFC 7672 section 3.2.2) the common name. `permitted` and
    `excluded`: dNSName constraints, `permitted` None where there is none. `unknown`: a critical
    extension that is not understood, or "".
    """

    der: bytes
    spki: bytes
    x509: x509.Certificate
    not_before: float
    not_after: float
    signs: bool
    path_length: int | None
    serves: bool
    self_issued: bool
    dns_names: tuple[str, ...]
    permitted: tuple[str, ...] | None
    excluded: tuple[str, ...]
    unknown: str

    def issued_by(self, issuer: Certificate) -> bool:
        """Whether `issuer` bears this issuer's name and its key has signed this."""
        try:
            _affordable(issuer.x509.public_key())
            self.x509.verify_directly_issued_by(issuer.x509)
        except (InvalidSignature, *_BROKEN):
            return False
        return True

    def signed_with(self, spki: bytes) -> bool:
        """Whether the key of a SubjectPublicKeyInfo has signed this."""
        try:
            _verify(self.x509, spki)
        except (InvalidSignature, *_BROKEN):
            return False
        return True


def is_key(spki: bytes) -> bool:
    """Whether these bytes are a SubjectPublicKeyInfo."""
    try:
        serialization.load_der_public_key(spki)
    except _BROKEN:
        return False
    return True


def read(der: bytes) -> Certificate | None:
    """The certificate in `der`; None where there is none that can be read to its end."""
    try:
        return _read(der)
    except _BROKEN:
        return None


def _read(der: bytes) -> Certificate:
    parsed = x509.load_der_x509_certificate(der)
    extensions = parsed.extensions
    basic = _value(extensions, x509.BasicConstraints)
    usage = _value(extensions, x509.KeyUsage)
    purposes = _value(extensions, x509.ExtendedKeyUsage)
    constraints = _value(extensions, x509.NameConstraints)
    permitted = None if constraints is None else constraints.permitted_subtrees
    return Certificate(
        der=der,
        spki=_spki(parsed.tbs_certificate_bytes),
        x509=parsed,
        not_before=parsed.not_valid_before_utc.timestamp(),
        not_after=parsed.not_valid_after_utc.timestamp(),
        signs=basic is not None and basic.ca and (usage is None or usage.key_cert_sign),
        path_length=None if basic is None else basic.path_length,
        serves=purposes is None
        or ExtendedKeyUsageOID.SERVER_AUTH in purposes
        or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in purposes,
        self_issued=parsed.issuer == parsed.subject,
        dns_names=_dns_names(parsed),
        permitted=_dns_subtrees(permitted) or None,
        excluded=_dns_subtrees(None if constraints is None else constraints.excluded_subtrees),
        unknown=next(
            (e.oid.dotted_string for e in extensions
             if e.critical and not isinstance(e.value, _UNDERSTOOD)),
            "",
        ),
    )  # fmt: skip


def _value(extensions: x509.Extensions, kind: type[_Extension]) -> _Extension | None:
    return next((e.value for e in extensions if isinstance(e.value, kind)), None)


def _dns_names(parsed: x509.Certificate) -> tuple[str, ...]:
    alternative = _value(parsed.extensions, x509.SubjectAlternativeName)
    names = [] if alternative is None else alternative.get_values_for_type(x509.DNSName)
    if not names:
        common = parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        names = [str(attribute.value) for attribute in common]
    return tuple(names)


def _dns_subtrees(subtrees: list[x509.GeneralName] | None) -> tuple[str, ...]:
    return tuple(tree.value.lower() for tree in subtrees or () if isinstance(tree, x509.DNSName))


def _affordable(key: object) -> None:
    """Raises InvalidSignature for a key whose signatures cost too much to check."""
    if isinstance(key, rsa.RSAPublicKey) and (
        key.key_size > MAX_RSA_BITS or key.public_numbers().e.bit_length() > MAX_EXPONENT_BITS
    ):
        raise InvalidSignature


def _verify(signed: x509.Certificate, spki: bytes) -> None:
    """Raises InvalidSignature or one of _BROKEN."""
    key = serialization.load_der_public_key(spki)
    _affordable(key)
    parameters, digest = signed.signature_algorithm_parameters, signed.signature_hash_algorithm
    signature, content = signed.signature, signed.tbs_certificate_bytes
    if isinstance(key, rsa.RSAPublicKey) and digest is not None:
        if isinstance(parameters, padding.PKCS1v15 | padding.PSS):
            return key.verify(signature, content, parameters, digest)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if isinstance(parameters, ec.ECDSA):
            return key.verify(signature, content, parameters)
    elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return key.verify(signature, content)
    raise InvalidSignature


def _spki(tbs: bytes) -> bytes:
    """The SubjectPublicKeyInfo as it stands in a TBSCertificate (RFC 5280 section 4.1).

    Not `public_key().public_bytes()`: that writes the key anew, and a digest is of what was sent.
    """
    position, end = _inside(tbs, 0)
    if tbs[position] == 0xA0:  # the version, left out in version 1
        _, position = _inside(tbs, position)
    for _ in ("serialNumber", "signature", "issuer", "validity", "subject"):
        _, position = _inside(tbs, position)
    _, end = _inside(tbs, position)
    return tbs[position:end]


def _inside(data: bytes, position: int) -> tuple[int, int]:
    """Where the content of the DER element at `position` begins and ends."""
    size, begin = data[position + 1], position + 2
    if size & 0x80:
        begin += size & 0x7F
        size = int.from_bytes(data[position + 2 : begin], "big")
    return begin, begin + size
