"""The table of docs/mtas.md, played: what becomes of a message at each MTA."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from . import exim, postfix, sendmail
from .world import SIGNED, SITES, World

HOME = Path(__file__).resolve().parents[2]
PAGE = (HOME / "docs/mtas.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (.+) \|$", re.MULTILINE)
#: What a row says of the MX host -> the domain that has it.
DOMAINS = {
    "is as it should be": "enforce.example",
    "is of the policy's `*.`": "wildcard.example",
    "offers no STARTTLS": "stripped.example",
    "has a certificate for other names": "wrong-name.example",
    "has a certificate that it has signed itself": "self-signed.example",
    "has a certificate that has expired": "expired.example",
    "is not of the policy": "outside.example",
    "is not of the policy, and the next one is as it should be": "forged.example",
    "is two labels below the policy's `*.`": "deep.example",
    "has a certificate without subject alternative names": "common-name.example",
    "has a certificate for `*.` and its domain": "wild-certificate.example",
    "is an alias of a host with a good certificate for itself alone": "alias.example",
    "is at a private address": "private.example",
    "is of the last pattern of a policy of 64 KiB": "long.example",
    "has TLSA records of its certificate, which is signed by itself": f"dane.{SIGNED}",
    "has TLSA records of another certificate": f"broken-dane.{SIGNED}",
}
Mta = exim.Exim | postfix.Postfix | sendmail.Sendmail
#: Column -> how the MTA is made to run, and the name of its root file systems.
MTAS: dict[str, tuple[Callable[[str, dict[str, Path]], AbstractContextManager[Mta]], str]] = {
    "Postfix 3.7": (postfix.world, ""),
    "Postfix 3.10": (postfix.world, ""),
    "Exim 4.96": (exim.world, "exim"),
    "Exim 4.98": (exim.world, "exim"),
    "Sendmail 8.17": (sendmail.world, "sendmail"),
    "Sendmail 8.18": (sendmail.world, "sendmail"),
}


def table() -> tuple[list[str], dict[str, list[str]]]:
    """The columns of the page's first table, and its rows."""
    head, *rows = (row.split(" | ") for row in ROW.findall(PAGE.split("\n## ")[1]))
    return head[1:], {row[0]: row[1:] for row in rows}


def test_the_table_has_a_column_for_each_mta_and_a_row_for_each_case() -> None:
    head, rows = table()
    assert head == list(MTAS)
    assert list(rows) == list(DOMAINS)
    assert all(len(cells) == len(head) for cells in rows.values())


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(tests/[^`]+)`", PAGE))))
def test_a_test_that_is_named_exists(name: str) -> None:
    path, _, function = name.partition("::")
    tree = ast.parse((HOME / path).read_text(encoding="utf-8"))
    tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert not function or function in tests


@pytest.fixture(scope="module", params=MTAS)
def played(
    request: pytest.FixtureRequest, roots: Callable[[str], dict[str, Path]]
) -> Iterator[tuple[str, World, dict[str, str]]]:
    """An MTA that has tried a message to every domain: column, world, domain -> what it logged."""
    column = request.param
    run, package = MTAS[column]
    found = {}
    with run(column.split()[1], roots(package)) as made:
        sent = {}
        for domain in DOMAINS.values():
            recipients = made.send(domain)
            sent[domain] = recipients if isinstance(recipients, str) else recipients[0]
        for domain, recipient in sent.items():
            found[domain] = made.outcome(recipient).status.lower()
        yield column, made, found


@pytest.mark.real
def test_every_cell_is_as_the_table_says(
    played: tuple[str, World, dict[str, str]],
) -> None:
    column, made, found = played
    head, rows = table()
    said, seen = {}, {}
    for row, cells in rows.items():
        said[row] = cells[head.index(column)].strip("*")
        domain = DOMAINS[row]
        seen[row] = {"sent": "arrives", "deferred": "waits"}[found[domain]]
        host = SITES[domain].mx
        taken = made.events_at(SITES[domain].alias_of or host, "DATA")
        arrived = [e for e in taken if e["recipients"][0].endswith(f"@{domain}")]
        assert bool(arrived) is (seen[row] == "arrives"), row
        assert all(event["tls"] for event in arrived)
    assert [row for row in seen if seen[row] != said[row]] == []
