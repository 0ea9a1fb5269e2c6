"""How much the store may hold, and what is kept where that is reached. No I/O.

Who makes us look at domains of his fills the store. Promises: nothing that is kept goes for it, and
what is known goes on being renewed (law 1); what cannot be taken is told, to be counted (law 7).
Room is made by `prune`: of policies that are certainly past, and of those that nobody has asked for
in `unused_days`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

#: What a policy takes in the store besides its text and its domain (bytes, about).
ROW_BYTES: Final = 200
#: What is kept for the growth of policies that are known, as a part of the limit.
_GROWTH: Final = 1 / 4
#: From this part of the limit on room is made, and to this part.
CROWDED: Final = 15 / 16
ROOMY: Final = 7 / 8


class Sized(Protocol):
    """A policy, as far as its size goes."""

    @property
    def domain(self) -> str:
        """Under which it is kept."""

    @property
    def body(self) -> str:
        """Its text."""


def size_of(policy: Sized) -> int:
    """What it takes in the store (bytes, about)."""
    return len(policy.body.encode()) + len(policy.domain) + ROW_BYTES


def refused(policies: Sequence[Sized], kept: Mapping[str, int], size: int, limit: int) -> list[str]:
    """The domains whose policies there is no room for.

    `kept` are the sizes of those policies that are in the store already, `size` is that of all.
    """
    without: list[str] = []
    for policy in policies:
        new, old = size_of(policy), kept.get(policy.domain)
        most = limit if old is None else limit * (1 + _GROWTH)
        growth = new - (old or 0)
        if growth > 0 and size + growth > most:
            without.append(policy.domain)
        else:
            size += growth
    return without
