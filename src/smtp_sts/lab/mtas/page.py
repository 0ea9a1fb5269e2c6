"""What the pages in docs/ tell an operator to write, for real mail servers that do just that.

Promises: `block()` gives exactly one fenced block of a page, or says what it looked for.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

#: In an installed package the pages lie beside this module; in a checkout in docs/.
_PLACES: Final = (Path(__file__).parent, Path(__file__).parents[4] / "docs")


def block(page: str, beginning: str) -> str:
    """The fenced block of `page` that begins so; LookupError where there is not just one."""
    found_in = [place / page for place in _PLACES if (place / page).exists()]
    if not found_in:
        raise LookupError(f"{page} is in none of {', '.join(map(str, _PLACES))}")
    text = found_in[0].read_text(encoding="utf-8")
    blocks: list[str] = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    found = [b for b in blocks if b.startswith(beginning)]
    if len(found) != 1:
        raise LookupError(f"docs/{page} has {len(found)} blocks that begin with {beginning!r}")
    return found[0]
