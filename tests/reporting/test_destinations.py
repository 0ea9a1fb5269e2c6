"""Where reports go: to each destination once, and never where they must not (law 5)."""

from __future__ import annotations

import pytest

from smtp_sts.reporting.destinations import plan, read_suppressed
from smtp_sts.store.outbox import Planned
from smtp_sts.tlsrpt import find_record


def planned(rua: str, *suppress: str, allow_private: bool = False) -> list[Planned]:
    record = find_record([f"v=TLSRPTv1; rua={rua}".encode()])
    assert record is not None
    return plan(record, read_suppressed(suppress), allow_private=allow_private)


def test_each_destination_once() -> None:
    """A duplicate URI ended another reporter, at every start."""
    found = planned(
        "mailto:a@bob.example,mailto:a@BOB.example,https://h.bob.example/,mailto:a@bob.example"
    )
    assert found == [
        Planned("mailto:a@bob.example", ""),
        Planned("https://h.bob.example/", "h.bob.example"),
    ]


def test_a_thousand_destinations_are_ten() -> None:
    assert len(planned(",".join(f"mailto:a{n}@bob.example" for n in range(1000)))) == 10


@pytest.mark.parametrize(
    ("uri", "suppress"),
    [
        ("mailto:a@bob.example", "a@bob.example"),
        ("mailto:a@bob.example", "a@BOB.example"),
        ("mailto:a@bob.example", "mailto:a@bob.example"),
        ("mailto:a@bob.example", "bob.example"),
        ("mailto:a@mail.bob.example", ".bob.example"),
        ("https://h.bob.example/x", "h.bob.example"),
        ("https://h.bob.example:8443/x", "https://h.bob.example/"),
        ("https://h.bob.example/x", ".bob.example"),
        ("https://9.9.9.9/x", "9.9.9.9"),
    ],
)
def test_suppressed_destinations_are_skipped_and_it_is_said_why(uri: str, suppress: str) -> None:
    (one,) = planned(uri, "else.example", suppress)
    assert one.skipped.startswith("suppressed by ")


@pytest.mark.parametrize(
    ("uri", "suppress"),
    [
        ("mailto:a@bob.example", "b@bob.example"),
        ("mailto:a@bob.example", ".bob.example"),
        ("mailto:a@sub.bob.example", "bob.example"),
        ("https://h.bobby.example/", ".bob.example"),
        ("https://xbob.example/", ".bob.example"),
    ],
)
def test_others_are_not(uri: str, suppress: str) -> None:
    assert planned(uri, suppress)[0].skipped == ""


@pytest.mark.parametrize(
    "uri",
    [
        "mailto:root@localhost",
        "mailto:root@gateway",
        "mailto:root@printer.local",
        "mailto:root@db.internal",
        "mailto:root@x.home.arpa",
        "https://localhost/",
        "https://router/",
        "https://10.0.0.1/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://169.254.169.254/latest/meta-data",
    ],
)
def test_law_5_names_and_addresses_of_ours_get_nothing(uri: str) -> None:
    (one,) = planned(uri)
    assert "public Internet" in one.skipped
    assert planned(uri, allow_private=True)[0].skipped == ""


@pytest.mark.parametrize("entry", ["", "a b", "@", "a@", "http://x.example/", "..", ".", "x@y z"])
def test_an_entry_of_suppress_that_can_be_none_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match=r"write|address") as caught:
        read_suppressed(["bob.example", entry])
    assert repr(entry) in str(caught.value)
