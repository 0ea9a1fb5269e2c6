"""The figures of this worker, put up for the others; and those of the whole daemon, for `/metrics`.

Promises: what this worker says of itself is of now, what it says of the others at most `PUBLISH`
seconds old; a store that hangs is left out after `STORE_SECONDS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final

from smtp_sts.daemon.board import Board
from smtp_sts.mta.service import Service
from smtp_sts.resolver import Keeper, Resolver
from smtp_sts.store.past import DAY
from smtp_sts.web.totals import StoreFigures, Totals

#: Seconds.
PUBLISH: Final = 2.0
STORE_SECONDS: Final = 2.0


class Figures:
    """What one worker counts, and where it puts that up: `slot` None is nowhere."""

    def __init__(self, service: Service, resolver: Resolver, keeper: Keeper,
                 board: Board, slot: int | None, configured: int) -> None:  # fmt: skip
        self._service = service
        self._resolver = resolver
        self._keeper = keeper
        self._board = board
        self._slot = slot
        self._configured = configured

    def publish(self) -> None:
        """Put up what is counted by now."""
        tally = self._service.tally()
        tally.gauges = {
            "ready-replies": len(self._service.table.replies),
            "ready-bytes": self._service.table.bytes,
            "states": self._resolver.states,
            "discoveries": self._resolver.running,
            "connections": len(self._service.connections),
            "unsaved": self._keeper.unsaved,
        }
        if self._slot is not None:
            self._board.write(self._slot, tally)

    async def keep_publishing(self) -> None:
        """For as long as the worker lives."""
        while True:
            self.publish()
            await asyncio.sleep(PUBLISH)

    async def read(self) -> Totals:
        """What all workers of this daemon have counted."""
        self.publish()
        store: StoreFigures | None = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STORE_SECONDS):
                now = time.time()
                unused_since = now - self._resolver.settings.unused_days * DAY
                figures = await self._keeper.figures(now, unused_since)
                store = figures and StoreFigures(*figures, self._keeper.limit)
        found = self._board.read()
        return Totals(found.tally, found.serving, found.retired, self._configured, store)
