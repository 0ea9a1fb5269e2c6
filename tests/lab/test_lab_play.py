"""The whole lab: the real daemon passes, and a daemon that does not protect is found out."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtp_sts.cli.lab import lab
from smtp_sts.lab import play as playing
from smtp_sts.lab.play import PlayError, daemon, play, play_in
from smtp_sts.lab.scenarios import SCENARIOS
from smtp_sts.lab.world import World

COMMAND = [sys.executable, "-m", "smtp_sts", "lab"]


def test_the_real_daemon_protects_in_every_scenario(tmp_path: Path) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [*COMMAND, "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    data = json.loads(done.stdout)
    assert data["right"] is True
    rows = {row["name"]: row for row in data["rows"]}
    assert len(rows) == len(SCENARIOS)
    assert rows["honest"]["with"] == "verified"
    assert Counter(row["with"] for row in data["rows"])["deferred"] == 10
    assert all(row["waited"] < 5 for row in data["rows"])
    assert rows["unknown-silent"]["reply"] == "NOTFOUND "
    assert "policy_type=sts" in rows["honest"]["reply"]
    assert time.monotonic() - began < 30
    assert list(tmp_path.iterdir()) == []


def test_the_postfix_profile_protects_too() -> None:
    results = asyncio.run(play([s for s in SCENARIOS if not s.recheck], profile="postfix"))
    assert [result.scenario.name for result in results if not result.right] == []


def _answer_always(reply: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the daemon by one that gives everybody the same answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b",")
        writer.write(reply)
        writer.close()

    async def play_against_it(**options: object) -> list[playing.Result]:
        async with World() as world:
            server = await asyncio.start_unix_server(serve, str(world.socket_path))
            try:
                chosen = [s for s in SCENARIOS if not s.recheck]
                return await play_in(world, world.socket_path, chosen)
            finally:
                server.close()
                await server.wait_closed()

    monkeypatch.setattr(playing, "play", play_against_it)


def test_a_daemon_that_never_protects_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    _answer_always(b"9:NOTFOUND ,", monkeypatch)
    result = CliRunner().invoke(lab, [])
    assert result.exit_code == 1, result.output
    (strip,) = [line for line in result.output.splitlines() if line.startswith("strips STARTTLS")]
    assert "WRONG: with protection it must be deferred" in strip
    (none,) = [line for line in result.output.splitlines() if "there is no policy" in line]
    assert none.endswith("right")
    assert "of 11 came out wrong" in result.output


def test_a_daemon_that_defers_everything_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    _answer_always(b"9:TEMP wait,", monkeypatch)
    result = CliRunner().invoke(lab, ["--json"])
    assert result.exit_code == 1
    wrong = {row["name"] for row in json.loads(result.output)["rows"] if not row["right"]}
    assert {"honest", "testing-honest", "none", "no-policy", "unknown-silent"} <= wrong
    assert "strip" not in wrong


def test_a_daemon_that_does_not_start_is_shown_with_its_own_words() -> None:
    async def scene() -> None:
        async with World() as world:
            config = world.config_toml(policy={"lissten": "x"})
            with pytest.raises(PlayError, match="lissten"):
                async with daemon(config, world.socket_path):
                    pass

    asyncio.run(scene())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_lab_that_is_stopped_leaves_nothing_behind(number: signal.Signals) -> None:
    # A short path: unix sockets have at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="sts-") as home:
        process = subprocess.Popen(
            COMMAND,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": home},
        )
        limit = time.monotonic() + 20
        while not list(Path(home).glob("*/policy.sock")):
            assert time.monotonic() < limit
            time.sleep(0.02)
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 130
        assert said == "Stopped.\n"
        assert list(Path(home).iterdir()) == []
        assert not _commands_with(home)


def _commands_with(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in command:
            found.append(command)
    return found


@pytest.mark.parametrize("missing", ["aiosmtpd", "dns"])
def test_missing_extra_is_named_with_the_command_that_installs_it(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    result = CliRunner().invoke(lab, [])
    assert result.exit_code == 3
    assert "pip install 'smtp-sts[lab]'" in result.output
