"""Law 6: what is large is read beside the event loop, which goes on meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from smtp_sts.net.aside import LARGE, aside

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.mark.parametrize(("size", "beside"), [(LARGE, False), (LARGE + 1, True)])
def test_what_is_large_is_read_in_a_thread(run: Run, size: int, beside: bool) -> None:
    def work() -> bool:
        return threading.current_thread() is not threading.main_thread()

    assert run(aside(size, work)) is beside


def test_law_6_the_loop_goes_on_meanwhile(run: Run) -> None:
    def work() -> None:
        end = time.monotonic() + 0.1
        while time.monotonic() < end:  # as reading does: without giving way by itself
            pass

    async def play() -> int:
        turns = 0
        reading = asyncio.ensure_future(aside(LARGE + 1, work))
        while not reading.done():
            await asyncio.sleep(0.001)
            turns += 1
        return turns

    assert run(play()) >= 3


def test_what_it_raises_comes_out(run: Run) -> None:
    def work() -> None:
        raise ValueError("so")

    for size in (0, LARGE + 1):
        with pytest.raises(ValueError, match="so"):
            run(aside(size, work))
