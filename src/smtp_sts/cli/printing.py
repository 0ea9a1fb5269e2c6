"""What strangers wrote, as it is printed: one line that a terminal shows and does not obey (law 5).

Promises: nothing that these give holds a control character or a mark that changes the direction of
text; JSON means the same as before, for a program that reads it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console

_UNUSUAL: Final = re.compile(r"[^\x20-\x7e]+")
_UNUSUAL_IN_JSON: Final = re.compile(r"[^\x20-\x7e\n]+")


#: Where nobody reads along, lines are as long as they are.
_UNFOLDED: Final = 10_000


def wide_console() -> Console:
    """Where to print for people. What is no terminal gets lines that are not folded."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    if not console.is_terminal:
        console.width = _UNFOLDED
    return console


def one_line(text: str, limit: int = 1000) -> str:
    """At most `limit` characters of a text; those that cannot be seen are escaped as in Python."""
    return _UNUSUAL.sub(_visible, text[:limit])


def _visible(run: re.Match[str]) -> str:
    text = run[0]
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def to_json(data: Any, *, indent: int = 2) -> str:
    """JSON whose text is visible: what is not stands as an escape (RFC 8259 section 7)."""
    import msgspec

    encoded = msgspec.json.encode(data)
    if indent:
        encoded = msgspec.json.format(encoded, indent=indent)
    return safe_json(encoded.decode())


def safe_json(text: str) -> str:
    """The same for JSON that is there already. Outside its strings JSON is ASCII."""
    return _UNUSUAL_IN_JSON.sub(_escaped, text)


def _escaped(run: re.Match[str]) -> str:
    text = run[0]
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _units(c) for c in text)


def _units(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
