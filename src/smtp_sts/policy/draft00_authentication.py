"""How the first draft proves that a policy is the domain's: its field `a`. No I/O.

draft-margolis-smtp-sts-00 section 3.3. Promises: a URL that comes out of `read_authentication` is
https, to a host name that is the policy domain or stands below it, without user name, port and
fragment; so a record can lead nobody to another's server or to another port of its own.
Must not: fetch; who does must pin the address and not follow redirects, as for RFC 8461.
"""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

from smtp_sts.policy.errors import RecordError, shown
from smtp_sts.policy.pattern import is_host_name

#: Where the draft's example keeps the policy (section 3.3; registration was planned, section 5).
WELL_KNOWN: Final = "/.well-known/smtp-sts/current"
_MAX_URL: Final = 2048
_WEBPKI: Final = re.compile(r"webpki[ \t]*:[ \t]*", re.ASCII | re.IGNORECASE)
_HTTPS: Final = re.compile(r"https://([^/?#]*)([^#]*)(#.*)?", re.ASCII | re.IGNORECASE | re.DOTALL)
# RFC 3986 pchar, "/" and "?", without ";", which ends the field.
_TARGET: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,=:@/?-]|%[0-9A-Fa-f]{2})*", re.ASCII)


class Authentication(msgspec.Struct, frozen=True):
    """The mechanism, and for `webpki` the host and the target (path and query) of its URL."""

    mechanism: Literal["webpki", "dnssec"]
    host: str = ""
    target: str = ""

    @property
    def url(self) -> str:
        """Where the same text is served; "" for dnssec."""
        return f"https://{self.host}{self.target}" if self.host else ""

    def render(self) -> str:
        """As it stands in a record: the form of the prose, `webpki:URI`."""
        return f"webpki:{self.url}" if self.mechanism == "webpki" else "dnssec"


def well_known(domain: str) -> Authentication:
    """The mechanism for a policy served where the draft's example has it."""
    return Authentication("webpki", domain, WELL_KNOWN)


def read_authentication(value: str, domain: str, column: int | None = None) -> Authentication:
    """The field `a` of a record of `domain`. Raises RecordError."""

    def wrong(message: str) -> RecordError:
        return RecordError("record-authentication", f"a={shown(value)} {message}", column=column)

    if value.lower() == "dnssec":
        return Authentication("dnssec")
    # Prose: a=webpki:URI. ABNF: a=URI.
    marked = _WEBPKI.match(value)
    url = value[marked.end() :] if marked else value
    parts = _HTTPS.fullmatch(url)
    if parts is None:
        raise wrong(f"is neither dnssec nor webpki:https://{domain}/...")
    if len(url) > _MAX_URL:
        raise wrong(f"is longer than {_MAX_URL} characters")
    authority, target, fragment = parts[1], parts[2], parts[3]
    if fragment is not None:
        raise wrong('has a fragment: end it before the "#"')
    if "@" in authority:
        raise wrong("has a user name or password in it: leave it out")
    host, colon, _ = authority.partition(":")
    if colon:
        raise wrong("names a port: only that of https is asked")
    host = host.lower()
    if not is_host_name(host):
        raise wrong("names no host")
    # Section 3.3: "MUST be served from an HTTPS endpoint at the domain matching that of the
    # recipient domain"
    if host != domain and not host.endswith(f".{domain}"):
        raise wrong(f"leads to {host}, which is not {domain} nor a name below it")
    if not _TARGET.fullmatch(target):
        raise wrong("has characters that no URL has, or that are to be percent-encoded")
    if not target.startswith("/"):
        target = f"/{target}"
    return Authentication("webpki", host, target)
