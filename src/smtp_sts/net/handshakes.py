"""TLS handshakes beside the event loop, where what a stranger makes us compute holds up no answer.

A handshake is what a stranger's server makes of it: key exchange, signatures, a chain to verify.
OpenSSL lets go of the interpreter's lock meanwhile, so that a thread computes on another core. A
thread computes only what has arrived, and never waits for a peer: that is the event loop's part.

Promises: `THREADS` compute at most. For one stranger (a network of addresses, an organisational
domain) one of them at a time, so that nobody holds all; and next is for whom least was computed in
the last seconds, so that who costs much waits for who costs little. No more than `MAX_WAITING`
wait. Must not: interrupt what computes (nothing can): `tls.py` bounds what is offered and taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from socket import AF_INET, AF_INET6, inet_pton
from typing import ClassVar, Final
from weakref import WeakKeyDictionary

from smtp_sts.policy.organisation import organisational_domain

#: Threads of one event loop. Two: whatever one stranger costs, there is one for the others.
THREADS: Final = 2
#: Pieces of handshakes that wait for a thread.
MAX_WAITING: Final = 2000
#: What was computed for a stranger counts for so long, and for up to twice as long (seconds).
REMEMBERED_SECONDS: Final = 10.0
#: Addresses of one stranger: what one customer usually has (bits of the network).
_V4_NETWORK: Final = 24
_V6_NETWORK: Final = 48
#: Pieces of one network that a thread takes at once, since each time costs some 0.1 ms; what it has
#: not begun after so long (seconds) waits for another turn.
_BATCH: Final = 8
_BATCH_SECONDS: Final = 0.002

#: A network of addresses, and an organisational domain.
Stranger = tuple[str, str]
#: Called with what the work raised.
Done = Callable[[Exception | None], None]


class Crowded(OSError):
    """Too many handshakes wait for a thread."""


class Piece:
    """A piece of a handshake that waits or is computed; `drop` where nobody wants it any more."""

    __slots__ = ("done", "dropped", "stranger", "work")

    def __init__(self, stranger: Stranger, work: Callable[[], object], done: Done) -> None:
        self.stranger = stranger
        self.work = work
        self.done = done
        self.dropped = False

    def drop(self) -> None:
        """Leave it out if it has not begun; `done` is not called any more."""
        self.dropped = True


class Handshakes:
    """The threads of one event loop. All but `work` itself happens on the loop."""

    #: called in each new thread
    settle: ClassVar[Callable[[], None] | None] = None

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(THREADS, "tls", initializer=Handshakes.settle)
        self._running = 0
        #: network -> its pieces, the oldest first; and all of them
        self._waiting: dict[str, deque[Piece]] = {}
        self._number = 0
        #: for whom something is computed just now
        self._busy: set[str] = set()
        #: who -> seconds computed: in this stretch of time, and in the one before
        self._now: dict[str, float] = {}
        self._before: dict[str, float] = {}
        self._since = self._loop.time()

    def submit(self, stranger: Stranger, work: Callable[[], object], done: Done) -> Piece:
        """Have `work` done in a thread for a `stranger`, then `done` called on the loop with what
        it raised. Raises Crowded."""
        if self._number >= MAX_WAITING:
            self._tidy()
            if self._number >= MAX_WAITING:
                raise Crowded(f"{MAX_WAITING} TLS handshakes wait already")
        piece = Piece(stranger, work, done)
        self._waiting.setdefault(stranger[0], deque()).append(piece)
        self._number += 1
        self._fill()
        return piece

    def _tidy(self) -> None:
        """Forget those whom nobody waits for."""
        for network, pieces in list(self._waiting.items()):
            kept = deque(piece for piece in pieces if not piece.dropped)
            self._number -= len(pieces) - len(kept)
            if kept:
                self._waiting[network] = kept
            else:
                del self._waiting[network]

    def _fill(self) -> None:
        while self._running < THREADS:
            network = self._next()
            if network is None:
                return
            batch = self._take(network)
            if batch:
                self._running += 1
                self._busy.add(network)
                self._busy.update(piece.stranger[1] for piece in batch)
                self._threads.submit(self._compute, network, batch)

    def _next(self) -> str | None:
        """The network whose turn it is: one of which nothing is known, else which had least."""
        best, least = None, 0.0
        for network, pieces in self._waiting.items():
            domain = pieces[0].stranger[1]
            if network not in self._busy and domain not in self._busy:
                had = max(self._had(network), self._had(domain))
                if best is None or had < least:
                    best, least = network, had
                    if not had:
                        break
        return best

    def _had(self, who: str) -> float:
        return self._now.get(who, 0.0) + self._before.get(who, 0.0)

    def _take(self, network: str) -> list[Piece]:
        pieces, batch = self._waiting[network], list[Piece]()
        while pieces and len(batch) < _BATCH and pieces[0].stranger[1] not in self._busy:
            self._number -= 1
            piece = pieces.popleft()
            if not piece.dropped:
                batch.append(piece)
        if not pieces:
            del self._waiting[network]
        return batch

    def _compute(self, network: str, batch: list[Piece]) -> None:
        """In a thread."""
        results: list[tuple[float, Exception | None]] = []
        began = before = time.thread_time()
        for piece in batch:
            raised: Exception | None = None
            try:
                piece.work()
            except Exception as error:  # noqa: BLE001 - it goes to who asked
                raised = error
            now = time.thread_time()
            results.append((now - before, raised))
            before = now
            if now - began > _BATCH_SECONDS:
                break
        # Where the loop has ended meanwhile, nobody asks any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ended, network, batch, results)

    def _ended(
        self, network: str, batch: list[Piece], results: list[tuple[float, Exception | None]]
    ) -> None:
        self._running -= 1
        self._busy.discard(network)
        self._busy.difference_update(piece.stranger[1] for piece in batch)
        if left := batch[len(results) :]:
            self._waiting.setdefault(network, deque()).extendleft(reversed(left))
            self._number += len(left)
        now = self._loop.time()
        if now - self._since > REMEMBERED_SECONDS:
            self._before = self._now if now - self._since < 2 * REMEMBERED_SECONDS else {}
            self._now, self._since = {}, now
        for piece, (spent, _) in zip(batch, results, strict=False):
            for who in piece.stranger:
                self._now[who] = self._now.get(who, 0.0) + spent
        self._fill()
        for piece, (_, raised) in zip(batch, results, strict=False):
            if not piece.dropped:
                piece.done(raised)


_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Handshakes] = WeakKeyDictionary()


def handshakes() -> Handshakes:
    """Those of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _of_loop.get(loop)
    if found is None:
        found = _of_loop[loop] = Handshakes()
    return found


def stranger(host: str, address: str) -> Stranger:
    """Whom a connection to a host at an address is with: a network, an organisational domain."""
    family, bits = (AF_INET6, _V6_NETWORK) if ":" in address else (AF_INET, _V4_NETWORK)
    network = inet_pton(family, address.partition("%")[0])[: bits // 8]
    return network.hex(), organisational_domain(host)
