"""What other daemons have written into a shared store: seen within seconds, told to the workers.

The store is asked every `POLL_SECONDS` for what was written since the time before, by the clock of
the database; nothing has to be listened for, so nothing can be missed while a connection is away.
Must not: weigh a policy (that is the resolver's).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from smtp_sts.resolver import Keeper
from smtp_sts.store import Stored

POLL_SECONDS: Final = 2.0
#: Each look reaches back so much further (seconds) than the one before: what was being written then
#: had its time already, and could not be seen. Longer than a transaction may last.
MARGIN_SECONDS: Final = 30.0
#: Policies that are read at once, of up to 128 KiB each, and handed on before others have a turn.
BATCH: Final = 50


async def watch(keeper: Keeper, learn: Callable[[Stored], Awaitable[None]]) -> None:
    """Tell `learn` of every policy that is written, ours among them, for as long as we live."""
    seen: dict[str, float] = {}
    since = time.monotonic()
    while keeper.shared:
        await asyncio.sleep(POLL_SECONDS)
        now = time.monotonic()
        marks = await keeper.changes(now - since + MARGIN_SECONDS)
        if marks is None:  # later, and further back
            continue
        fresh = [domain for domain, mark in marks.items() if seen.get(domain) != mark]
        for start in range(0, len(fresh), BATCH):
            found = await keeper.written(fresh[start : start + BATCH])
            if found is None:
                break
            for stored in found.values():
                await learn(stored)
                await asyncio.sleep(0)
        else:
            seen, since = marks, now
