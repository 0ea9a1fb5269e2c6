"""What every kind of MTA is told of one decision, for people who ask. No I/O.

Promises: each text is exactly what goes out on the wire, without what frames it there (a netstring,
a line end). The socketmap profiles come first, by their names; then the protocols that have one
form of answer, by theirs.
"""

from __future__ import annotations

from typing import Final

from smtp_sts.mta import line, tcp_table
from smtp_sts.mta.profiles import PROFILES
from smtp_sts.resolver.decision import Decision

#: Who asks so.
MTAS: Final[dict[str, str]] = {
    **{name: "Postfix" for name in PROFILES if name.startswith("postfix")},
    "sts": "Sendmail",
    "line": "Exim",
    "tcp-table": "Postfix",
}


def replies(decision: Decision) -> dict[str, str]:
    """By profile or protocol, what an MTA is told."""
    return {
        **{name: render(decision) for name, render in PROFILES.items()},
        "line": line.answer(decision).decode("ascii").removesuffix("\n"),
        "tcp-table": tcp_table.answer(decision).decode("ascii").removesuffix("\n"),
    }
