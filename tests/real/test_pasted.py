"""The blocks of the pages for MTAs, pasted into what Debian packages, by the MTAs' own tools."""

from __future__ import annotations

import re
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smtp_sts.lab.machine import directory, writable
from smtp_sts.lab.mtas import exim, postfix, sendmail
from smtp_sts.lab.mtas.base import Root
from smtp_sts.lab.mtas.page import block as of_page

from ..pages.pages import Block, blocks

pytestmark = pytest.mark.real

Roots = Callable[[str], dict[str, Path]]


@pytest.fixture(
    scope="module", params=sorted(postfix.SUITES, reverse=True), ids="postfix-{}".format
)
def root(request: pytest.FixtureRequest, roots: Roots) -> Iterator[tuple[str, Root]]:
    """A root with Postfix and its main.cf and master.cf as Debian installs them."""
    with directory() as home, writable(roots("")[postfix.SUITES[request.param]], home) as place:
        made = Root(place)
        for name in ("main.cf", "master.cf"):
            packaged = place / "etc/postfix" / name
            assert packaged.exists(), packaged
        (place / "etc/postfix/tls_policy").touch()
        made.in_root("postmap", "hash:/etc/postfix/tls_policy")
        yield request.param, made


def said(root: Root, *command: str) -> str:
    """What a command of Postfix's says, all of it."""
    done = subprocess.run(
        ["chroot", root.root, "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
         *command], capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.stdout + done.stderr


def pasted(root: Root, name: str, text: str) -> Path:
    """A folder of Postfix's in which `text` was pasted to the end of a file."""
    folder = root.root / "etc/pasted"
    folder.mkdir(exist_ok=True)
    for file in ("main.cf", "master.cf"):
        before = (root.root / "etc/postfix" / file).read_text()
        (folder / file).write_text(before + (text if file == name else ""))
    return Path("/etc/pasted")


def unknown_here(version: str, text: str) -> bool:
    return version == "3.7" and "tlsrpt" in text


@pytest.mark.parametrize("block", blocks("main.cf"), ids=str)
def test_main_cf(root: tuple[str, Root], block: Block) -> None:
    version, made = root
    folder = pasted(made, "main.cf", block.text)
    words = said(made, "postconf", "-c", str(folder), "-n")
    if not unknown_here(version, block.text):
        for name in re.findall(r"^(\w+) =", block.text, re.M):
            assert re.search(rf"^{name} = ", words, re.M), words
        # Of a name that it does not know postconf says that it is unused.
        unused = re.findall(r"unused parameter: (\w+)", words)
        assert not set(unused) & set(re.findall(r"^(\w+) =", block.text, re.M)), words
    assert refused(made, folder) == []


def refused(made: Root, folder: Path) -> list[str]:
    """What smtp(8) would end at: every word of the value is a table to it, a comment behind it
    too. (postmap takes a word without a type for a file, so its word on that is not enough.)"""
    types = said(made, "postconf", "-m").split()
    wrong = []
    value = made.in_root("postconf", "-c", str(folder), "-hx", "smtp_tls_policy_maps")
    for table in tables(value):
        kind, colon, _ = table.strip("{ ").partition(":")
        answer = said(made, "postmap", "-c", str(folder), "-q", "bob.example", table)
        if not colon or kind not in types or ("fatal" in answer and "connect" not in answer):
            wrong.append(f"{table}: {answer}")
    return wrong


def tables(value: str) -> list[str]:
    """As Postfix parts them: at blanks and commas, but not within braces."""
    return [word for word in re.findall(r"\{[^}]*\}|[^\s,]+", value) if word]


def test_a_comment_at_the_end_of_a_line_would_be_seen(root: tuple[str, Root]) -> None:
    _, made = root
    line = "smtp_tls_policy_maps = socketmap:inet:127.0.0.1:8461:postfix            # any Postfix\n"
    folder = pasted(made, "main.cf", line)
    assert [line.split(": ")[0] for line in refused(made, folder)] == ["#", "any", "Postfix"]


@pytest.mark.parametrize("block", blocks("master.cf"), ids=str)
def test_master_cf(root: tuple[str, Root], block: Block) -> None:
    version, made = root
    folder = pasted(made, "master.cf", block.text)
    name = block.text.split()[0]
    words = said(made, "postconf", "-c", str(folder), "-M", f"{name}/unix")
    assert words.split()[:2] == [name, "unix"], words
    if not unknown_here(version, block.text):
        every = said(made, "postconf", "-c", str(folder), "-P")
        assert f"{name}/unix/smtp_tls_policy_maps =" in every
        assert "unused parameter" not in every


@pytest.mark.parametrize("version", sorted(exim.SUITES, reverse=True), ids="exim-{}".format)
def test_exim_takes_the_router_for_reports(version: str, roots: Roots) -> None:
    (router,) = [b for b in blocks("exim") if b.page.endswith("tls-reports-delivery.md")]
    with directory() as home, writable(roots("exim")[exim.SUITES[version]], home) as place:
        made = exim.Exim(version, place)
        parts = place / "etc/exim4/conf.d"
        (parts / "router/150_pasted").write_text(router.text)
        # "a transport tls_reports_smtp with driver = smtp ... and with hosts_try_dane ="
        (parts / "transport/40_pasted").write_text(
            "tls_reports_smtp:\n  driver = smtp\n  hosts_try_dane =\n"
        )
        made.configure()
        made.in_root("exim4", "-bV")
        found = made.in_root("exim4", "-f", "tlsrpt@example.com", "-bP", "router", "tls_reports")
        assert "transport = tls_reports_smtp" in found


def test_every_block_for_exim_and_sendmail_is_one_that_the_lab_is_made_of(
    monkeypatch: pytest.MonkeyPatch, roots: Roots
) -> None:
    """The lab's real mail servers are configured by these; `test_exim.py`, `test_sendmail.py`."""
    used: set[str] = set()

    def noted(page: str, beginning: str) -> str:
        text = of_page(page, beginning)
        used.add(textwrap.dedent(text))
        return text

    for module in (exim, sendmail):
        monkeypatch.setattr(module, "block", noted)
    with directory() as home, writable(roots("exim")["trixie"], home) as place:
        exim.Exim("4.98", place).configure()
        exim.Exim("4.98", place).configure(dc_use_split_config="false")
    with directory() as home, writable(roots("sendmail")["trixie"], home) as place:
        made = sendmail.Sendmail("8.18", place)
        made.configure()
        made.configure(of_page("sendmail.md", sendmail.WAIT_LINES))
        used.add(of_page("sendmail.md", sendmail.WAIT_LINES))
    left = [
        str(one)
        for one in blocks("exim", "sh exim", "sendmail")
        if one.text not in used and not one.page.endswith("tls-reports-delivery.md")
    ]
    assert left == []
