"""The store as the event loop sees it: batched, in a thread of its own, and never in the way.

Promises: reads and writes that come together make one transaction each; a write that the store
refuses is kept in memory, read from there, tried again, logged once, and counted (law 7); a read
that the store refuses is told apart from "nothing kept" (law 1), and is the only trouble that is
raised: without a store the daemon goes on from memory (law 4). A store that could only be read is
opened anew until it can be written, and one whose file was deleted or replaced at once.

Reads have a connection of their own (`beside.py`), where the store is a file: a disk that takes no
write does not keep from us what it has. One that cannot be read either is not waited for long.

Of a store that machines share, besides: nobody waits longer than `PATIENCE` for it, and nobody at
all while it is known to be away; it is looked for behind the answers, and what it missed is written
when it is back. Fetches are claimed there, so that a fleet fetches a policy once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

from smtp_sts.resolver.beside import Beside
from smtp_sts.resolver.waiting import wait_for_work
from smtp_sts.store import (
    FUTURE_SECONDS,
    Store,
    Stored,
    StoreError,
    is_shared,
    open_store,
    repair,
)
from smtp_sts.store.room import CROWDED, ROOMY

RETRY_SECONDS: Final = 30.0
#: That the store is full is said again after so long (seconds).
FULL_SECONDS: Final = 3600.0
#: It is seen so soon that the file of a store was deleted or replaced (seconds).
LOOK_SECONDS: Final = 10.0
#: A shared store that is away is looked for this often (seconds).
REOPEN_SECONDS: Final = 5.0
#: Nothing that a shared store does is waited for longer (seconds).
PATIENCE: Final = 1.0
#: But at the start, when nobody asks yet and tables may have to be made (seconds).
START_PATIENCE: Final = 2.0
#: A read is waited for so long (seconds): then there is time left to look for the policy anew. So
#: many domains wait to be read.
READ_SECONDS: Final = 1.5
READS_LIMIT: Final = 20_000
#: While another daemon fetches a policy, the store is asked for it this often (seconds).
CLAIM_POLL: Final = 0.25
#: Who purges a policy waits so long for the disk (seconds).
PURGE_SECONDS: Final = 2.5
#: Policies that are kept in memory for a store that refuses them, and bytes of their texts.
UNSAVED_LIMIT: Final = 100_000
UNSAVED_BYTES: Final = 128 * 1024 * 1024

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Keeper:
    """Keeps policies for one process."""

    def __init__(self, url: str, counts: dict[str, int], limit: int = 0) -> None:
        """`limit` is what the policies may take in the store (bytes); 0 is without one."""
        self._url = url
        #: bytes; 0 is without a limit
        self.limit = limit
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
        #: why a read is not waited for; empty where none is late
        self._late = ""
        self._next_try = 0.0
        self._next_look = 0.0
        self._replaced = False
        #: called when the store is another file than before: what lasted lasts no more
        self.on_replaced: Callable[[], None] = lambda: None
        self._reading = asyncio.Event()
        #: whether daemons on other machines use this store too
        self.shared = is_shared(url)
        #: reads that need not wait for writes
        self._beside = None if self.shared else Beside(url, lambda: self._store)
        self._holder = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(4)}"
        self._claims: dict[str, asyncio.Future[tuple[bool, Stored | None]]] = {}
        self._claiming = asyncio.Event()
        self._released: set[str] = set()
        self._away = False
        #: set where there was no room for a policy in the store
        self.full = asyncio.Event()
        self._full_until = 0.0
        #: jobs of the store that are not waited for any more, and have not ended
        self._overdue: set[asyncio.Future[Any]] = set()
        loops = (self._read(), self._write(), *([self._claim()] if self.shared else []))
        self._tasks = [asyncio.create_task(loop) for loop in loops]

    async def open(self) -> None:
        """Open a shared store before anybody asks, so that the first fetches are claimed there too.

        Returns after `START_PATIENCE` at the latest, with the store or without it (law 4).
        """
        if self.shared:
            await self._try(lambda store: store.get([]), None, START_PATIENCE)

    @property
    def trouble(self) -> str:
        """What the store has last refused, in words; empty where it works."""
        return self._trouble or self._late

    @property
    def unsaved(self) -> int:
        """Policies that wait in memory for a store that refuses them."""
        return len(self._unsaved)

    async def figures(
        self, now: float, unused_since: float = 0.0
    ) -> tuple[int, float | None, float | None, int] | None:
        """See `Store.figures`; None where the store cannot be asked."""
        return await self._try(lambda store: store.figures(now, unused_since), None)

    async def get(self, domain: str) -> Stored | None:
        """The policy kept for a domain, expired or not; None where there is none.

        Raises StoreError where the store could not be read: then nothing is known. After
        `READ_SECONDS` that is so of a disk that hangs, too.
        """
        for kept in (self._writes, self._unsaved):
            if domain in kept:
                return self._unless_purged(kept[domain])
        future = self._reads.get(domain)
        if future is None:
            if len(self._reads) >= READS_LIMIT:
                raise StoreError(self._read_late())
            future = self._reads[domain] = asyncio.get_running_loop().create_future()
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._reading.set()
        await wait_for_work([future], READ_SECONDS)
        if not future.done():
            raise StoreError(self._read_late())
        return self._unless_purged(future.result())

    def put(self, stored: Stored) -> Awaitable[None]:
        """Keep a policy, from this call on; what is returned ends when it lasts, or when the store
        has refused it."""
        self._writes[stored.domain] = stored
        return self.caught_up()

    def caught_up(self) -> Awaitable[None]:
        """Ends when the store has taken what was put until now, or has refused it."""
        if self._written is None:
            self._written = asyncio.get_running_loop().create_future()
        self._wake.set()
        return asyncio.shield(self._written)

    def keep_again(self, policies: Iterable[Stored]) -> None:
        """Keep policies that a store before this one had, with the next batch."""
        for stored in policies:
            self._writes.setdefault(stored.domain, stored)
        self._wake.set()

    async def purge(self, domain: str, before: float) -> bool:
        """Forget the policy of a domain that was fetched at a time or before.

        It is not seen any more from now on; False where the store has refused to delete it, or has
        not done so in time.
        """
        for kept in (self._writes, self._unsaved):
            if domain in kept and kept[domain].fetched_at <= before:
                del kept[domain]
        self._purged[domain] = before
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PURGE_SECONDS):
                await self.caught_up()
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

    async def claim(self, domain: str, patience: float) -> Stored | None:
        """Wait until no other daemon fetches a domain, so many seconds at most; what is kept then.

        The next fetch is ours, until `release`. Where the store is not shared, or in trouble,
        nobody is waited for (law 4).
        """
        until = time.monotonic() + patience
        while self.shared:
            future = self._claims.get(domain)
            if future is None:
                future = self._claims[domain] = asyncio.get_running_loop().create_future()
                self._claiming.set()
            ours, kept = await asyncio.shield(future)
            if ours:
                return kept
            if time.monotonic() >= until:
                self._count("claims-overdue")
                break
            await asyncio.sleep(CLAIM_POLL)
        return None

    def release(self, domain: str) -> None:
        """Our fetch has ended; told to the store behind what was put before."""
        if self.shared:
            self._released.add(domain)
            self._wake.set()

    async def changes(self, seconds: float) -> dict[str, float] | None:
        """What others may have written in the last so many seconds; see `Store.changes`. None where
        the store could not be asked."""
        return await self._try(lambda store: store.changes(seconds), None)

    async def written(self, domains: list[str]) -> dict[str, Stored] | None:
        """What the store itself holds for domains; None where it could not be asked."""
        return await self._try(lambda store: store.get(domains), None)

    async def due(self, now: float, limit: int, unused_since: float = 0.0) -> list[str]:
        """Domains whose refresh is due."""
        return await self._try(lambda store: store.due(now, limit, unused_since), [])

    async def postpone(self, domain: str, refresh_at: float, before: float) -> None:
        """Put off the next refresh of a domain, of a policy that was fetched at `before` or
        earlier."""
        await self._try(lambda store: store.postpone(domain, refresh_at, before), None)

    async def look_at_clock(self) -> float:
        """See `Store.look_at_clock`; nothing is certainly past where the store cannot be asked."""
        return await self._try(lambda store: store.look_at_clock(), 0.0)

    async def prune(self, past: float) -> int:
        """Delete what was expired for long at a time that is certainly past; how many."""
        gone = 0
        while some := await self._try(lambda store: store.prune(past), 0):
            gone += some
        return gone

    async def make_room(self, past: float, unused_seconds: float) -> int:
        """Where the store is nearly full, delete what was expired or unused at a time that is
        certainly past, until there is room again; how many."""
        gone, last = 0, ""
        crowded = self.limit * CROWDED
        while self.limit and await self._try(lambda store: store.size(), 0) > crowded:
            crowded = self.limit * ROOMY
            number, last = await self._try(
                lambda store, after=last: store.make_room(past, unused_seconds, after),  # type: ignore[misc]
                (0, ""),
            )
            gone += number
            if not last:
                break
        return gone

    async def close(self) -> None:
        """Write what waits, then close the file."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        waiting = {**self._unsaved, **self._writes}
        released = self._ended()
        work = partial(
            _write, batch=waiting, used=self._used, purged=self._purged, released=released
        )
        wanted = waiting or self._used or self._purged or released[0]
        if wanted and await self._try(work, None) is None and waiting:
            _log.error("ending with %d policies that the store has not taken", len(waiting))
        if self._store is not None and not self._overdue:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._store.close)
        self._thread.shutdown(wait=not self._overdue)
        if self._beside is not None:
            await self._beside.close()

    def _unless_purged(self, stored: Stored | None) -> Stored | None:
        before = self._purged.get(stored.domain) if stored is not None else None
        if stored is None or before is None:
            return stored
        later = before < stored.fetched_at <= time.time() + FUTURE_SECONDS
        return stored if later else None

    async def _read(self) -> None:
        while True:
            await self._reading.wait()
            self._reading.clear()
            batch, self._reads = self._reads, {}
            found = await self._beside.get([*batch]) if self._beside is not None else None
            if found is None:
                found = await self._try(partial(_kept, domains=[*batch]), None)
            self._late = ""
            for domain, future in batch.items():
                if future.done():
                    continue
                if found is None:
                    future.set_exception(StoreError(self._trouble))
                else:
                    future.set_result(found.get(domain))

    def _read_late(self) -> str:
        """Counts a read that is not waited for any longer, and says so in the log, once."""
        self._count("store-late")
        if not self._late:
            self._late = f"the store has not been read for {READ_SECONDS:g} s; check its disk"
            _log.error("%s; going on from memory", self._late)
        return self._late

    async def _claim(self) -> None:
        while True:
            await self._claiming.wait()
            self._claiming.clear()
            batch, self._claims = self._claims, {}
            granted = await self._try(
                partial(_claimed, domains=[*batch], holder=self._holder), None
            )
            for domain, future in batch.items():
                if not future.done():
                    ours = granted is None or domain in granted
                    future.set_result((ours, (granted or {}).get(domain)))

    async def _write(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._patience())
            self._wake.clear()
            batch = {**self._unsaved, **self._writes}
            used, self._used = self._used, {}
            purged = dict(self._purged)
            released = self._ended()
            written, self._written = self._written, None
            work = partial(_write, batch=batch, used=used, purged=purged, released=released)
            if (without := await self._try(work, None)) is not None:
                if without:
                    self._tell_full(len(without))
                for domain, before in purged.items():
                    if self._purged.get(domain) == before:
                        del self._purged[domain]
                for domain, stored in batch.items():
                    if self._writes.get(domain) is stored:
                        del self._writes[domain]
                    self._unsaved.pop(domain, None)  # this one, or one that it goes before
            else:
                self._keep_unsaved(batch)
            if written is not None and not written.done():
                written.set_result(None)

    def _tell_full(self, policies: int) -> None:
        """Law 7: what there is no room for applies while it is in memory, and does not last."""
        self._counts["store-full"] = self._counts.get("store-full", 0) + policies
        self.full.set()
        if time.monotonic() >= self._full_until:
            self._full_until = time.monotonic() + FULL_SECONDS
            _log.error(
                "the store is full (store.max_megabytes): policies of further domains apply while "
                "they are in memory, and do not outlive a restart",
                extra={"fields": {"event": "store-full", "megabytes": self.limit >> 20}},
            )

    def _patience(self) -> float | None:
        return self._pause() if self._unsaved or self._purged else None

    def _ended(self) -> tuple[list[str], str]:
        """The claims to give back, and whose."""
        released, self._released = sorted(self._released), set()
        return released, self._holder

    def _keep_unsaved(self, batch: dict[str, Stored]) -> None:
        for domain, stored in batch.items():
            if self._writes.get(domain) is stored:
                del self._writes[domain]
            self._unsaved[domain] = stored
        size = sum(len(stored.body) for stored in self._unsaved.values())
        while len(self._unsaved) > UNSAVED_LIMIT or size > UNSAVED_BYTES:
            size -= len(self._unsaved.pop(next(iter(self._unsaved))).body)
            self._count("store-dropped")

    def _pause(self) -> float:
        return REOPEN_SECONDS if self.shared else RETRY_SECONDS

    def _count(self, name: str) -> None:
        self._counts[name] = self._counts.get(name, 0) + 1

    async def _try(self, work: Callable[[Store], T], otherwise: T, patience: float = PATIENCE) -> T:
        if self._overdue or (self._store is None and time.monotonic() < self._next_try):
            return otherwise
        if not self.shared:
            return await self._work(work, otherwise)
        job = asyncio.ensure_future(self._work(work, otherwise))
        # A store that is away is looked for, but not waited for.
        await asyncio.wait([job], timeout=0.0 if self._away else patience)
        if job.done():
            return job.result()
        self._count("store-late")
        self._away = True
        if not self._trouble:
            self._trouble = f"the shared store has not answered for {patience:g} s"
            _log.error("%s; going on from memory", self._trouble)
        self._overdue.add(job)
        job.add_done_callback(self._overdue.discard)
        return otherwise

    async def _work(self, work: Callable[[Store], T], otherwise: T) -> T:
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)
        except StoreError as error:
            self._count("store-errors")
            self._away = error.lost
            if self._store is None:
                self._next_try = time.monotonic() + self._pause()
            if str(error) != self._trouble:  # once for each trouble, not for each write
                self._trouble = str(error)
                _log.error("%s; going on from memory", error)
            return otherwise
        self._trouble = ""
        if self._replaced:
            self._replaced = False
            self._count("store-replaced")
            self.on_replaced()
        if self._away:
            self._away = False
            _log.warning("the store is back; %d policies wait for it", len(self._unsaved))
            self._wake.set()
        return result

    def _run(self, work: Callable[[Store], T]) -> T:
        if self._store is None:
            self._store = self._opened()
        elif self._store.read_only and time.monotonic() >= self._next_try:
            self._next_try = time.monotonic() + RETRY_SECONDS
            with contextlib.suppress(StoreError):  # then what can be read is still at hand
                before, self._store = self._store, self._opened()
                before.close()
        elif not self.shared and time.monotonic() >= self._next_look:
            self._look_for_the_file(self._store)
        try:
            return work(self._store)
        except StoreError as error:
            if not error.lost:
                raise
            # A server that was started anew, a connection that was cut: once more on a new one.
            self._store.close()
            self._store = None
            self._store = self._opened()
            return work(self._store)

    def _opened(self) -> Store:
        store = open_store(self._url)
        store.limit = self.limit
        return store

    def _look_for_the_file(self, store: Store) -> None:
        """Open the store anew where its file was deleted or replaced. Raises StoreError."""
        self._next_look = time.monotonic() + LOOK_SECONDS
        if not store.moved():
            return
        _log.error("store %s was deleted or replaced: opened anew", store.place)
        self._store = None
        store.close()
        if told := repair(self._url):  # what was put there may not go with its log
            _log.error("%s", told)
        self._store = self._opened()
        self._replaced = True


def _kept(store: Store, domains: list[str]) -> dict[str, Stored]:
    return store.get(domains)


def _claimed(store: Store, domains: list[str], holder: str) -> dict[str, Stored | None]:
    return store.claim(domains, holder)


def _write(
    store: Store,
    batch: dict[str, Stored],
    used: dict[str, float],
    purged: dict[str, float],
    released: tuple[list[str], str],
) -> list[str]:
    """Returns the domains whose policies there is no room for."""
    without = store.put(list(batch.values()))
    if used:
        store.touch(used)
    if purged:
        store.delete(purged)
    if released[0]:
        store.release(*released)
    return without
