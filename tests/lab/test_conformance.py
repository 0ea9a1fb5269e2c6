"""docs/conformance.md names what is there, and gives each row a verdict, and a reason where one is
due."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from smtp_sts.lab.scenarios import load

HOME = Path(__file__).resolve().parents[2]
PAGE = (HOME / "docs" / "conformance.md").read_text(encoding="utf-8")
VERDICTS = ("met", "in part", "not met", "deliberately otherwise", "open")
#: section -> the least number of rows: the statements of a text do not become fewer
TEXTS = {"RFC 8461": 100, "RFC 8460": 103, "RFC 7672": 31, "draft-margolis-smtp-sts-00": 46}
#: rooms of the domain owner's side
ROOMS = ("publish", "intake", "audit", "web")


def rows() -> list[tuple[str, list[str]]]:
    """Each row, with its text: section and words, binds, where, shown by, verdict."""
    found, text = [], ""
    for line in PAGE.splitlines():
        if line.startswith("## "):
            text = line[3:]
        elif text and line.startswith("| ") and not line.startswith("| section"):
            found.append((text, line.strip("| ").split(" | ")))
    return found


ROWS = rows()


@cache
def functions(path: str) -> set[str]:
    tree = ast.parse((HOME / path).read_text(encoding="utf-8"))
    return {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_statement_has_a_row_with_a_verdict() -> None:
    assert {text: sum(row[0] == text for row in ROWS) for text in TEXTS} == TEXTS
    for text, cells in ROWS:
        assert len(cells) == 5, f"{text}: {cells}"
        verdict, _, reason = cells[4].partition(": ")
        assert verdict in VERDICTS, f"{text} {cells[0]}: {verdict}"
        if verdict != "met":
            assert reason.strip(), f"{text} {cells[0]}: {verdict}, and why?"


def test_what_is_met_names_what_does_it_or_what_shows_it() -> None:
    for text, cells in ROWS:
        if cells[4].startswith("met"):
            assert cells[3] != "-", f"{text} {cells[0]}: met, and shown by nothing"


def test_the_rooms_that_open_rows_wait_for_are_not_there() -> None:
    for text, cells in ROWS:
        if cells[4].startswith("open"):
            named = re.findall(r"`([a-z]+)/`", cells[4])
            assert named, f"{text} {cells[0]}"
            assert set(named) <= set(ROOMS), f"{text} {cells[0]}"
            assert not all((HOME / "src" / "smtp_sts" / room).is_dir() for room in named), (
                f"{text} {cells[0]}: {', '.join(named)} is built: what does it do?"
            )


@pytest.mark.parametrize("text", TEXTS)
def test_the_files_tests_and_scenarios_that_are_named_exist(text: str) -> None:
    scenarios = [scenario.name for scenario in load()]
    for where, cells in ROWS:
        if where != text:
            continue
        for name in re.findall(r"`([a-z0-9_/]+\.(?:py|xsd))`", cells[2]):
            assert (HOME / "src" / "smtp_sts" / name).is_file(), f"{cells[0]}: {name}"
        for name in re.findall(r"`(tests/[^`]+)`", cells[3]):
            path, _, function = name.partition("::")
            assert (HOME / path).is_file(), f"{cells[0]}: {path}"
            assert not function or function in functions(path), f"{cells[0]}: {name}"
        for group in re.findall(r"`lab: ([a-z0-9-]+)`", cells[3]):
            assert any(one == group or one.startswith(f"{group}-") for one in scenarios), (
                f"{cells[0]}: lab: {group}"
            )


def test_the_numbers_at_the_top_are_those_of_the_rows() -> None:
    for text in TEXTS:
        counted = Counter(cells[4].partition(": ")[0] for row, cells in ROWS if row == text)
        told = " | ".join(str(counted[verdict]) for verdict in VERDICTS)
        assert f"| {text} | {told} |" in PAGE, f"{text}: {told}"
