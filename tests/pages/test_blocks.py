"""What a page tells people to paste is pasted: here what needs no root; `real/test_pasted.py`."""

from __future__ import annotations

import doctest
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import dns.zone
import pytest

from smtp_sts.cli import main
from smtp_sts.lab.scenarios import parse as parse_scenarios

from ..real.cannot import cannot
from .pages import HERE, PAGES, Block, blocks, prose

#: kind -> where it is played.
PLAYED = {
    "toml": "here: config check",
    "toml scenario": "here: the lab reads it",
    "pycon": "here: doctest",
    "zone": "here: read as a zone file",
    "usage": "here: the command line is parsed, not run",
    "console": "here: as usage; what was answered is an example",
    "js": "here: node --check",
    "lua": "here: luac -p",
    "yaml prometheus.yml": "here: promtool check config",
    "yaml rules": "here: promtool check rules",
    "sh checkout": "here: make -n",
    "sh pip": "here: the extra exists",
    "sh api": "here: bash -n",
    "sh database": "store/test_pasted_database.py",
    "pg_hba": "store/test_pasted_database.py",
    "sh": "real/test_systemd.py, as root in a booted Debian",
    "main.cf": "real/test_pasted.py, each Postfix",
    "master.cf": "real/test_pasted.py, each Postfix",
    "exim": "the lab's Exim is made of it (lab/mtas/exim.py), and real/test_pasted.py",
    "exim macros": "real/test_exim_kinds.py",
    "sh exim": "the lab's Exim is made by it (lab/mtas/exim.py)",
    "sendmail": "the lab's Sendmail is made of it (lab/mtas/sendmail.py)",
    "sendmail relay": "real/test_sendmail_relays.py",
    "log": "shown, not pasted",
    "text": "shown, not pasted",
}


def of(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", blocks(*kinds), ids=str)


def test_every_block_says_what_it_is() -> None:
    assert {str(block): block.kind for block in blocks() if block.kind not in PLAYED} == {}
    assert len(blocks()) > 50


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_block_is_hidden_by_being_indented(path: Path) -> None:
    text = re.sub(r"^ *([-*]|\d+\.) .*(\n(?! *\n).*)*(\n\n? {2,}.*)*", "", prose(path), flags=re.M)
    assert re.findall(r"\n\n( {4}.*)", text) == []


@of("toml")
def test_configurations_are_read(tmp_path: Path, block: Block) -> None:
    config = tmp_path / "smtp-sts.toml"
    # What the page tells to make, in a place of our own.
    text = block.text
    if key := re.search(r'^dkim_key = "(.*)"', text, re.M):
        made = tmp_path / "key.pem"
        subprocess.run(
            ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048",
             "-out", made], check=True, capture_output=True,
        )  # fmt: skip
        text = text.replace(key[1], str(made))
    text = re.sub(r'^(socket_group = )".*"', r'\1"root"', text, flags=re.M)
    if "[store]" not in text:
        text += f'\n[store]\nurl = "sqlite:///{tmp_path}/store.db"\n'
    config.write_text(text)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "smtp_sts", "--config", str(config), "config", "check"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    # The database of docs/fleet.md is on another machine, which is not here.
    elsewhere = "postgresql://" in text and "db.example.net" in done.stderr
    assert done.returncode == 0 or elsewhere, done.stderr
    assert "good" in done.stdout


@of("toml scenario")
def test_the_scenario_is_one(block: Block) -> None:
    (scenario,) = parse_scenarios(block.text)
    assert scenario.name == "strip"


@of("pycon")
def test_python_says_what_the_page_says(block: Block) -> None:
    test = doctest.DocTestParser().get_doctest(block.text, {}, str(block), block.page, block.line)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0


@of("zone")
def test_records_are_as_a_zone_file_takes_them(block: Block) -> None:
    head = "@ 60 IN SOA ns hostmaster 1 2 3 4 5\n@ 60 IN NS ns\n$TTL 60\n"
    zone = dns.zone.from_text(head + block.text, "example.com.", check_origin=False)
    assert len(list(zone.iterate_rdatas())) > 2


@of("usage", "console", "sh", "sh checkout", "sh pip", "sh api")
def test_commands_are_understood(block: Block) -> None:
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.kind == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
        assert lines
    script = "\n".join(lines)
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    ours = 0
    for line in lines:
        words = shlex.split(line, comments=True)
        for place, word in enumerate(words):
            if Path(word).name == "smtp-sts" and (not place or words[place - 1] in ("|", "&&")):
                rest = words[place + 1 :]
                ends = [n for n, w in enumerate(rest) if w in ("|", "&&", ">", ";")]
                understood(rest[: min(ends, default=len(rest))])
                ours += 1
    if block.kind == "usage":
        assert ours


def understood(words: list[str]) -> None:
    """Whether click takes these words as a command; nothing is run."""
    command: click.Command = main
    context = click.Context(main, info_name="smtp-sts")
    while isinstance(command, click.Group) and words:
        if command.name == "lab" and words[0] not in command.commands:
            words = ["play", *words]  # `smtp-sts lab NAME`
        if words[0].startswith("-"):
            break
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        context = click.Context(found, parent=context, info_name=name)
        command = found
    words = ["/dev/null" if w.endswith((".txt", ".xml")) else w for w in words]
    command.parse_args(context, list(words))


@of("sh checkout")
def test_make_has_these_targets(block: Block) -> None:
    for line in block.text.splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "make"
        assert subprocess.run([*words, "-n"], cwd=HERE, capture_output=True).returncode == 0


@of("sh pip")
def test_the_extra_exists(block: Block) -> None:
    (extra,) = re.findall(r"smtp-sts\[(\w+)\]", block.text)
    assert re.search(rf"^{extra} = \[", (HERE / "pyproject.toml").read_text(), re.M)


@pytest.mark.parametrize("block", blocks("js", "lua"), ids=str)
def test_programs_are_of_their_language(tmp_path: Path, block: Block) -> None:
    checks = {"js": [("node", "--check")], "lua": [("luac", "-p"), ("luac5.4", "-p")]}[block.kind]
    found = [check for check in checks if shutil.which(check[0])]
    if not found:
        cannot(f"{checks[-1][0]} is not installed (tests/real/install.sh)")
    path = tmp_path / f"pasted.{block.kind}"
    path.write_text(block.text)
    done = subprocess.run([*found[0], path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def promtool(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Prometheus' own checker: Debian's, unpacked and not installed, for that starts a server."""
    if there := shutil.which("promtool"):
        return there
    folder = tmp_path_factory.mktemp("prometheus")
    folder.chmod(0o777)
    done = subprocess.run(
        "apt-get download -q prometheus && dpkg-deb -x prometheus_*.deb .",
        shell=True, cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if done.returncode:
        cannot(f"Debian's prometheus cannot be had: {done.stderr[-300:]}")
    return str(folder / "usr/bin/promtool")


@of("yaml prometheus.yml", "yaml rules")
def test_prometheus_takes_it(tmp_path: Path, promtool: str, block: Block) -> None:
    path = tmp_path / "pasted.yml"
    path.write_text(block.text)
    what = "rules" if block.kind == "yaml rules" else "config"
    done = subprocess.run([promtool, "check", what, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
