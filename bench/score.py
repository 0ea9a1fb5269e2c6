"""The score of this daemon and of postfix-mta-sts-resolver: writes docs/score.md.

Promises: both are played with in the same world, by `smtp-sts lab score`, with every interval as
short as their configuration lets it be. Must not: talk to anything but the lab once the reference
is installed. Needs root (or user namespaces).
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.run import HERE, REFERENCE, SMTP_STS, install

PAGE = HERE.parent / "docs" / "score.md"
REFERENCE_NAME = "postfix-mta-sts-resolver"
REFERENCE_CONFIG = """\
host: 127.0.0.1
port: 8461
cache_grace: 1
cache:
  type: sqlite
  options:
    filename: $LAB_HOME/reference.db
proactive_policy_fetching:
  enabled: true
  interval: 2
default_zone:
  timeout: 4
  tlsrpt: true
"""


def play(*arguments: str) -> dict[str, Any]:
    """What `lab score` says of a daemon."""
    command = [str(SMTP_STS), "lab", "score", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1) or not done.stdout:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def reference() -> dict[str, Any]:
    """The reference's score."""
    with tempfile.TemporaryDirectory() as home:
        script = Path(home) / "start.sh"
        script.write_text(
            f'cat > "$LAB_HOME/reference.yml" <<END\n{REFERENCE_CONFIG}END\n'
            f'exec {REFERENCE}/mta-sts-daemon -c "$LAB_HOME/reference.yml"\n'
        )
        return play("--socketmap", "inet:127.0.0.1:8461:postfix", "--start", f"sh {script}")


def reference_version() -> str:
    for line in (HERE / "reference.txt").read_text().splitlines():
        if line.startswith(f"{REFERENCE_NAME}=="):
            return line.partition("==")[2]
    raise SystemExit(f"{REFERENCE_NAME} is not pinned")


def cell(row: dict[str, Any]) -> str:
    if row["verdict"] != "wrong":
        return str(row["verdict"])
    return "**" + ", ".join(dict.fromkeys(t["consequence"] for t in row["troubles"])) + "**"


def page(mine: dict[str, Any], theirs: dict[str, Any]) -> str:
    names = (f"smtp-sts {version('smtp-sts')}", f"{REFERENCE_NAME} {reference_version()}")
    others = {row["name"]: row for row in theirs["rows"]}
    head = [f"| | {names[0]} | {names[1]} |", "|---|---|---|"]
    total = [
        f"| {word} | {mine['counts'][word]} | {theirs['counts'][word]} |"
        for word in ("right", "wrong", "not supported")
    ]
    rows = [
        f"| `{row['name']}` | {row['mallory'].replace('|', '/')} | {row['rule']} | {cell(row)} "
        f"| {cell(others[row['name']])} |"
        for row in mine["rows"]
    ]
    text = PAGE.read_text() if PAGE.exists() else ""
    opening: str = text.partition("\n## Scores")[0] or "# Scores"
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return "\n".join(
        [
            opening, "", "## Scores", "", f"Played on {date}, {len(rows)} scenarios, Python "
            f"{sys.version.split()[0]}. Made by `make score`.", "", *head, *total, "",
            "## Scenario by scenario", "",
            f"| scenario | mallory | rule | {names[0]} | {names[1]} |",
            "|---|---|---|---|---|", *rows, "",
        ]
    )  # fmt: skip


if __name__ == "__main__":
    install()
    PAGE.write_text(page(play(), reference()))
    print(f"{PAGE} written")
