"""When reports go out: spread, the same after a restart, and tried again for a day."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_sts.reporting.schedule import (
    DAY,
    RETRY_SECONDS,
    SETTLE_SECONDS,
    retry_at,
    send_at,
)

TODAY = 20_544
MIDNIGHT = (TODAY + 1) * DAY


@pytest.mark.parametrize("spread", [14400.0, 3600.0])
def test_reports_are_spread_evenly_after_midnight_utc(spread: float) -> None:
    times = [send_at(TODAY, f"d{n}.example", "alice.example", spread) for n in range(4000)]
    assert min(times) >= MIDNIGHT + SETTLE_SECONDS
    assert max(times) <= MIDNIGHT + spread
    width = (spread - SETTLE_SECONDS) / 8
    for eighth in range(8):
        begin = MIDNIGHT + SETTLE_SECONDS + eighth * width
        assert 400 < sum(begin <= when < begin + width for when in times) < 600


def test_the_time_is_the_same_after_a_restart_and_another_on_another_day() -> None:
    once = send_at(TODAY, "bob.example", "alice.example", 14400.0)
    assert once == send_at(TODAY, "bob.example", "alice.example", 14400.0)
    assert once + DAY != send_at(TODAY + 1, "bob.example", "alice.example", 14400.0)


@pytest.mark.parametrize("spread", [0.0, 60.0])
def test_a_short_spread_is_kept(spread: float) -> None:
    assert send_at(TODAY, "bob.example", "alice.example", spread) == MIDNIGHT + spread


@given(st.text(max_size=10), st.floats(0, 4e9))
def test_retries_grow_apart_and_end_with_the_day(key: str, begin: float) -> None:
    end = begin + RETRY_SECONDS
    times, now = [begin], begin
    while now < end:
        now = retry_at(now, len(times), end, key)
        times.append(now)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert times[-1] == end  # who puts us off for less than a day gets it
    assert 8 <= len(times) <= 11
    assert all(b > 1.5 * a for a, b in itertools.pairwise(gaps[:-1]))


def test_a_receiver_may_ask_for_more_but_not_beyond_the_end() -> None:
    assert retry_at(0, 1, 86400, "k", ask=4000) == 4000
    assert retry_at(0, 1, 86400, "k", ask=999_999) == 86400
    assert retry_at(0, 10**9, 86400, "k") == 86400
