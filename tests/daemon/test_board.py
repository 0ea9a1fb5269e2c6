"""The board in shared memory: sums that hold, whoever dies and whenever."""

from __future__ import annotations

import os
import signal
import time

import pytest

from smtp_sts.daemon.board import SIZE, SLOTS, Board
from smtp_sts.mta.tally import Tally


def tally(n: int, **gauges: float) -> Tally:
    return Tally({"events": n}, {"postfix enforce": n}, gauges=gauges)


def test_what_a_worker_wrote_is_kept_when_it_ends_and_its_sizes_are_not() -> None:
    board = Board()
    first, second = board.take(), board.take()
    assert first is not None
    assert second is not None
    board.write(first, tally(1, states=10))
    board.write(first, tally(3, states=10))
    board.write(second, tally(4, states=20))
    found = board.read()
    assert (found.tally.counts, found.tally.gauges) == ({"events": 7}, {"states": 30})
    assert (found.serving, found.retired) == (2, 0)
    board.retire(second)
    assert board.read()[1:] == (1, 1)
    board.release(second)
    found = board.read()
    assert (found.tally.answers, found.tally.gauges) == ({"postfix enforce": 7}, {"states": 10})
    board.count("deaths")
    again = board.take()
    assert again == second
    assert board.read().tally.counts == {"events": 7, "deaths": 1}  # nothing is counted twice


def test_more_workers_than_slots_do_not_break_it() -> None:
    board = Board()
    taken = [board.take() for _ in range(SLOTS + 1)]
    assert taken.count(None) == 1
    board.retire(None)
    board.release(None)
    assert board.read().serving == SLOTS


def test_what_is_too_long_is_refused_and_what_was_there_stays() -> None:
    board = Board()
    slot = board.take()
    assert slot is not None
    board.write(slot, tally(2))
    with pytest.raises(ValueError, match="bounded"):
        board.write(slot, Tally({"x" * SIZE: 1}))
    assert board.read().tally.counts == {"events": 2}


def test_a_writer_killed_at_any_moment_leaves_a_whole_text() -> None:
    board = Board()
    seen = 0
    for turn in range(20):
        slot = board.take()
        assert slot is not None
        pid = os.fork()
        if pid == 0:
            n = 0
            while True:
                n += 1
                board.write(slot, Tally({"events": n, "y" * (n % 1000): 0}))
        shown = 0
        until = time.monotonic() + 0.01 + turn / 2000
        try:
            while time.monotonic() < until:
                now = board.read().tally.counts.get("events", 0)
                assert now >= shown
                shown = now
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        board.release(slot)
        total = board.read().tally.counts.get("events", 0)
        assert total >= shown >= seen
        seen = total
    assert seen > 0
