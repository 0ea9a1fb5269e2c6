"""An event loop without I/O, whose clock is virtual and whose order a seed decides.

Promises: of the callbacks that are ready any may run next, by the random numbers of the seed, so
that thousands of seeds try thousands of interleavings; time passes only where nothing is ready, so
that an hour takes no time, and where the seed has a callback take long (a stall); the same seed
plays the same again. What is true in any order is true in asyncio's, which is one of them: one seed
of four has that one. Must not: read a clock or a socket, or start a thread.
"""

# mypy: disable-error-code="override"
# The signatures are typeshed's without its type variables, which differ from version to version.

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections.abc import Callable, Coroutine
from contextvars import Context
from random import Random
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: How long a stalled callback takes at most (seconds), and how rare it is.
STALL_SECONDS: Final = 0.3
STALL_CHANCE: Final = 0.005
#: Callbacks that one play may take: more are a loop that never ends.
TURNS: Final = 200_000


class NothingLeftError(Exception):
    """What is waited for can never come: nothing is ready, and no timer runs."""


class SeededLoop(asyncio.AbstractEventLoop):
    """The loop of one seed."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._in_order = chance.random() < 0.25
        self._stalls = chance.random() < 0.25
        self._ready: list[asyncio.Handle] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._count = 0
        self._now = 0.0
        #: seconds that callbacks have taken, all together
        self.stalled = 0.0
        #: what no task or callback has caught
        self.troubles: list[dict[str, Any]] = []

    # -- what asyncio asks of a loop ------------------------------------------------------------

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, **more: Any
    ) -> asyncio.Task[T]:
        return asyncio.Task(coro, loop=self, name=name, **more)

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, handle))
        return handle

    def _timer_handle_cancelled(self, _handle: asyncio.TimerHandle) -> None:
        """It is left out when its time comes."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.troubles.append(context)

    def run_until_complete(self, future: Any) -> Any:
        """Turn until a coroutine has ended, and return what it returned.

        Raises NothingLeftError where it can never end.
        """
        events._set_running_loop(self)  # documented for those who write loops
        try:
            task = asyncio.ensure_future(future, loop=self)
            for _ in range(TURNS):
                if task.done():
                    return task.result()
                self._turn()
            raise NothingLeftError("it goes on and on")
        finally:
            events._set_running_loop(None)

    # -- turns ----------------------------------------------------------------------------------

    def _turn(self) -> None:
        timers, ready = self._timers, self._ready
        if not ready:
            while timers and timers[0][2].cancelled():
                heapq.heappop(timers)
            if not timers:
                raise NothingLeftError("nothing is ready, and no timer runs")
            self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            ready.append(heapq.heappop(timers)[2])
        index = 0 if self._in_order else int(self._chance.random() * len(ready))
        handle = ready.pop(index)
        if not handle.cancelled():
            handle._run()
            if self._stalls and self._chance.random() < STALL_CHANCE:
                took = self._chance.random() * STALL_SECONDS
                self._now += took
                self.stalled += took
