"""What TLSA records say, and whether a certificate chain keeps to them (RFC 6698, 7671, 7672).

    >>> from smtp_sts.dane import Tlsa, unusable
    >>> record = Tlsa.parse(bytes((3, 1, 1)) + bytes(32))
    >>> str(record)[:10], unusable(record)
    ('3 1 1 0000', None)

Promises: bytes in, values or `DaneError`s out, which are `ValueError`s with a slug and a sentence.
No I/O.
"""

from smtp_sts.dane.errors import DaneError, MatchError, TlsaError
from smtp_sts.dane.tlsa import Tlsa, unusable
from smtp_sts.dane.verify import Match, match

__all__ = ["DaneError", "Match", "MatchError", "Tlsa", "TlsaError", "match", "unusable"]
