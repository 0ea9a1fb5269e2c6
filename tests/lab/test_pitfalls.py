"""docs/pitfalls.md names what is there, and leaves no pitfall out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from smtp_sts.lab.scenarios import load

HOME = Path(__file__).resolve().parents[2]
PAGE = (HOME / "docs" / "pitfalls.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (\d+) \| (.+) \| (.+) \|$")
ROWS = {"Decision": 11, "Parsing": 5, "Operation": 13}


def rows() -> dict[str, str]:
    """ "decision 1" -> what covers it."""
    found = {}
    section = ""
    for line in PAGE.splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif row := ROW.match(line):
            found[f"{section.lower()} {row[1]}"] = row[3]
    return found


def test_no_pitfall_is_left_out() -> None:
    want = [f"{section.lower()} {n}" for section, last in ROWS.items() for n in range(1, last + 1)]
    assert list(rows()) == want


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(tests/[^`]+)`", PAGE)) - {
    "tests/lab/test_pitfalls.py"}))  # fmt: skip
def test_a_test_that_is_named_exists(name: str) -> None:
    path, _, function = name.partition("::")
    tree = ast.parse((HOME / path).read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_a_row_names_the_scenarios_that_show_it_and_no_others() -> None:
    scenarios = load()
    for pitfall, covered in rows().items():
        groups = re.findall(r"`lab: ([a-z0-9-]+)`", covered)
        named = {
            scenario.name: group
            for group in groups
            for scenario in scenarios
            if scenario.name == group or scenario.name.startswith(f"{group}-")
        }
        assert set(named.values()) == set(groups), f"{pitfall}: a scenario that is not there"
        if not pitfall.startswith("operation"):
            shown = {scenario.name for scenario in scenarios if pitfall in scenario.pitfalls}
            assert shown <= set(named), f"{pitfall}: left out {shown - set(named)}"
