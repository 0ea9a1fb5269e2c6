"""Reads of a store beside its writes: another connection to the same file, in a thread of its own.

A write waits for the disk, and for the writes of other workers; what is kept must not wait behind
it, or a disk that hangs makes every policy that is not in memory unknown (law 1). Promises: what a
write has put is seen by the next read; where nothing can be read in this way, that is said, and who
writes has to be asked. Must not: make, change or repair a store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from smtp_sts.store import Store, Stored, StoreError, open_beside

#: What still reads at the end is waited for so long (seconds).
CLOSE_SECONDS: Final = 0.5


class Beside:
    """Reads of one process."""

    def __init__(self, url: str, writing: Callable[[], Store | None]) -> None:
        """`writing` is the store as it is written to now: what replaces its file is seen there."""
        self._url = url
        self._writing = writing
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-reads")
        self._store: Store | None = None
        #: beside which the store was opened
        self._of: Store | None = None

    async def get(self, domains: Sequence[str]) -> dict[str, Stored] | None:
        """What is kept of these domains; None where the one who writes has to be asked."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._get, domains)

    async def close(self) -> None:
        """End; a read that hangs is not waited for."""
        closed = asyncio.get_running_loop().run_in_executor(self._thread, self._forget)
        await asyncio.wait([closed], timeout=CLOSE_SECONDS)
        self._thread.shutdown(wait=closed.done())

    def _get(self, domains: Sequence[str]) -> dict[str, Stored] | None:
        writing = self._writing()
        if writing is not self._of or (self._store is not None and self._store.moved()):
            self._forget()
            if writing is not None and not writing.read_only and not writing.moved():
                self._store, self._of = open_beside(self._url), writing
        if self._store is None:
            return None
        try:
            return self._store.get(domains)
        except StoreError:
            self._forget()
            return None

    def _forget(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store = self._of = None
