"""Thousands of plays of the resolver, each by the random numbers of its seed."""

from __future__ import annotations

import pytest

from .seeded_play import play

#: A quarter of a minute on one core.
SEEDS = 3000
EACH = 100


@pytest.mark.parametrize("first", range(0, SEEDS, EACH))
def test_whatever_happens_in_whatever_order(first: int) -> None:
    for seed in range(first, first + EACH):
        try:
            play(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
