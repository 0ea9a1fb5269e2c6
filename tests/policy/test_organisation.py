"""Organisational domains by the Public Suffix List."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_sts.policy.organisation import organisational_domain, share_key

CASES = [
    ("example.com", "example.com"),
    ("a.b.Example.COM.", "example.com"),
    ("example.co.uk", "example.co.uk"),
    ("mx1.mail.example.co.uk", "example.co.uk"),
    ("co.uk", "co.uk"),
    ("com", "com"),
    # a wildcard rule and its exception
    ("x.a.b.kawasaki.jp", "a.b.kawasaki.jp"),
    ("mx.city.kawasaki.jp", "city.kawasaki.jp"),
    # suffixes of those who hand out names below their own
    ("alice.github.io", "alice.github.io"),
    ("mail.alice.dedyn.io", "alice.dedyn.io"),
    # A-labels, as we have all names
    ("mx.a.xn--55qx5d.cn", "a.xn--55qx5d.cn"),
    # suffixes that the list does not know have one label
    ("a.b.example.test", "example.test"),
    ("localhost", "localhost"),
    # what is no name stays what it is
    ("", ""),
    ("a..b", "a..b"),
    ("..", "."),
]


@pytest.mark.parametrize(("name", "organisation"), CASES)
def test_the_organisational_domain_of_a_name(name: str, organisation: str) -> None:
    assert organisational_domain(name) == organisation


LABELS = st.sampled_from(["a", "b", "www", "com", "uk", "co", "jp", "kawasaki", "city", "github"])


@given(st.lists(LABELS, min_size=1, max_size=8))
def test_it_ends_the_name_and_is_its_own(labels: list[str]) -> None:
    name = ".".join(labels)
    found = organisational_domain(name)
    assert name == found or name.endswith(f".{found}")
    assert organisational_domain(found) == found


@pytest.mark.parametrize(
    ("domain", "key"),
    [
        ("bob.example", "bob.example"),
        ("a.bob.example", ".bob.example"),
        ("a.b.bob.example", ".bob.example"),
        ("example.co.uk", "example.co.uk"),
        ("mail.example.co.uk", ".example.co.uk"),
        ("co.uk", "co.uk"),
    ],
)
def test_names_below_a_domain_do_not_take_its_share(domain: str, key: str) -> None:
    assert share_key(domain) == key


def test_the_list_is_not_read_before_it_is_needed() -> None:
    """The start of a command is not slowed down by it."""
    script = (
        "import sys; import smtp_sts.policy.organisation, smtp_sts.resolver, smtp_sts.cli; "
        "sys.exit('publicsuffixlist' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
