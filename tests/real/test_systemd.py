"""The units in a Debian that has booted: installed by the lines of docs/operation.md, word by word.

Everything that the sandbox of the service could break is used once: uvloop, TLS, SQLite, the
control socket, reload, restart, and a death without warning.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtp_sts.lab.machine import CannotBuild
from smtp_sts.reporting.journal import by_a_person

from ..pages.pages import Block, blocks
from .booted import Booted, absent, booted, root_file_system
from .cannot import cannot

pytestmark = pytest.mark.real

HERE = Path(__file__).parents[2]
#: What PyPI has no wheel of; it is Python alone.
AS_SOURCE = ("dkimpy==",)
SECURE = "secure match=mx.bob.example servername=hostname"
TABLE = "socketmap:inet:127.0.0.1:8461:postfix"
SHOW = ("systemctl", "show", "smtp-sts.service", "--value", "-p")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our wheel and those it needs, for the Python of the container."""
    folder = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "-q"]
    machine = os.uname().machine
    # One requirement a paragraph, its hashes on lines of their own.
    wanted = re.findall(
        r"^[a-z].*(?:\n    .*)*", (HERE / "requirements" / "lab.txt").read_text(), re.M
    )
    source, binary = folder / "source.txt", folder / "binary.txt"
    source.write_text("\n".join(one for one in wanted if one.startswith(AS_SOURCE)))
    binary.write_text("\n".join(one for one in wanted if not one.startswith(AS_SOURCE)))
    commands = (
        [*pip, "wheel", "--no-deps", "-w", str(folder), "--require-hashes", "-r", str(source)],
        [*pip, "wheel", "--no-deps", "-w", str(folder), str(HERE)],
        [
            *pip, "download", "-d", str(folder), "--no-deps", "--only-binary=:all:",
            "--python-version=3.11", f"--platform=manylinux2014_{machine}",
            f"--platform=manylinux_2_28_{machine}", "--require-hashes",
            "-r", str(binary),
        ],
    )  # fmt: skip
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode:
            cannot(f"no wheels to install from: {done.stderr[-500:]}")
    shutil.copy(Path(__file__).with_name("lab_inside.py"), folder)
    return folder


@pytest.fixture(scope="module")
def debian(wheels: Path) -> Iterator[Booted]:
    """A booted Debian in which smtp-sts is installed and runs, with a lab beside it."""
    if os.geteuid() != 0:
        cannot("booting a container needs root")
    if absent():
        cannot(f"not installed: {', '.join(absent())} (tests/real/install.sh)")
    try:
        lower = root_file_system()
        with booted(lower, wheels) as machine:
            machine.run("sh", "-ec", f"{FROM_WHEELS} python3 -I -m venv /opt/lab")
            machine.run("sh", "-ec", f"{FROM_WHEELS} /opt/lab/bin/pip -q install 'smtp-sts[lab]'")
            machine.run("systemd-run", "-q", "--unit=lab", "/opt/lab/bin/python", INSIDE)
            machine.until("the lab is open", "journalctl", "-u", "lab.service", "-o", "cat")
            machine.run("sh", "-ec", f"{FROM_WHEELS}\n{documented()}")
            yield machine
    except CannotBuild as error:
        cannot(str(error))


INSIDE = "/given/lab_inside.py"
#: pip without an Internet.
FROM_WHEELS = "export PIP_NO_INDEX=1 PIP_FIND_LINKS=/given PIP_DISABLE_PIP_VERSION_CHECK=1;"


def documented() -> str:
    """The commands of "Install"."""
    found = re.search(r"## Install\n.*?```sh\n(.*?)```", _page(), re.DOTALL)
    assert found is not None
    return found[1]


def _page() -> str:
    return (HERE / "docs" / "operation.md").read_text(encoding="utf-8")


def log(debian: Booted) -> list[dict[str, object]]:
    lines = debian.run("journalctl", "-u", "smtp-sts.service", "-o", "cat", "_COMM=smtp-sts")
    return [json.loads(line) for line in lines.splitlines() if line.startswith("{")]


