"""Whoever runs `smtp-sts` in a directory of somebody else's runs none of the files there."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..daemon.process import told, until, workers_of

HERE = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("smtp-sts")
RECORD = "v=STSv1; id=1;"
#: Commands that need no more than a moment; `lab` starts daemons, and itself in namespaces.
COMMANDS = {
    "lab": ("lab", "--json", "strip"),
    "lab with a clock that is moved": ("lab", "--json", "week-restart"),
    "lab apart": ("lab", "score", "--json", "strip"),
    "lab explain": ("lab", "explain", "strip"),
    "query": ("query", "--json", "[192.0.2.1]"),
    "config example": ("config", "example"),
    "config check": ("--config", "{config}", "config", "check"),
    "cache list": ("--config", "{config}", "cache", "list"),
    "report status": ("--config", "{config}", "report", "status"),
    "report show": ("report", "show", "{report}"),
    "policy convert": ("policy", "convert", "{policy}"),
}


@pytest.fixture
def planted(tmp_path: Path) -> Iterator[Path]:
    """A directory with a file for every module there is; each leaves a mark when it is run."""
    mark = tmp_path / "executed"
    names = {
        *sys.stdlib_module_names,
        *importlib.metadata.packages_distributions(),
        "grp",
        "smtp_sts",
    }
    folder = tmp_path / "downloads"
    folder.mkdir()
    for name in {*names, "sitecustomize", "usercustomize"}:
        if name.isidentifier():
            (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write(__name__ + ' ')\n")
    yield folder
    assert not mark.exists(), mark.read_text()


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def config_of(folder: Path) -> Path:
    config = folder / "smtp-sts.toml"
    config.write_text(
        f'[policy]\nlisten = "unix:{folder}/socketmap"\nlisten_http = "unix:{folder}/http"\n'
        f'[store]\nurl = "sqlite:///{folder}/store.db"\n[control]\nsocket = "{folder}/control"\n'
        f'[tls_reports]\nenabled = true\norganization = "alice"\ncontact = "tls@alice.example"\n'
        f'socket = "{folder}/tlsrpt.sock"\nlog = "postfix:{folder}/mail.log"\ndeliver = false\n'
    )
    return config


def test_a_planted_module_would_be_seen(planted: Path) -> None:
    subprocess.run([sys.executable, "-c", "import grp"], cwd=planted, check=False)
    mark = planted.parent / "executed"
    assert "grp" in mark.read_text().split()
    mark.unlink()


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_runs_what_lies_around(planted: Path, tmp_path: Path, command: str) -> None:
    policy, report = tmp_path / "mta-sts.txt", tmp_path / "report.json"
    policy.write_text("version: STSv1\nmode: enforce\nmx: mx.bob.example\nmax_age: 86400\n")
    report.write_text(json.dumps({"organization-name": "bob"}))
    places = {"config": config_of(tmp_path), "policy": policy, "report": report}
    words = [word.format(**places) for word in COMMANDS[command]]
    done = subprocess.run(
        [PROGRAM, *words], cwd=planted, capture_output=True, text=True, stdin=subprocess.PIPE,
        env=environment(), timeout=60,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    if command.startswith("lab"):
        assert done.returncode == 0 or "namespaces" in done.stderr, done.stdout + done.stderr


def test_neither_does_the_daemon_nor_what_it_starts(planted: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [PROGRAM, "--config", str(config_of(tmp_path)), "serve"],
        cwd=planted, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    try:
        until(lambda: (tmp_path / "http").exists() and (tmp_path / "tlsrpt.sock").exists(), 15)
        # The collector has started the process that empties its socket.
        until(lambda: any(workers_under(pid) for pid in workers_of(process)), 15)
    finally:
        log = told(process)
    assert "Traceback" not in log, log


def workers_under(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []


def starts(tree: ast.AST) -> Iterator[list[object]]:
    """The words of every command that begins with this interpreter."""
    for node in ast.walk(tree):
        if isinstance(node, ast.List | ast.Tuple | ast.Call):
            words = node.args if isinstance(node, ast.Call) else node.elts
            for place, word in enumerate(words):
                if isinstance(word, ast.Attribute) and ast.unparse(word) == "sys.executable":
                    yield [
                        w.value if isinstance(w, ast.Constant) else w for w in words[place + 1 :]
                    ]


def test_python_is_never_started_so_that_it_looks_into_the_current_directory() -> None:
    found = 0
    for path in (HERE / "src").rglob("*.py"):
        for words in starts(ast.parse(path.read_text(encoding="utf-8"))):
            # With a program's file as its first word, Python looks where that lies.
            risky = [word for word in words if word in ("-m", "-c")]
            assert not risky or words[0] in ("-P", "-I"), f"{path}: {words}"
            found += 1
    assert found
