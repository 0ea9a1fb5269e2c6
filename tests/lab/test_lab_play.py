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
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from smtp_sts.cli.lab import lab
from smtp_sts.config import UnixAddress
from smtp_sts.lab.play import Result, play, play_in
from smtp_sts.lab.scenarios import choose, load
from smtp_sts.lab.subject import Subject, SubjectError
from smtp_sts.lab.world import World

pytestmark = pytest.mark.alone

COMMAND = [sys.executable, "-P", "-m", "smtp_sts", "lab"]
SCENARIOS = load()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `smtp-sts lab --json --junit FILE` says of everything, and leaves behind."""
    home, report = tmp_path_factory.mktemp("play"), tmp_path_factory.mktemp("report") / "lab.xml"
    began = time.monotonic()
    done = subprocess.run(
        [*COMMAND, "--json", "--junit", str(report)],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "TMPDIR": str(home)},
    )
    took = time.monotonic() - began
    assert done.stdout, done.stderr
    return {"done": done, "data": json.loads(done.stdout), "took": took,
            "left": list(home.iterdir()), "xml": ET.parse(report).getroot()}  # fmt: skip


@pytest.mark.parametrize("name", [scenario.name for scenario in SCENARIOS])
def test_the_real_daemon_does_what_it_must(whole: dict[str, Any], name: str) -> None:
    (row,) = [row for row in whole["data"]["rows"] if row["name"] == name]
    assert row["verdict"] == "right", json.dumps(row, indent=2)


def test_the_whole_lab_ends_in_time_and_leaves_nothing(whole: dict[str, Any]) -> None:
    assert whole["done"].returncode == 0
    assert whole["done"].stderr == ""
    assert whole["took"] < 60
    assert whole["left"] == []
    assert whole["data"]["counts"]["right"] == len(SCENARIOS)
    rows = {row["name"]: row for row in whole["data"]["rows"]}
    assert list(rows) == [scenario.name for scenario in SCENARIOS]
    assert (rows["strip"]["with"], rows["strip"]["without"]) == ("deferred", "mallory")
    assert rows["dane"]["reply"] == "OK dane-only"


def test_junit_has_a_case_for_each_scenario(whole: dict[str, Any]) -> None:
    (suite,) = whole["xml"]
    assert (suite.get("tests"), suite.get("failures")) == (str(len(SCENARIOS)), "0")
    assert [case.get("name") for case in suite] == [scenario.name for scenario in SCENARIOS]


def test_the_postfix_profile_protects_too() -> None:
    results = asyncio.run(play(choose(SCENARIOS, ["demo", "reports"]), profile="postfix-dane"))
    odd = {result.scenario.name: result.verdict for result in results if not result.right}
    assert odd == {"report-enforce": "not supported", "report-testing": "not supported"}


ANSWERS = """
import asyncio, sys
async def serve(reader, writer):
    try:
        while True:
            await reader.readuntil(b",")
            writer.write(sys.argv[2].encode("latin-1"))
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    server = await asyncio.start_unix_server(serve, sys.argv[1])
    {more}
    await server.serve_forever()
