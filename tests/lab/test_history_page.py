"""docs/history.md names scenarios: each one is there to be played."""

from __future__ import annotations

import re
from pathlib import Path

from smtp_sts.lab.scenarios import load

DOCS = Path(__file__).parents[2] / "docs"


def test_every_scenario_that_the_history_names_exists() -> None:
    text = (DOCS / "history.md").read_text()
    shown = re.findall(r"^Shown by (.*?)\.$", text, re.MULTILINE | re.DOTALL)
    named = [name for part in shown for name in re.findall(r"`([a-z0-9-]+)`", part)]
    there = {scenario.name for scenario in load()}
    assert [name for name in named if name not in there] == []
    # one for each change
    assert len(shown) == len(re.findall(r"^## ", text, re.MULTILINE))
    assert len(named) >= 40
