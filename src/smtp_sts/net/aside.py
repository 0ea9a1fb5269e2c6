"""What a stranger has made large is read beside the event loop.

A policy of 64 KiB takes 30 ms to read, an answer of the DNS of that size 20 ms: on the loop,
whoever publishes a few hundred of them would have everybody wait (law 6). In a thread each takes
its turn with the loop, every millisecond or so (`daemon`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

#: More than this is large, bytes: nearly nothing honest is.
LARGE: Final = 8 * 1024
T = TypeVar("T")


async def aside(size: int, work: Callable[[], T]) -> T:
    """What `work` returns or raises, done beside the loop where `size` bytes are to be read."""
    return work() if size <= LARGE else await asyncio.to_thread(work)
