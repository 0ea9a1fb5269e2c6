"""Which tests and scenarios name which law: `python -m tests.laws` writes the lists of
docs/laws.md."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]
PAGE = HOME / "docs" / "laws.md"
SCENARIOS = HOME / "src" / "smtp_sts" / "lab" / "scenarios.toml"
#: In the name of a test: `test_law_6_...`, `test_laws_1_and_6_...`.
_NAMED = re.compile(r"^test_laws?_(\d+(?:_and_\d+|_\d+)*)_")
#: A law, its words, and what is written below it.
_SECTION = re.compile(r"^## Law (\d+)\n\n((?:[^\n]+\n)+)(.*?)(?=^## |\Z)", re.M | re.S)
NOT_BUILT = "Not built yet: nothing here publishes, or takes in others' reports by itself."


def tests() -> dict[int, dict[str, list[str]]]:
    """Law -> file -> tests that name it."""
    found: dict[int, dict[str, list[str]]] = {}
    for path in sorted((HOME / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                named = _NAMED.match(node.name)
                for law in re.findall(r"\d+", named[1]) if named else ():
                    file = str(path.relative_to(HOME))
                    found.setdefault(int(law), {}).setdefault(file, []).append(node.name)
    return found


def scenarios() -> dict[int, list[str]]:
    """Law -> scenarios that name it."""
    found: dict[int, list[str]] = {}
    for scenario in tomllib.loads(SCENARIOS.read_text(encoding="utf-8"))["scenario"]:
        for law in scenario.get("laws", ()):
            found.setdefault(law, []).append(scenario["name"])
    return found


def page(text: str) -> str:
    """The page with its lists as they are right."""
    by_test, by_scenario = tests(), scenarios()

    def section(match: re.Match[str]) -> str:
        law = int(match[1])
        lines = [f"## Law {law}\n\n{match[2]}"]
        if law in by_scenario:
            named = ", ".join(f"`{name}`" for name in by_scenario[law])
            lines.append(f"Scenarios: {named}\n")
        for file, names in by_test.get(law, {}).items():
            lines.append("\n".join([f"`{file}`:", "", *(f"* `{name}`" for name in names), ""]))
        if len(lines) == 1:
            lines.append(NOT_BUILT + "\n")
        return "\n".join(lines) + "\n"

    return _SECTION.sub(section, text).rstrip("\n") + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
