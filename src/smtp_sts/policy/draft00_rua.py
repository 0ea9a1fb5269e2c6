"""Where the first draft wants reports sent: `sts-uri` with its size limit. No I/O.

draft-margolis-smtp-sts-00 section 3.1. Promises: what `read_rua` gives holds nothing but the
characters of a URI, and reading what `ReportUri.render` wrote gives the same; what cannot be used
is left out and said to be, so that a bad report address never costs a domain its policy.
Must not: judge the address itself; `tlsrpt.destination` does, before anything is sent.
Example: `mailto:reports@example.com!10m,mailto:other@example.net`
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from smtp_sts.policy.errors import shown

#: Addresses that are taken from one record; those beyond are left out and said to be.
MAX_ADDRESSES: Final = 10
#: And so many are looked at, whatever is wrong with them.
MAX_PIECES: Final = 100
_MAX_URI: Final = 2048
#: Section 3.1: "the numeric portion MUST fit within an unsigned 64-bit integer".
_MAX_NUMBER: Final = 2**64 - 1
#: Section 3.1: "the units are considered to be powers of two".
_UNITS: Final = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_LIMIT: Final = re.compile(r"([0-9]{1,20})([kmgt]?)", re.ASCII | re.IGNORECASE)
# RFC 3986 without "," and "!", which are to be encoded, and ";", which ends the field.
_URI: Final = re.compile(r"(?:[A-Za-z0-9._~$&'()*+=:@/?#-]|%[0-9A-Fa-f]{2})+", re.ASCII)
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:", re.ASCII)


class ReportUri(msgspec.Struct, frozen=True):
    """A mailto: URI, and the greatest report in bytes that it takes; None where any size goes."""

    uri: str
    limit: int | None = None

    def render(self) -> str:
        """As it stands in a record: the limit with the greatest unit that loses nothing."""
        if self.limit is None:
            return self.uri
        for unit, power in sorted(_UNITS.items(), key=lambda item: -item[1]):
            if self.limit >> power << power == self.limit and (self.limit or not power):
                return f"{self.uri}!{self.limit >> power}{unit}"
        raise AssertionError("a count of bytes is a multiple of one")


def read_rua(value: str) -> tuple[tuple[ReportUri, ...], tuple[str, ...]]:
    """The addresses of a `rua` field, each once, and sentences on what was left out of it."""
    found: dict[str, ReportUri] = {}
    skipped: list[str] = []
    pieces = value.split(",", MAX_PIECES)
    if len(pieces) > MAX_PIECES:
        skipped.append(f"rua {shown(pieces.pop())} is beyond the first {MAX_PIECES}")
    for piece in pieces:
        text = piece.strip(" \t")
        if not text:
            continue
        try:
            uri = _read(text)
        except ValueError as error:
            if len(skipped) < MAX_ADDRESSES:
                skipped.append(f"rua {shown(text)} {error}")
            continue
        if uri.uri in found:
            continue
        if len(found) < MAX_ADDRESSES:
            found[uri.uri] = uri
        elif len(skipped) < MAX_ADDRESSES:
            skipped.append(f"rua {shown(text)} is beyond the first {MAX_ADDRESSES}")
    return tuple(found.values()), tuple(skipped)


def _read(text: str) -> ReportUri:
    if len(text) > _MAX_URI:
        raise ValueError(f"is longer than {_MAX_URI} characters")
    uri, mark, size = text.partition("!")
    limit = _limit(size.strip(" \t")) if mark else None
    uri = uri.rstrip(" \t")
    if not _URI.fullmatch(uri):
        raise ValueError("has characters that no URI has, or that are to be percent-encoded")
    scheme = _SCHEME.match(uri)
    # Section 3 asks for "email addresses" and shows a URI; a bare address can mean one thing only.
    if scheme is None and "@" in uri:
        uri = f"mailto:{uri}"
    elif scheme is None or scheme[0].lower() != "mailto:":
        raise ValueError("is no mailto: address")
    else:
        uri = f"mailto:{uri[scheme.end() :]}"
    return ReportUri(uri, limit)


def _limit(size: str) -> int:
    parts = _LIMIT.fullmatch(size)
    if parts is None:
        raise ValueError('has no size after "!": write !10m (k, m, g, t, or bytes)')
    number = int(parts[1])
    if number > _MAX_NUMBER:
        raise ValueError("has a size that is more than 64 bits")
    return number << _UNITS[parts[2].lower()]
