"""What the pages in docs/ tell an operator to write, for tests that do just that.

Promises: `block()` gives exactly one fenced block of a page, or fails with what it looked for.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

DOCS: Final = Path(__file__).parents[2] / "docs"


def block(page: str, beginning: str) -> str:
    """The fenced block of `page` that begins so; LookupError where there is not just one."""
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks: list[str] = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    found = [b for b in blocks if b.startswith(beginning)]
    if len(found) != 1:
        raise LookupError(f"docs/{page} has {len(found)} blocks that begin with {beginning!r}")
    return found[0]
