"""What TLSA records say, and whether a certificate chain keeps to them (RFC 6698, 7671, 7672).

    >>> from smtp_sts.dane import Tlsa, unusable
    >>> record = Tlsa.parse(bytes((3, 1, 1)) + bytes(32))
    >>> str(record)[:10], unusable(record)
    ('3 1 1 0000', None)

Promises: bytes in, values or `DaneError`s out, which are `ValueError`s with a slug and a sentence.
No I/O. Who only reads records does not pay for the reading of certificates: `cryptography` takes
20 MB of each process, so it is imported when `match` is first named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smtp_sts.dane.errors import DaneError, MatchError, TlsaError
from smtp_sts.dane.tlsa import Tlsa, unusable

if TYPE_CHECKING:
    from smtp_sts.dane.verify import Match, match


def __getattr__(name: str) -> Any:
    if name not in ("Match", "match"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from smtp_sts.dane import verify

    return getattr(verify, name)


__all__ = ["DaneError", "Match", "MatchError", "Tlsa", "TlsaError", "match", "unusable"]