def test_it_runs_as_its_own_user_with_nothing_but_what_it_needs(debian: Booted) -> None:
    assert debian.run("systemctl", "is-active", "smtp-sts.service", "smtp-sts.socket") == (
        "active\nactive\n"
    )
    pid = debian.run(*SHOW, "MainPID").strip()
    status = dict(
        line.split(":\t", 1)
        for line in debian.run("cat", f"/proc/{pid}/status").splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split()[0] == debian.run("id", "-u", "smtp-sts").strip() != "0"
    assert (int(status["CapEff"], 16), int(status["CapBnd"], 16)) == (0, 0)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert debian.run("stat", "-c", "%a %U %F", "/run/smtp-sts/control.sock") == (
        "600 smtp-sts socket\n"
    )
    for worker in debian.run("cat", f"/proc/{pid}/task/{pid}/children").split():
        assert "uvloop" in debian.run("cat", f"/proc/{worker}/maps")
    exposure = debian.run("systemd-analyze", "security", "--threshold=19", "smtp-sts.service")
    assert "Overall exposure level" in exposure


def test_postfix_is_answered_and_the_policy_lasts_and_the_control_socket_works(
    debian: Booted,
) -> None:
    assert debian.run("postmap", "-q", "bob.example", TABLE).strip() == SECURE
    assert debian.run("stat", "-c", "%a %U", "/var/lib/smtp-sts").strip() == "750 smtp-sts"
    (row,) = json.loads(debian.run("smtp-sts", "cache", "list", "--json"))
    assert (row["domain"], row["mode"], row["refresh"]) == ("bob.example", "enforce", "ready")
    assert debian.run("smtp-sts", "cache", "refresh", "bob.example").startswith(
        "bob.example: fetched"
    )
    assert json.loads(debian.run("smtp-sts", "query", "--json", "bob.example", "--server"))[
        "from"
    ] == "cache"  # fmt: skip
    # Another user gets nowhere near it.
    denied = debian.run(
        "setpriv", "--reuid=nobody", "--clear-groups", "sh", "-c",
        "smtp-sts cache list; echo status $?", check=False,
    )  # fmt: skip
    assert "status 3" in denied


def test_beside_the_socket_unit_the_daemon_listens_where_the_configuration_says(
    debian: Booted,
) -> None:
    config = debian.root / "etc/smtp-sts.toml"
    before = config.read_text()
    debian.run("install", "-d", "-o", "smtp-sts", "-g", "postfix", "/var/spool/postfix/smtp-sts")
    try:
        # A folder made after the start is read-only for the unit: a restart lets it in.
        more = (
            'listen = ["127.0.0.1:8461", "unix:/var/spool/postfix/smtp-sts/socketmap"]\n'
            'listen_line = "127.0.0.1:8462"\nlisten_http = "127.0.0.1:8464"\n'
        )
        config.write_text(
            before.replace("[policy]\n", f"[policy]\n{more}")
            + '[metrics]\nlisten = "127.0.0.1:9461"\n'
        )
        debian.run("systemctl", "restart", "smtp-sts.service")
        unix = "socketmap:unix:/var/spool/postfix/smtp-sts/socketmap:postfix"
        for table in (TABLE, unix):
            assert debian.run("postmap", "-q", "bob.example", table).strip() == SECURE
        exchange = "exec 3<>/dev/tcp/127.0.0.1/{}; printf '{}' >&3; cat <&3"
        said = debian.run("bash", "-c", exchange.format(8462, "bob.example\\n"))
        assert said == "enforce mx.bob.example\n"
        for port, path in ((8464, "/v1/health"), (9461, "/metrics")):
            request = f"GET {path} HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n"
            said = debian.run("bash", "-c", exchange.format(port, request))
            assert said.startswith("HTTP/1.1 200 OK")
        checked = debian.run("smtp-sts", "config", "check")
        assert "127.0.0.1:8462, 127.0.0.1:8464, 127.0.0.1:9461" in checked
        assert "127.0.0.1:8461 (systemd)" in debian.run("journalctl", "-u", "smtp-sts.service")
    finally:
        config.write_text(before)
        debian.run("systemctl", "restart", "smtp-sts.service")


def test_reload_restart_and_death_lose_no_question_and_no_policy(debian: Booted) -> None:
    before = debian.run(*SHOW, "MainPID")
    debian.run("systemctl", "reload", "smtp-sts.service")
    assert debian.run(*SHOW, "MainPID") == before
    assert debian.run("postmap", "-q", "bob.example", TABLE).strip() == SECURE

    # The socket unit keeps the port: who asks in the middle of a restart waits, and is answered.
    restart = debian.start("systemctl", "restart", "smtp-sts.service")
    for _ in range(10):
        assert debian.run("postmap", "-q", "bob.example", TABLE).strip() == SECURE
    assert restart.wait(30) == 0
    assert debian.run(*SHOW, "MainPID") != before

    debian.run("systemctl", "kill", "-s", "KILL", "--kill-who=all", "smtp-sts.service")
    assert debian.run("postmap", "-q", "bob.example", TABLE).strip() == SECURE
    debian.until("active", "systemctl", "is-active", "smtp-sts.service")
    assert "bob.example" in debian.run("smtp-sts", "cache", "list")


@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_what_the_pages_tell_root_to_paste_works(debian: Booted, block: Block) -> None:
    if block.text == documented():
        return  # that is how all of this was installed
    debian.run("bash", "-ec", f"{FROM_WHEELS}\n{block.text}")
    assert debian.run("postmap", "-q", "bob.example", TABLE).strip() == SECURE


def test_a_reload_that_is_refused_fails_and_changes_nothing(debian: Booted) -> None:
    config = debian.root / "etc/smtp-sts.toml"
    before = config.read_text()
    pid = debian.run(*SHOW, "MainPID")
    try:
        config.write_text(before + "[tls_reports]\nenabled = true\n")
        with pytest.raises(RuntimeError, match="failed"):
            debian.run("systemctl", "reload", "smtp-sts.service")
        said = debian.run("journalctl", "-u", "smtp-sts.service", "-o", "cat")
        assert "configuration not taken, going on with the one before: tls_reports.org" in said
        assert debian.run("systemctl", "is-active", "smtp-sts.service") == "active\n"
        assert debian.run(*SHOW, "MainPID") == pid
        assert debian.run("postmap", "-q", "bob.example", TABLE).strip() == SECURE
        # And with a key that its user may not read it starts.
        debian.run("install", "-m", "600", "/dev/null", "/etc/dkim.key")
        config.write_text(
            f'{before}[tls_reports]\nenabled = true\norganization = "alice"\n'
            'contact = "tls@alice.example"\ndkim_selector = "s"\ndkim_key = "/etc/dkim.key"\n'
        )
        debian.run("systemctl", "restart", "smtp-sts.service")
        assert debian.run("postmap", "-q", "bob.example", TABLE).strip() == SECURE
        said = debian.run("journalctl", "-u", "smtp-sts.service", "-o", "cat")
        assert "/etc/dkim.key: cannot be read: Permission denied" in said
        assert "mail servers are answered all the same" in said
    finally:
        config.write_text(before)
        debian.run("systemctl", "reload", "smtp-sts.service")


def test_the_journal_has_a_json_line_an_event_and_the_counters_when_asked(debian: Booted) -> None:
    debian.run("systemctl", "kill", "-s", "USR1", "--kill-who=main", "smtp-sts.service")
    debian.until("counted since the start", "journalctl", "-u", "smtp-sts.service", "-o", "cat")
    events = [line["event"] for line in log(debian)]
    assert {"ready", "decision", "refresh", "configuration-taken", "counts"} <= set(events)
    assert "no control socket" not in debian.run("journalctl", "-u", "smtp-sts.service")


def test_without_the_socket_unit_the_configuration_says_where_to_listen(debian: Booted) -> None:
    debian.run("systemctl", "disable", "--now", "smtp-sts.socket")
    debian.run("systemctl", "restart", "smtp-sts.service")
    assert debian.run("postmap", "-q", "bob.example", TABLE).strip() == SECURE
    assert "ready on 127.0.0.1:8461" in debian.run("journalctl", "-u", "smtp-sts.service")
    debian.run("systemctl", "stop", "smtp-sts.service")
    assert debian.run(*SHOW, "Result").strip() == "success"
    # Without a daemon the store is read.
    done = debian.run("sh", "-c", "smtp-sts cache list 2>&1")
    assert "no daemon takes commands" in done
    assert "bob.example" in done


def test_what_a_person_writes_into_the_journal_is_known_by_its_user(debian: Booted) -> None:
    line = ("logger", "-p", "mail.info", "-t", "postfix/smtp")
    debian.run("setpriv", "--reuid=1000", "--clear-groups", *line, "forged")
    debian.run("setpriv", "--reuid=postfix", "--clear-groups", *line, "honest")
    show = ("journalctl", "-o", "json", "SYSLOG_FACILITY=2", "-t", "postfix/smtp")
    debian.until("honest", *show)
    entries = [entry.encode() for entry in debian.run(*show).splitlines()]
    told = {json.loads(entry)["MESSAGE"]: by_a_person(entry) for entry in entries}
    assert told == {"forged": True, "honest": False}
