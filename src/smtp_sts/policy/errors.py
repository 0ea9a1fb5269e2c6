"""Errors of the policy language: what is wrong, where, and a stable slug. No I/O."""

from __future__ import annotations

#: Characters of a stranger's text that are shown in a message, at most.
SHOWN = 60


class LanguageError(ValueError):
    """Text that is not what the specification asks for.

    `slug` is stable; `line` and `column` count from 1 and are None where they would not help.
    """

    def __init__(
        self, slug: str, message: str, *, line: int | None = None, column: int | None = None
    ) -> None:
        self.slug = slug
        self.line = line
        self.column = column
        place = ", ".join(
            f"{name} {value}" for name, value in (("line", line), ("column", column)) if value
        )
        super().__init__(f"{place}: {message}" if place else message)


class RecordError(LanguageError):
    """A TXT record that means "no policy" (RFC 8461 section 3.1)."""


class PolicyError(LanguageError):
    """A policy document that is not valid (RFC 8461 section 3.2)."""


class NextHopError(LanguageError):
    """A next hop that has no policy domain."""


def shown(text: str | bytes) -> str:
    """A stranger's text, quoted, short and without control characters (law 5)."""
    text = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text
    return ascii(text if len(text) <= SHOWN else text[:SHOWN] + "...")
