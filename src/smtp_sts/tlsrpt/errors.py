"""Errors of TLSRPT: what is wrong, where, and a stable slug. No I/O.

Promises: the message holds no control characters, whatever a stranger's record or report has in it
(law 5).
"""

from __future__ import annotations

#: Characters of a stranger's text that are shown in a message, at most.
SHOWN = 60


class TlsrptError(ValueError):
    """Text that is not what RFC 8460 asks for; `slug` is stable.

    `place` says where (`column 3`, `policies[0].summary`), or is empty where that would not help.
    """

    def __init__(self, slug: str, message: str, *, place: str = "") -> None:
        self.slug = slug
        self.place = place
        super().__init__(f"{place}: {message}" if place else message)


class RecordError(TlsrptError):
    """A TXT record that asks for no reports (RFC 8460 section 3)."""


class ReportError(TlsrptError):
    """Bytes that are no report, or a report that must not be sent (RFC 8460 section 4.4)."""


class EnvelopeError(TlsrptError):
    """A mail or a file that brings no report, or cannot be made (RFC 8460 section 5)."""


def shown(text: str | bytes) -> str:
    """A stranger's text, quoted, short and without control characters (law 5)."""
    text = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text
    return ascii(text if len(text) <= SHOWN else text[:SHOWN] + "...")