asyncio.run(main())
"""


def played(reply: str, *names: str, more: str = "") -> dict[str, Result]:
    """The results with a daemon that gives everybody the same answer."""

    async def scene() -> list[Result]:
        async with World(ttl=1) as world:
            await world.receive("alice.example", "mx.alice.example")
            command = [
                sys.executable,
                "-P",
                "-c",
                ANSWERS.format(more=more),
                str(world.socket_path),
            ]
            address = UnixAddress(str(world.socket_path))
            subject = Subject([*command, reply], address, "postfix", world.home / "log")
            return await play_in(world, subject, choose(SCENARIOS, names), patience=1)

    return {result.scenario.name: result for result in asyncio.run(scene())}


def test_a_daemon_that_never_protects_is_found_out() -> None:
    results = played("9:NOTFOUND ,", "demo", "report-enforce")
    assert all(result.verdict == "right" for name, result in results.items()
               if name in ("testing", "none", "no-policy", "injection-blank"))  # fmt: skip
    for name in ("strip", "forge-mx", "cached-policy-host-blocked", "dane-insecure-mx"):
        assert results[name].verdict == "wrong"
        assert {t.consequence for t in results[name].troubles} == {"bypass"}, results[name]
    assert results["dane"].verdict == results["report-enforce"].verdict == "not supported"


def test_a_daemon_that_does_not_know_the_first_draft_is_not_marked_wrong_for_it() -> None:
    results = played("9:NOTFOUND ,", "draft-first-use", "draft-report-only")
    verdicts = {name: result.verdict for name, result in results.items()}
    assert verdicts == {"draft-first-use": "not supported", "draft-report-only": "right"}


def test_a_daemon_that_defers_everything_is_found_out() -> None:
    results = played("9:TEMP wait,", "honest", "no-policy", "testing", "strip")
    assert {t.consequence for t in results["no-policy"].troubles} == {"delay"}
    assert results["honest"].verdict == results["testing"].verdict == "wrong"
    assert results["strip"].verdict == "right"


def test_a_daemon_that_insists_on_what_is_not_there_is_found_out() -> None:
    results = played("25:OK secure match=a.example,", "no-policy", "testing-honest")
    assert {t.consequence for r in results.values() for t in r.troubles} == {"lost mail"}


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("exit 3", "ended before it answered, with status 3; it said nothing"),
        ("echo no such option >&2; exit 64", "status 64; it said:\n  no such option"),
        ("true", "with status 0 (it must stay in the foreground)"),
    ],
)
def test_a_command_that_ends_is_named_with_its_last_words(command: str, says: str) -> None:
    async def scene() -> None:
        async with World() as world:
            address = UnixAddress(str(world.socket_path))
            words = ["/bin/sh", "-c", command]
            async with Subject(words, address, "postfix", world.home / "log"):
                pytest.fail("it did not start")

    with pytest.raises(SubjectError) as caught:
        asyncio.run(scene())
    assert says in str(caught.value)


def test_a_command_that_never_listens_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtp_sts.lab.subject.START_LIMIT", 0.5)

    async def scene() -> None:
        async with World() as world:
            address = UnixAddress(str(world.socket_path))
            words = ["/bin/sh", "-c", f"echo {world.home}; sleep 60.17 & sleep 60.17"]
            try:
                async with Subject(words, address, "postfix", world.home / "log"):
                    pytest.fail("it did not start")
            finally:
                assert _commands_with("sleep 60.17") == []  # nobody else's

    with pytest.raises(SubjectError, match=r"does not answer on unix:.* after 0.5 s; it said:"):
        asyncio.run(scene())


def test_garbage_is_shown() -> None:
    with pytest.raises(SubjectError, match=r"the daemon answers garbage: .*HTTP/1.1 400"):
        played("HTTP/1.1 400 Bad Request\r\n\r\n", "honest")


def test_a_daemon_that_dies_midway_is_named() -> None:
    later = "asyncio.get_running_loop().call_later(2, __import__('os')._exit, 7)"
    with pytest.raises(SubjectError, match="the daemon ended midway, with status 7"):
        played("9:NOTFOUND ,", "unchanged-id", "used-expires-not", more=later)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", [["play"], ["score"]])
def test_a_lab_that_is_stopped_leaves_nothing_behind(
    number: signal.Signals, command: list[str]
) -> None:
    if command == ["score"] and not _namespaces():
        pytest.skip("no namespaces here: root is needed")
    # A short path: unix sockets have at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="sts-") as home:
        process = subprocess.Popen(
            [*COMMAND, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": home},
        )
        limit = time.monotonic() + 20
        while not list(Path(home).glob("**/policy.sock")):
            assert time.monotonic() < limit
            time.sleep(0.02)
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 130
        assert said == "Stopped.\n"
        assert list(Path(home).iterdir()) == []
        assert not _commands_with(home)


def _namespaces() -> bool:
    command = ["unshare", "-n", "-m", "-p", "-f", "--mount-proc", "true"]
    return subprocess.run(command, capture_output=True).returncode == 0


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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["stirp"], "did you mean 'strip'?"),
        (["explain", "stirp"], "did you mean 'strip'?"),
        (["score", "--socketmap", "inet:127.0.0.1:8461:postfix"], "go together"),
        (["score", "--socketmap", "127.0.0.1:1", "--start", "x"], "write inet:host:port:map"),
    ],
)
def test_wrong_usage_is_named(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(lab, arguments)
    assert result.exit_code == 2
    assert says in result.output


def test_a_story_is_told() -> None:
    result = CliRunner().invoke(lab, ["explain", "strip"])
    assert result.exit_code == 0
    assert "mallory stands at mx.strip.bob.example: no STARTTLS is offered" in result.output


def test_a_shell_without_anybody_at_it_ends() -> None:
    done = subprocess.run(
        [*COMMAND, "shell"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "The world stands." in done.stdout


def test_the_shell_leaves_the_world_standing_and_plays_step_by_step() -> None:
    command = [*COMMAND, "shell", "strip"]
    done = subprocess.run(command, input="\n\n\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "dig @127.0.0.1 -p" in done.stdout
    assert "strip 1. mallory stands at mx.strip.bob.example" in done.stdout
    assert "mx.strip.bob.example: TLS is required, but was not offered" in done.stdout
    assert "Nothing is left to do" in done.stdout
