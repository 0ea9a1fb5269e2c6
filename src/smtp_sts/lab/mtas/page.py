"""What the pages in docs/ tell an operator to write, for real mail servers that do just that.

Promises: `block()` gives exactly one fenced block of a page, or says what it looked for.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

#: In a checkout the pages lie in docs/; an installed package has those that are needed here.
_PLACES: Final = (
    Path(__file__).parents[4] / "docs",
    Path(sys.prefix) / "share/smtp-sts/docs",
)


def block(page: str, beginning: str) -> str:
    """The fenced block of `page` that begins so; LookupError where there is not just one."""
    found_in = [place / page for place in _PLACES if (place / page).exists()]
    if not found_in:
        raise LookupError(f"{page} is in none of {', '.join(map(str, _PLACES))}")
    text = found_in[0].read_text(encoding="utf-8")
    blocks: list[str] = re.findall(r"^```[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    found = [b for b in blocks if b.startswith(beginning)]
    if len(found) != 1:
        raise LookupError(f"docs/{page} has {len(found)} blocks that begin with {beginning!r}")
    return found[0]
