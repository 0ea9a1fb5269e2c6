"""The declarations: complete, and what is wrong with one is said with its place."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtp_sts.lab.scenarios import Asks, Scenario, ScenarioError, Sends, choose, load, parse
from smtp_sts.lab.story import tell

SCENARIOS = load()

MINIMAL = """
[[scenario]]
name = "a"
title = "does nothing"
rule = "RFC 8461 section 5"
why = "because"
world = { mode = "enforce" }
steps = [{ alice = "asks", answer = "secure" }]
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("why =", "whi =", "scenario 'a': unknown key 'whi': did you mean 'why'?"),
        ("mode =", "mod =", "scenario 'a', world: unknown key 'mod': did you mean 'mode'?"),
        ("answer =", "anwser =",
         "scenario 'a', step 1 (alice asks): unknown key 'anwser': did you mean 'answer'?"),
        ('"secure"', '"sure"', "scenario 'a', step 1 (alice asks): Invalid enum value 'sure'"),
        ('alice = "asks"', 'alice = "aks"', "scenario 'a', step 1: 'aks' is none of"),
        ('alice = "asks"', 'carol = "asks"', "scenario 'a', step 1: one of alice, bob, mallory"),
        ('alice = "asks"', 'mallory = "asks"', "scenario 'a', step 1 (mallory asks): Invalid enum"),
        ("[[scenario]]", "[[scenarios]]", "the file: unknown key 'scenarios'"),
        ('name = "a"', 'name = "A b"', "'A b': a name is a lower-case label"),
        ('why = "because"', "", "scenario 'a': Object missing required field `why`"),
        ('name = "a"', 'name = "a', "not valid TOML"),
        ("steps =", "cases.x = {}\nsteps =", "cases without a step that says case = true"),
    ],
)  # fmt: skip
def test_a_wrong_declaration_is_refused_with_its_place(old: str, new: str, says: str) -> None:
    assert parse(MINIMAL)[0].name == "a"
    assert old in MINIMAL
    with pytest.raises(ScenarioError, match=re.escape(says)):
        parse(MINIMAL.replace(old, new))


def test_a_name_stands_once() -> None:
    with pytest.raises(ScenarioError, match="'a' stands twice"):
        parse(MINIMAL + MINIMAL)


def test_cases_are_written_out_into_the_steps_that_say_so() -> None:
    text = MINIMAL.replace('answer = "secure"', "case = true")
    text += '[scenario.cases]\nx = { answer = "open", told = "so" }\ny = { answer = "wait" }\n'
    first, second = parse(text)
    assert (first.name, first.title) == ("a-x", "does nothing: so")
    assert (second.name, second.title) == ("a-y", "does nothing: y")
    assert [s.steps[0].answer for s in (first, second) if isinstance(s.steps[0], Asks)] == [
        "open",
        "wait",
    ]


def test_an_unknown_name_names_its_neighbour() -> None:
    with pytest.raises(ScenarioError, match="'stirp'; did you mean 'strip'"):
        choose(SCENARIOS, ["stirp"])
    assert [s.name for s in choose(SCENARIOS, ["strip"])] == ["strip"]


SHOWN = tomllib.loads(Path(__file__).with_name("shown.toml").read_text(encoding="utf-8"))
ROWS = [
    *(("law", law) for law in SHOWN["laws"]),
    *(("pitfall", row) for row in SHOWN["pitfalls"]),
    *(("rule", f"{rfc} section {n}") for rfc, ns in SHOWN["sections"].items() for n in ns),
    *(("tag", tag) for tag in SHOWN["tags"]),
]


def shows(scenario: Scenario) -> set[tuple[str, str]]:
    return {
        ("rule", scenario.rule),
        *(("law", str(law)) for law in scenario.laws),
        *(("pitfall", row) for row in scenario.pitfalls),
        *(("tag", tag) for tag in scenario.tags),
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row).replace(" ", "-"))
def test_a_scenario_shows(row: tuple[str, str]) -> None:
    assert [scenario.name for scenario in SCENARIOS if row in shows(scenario)]


def test_no_scenario_names_what_there_is_not() -> None:
    named = {row for scenario in SCENARIOS for row in shows(scenario) if row[0] != "tag"}
    assert {row for row in named if "draft" not in row[1]} <= set(ROWS)


def test_every_law_is_shown_across_the_first_draft() -> None:
    drafts = choose(SCENARIOS, ["draft"])
    assert {law for s in drafts for law in s.laws} == {1, 2, 3, 4, 5, 6, 7}
    assert all("draft00" in s.needs for s in drafts)
    assert all("draft00" not in s.needs for s in SCENARIOS if s not in drafts)


def test_every_scenario_demands_something() -> None:
    def demands(scenario: Scenario) -> Iterator[bool]:
        return (isinstance(step, Sends | Asks) for step in scenario.steps)

    assert [s.name for s in SCENARIOS if not any(demands(s))] == []
    assert 10 <= len(choose(SCENARIOS, ["demo"])) <= 16


def test_every_story_can_be_told() -> None:
    for scenario in SCENARIOS:
        told = tell(scenario)
        assert scenario.why.replace("{domain}", scenario.domain) in told
        assert f"\n  {len(scenario.steps)}. " in told
        assert "{domain}" not in told
