"""The list of sabotages fits the source. What catches them is seen by `make mutants`."""

from __future__ import annotations

import pytest

from .mutants import Mutant, mutants


@pytest.mark.parametrize("mutant", mutants(), ids=lambda mutant: mutant.name)
def test_the_text_of_a_sabotage_stands_once_in_the_source(mutant: Mutant) -> None:
    assert mutant.count() == 1
    assert mutant.text != mutant.instead


def test_there_are_sabotages_enough() -> None:
    names = [mutant.name for mutant in mutants()]
    assert len(set(names)) == len(names) >= 30
