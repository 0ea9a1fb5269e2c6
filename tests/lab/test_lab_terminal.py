"""What a person sees of the lab on a terminal of 80 columns."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

COMMAND = [sys.executable, "-P", "-m", "smtp_sts", "lab"]


def on_a_terminal(*arguments: str) -> list[str]:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    with subprocess.Popen(
        [*COMMAND, *arguments], stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.DEVNULL,
        env=environment,
    ) as process:  # fmt: skip
        os.close(theirs)
        seen = b""
        try:
            while piece := os.read(ours, 65536):
                seen += piece
        except OSError:  # so Linux tells that the other end is closed
            pass
        finally:
            os.close(ours)
    assert process.returncode == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", seen.decode()).replace("\r\n", "\n").split("\n")


def test_a_story_is_broken_between_words() -> None:
    lines = on_a_terminal("explain", "dane-insecure-mx")
    assert max(map(len, lines)) <= 80
    words = subprocess.run(
        [*COMMAND, "explain", "dane-insecure-mx"], capture_output=True, text=True
    )
    assert " ".join(lines).split() == words.stdout.split()


def test_names_of_scenarios_stay_whole() -> None:
    lines = on_a_terminal("no-record-blank-before-semicolon")
    assert max(map(len, lines)) <= 80
    (row,) = (line for line in lines if "no-record-blank-before-semicolon" in line)
    assert row.split()[-1] == "right"
