"""Waiting for work with a limit, by which no stall of the loop makes work look unfinished.

After a stall a timer is as late as the work that it limits: what has finished meanwhile, in a
thread or another process, is only seen some turns of the loop later, and would lose to the timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, Final

#: A timer that comes so much too late tells of a stall (seconds), and what work that ended during
#: it has then to be seen (seconds).
STALL: Final = 0.05
GRACE: Final = 0.25


async def wait_for_work(work: Collection[asyncio.Future[Any]], seconds: float) -> None:
    """Return when all of it has ended, or when it has had `seconds`."""
    loop = asyncio.get_running_loop()
    due = loop.time() + max(seconds, 0.0)
    _, unfinished = await asyncio.wait(work, timeout=max(seconds, 0.0))
    if unfinished and loop.time() - due > STALL:
        await asyncio.wait(unfinished, timeout=GRACE)
