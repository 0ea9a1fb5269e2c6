"""Results in the forms that other programs read: JSON and JUnit XML. No I/O.

Promises: every scenario played stands in it, with what was seen. Must not: judge.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

from smtp_sts.lab.play import Result


def as_data(results: Sequence[Result], seconds: float) -> dict[str, Any]:
    """The stable form of `smtp-sts lab --json`."""
    return {
        "right": all(result.right for result in results),
        "seconds": round(seconds, 1),
        "counts": {word: count(results, word) for word in ("right", "wrong", "not supported")},
        "rows": [_row(result) for result in results],
    }


def count(results: Sequence[Result], verdict: str) -> int:
    """How many have a verdict."""
    return sum(result.verdict == verdict for result in results)


def consequences(result: Result) -> str:
    """What a wrong result does to alice's mail, in a few words; "" where it is not wrong."""
    found = dict.fromkeys(t.consequence for t in result.troubles) if result.troubles else {}
    return ", ".join(found) if result.verdict == "wrong" else ""


def _row(result: Result) -> dict[str, Any]:
    scenario = result.scenario
    return {
        "name": scenario.name,
        "mallory": scenario.title,
        "rule": scenario.rule,
        "laws": scenario.laws,
        "pitfalls": scenario.pitfalls,
        "tags": scenario.tags,
        "verdict": result.verdict,
        "reason": result.reason,
        "right": result.right,
        "with": result.protected,
        "without": result.unprotected,
        "reply": result.reply,
        "waited": round(result.waited, 3),
        "story": result.story,
        "troubles": [{"consequence": t.consequence, "text": t.text} for t in result.troubles],
    }


def junit(results: Sequence[Result], seconds: float) -> bytes:
    """A JUnit XML document: one test case a scenario, classes named after the rule."""
    suite = ET.Element(
        "testsuite",
        name="smtp-sts lab",
        tests=str(len(results)),
        failures=str(count(results, "wrong")),
        skipped=str(count(results, "not supported")),
        errors="0",
        time=f"{seconds:.3f}",
    )
    for result in results:
        rule, name = result.scenario.rule, result.scenario.name
        case = ET.SubElement(suite, "testcase", classname=rule, name=name, time="0")
        text = "\n".join(trouble.text for trouble in result.troubles)
        if result.verdict == "wrong":
            failure = ET.SubElement(case, "failure", message=consequences(result))
            failure.text = _xml(text)
        elif result.verdict == "not supported":
            ET.SubElement(case, "skipped", message=result.reason)
        ET.SubElement(case, "system-out").text = _xml("\n".join(result.story))
    whole = ET.Element("testsuites")
    whole.append(suite)
    ET.indent(whole)
    return bytes(ET.tostring(whole, encoding="utf-8", xml_declaration=True))


def _xml(text: str) -> str:
    """Without the control characters that XML 1.0 has no way to write."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)
