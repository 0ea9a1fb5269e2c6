"""The units are what systemd understands, and let the daemon do little: by systemd's own tools."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGED = Path(__file__).parents[2] / "packaging" / "systemd"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which(str(command[0])) is None:
        reason = f"{command[0]} is not installed: apt-get install systemd"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units, with the program where it is here: systemd wants it to be there."""
    program = Path(sys.executable).with_name("smtp-sts")
    made = []
    for name in ("smtp-sts.service", "smtp-sts.socket"):
        text = (PACKAGED / name).read_text().replace("/opt/smtp-sts/bin/smtp-sts", str(program))
        (tmp_path / name).write_text(text)
        made.append(tmp_path / name)
    return made


def test_systemd_understands_every_line_of_the_units(units: list[Path]) -> None:
    done = run("systemd-analyze", "verify", "--man=no", *units)
    # What else is installed on this machine is not ours.
    assert "smtp-sts" not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr


def test_a_line_that_systemd_does_not_know_would_be_seen(units: list[Path]) -> None:
    service = units[0]
    service.write_text(service.read_text().replace("ProtectHome=", "ProtectHoem="))
    done = run("systemd-analyze", "verify", "--man=no", *units)
    assert "ProtectHoem" in done.stdout + done.stderr


def test_the_exposure_of_the_service_is_below_2(units: list[Path]) -> None:
    done = run("systemd-analyze", "security", "--offline=true", "--threshold=19", units[0])
    assert done.returncode == 0, done.stdout
    assert "Overall exposure level" in done.stdout


def test_user_and_folders_are_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    done = run("systemd-sysusers", f"--root={tmp_path}", PACKAGED / "sysusers.conf")
    assert (done.returncode, done.stderr.count("Failed")) == (0, 0), done.stderr
    made = (tmp_path / "etc/passwd").read_text()
    assert made.startswith("smtp-sts:")
    assert made.rstrip().endswith("nologin")
    if os.getuid() != 0:
        pytest.skip("folders of another user are made by root")
    done = run("systemd-tmpfiles", f"--root={tmp_path}", "--create", PACKAGED / "tmpfiles.conf")
    assert done.returncode == 0, done.stderr
    user = int(made.split(":")[2])
    for folder, mode in (("var/lib/smtp-sts", 0o40750), ("run/smtp-sts", 0o40755)):
        found = (tmp_path / folder).stat()
        assert (found.st_mode, found.st_uid) == (mode, user)
