"""docs/laws.md names the tests and scenarios of each law, and no others."""

from __future__ import annotations

import re

from .. import laws


def test_the_page_of_the_laws_is_as_the_tests_and_scenarios_are() -> None:
    text = laws.PAGE.read_text(encoding="utf-8")
    assert laws.page(text) == text, "write it anew: python -m tests.laws"


def test_every_law_has_a_section_and_the_first_seven_have_tests_and_scenarios() -> None:
    text = laws.PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^## Law (\d+)$", text, re.M) == [str(n) for n in range(1, 12)]
    assert set(range(1, 8)) <= laws.tests().keys()
    assert set(range(1, 8)) <= laws.scenarios().keys()
    assert laws.tests().keys() <= set(range(1, 12))
