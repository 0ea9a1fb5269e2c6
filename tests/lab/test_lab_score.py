"""Any daemon in namespaces of its own: found where the Internet is, judged, and gone afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from smtp_sts.lab.apart import ApartError, enter

SCORE = [sys.executable, "-P", "-m", "smtp_sts", "lab", "score"]
#: No option of ours leads into the lab: the machine's own resolver, ports and CA certificates do.
CONFIG = """\
[policy]
listen = "127.0.0.1:8461"
recheck_interval = 1
retry_interval = 2
negative_ttl = 2
[store]
url = "sqlite:///$LAB_HOME/any.db"
"""


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    try:
        enter(["true"])
    except ApartError as error:
        pytest.skip(str(error))


def score(tmp_path: Path, start: str, *names: str) -> subprocess.CompletedProcess[str]:
    home = tmp_path / "home"
    home.mkdir()
    command = [*SCORE, "--json", "--patience", "4",
               "--socketmap", "inet:127.0.0.1:8461:postfix-dane", "--start", start]  # fmt: skip
    done = subprocess.run(
        [*command, *names],
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, "TMPDIR": str(home)},
    )
    assert list(home.iterdir()) == []
    return done


def test_a_daemon_that_knows_nothing_of_the_lab_is_scored(tmp_path: Path) -> None:
    script = tmp_path / "start.sh"
    script.write_text(
        f'cat > "$LAB_HOME/any.toml" <<END\n{CONFIG}END\n'
        f'exec {sys.executable} -P -m smtp_sts --config "$LAB_HOME/any.toml" serve\n'
    )
    done = score(tmp_path, f"sh {script}", "demo", "private-address-loopback", "restart", "reports")
    data: dict[str, Any] = json.loads(done.stdout)
    verdicts = {row["name"]: row["verdict"] for row in data["rows"]}
    reports = {name: verdicts.pop(name) for name in ("report-enforce", "report-testing")}
    assert set(verdicts.values()) == {"right"}, data
    assert set(reports.values()) == {"not supported"}  # the profile is no `-tlsrpt`
    assert {"dane", "restart", "private-address-loopback", "cached-policy-host-blocked"} <= {
        *verdicts
    }
    assert done.returncode == 0  # what it need not do is not wrong


@pytest.mark.parametrize(
    ("start", "says"),
    [
        ("echo no such thing >&2; exit 5", "with status 5; it said:\n  no such thing"),
        ("/nonexistent/daemon", "not found"),
        (
            "exec {python} -c \"import socket; s=socket.create_server(('127.0.0.1',8461))\nwhile 1:"
            " c=s.accept()[0]; c.recv(99); c.sendall(b'HTTP/1.1 200 OK'); c.close()\"",
            "the daemon answers garbage: 127.0.0.1:8461 does not speak socketmap",
        ),
    ],
)
def test_a_command_that_cannot_be_scored_is_named(tmp_path: Path, start: str, says: str) -> None:
    done = score(tmp_path, start.format(python=sys.executable), "strip")
    assert done.returncode == 3, done.stdout
    assert says in done.stderr
    assert "Traceback" not in done.stderr
