"""What the first worker does though nobody asks: refresh policies that are due, delete old ones.

Promises: refreshes begin evenly, at most `REFRESH_RATE` a second, however many are due (after a
long stop all of them are): cached answers do not feel them. A policy host that does not answer
holds a place, not the others up. Nothing that breaks ends it. Must not: decide what is fetched from
where, or when next (the resolver's part).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Final

from smtp_sts.config import Config
from smtp_sts.daemon.peers import Peers
from smtp_sts.net.places import Places
from smtp_sts.policy.organisation import share_key
from smtp_sts.resolver import Keeper
from smtp_sts.store.past import DAY, LOOK_SECONDS

#: How often it is looked for policies that are due (seconds), and how many are taken from the
#: store in one piece.
DUE_SECONDS: Final = 5.0
BATCH: Final = 100
#: Refreshes that are begun in a second: 2.6 million policies a day; 100,000 that are all due at
#: once take an hour.
REFRESH_RATE: Final = 30.0
#: Refreshes under way: so many policy hosts that never answer can be waited for (up to 60 s each),
#: of which one organisation gets its share; its others come again so much later (seconds).
PARALLEL: Final = 500
BUSY_SECONDS: Final = 60.0
PRUNE_SECONDS: Final = 3600.0
#: Where a full store has taken no policy, room is looked for this often at most (seconds).
FULL_SECONDS: Final = 60.0

_log = logging.getLogger(__name__)


async def refresh(config: Config, keeper: Keeper, peers: Peers) -> None:
    """Refresh what is due, for as long as the worker lives, but nothing that nobody has asked for
    in `unused_days`: that stays until it expires (law 1)."""
    unused = config.policy.unused_days * DAY
    places = Places(PARALLEL)
    running: dict[str, asyncio.Task[None]] = {}

    def ended(domain: str, task: asyncio.Task[None]) -> None:
        del running[domain]
        places.release(share_key(domain))
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the refresh of %s broke", domain, exc_info=error)

    try:
        while True:
            # What is under way is still due; of a shared store nothing is given twice.
            limit = BATCH if keeper.shared else BATCH + len(running)
            now = time.time()
            found = await keeper.due(now, limit, now - unused)
            due = [domain for domain in found if domain not in running][:BATCH]
            for domain in due:
                whose = share_key(domain)
                if places.held(whose) >= places.share:  # it must not stand before the others' next
                    now = time.time()
                    await keeper.postpone(domain, now + BUSY_SECONDS, now)
                    continue
                await places.wait(whose)
                task = running[domain] = asyncio.create_task(peers.refresh(domain))
                task.add_done_callback(lambda task, domain=domain: ended(domain, task))  # type: ignore[misc]
                await asyncio.sleep(1 / REFRESH_RATE)
            if len(due) < BATCH:
                await asyncio.sleep(DUE_SECONDS)
    finally:
        for task in list(running.values()):
            task.cancel()


async def prune(config: Config, keeper: Keeper) -> None:
    """Delete what is expired, for as long as the worker lives: what a clock that was wrong for less
    than a day makes old is not (`store/past.py`)."""
    unused = config.policy.unused_days * DAY
    again = float("-inf")
    while True:
        past = await keeper.look_at_clock()
        gone = 0
        if time.monotonic() >= again or keeper.full.is_set():
            again = time.monotonic() + PRUNE_SECONDS
            keeper.full.clear()
            gone = await keeper.prune(past) + await keeper.make_room(past, unused)
        if gone:
            _log.info(
                "deleted %d policies that are expired, or unused where the store was full", gone,
                extra={"fields": {"event": "pruned", "policies": gone}},
            )  # fmt: skip
        await asyncio.sleep(FULL_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS - FULL_SECONDS):
                await keeper.full.wait()
