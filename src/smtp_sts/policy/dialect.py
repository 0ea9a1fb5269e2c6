"""The dialects of SMTP Strict Transport Security, and which one a text is in. No I/O.

The one home of their names, as they stand in `[policy] dialects`, on the command line and in JSON.
"""

from __future__ import annotations

import re
from typing import Final, Literal

Dialect = Literal["rfc8461", "draft00"]

#: name -> the specification
DIALECTS: Final[dict[Dialect, str]] = {
    "rfc8461": "RFC 8461 (MTA-STS)",
    "draft00": "draft-margolis-smtp-sts-00",
}
# A record of the draft has its version first, with "="; a policy document has "key: value" lines,
# and no line in quotes, as TXT records are printed.
_DRAFT: Final = re.compile(rb"\s*(?:[\"(]|[vV][ \t]*=[ \t]*STS1[ \t]*(?:[;\r\n]|\Z))")


def dialect_of(text: bytes) -> Dialect:
    """The dialect of a policy's text, by its first bytes."""
    return "draft00" if _DRAFT.match(text) else "rfc8461"
