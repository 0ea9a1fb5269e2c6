"""The blocks of README.md and docs/*.md: what a page tells people to paste, and what it shows.

Every block says by its first word what it is, and a second word says where it is played; a page
with a block that has no such word, or is indented instead of fenced, is a fault (`test_blocks.py`).
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Final, NamedTuple

HERE: Final = Path(__file__).parents[2]
PAGES: Final = (HERE / "README.md", *sorted((HERE / "docs").glob("*.md")))
_FENCED: Final = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1``` *$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One fenced block."""

    page: str
    line: int
    #: its words: "sh", "main.cf", "yaml rules"
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*kinds: str) -> list[Block]:
    """All blocks, or those of some kinds."""
    found = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for match in _FENCED.finditer(text):
            line = text[: match.start()].count("\n") + 1
            name = str(path.relative_to(HERE))
            found.append(Block(name, line, match[2].strip(), textwrap.dedent(match[3])))
    return [block for block in found if not kinds or block.kind in kinds]


def prose(path: Path) -> str:
    """A page without its blocks."""
    return _FENCED.sub("", path.read_text(encoding="utf-8"))
