"""A bounded number of places, of which nobody gets more than his share.

What strangers can make us do (look-ups, questions, connections, checks) takes places from a pool.
A pool with one bound alone is one stranger's: whoever asks fastest has all of it. So each place is
taken under a key that says whose it is: the organisational domain (`policy/organisation.py`), or an
address.

Promises: never more than `total` places are taken, nor more than `share` under one key; who waits
under the same key is served in order; the keys whose share is not full have their turns, so that
nobody waits for more than one place of every other key; a wait that is cancelled costs no place. A
share stays free for others while they do not come, too: the next one must not wait until a
stranger's time has run out. Must not: know what a place is for, or how long it is held.

Of one event loop, without a lock: no method that changes a pool gives way in the middle of it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from weakref import WeakKeyDictionary

#: One key gets one in so many places: so many strangers at once have to be beaten to.
STRANGERS: Final = 10


def fair_share(total: int) -> int:
    """The usual share of a pool: a tenth, and one at least."""
    return max(1, total // STRANGERS)


class Places:
    """`total` places, `share` at most under one key."""

    def __init__(self, total: int, share: int | None = None) -> None:
        if total < 1 or (share is not None and share < 1):
            raise ValueError("a pool has a place at least, and so has a share")
        self.total = total
        self.share = min(total, fair_share(total) if share is None else share)
        self._taken = 0
        #: key -> places taken; keys without are not kept
        self._held: dict[str, int] = {}
        #: key -> who waits under it, in order; the keys are in the order of their turns
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def taken(self) -> int:
        """Places taken."""
        return self._taken

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return sum(map(len, self._waiting.values()))

    def held(self, key: str) -> int:
        """Places taken under a key."""
        return self._held.get(key, 0)

    def take(self, key: str) -> bool:
        """Take a place if one is free, without waiting; nobody who waits is overtaken."""
        if self._taken >= self.total or self.held(key) >= self.share or key in self._waiting:
            return False
        self._give(key)
        return True

    async def wait(self, key: str) -> None:
        """Take a place, as soon as one is free and it is this key's turn."""
        if self.take(key):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was given in the same moment
                if key in self._waiting:
                    self._waiting.move_to_end(key, last=False)  # its turn has come to nothing
                self.release(key)
            else:
                self._left(key, turn)
            raise

    def release(self, key: str) -> None:
        """Give a place back that was taken under this key."""
        self._taken -= 1
        left = self._held[key] - 1
        if left:
            self._held[key] = left
        else:
            del self._held[key]
        self._serve()

    @asynccontextmanager
    async def of(self, key: str) -> AsyncIterator[None]:
        """A place for the length of a block; waits for it."""
        await self.wait(key)
        try:
            yield
        finally:
            self.release(key)

    def _give(self, key: str) -> None:
        self._taken += 1
        self._held[key] = self._held.get(key, 0) + 1

    def _serve(self) -> None:
        """Give free places to those who wait, a key at a time."""
        while self._taken < self.total:
            key = next((k for k in self._waiting if self.held(k) < self.share), None)
            if key is None:
                return
            line = self._waiting[key]
            turn = line.popleft()
            given = not turn.done()  # else it was cancelled, and its task has not run since
            if given:
                self._give(key)
                turn.set_result(None)
            if not line:
                del self._waiting[key]
            elif given:
                self._waiting.move_to_end(key)

    def _left(self, key: str, turn: asyncio.Future[None]) -> None:
        line = self._waiting.get(key)
        if line is None or turn not in line:  # passed over by `_serve`
            return
        line.remove(turn)
        if not line:
            del self._waiting[key]


_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Places]] = WeakKeyDictionary()


def of_process(what: str, total: int, share: int | None = None) -> Places:
    """The one pool for something in the running event loop, whoever asks; made as `Places` is."""
    pools = _of_loop.setdefault(asyncio.get_running_loop(), {})
    found = pools.get(what)
    if found is None:
        found = pools[what] = Places(total, share)
    return found
