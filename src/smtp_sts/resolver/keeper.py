"""The store as the event loop sees it: batched, in a thread of its own, and never in the way.

Promises: reads and writes that come together make one transaction each; a write that the store
refuses is kept in memory, read from there, tried again, logged once, and counted (law 7); a read
that the store refuses is told apart from "nothing kept" (law 1), and is the only trouble that is
raised: without a store the daemon goes on from memory (law 4). A store that could only be read is
opened anew until it can be written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from smtp_sts.store import Store, Stored, StoreError, open_store

RETRY_SECONDS: Final = 30.0
UNSAVED_LIMIT: Final = 100_000

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Keeper:
    """Keeps policies for one process."""

    def __init__(self, url: str, counts: dict[str, int]) -> None:
        self._url = url
        self._counts = counts
        self._store: Store | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._reads: dict[str, asyncio.Future[Stored | None]] = {}
        self._writes: dict[str, Stored] = {}
        self._used: dict[str, float] = {}
        self._unsaved: dict[str, Stored] = {}
        self._purged: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._written: asyncio.Future[None] | None = None
        self._trouble = ""
        self._next_try = 0.0
        self._reading = asyncio.Event()
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]

    @property
    def trouble(self) -> str:
        """What the store has last refused, in words; empty where it works."""
        return self._trouble

    async def get(self, domain: str) -> Stored | None:
        """The policy kept for a domain, expired or not; None where there is none.

        Raises StoreError where the store could not be read: then nothing is known.
        """
        for kept in (self._writes, self._unsaved):
            if domain in kept:
                return self._unless_purged(kept[domain])
        future = self._reads.get(domain)
        if future is None:
            future = self._reads[domain] = asyncio.get_running_loop().create_future()
            self._reading.set()
        return self._unless_purged(await asyncio.shield(future))

    async def put(self, stored: Stored) -> None:
        """Keep a policy; returns when it lasts, or when the store has refused it."""
        self._writes[stored.domain] = stored
        if self._written is None:
            self._written = asyncio.get_running_loop().create_future()
        self._wake.set()
        await asyncio.shield(self._written)

    async def purge(self, domain: str, before: float) -> bool:
        """Forget the policy of a domain that was fetched at a time or before.

        It is not seen any more from now on; False where the store has refused to delete it.
        """
        for kept in (self._writes, self._unsaved):
            if domain in kept and kept[domain].fetched_at <= before:
                del kept[domain]
        self._purged[domain] = before
        if self._written is None:
            self._written = asyncio.get_running_loop().create_future()
        self._wake.set()
        await asyncio.shield(self._written)
        return domain not in self._purged

    async def page(self, after: str, limit: int) -> tuple[list[Stored], str]:
        """The next policies behind a domain, by name, and behind which the next page begins ("" at
        the end). Raises StoreError."""
        found = await self._try(lambda store: store.page(after, limit), None)
        if found is None:
            raise StoreError(self._trouble)
        last = found[-1].domain if len(found) == limit else ""
        return [stored for stored in found if self._unless_purged(stored)], last

    def touch(self, domain: str, when: float) -> None:
        """Note that a domain was asked for; written with the next batch."""
        self._used[domain] = when
        self._wake.set()

    async def due(self, now: float, limit: int) -> list[str]:
        """Domains whose refresh is due."""
        return await self._try(lambda store: store.due(now, limit), [])

    async def postpone(self, domain: str, refresh_at: float) -> None:
        """Put off the next refresh of a domain."""
        await self._try(lambda store: store.postpone(domain, refresh_at), None)

    async def prune(self, now: float, unused_since: float) -> int:
        """Delete what is expired or unused."""
        return await self._try(lambda store: store.prune(now, unused_since), 0)

    async def close(self) -> None:
        """Write what waits, then close the file."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        waiting = {**self._unsaved, **self._writes}
        if waiting:
            await self._try(lambda store: store.put(list(waiting.values())), None)
        if self._purged:
            await self._try(lambda store: store.delete(self._purged), None)
        if self._store is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._store.close)
        self._thread.shutdown(wait=True)

    def _unless_purged(self, stored: Stored | None) -> Stored | None:
        if stored is None or stored.fetched_at <= self._purged.get(stored.domain, 0.0):
            return None
        return stored

    async def _read(self) -> None:
        while True:
            await self._reading.wait()
            self._reading.clear()
            batch, self._reads = self._reads, {}
            found = await self._try(partial(Store.get, domains=list(batch)), None)
            for domain, future in batch.items():
                if future.done():
                    continue
                if found is None:
                    future.set_exception(StoreError(self._trouble))
                else:
                    future.set_result(found.get(domain))

    async def _write(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._patience())
            self._wake.clear()
            batch = {**self._unsaved, **self._writes}
            used, self._used = self._used, {}
            purged = dict(self._purged)
            written, self._written = self._written, None
            work = partial(_write, batch=batch, used=used, purged=purged)
            if await self._try(work, False):
                for domain, before in purged.items():
                    if self._purged.get(domain) == before:
                        del self._purged[domain]
                for domain, stored in batch.items():
                    for kept in (self._writes, self._unsaved):
                        if kept.get(domain) is stored:
                            del kept[domain]
            else:
                self._keep_unsaved(batch)
            if written is not None and not written.done():
                written.set_result(None)

    def _patience(self) -> float | None:
        return RETRY_SECONDS if self._unsaved or self._purged else None

    def _keep_unsaved(self, batch: dict[str, Stored]) -> None:
        for domain, stored in batch.items():
            if self._writes.get(domain) is stored:
                del self._writes[domain]
            self._unsaved[domain] = stored
        while len(self._unsaved) > UNSAVED_LIMIT:
            del self._unsaved[next(iter(self._unsaved))]
            self._counts["store-dropped"] = self._counts.get("store-dropped", 0) + 1

    async def _try(self, work: Callable[[Store], T], otherwise: T) -> T:
        if self._store is None and time.monotonic() < self._next_try:
            return otherwise
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)
        except StoreError as error:
            self._counts["store-errors"] = self._counts.get("store-errors", 0) + 1
            if self._store is None:
                self._next_try = time.monotonic() + RETRY_SECONDS
            if str(error) != self._trouble:  # once for each trouble, not for each write
                self._trouble = str(error)
                _log.error("%s; going on from memory", error)
            return otherwise

    def _run(self, work: Callable[[Store], T]) -> T:
        if self._store is None:
            self._store = open_store(self._url)
        elif self._store.read_only and time.monotonic() >= self._next_try:
            self._next_try = time.monotonic() + RETRY_SECONDS
            with contextlib.suppress(StoreError):  # then what can be read is still at hand
                before, self._store = self._store, open_store(self._url)
                before.close()
        result = work(self._store)
        self._trouble = ""
        return result


def _write(
    store: Store, batch: dict[str, Stored], used: dict[str, float], purged: dict[str, float]
) -> bool:
    store.put(list(batch.values()))
    store.touch(used)
    store.delete(purged)
    return True
