"""Errors of DANE: a stable slug, and a sentence for people. No I/O.

Promises: the sentence holds no control characters, whatever a stranger's certificate or record has
in it (law 5).
"""

from __future__ import annotations


class DaneError(ValueError):
    """What is wrong with a record or a chain; `slug` is stable."""

    def __init__(self, slug: str, sentence: str) -> None:
        self.slug = slug
        self.sentence = "".join(c if c.isprintable() else "?" for c in sentence)
        super().__init__(f"{slug}: {self.sentence}")


class TlsaError(DaneError):
    """Bytes that are no TLSA record data."""


class MatchError(DaneError):
    """A chain that the TLSA records do not authenticate; `slug` is an RFC 8460 result type."""
