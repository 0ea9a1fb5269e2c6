"""Law 1 where two daemons write a policy of the same domain: in the statements themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from smtp_sts.store import Store, Stored, open_store

from .cluster import Cluster

NOW = time.time()
NAME = "_smtp_sts.bob.example"


def draft(
    at: float, text: str = "old", *, proven: bool = False, met: bool = False, life: float = 1000.0
) -> Stored:
    """A policy of the first draft as it is kept, fetched at so many seconds from now."""
    body = {"text": text, "authenticated": proven, "applied": met}
    times = (NOW + at, NOW + at + life, NOW + at + 500, NOW)
    return Stored(NAME, text[:32], msgspec.json.encode(body).decode(), *times)


@pytest.fixture(params=["sqlite", "postgresql"])
def opened(
    request: pytest.FixtureRequest, tmp_path: Path, server: Cluster, database: str
) -> Iterator[Callable[[], Store]]:
    sqlite = f"sqlite:///{tmp_path}/s.db"
    url = sqlite if request.param == "sqlite" else server.url(database)
    stores: list[Store] = []

    def another() -> Store:
        stores.append(open_store(url))
        return stores[-1]

    yield another
    for store in stores:
        store.close()


FORGED = 'v=STS1; x="authenticated":true,"applied":true'


@pytest.mark.parametrize(
    ("kept", "written", "replaced"),
    [
        (draft(-9, proven=True), draft(-5, "new"), False),
        (draft(-9, proven=True), draft(-5, "new", met=True), False),
        (draft(-9, proven=True, met=True), draft(-5, FORGED), False),
        (draft(-9, proven=True, met=True), draft(-5), False),  # the same text, unproven
        (draft(-9, met=True), draft(-5, "new"), False),
        (draft(-9, met=True), draft(-5, "new", met=True), True),
        (draft(-9), draft(-5, "new"), True),
        (draft(-9, met=True), draft(-5, "new", proven=True), True),
        (draft(-9, proven=True, met=True), draft(-5, "new", proven=True), True),
        (draft(-9, proven=True, met=True), draft(-5, proven=True), True),  # proven anew
        (draft(-9, proven=True, met=True), draft(-9, proven=True), False),  # no less known
        (draft(-9, proven=True), draft(-9, proven=True, met=True), True),
        (draft(-5, proven=True), draft(-9, "new", proven=True, met=True), False),  # earlier
        (draft(-9, proven=True, met=True, life=3), draft(-5, "new"), True),  # expired
        (draft(900, proven=True), draft(-5, "new"), False),  # of a wrong clock, and proven
        (draft(900, proven=True), draft(-5, "new", proven=True), True),
    ],
)
def test_law_1_proof_and_having_been_met_go_before_time(
    opened: Callable[[], Store], kept: Stored, written: Stored, replaced: bool
) -> None:
    one, other = opened(), opened()
    one.put([kept])
    other.put([written])
    assert one.get([NAME])[NAME].body == (written if replaced else kept).body


def test_law_1_what_is_noted_of_a_policy_changes_no_later_one(
    opened: Callable[[], Store],
) -> None:
    one, other = opened(), opened()
    old = Stored("bob.example", "1", "old", NOW - 90, NOW + 9, NOW - 50, NOW - 90)
    new = Stored("bob.example", "2", "new", NOW - 5, NOW + 999, NOW + 500, NOW - 5)
    one.put([old])
    one.postpone("bob.example", NOW - 20, old.fetched_at)
    assert one.get(["bob.example"])["bob.example"].refresh_at == pytest.approx(NOW - 20)
    other.put([new])
    one.postpone("bob.example", NOW + 5000, old.fetched_at)  # a refresh of the old one has failed
    one.touch({"bob.example": NOW - 60, "gone.example": NOW})
    one.put([old])
    (kept,) = other.get(["bob.example", "gone.example"]).values()
    assert msgspec.structs.astuple(kept) == pytest.approx(msgspec.structs.astuple(new))
    other.touch({"bob.example": NOW})
    assert one.get(["bob.example"])["bob.example"].used_at == pytest.approx(NOW)
