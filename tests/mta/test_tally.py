"""What is counted adds up: by kind through the ready table, and between processes."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from smtp_sts.mta.ready import ReadyTable
from smtp_sts.mta.tally import BOUNDS, Tally

NAMES = st.sampled_from(["postfix enforce", "sts no-policy", "a", "b"])
NUMBERS = st.dictionaries(NAMES, st.integers(0, 2**40))
TALLIES = st.builds(
    Tally, NUMBERS, NUMBERS, NUMBERS,
    st.lists(st.integers(0, 2**40), min_size=len(BOUNDS) + 1, max_size=len(BOUNDS) + 1),
    st.integers(0, 2**40).map(float), NUMBERS,
)  # fmt: skip


@given(TALLIES, TALLIES, TALLIES)
def test_sums_do_not_depend_on_order_and_go_over_the_wire(a: Tally, b: Tally, c: Tally) -> None:
    sums = []
    for order in ((a, b, c), (c, a, b), (b, c, a)):
        total = Tally()
        for one in order:
            wire = msgspec.msgpack.encode(one)
            total.add(msgspec.msgpack.decode(wire, type=Tally))
            assert msgspec.msgpack.encode(one) == wire
        sums.append(total)
    assert sums[0] == sums[1] == sums[2]


@given(st.lists(st.floats(0, 20)))
def test_a_wait_is_in_the_class_whose_bound_holds_it(waits: list[float]) -> None:
    tally = Tally()
    for seconds in waits:
        tally.wait(seconds)
    assert sum(tally.waits) == len(waits)
    for n, bound in enumerate(BOUNDS):
        assert sum(tally.waits[: n + 1]) == sum(seconds <= bound for seconds in waits)


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "hit", "forget", "sweep", "read"]), st.integers(0, 5))
    )
)
def test_hits_of_ready_replies_are_counted_whatever_becomes_of_the_replies(
    steps: list[tuple[str, int]],
) -> None:
    table = ReadyTable(3)
    wanted: dict[str, int] = {}
    for what, n in steps:
        request = b"%d" % n
        if what == "add":
            table.add(request, b"r", f"d{n % 2}", 100.0 + n, f"kind {n % 2}")
        elif what == "hit" and request in table.replies:
            table.given(table.replies[request])
            wanted[f"kind {n % 2}"] = wanted.get(f"kind {n % 2}", 0) + 1
        elif what == "forget":
            table.forget(f"d{n % 2}")
        elif what == "sweep":
            table.sweep(100.0 + n)
        elif what == "read":
            assert table.answered() == wanted
    assert table.answered() == wanted
    assert not table.asked
