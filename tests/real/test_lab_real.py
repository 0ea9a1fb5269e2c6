"""The lab's real back end: the scenarios by every mail server that can play alice's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from smtp_sts.lab.real import MTAS

pytestmark = pytest.mark.real

COMMAND = [sys.executable, "-P", "-m", "smtp_sts", "lab"]
#: tags to play by each, the first of which is where everything of the kind must come out right
PLAYED = {name: ["delivery"] for name in MTAS} | {"postfix-3.10": ["delivery", "dane", "demo"]}


@pytest.mark.parametrize("mta", MTAS)
def test_the_scenarios_come_out_right_with_a_real_mail_server(
    roots: Callable[[str], dict[str, Path]], mta: str
) -> None:
    assert roots(MTAS[mta].package)[MTAS[mta].suite]
    done = subprocess.run(
        [*COMMAND, "--mta", mta, "--json", *PLAYED[mta]],
        capture_output=True, text=True, timeout=170,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads(done.stdout)
    rows = {row["name"]: row for row in data["rows"]}
    assert data["counts"]["wrong"] == 0
    assert data["counts"]["not supported"] <= 6
    assert all(mta in row["reason"] for row in rows.values() if row["verdict"] != "right")
    assert (rows["strip"]["with"], rows["strip"]["without"]) == ("deferred", "mallory")
    assert rows["honest"]["with"] == "verified"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_real_lab_that_is_stopped_leaves_nothing_behind(
    roots: Callable[[str], dict[str, Path]], number: signal.Signals
) -> None:
    roots("")
    with tempfile.TemporaryDirectory(prefix="sts-") as home:
        process = subprocess.Popen(
            [*COMMAND, "--real", "unchanged-id"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": home},
        )
        limit = time.monotonic() + 60
        while not list(Path(home).glob("**/policy.sock")):
            assert time.monotonic() < limit
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
        if number != signal.SIGKILL:
            assert (process.returncode, said) == (130, "Stopped.\n")
            assert list(Path(home).iterdir()) == []
        while _processes_with(home):  # who is killed cannot wait for those whom he has started
            assert time.monotonic() < limit
            time.sleep(0.1)
        assert home not in Path("/proc/self/mounts").read_text()


def _processes_with(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            root = str((path.parent / "root").readlink())
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in words or text in root:
            found.append(f"{path.parent.name} {words}")
    return found


def test_a_mail_server_that_is_not_known_is_named() -> None:
    done = subprocess.run([*COMMAND, "--mta", "qmail"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "'qmail' is none of postfix-3.11, postfix-3.10, postfix-3.7, exim-4.98" in done.stderr


def test_who_is_not_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    from click.testing import CliRunner

    from smtp_sts.cli.lab import lab

    result = CliRunner().invoke(lab, ["--real"])
    assert result.exit_code == 3
    assert "real mail servers need root" in result.output
