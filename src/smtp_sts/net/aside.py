"""What a stranger has made large is read beside the event loop.

A policy of 64 KiB takes 3 ms to read, an answer of the DNS of that size 20 ms: on the loop,
whoever publishes a few hundred of them would have everybody wait (law 6). In a thread each takes
its turn with the loop, every millisecond or so (`daemon`). In one thread: with several the loop
would have to wait for a turn of each, and what they have read would come to it all at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

#: More than this is large, bytes: nearly nothing honest is.
LARGE: Final = 8 * 1024
#: The thread rests for as long as it has worked, and no longer than this (seconds).
REST_SECONDS: Final = 0.02
T = TypeVar("T")
_thread: Final = ThreadPoolExecutor(1, thread_name_prefix="aside")


async def aside(size: int, work: Callable[[], T]) -> T:
    """What `work` returns or raises, done beside the loop where `size` bytes are to be read."""
    if size <= LARGE:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_thread, _and_rest, work)


def _and_rest(work: Callable[[], T]) -> T:
    """Half of the time the loop has the interpreter to itself, however much there is to read."""
    began = time.perf_counter()
    try:
        return work()
    finally:
        time.sleep(min(time.perf_counter() - began, REST_SECONDS))
