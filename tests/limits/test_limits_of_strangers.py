"""Law 6: what strangers can make us compute has a bound; docs/limits-of-strangers.md is true."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from smtp_sts.policy.organisation import load

from .worst import Worst, milliseconds, places

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "limits-of-strangers.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith(("| what |", "|--"))
]
_FILE = re.compile(r"`([a-z_0-9/]+\.py)`")
_CONSTANT = re.compile(r"`([A-Z][A-Z_]+)`(?: of `([a-z_0-9/]+\.py)`)?")


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    load()


@pytest.mark.parametrize("place", places(), ids=lambda place: place.what)
def test_law_6_the_worst_of_each_place_has_a_bound(place: Worst) -> None:
    assert milliseconds(place.run) < place.bound


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:60])
def test_the_page_names_what_is_there(row: list[str]) -> None:
    """Files and the constants in them."""
    assert len(row) == 5
    (file,) = _FILE.findall(row[1])
    for cell in row:
        for other in _FILE.findall(cell):
            assert (ROOT / "src" / "smtp_sts" / other).is_file(), other
    for name, of in _CONSTANT.findall(row[2]):
        module = (of or file).removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        assert isinstance(getattr(importlib.import_module(f"smtp_sts.{module}"), name), int | float)


def test_the_page_has_every_place_that_is_measured() -> None:
    named = {_FILE.findall(row[1])[0] for row in ROWS}
    assert {place.file for place in places()} <= named


def test_what_runs_where_answers_are_given_is_small() -> None:
    """On the loop nothing takes as long as half of what the 99th percentile may be."""
    on_loop = [row for row in ROWS if row[3] == "loop" and row[4]]
    assert len(on_loop) > 10
    assert max(float(row[4]) for row in on_loop) < 25
