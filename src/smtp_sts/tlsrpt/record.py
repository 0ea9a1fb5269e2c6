"""The `_smtp._tls` TXT record and its `rua` (RFC 8460 section 3). No I/O.

Promises: `find_record` gives the one record that counts, None where there is none, or raises
`RecordError`; nothing else ever comes out, whatever bytes go in. What stands in `rua` can be used
as it is: an address that is nothing but an address, a URL that is nothing but https. Reading what
`Record.render` made gives the same record. Must not: judge where a destination leads to; a host
name may still resolve to a private address.
Example: `v=TLSRPTv1; rua=mailto:reports@example.com,https://reporting.example.com/v1/tlsrpt`
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, Literal
from urllib.parse import quote, unquote_to_bytes

import idna
import msgspec

from smtp_sts.tlsrpt.errors import RecordError, shown
from smtp_sts.tlsrpt.names import domain_name, ip_address, mail_address

#: Destinations that are taken from one record; those beyond are skipped and said to be.
MAX_DESTINATIONS: Final = 10
_MAX_URI: Final = 2048
#: No domain has more letters; keeps idna's work bounded.
_MAX_NAME: Final = 253

_START: Final = b"v=TLSRPTv1;"
_NAME: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):", re.ASCII)
# RFC 3986 without what section 3 wants encoded ("," "!" ";") and without what is no URI at all
_PATH: Final = re.compile(r"(?:[A-Za-z0-9._~$&'()*+=:@/?-]|%[0-9A-Fa-f]{2})*", re.ASCII)
_UNENCODED: Final = "+-._~$&'*=/"
_AUTHORITY: Final = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::(?P<port>[0-9]{1,5})?)?", re.ASCII
)


class Destination(msgspec.Struct, frozen=True):
    """Where reports go. `target` is a mail address, or an https URL; both ready for use."""

    scheme: Literal["mailto", "https"]
    target: str

    @property
    def uri(self) -> str:
        """As it stands in a record."""
        if self.scheme == "https":
            return self.target
        local, _, domain = self.target.rpartition("@")
        # "%", "?" and "#" have a meaning in a URI; "," "!" ";" are to be encoded (section 3).
        encoded = quote(local, safe=_UNENCODED)
        if encoded.startswith("//"):  # else it would be read as what others write by mistake
            encoded = f"%2F{encoded[1:]}"
        return f"mailto:{encoded}@{domain}"


class Record(msgspec.Struct, frozen=True):
    """A valid record: its destinations, each once, in order.

    `skipped` says in sentences which URIs were left out, and why.
    """

    rua: tuple[Destination, ...]
    skipped: tuple[str, ...] = ()

    def render(self) -> str:
        """The text to publish."""
        return f"v=TLSRPTv1; rua={','.join(d.uri for d in self.rua)}"


def record_name(domain: str) -> str:
    """Where the TXT record of a policy domain stands (section 3)."""
    return f"_smtp._tls.{domain}"


def find_record(records: Iterable[bytes]) -> Record | None:
    """The record for us among the TXT records at `_smtp._tls.<domain>`.

    Each record is one `bytes`, its character-strings joined without blanks. Raises RecordError
    where there is more than one for us, or the one there is names no destination we can use.
    """
    # Section 3: "records which do not begin with "v=TLSRPTv1;" are discarded": so blanks before the
    # semicolon do not match, as with the same sentence of RFC 8461 section 3.1 (erratum 6285).
    ours = [record for record in records if record.startswith(_START)]
    if not ours:
        return None
    if len(ours) > 1:
        raise RecordError(
            "multiple-records", f"{len(ours)} records begin with v=TLSRPTv1; publish exactly one"
        )
    return _parse(ours[0])


def destination(uri: bytes) -> Destination:
    """Where one URI of a `rua` leads; a ValueError says what is wrong with it, as the rest of a
    sentence that begins with the URI."""
    if len(uri) > _MAX_URI:
        raise ValueError(f"is longer than {_MAX_URI} bytes")
    text = uri.decode("ascii", "replace")
    scheme = _SCHEME.match(text)
    if scheme is None:
        raise ValueError("is no URI: write mailto:reports@your.domain")
    rest = text[scheme.end() :]
    if scheme[1].lower() == "mailto":
        return Destination("mailto", _address(rest))
    if scheme[1].lower() == "https":
        return Destination("https", _url(rest))
    raise ValueError("is neither mailto: nor https:")  # section 3: two schemes are supported


def _parse(text: bytes) -> Record:
    destinations: dict[Destination, None] = {}
    skipped: list[str] = []
    seen = False
    for value in _rua(text):
        seen = True
        for raw in value.split(b","):
            uri = raw.strip(b" \t")
            if not uri:
                continue
            try:
                target = destination(uri)
            except ValueError as error:
                if len(skipped) < MAX_DESTINATIONS:
                    skipped.append(f"{shown(uri)} {error}")
                continue
            if target in destinations:
                continue
            if len(destinations) < MAX_DESTINATIONS:
                destinations[target] = None
            elif len(skipped) < MAX_DESTINATIONS:
                skipped.append(f"{shown(uri)} is beyond the first {MAX_DESTINATIONS}")
    if not seen:
        raise RecordError("record-no-rua", "no rua field: add rua=mailto:reports@your.domain")
    if not destinations:
        why = f": {skipped[0]}" if skipped else ""
        raise RecordError("record-no-destination", f"rua names no usable destination{why}")
    return Record(tuple(destinations), tuple(skipped))


def _rua(text: bytes) -> Iterator[bytes]:
    """The values of the rua fields, wherever they stand. Raises RecordError."""
    start = text.index(b";") + 1
    for piece in text[start:].split(b";"):
        column = start + 1 + len(piece) - len(piece.lstrip(b" \t"))
        start += len(piece) + 1
        field = piece.strip(b" \t")
        if not field:
            continue
        name, equals, value = field.partition(b"=")
        if not equals or not _NAME.fullmatch(name):
            raise RecordError(
                "record-field",
                f"{shown(field)} is no field: write name=value",
                place=f"column {column}",
            )
        if name == b"rua":  # section 3: unknown fields SHALL be ignored
            yield value.lstrip(b" \t")


def _address(rest: str) -> str:
    # RFC 6068: after "?" stand header fields, which a stranger does not set in our mail.
    # "mailto://" is no mailto URI, and is published all the same.
    encoded = rest.partition("?")[0].removeprefix("//")
    if not _PATH.fullmatch(encoded):
        raise ValueError('has characters that are to be percent-encoded, such as "!"')
    local, at, domain = unquote_to_bytes(encoded).decode("utf-8", "replace").rpartition("@")
    address = mail_address(f"{local}{at}{_a_labels(domain)}")
    if not address:
        raise ValueError("is no mail address")
    return address


def _a_labels(domain: str) -> str:
    """A domain in U-labels, percent-encoded as RFC 6068 section 2 has them, as mail needs it; ""
    where it is none."""
    if domain.isascii():
        return domain
    if len(domain) > _MAX_NAME:
        return ""
    try:
        return idna.encode(domain, uts46=True).decode("ascii")
    except idna.IDNAError:
        return ""


def _url(rest: str) -> str:
    body = rest.partition("#")[0]
    authority, slash, path = body.removeprefix("//").partition("/")
    if not body.startswith("//"):
        raise ValueError("is no URL: write https://host/path")
    if not slash and "?" in authority:
        authority, _, query = authority.partition("?")
        slash, path = "/", f"?{query}"
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise ValueError("has no plain host[:port] in it; user names are not taken")
    host = parts["host"]
    if host.startswith("["):
        host = ip_address(host.strip("[]"))
        host = f"[{host}]" if ":" in host else ""
    else:
        host = domain_name(host) or ip_address(host)
    if not host:
        raise ValueError("names no valid host")
    port = int(parts["port"]) if parts["port"] else 443
    if not 1 <= port <= 65535:
        raise ValueError("has no valid port")
    if not _PATH.fullmatch(path):
        raise ValueError("has characters that are not allowed in a URL, or are to be encoded")
    return f"https://{host}{'' if port == 443 else f':{port}'}{slash}{path}"
