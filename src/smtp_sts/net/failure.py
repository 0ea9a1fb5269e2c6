"""Why something in the network failed: the one home of its slugs.

Promises: every failure that leaves `net/` is a `NetFailure` whose slug stands in `CAUSES`, with a
sentence that an operator understands. Nothing here does I/O.
"""

from __future__ import annotations

from typing import Final

FETCH: Final = "sts-policy-fetch-error"
WEBPKI: Final = "sts-webpki-invalid"
DNS: Final = "dns-error"

#: slug -> the RFC 8460 section 4.3 result type it belongs to (`dns-error` has none there).
CAUSES: Final[dict[str, str]] = {
    "dns-timeout": DNS,
    "dns-servfail": DNS,
    "dns-refused": DNS,
    "dns-malformed": DNS,
    "dns-unreachable": DNS,
    "dns-cname-loop": DNS,
    "policy-host-not-found": FETCH,
    "policy-host-dns-error": FETCH,
    "private-address": FETCH,
    "tcp-refused": FETCH,
    "tcp-timeout": FETCH,
    "tcp-unreachable": FETCH,
    "tcp-closed": FETCH,
    "tls-handshake": FETCH,
    "certificate-expired": WEBPKI,
    "certificate-not-yet-valid": WEBPKI,
    "certificate-name-mismatch": WEBPKI,
    "certificate-self-signed": WEBPKI,
    "certificate-unknown-issuer": WEBPKI,
    "certificate-invalid": WEBPKI,
    "http-protocol": FETCH,
    "http-redirect": FETCH,
    "http-status": FETCH,
    "media-type": FETCH,
    "content-coding": FETCH,
    "body-too-large": FETCH,
    "body-truncated": FETCH,
    "fetch-timeout": FETCH,
}


class NetFailure(Exception):
    """A failed look at the network.

    `slug` is a key of `CAUSES`, `sentence` says in words what was seen and where; it holds no
    control characters, whatever a stranger sent (law 5).
    """

    def __init__(self, slug: str, sentence: str) -> None:
        if slug not in CAUSES:
            raise AssertionError(f"unknown failure slug {slug!r}")
        self.slug = slug
        if not sentence.isprintable():
            sentence = "".join(c if c.isprintable() else "?" for c in sentence)
        self.sentence = sentence
        super().__init__(f"{slug}: {self.sentence}")

    @property
    def result_type(self) -> str:
        """The RFC 8460 result type, or `dns-error`."""
        return CAUSES[self.slug]
