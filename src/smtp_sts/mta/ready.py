"""The table of ready replies: whole requests to whole replies, both as bytes on the wire.

Promises: what is looked up has not expired (`sweep` is called when the clock passes `due`); the
table never holds more than `limit` replies, nor more than `max_bytes` of requests and replies (a
policy of 64 KiB makes replies of twice that); `forget` removes all replies of a policy domain.
Must not: be filled with anything but well-formed requests that hold no comma, for the hot path
relies on that (`socketmap.py`).
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from typing import Final

#: Requests and replies that a table holds, bytes: 50,000 of the usual size have a quarter of this.
MAX_BYTES: Final = 64 * 1024 * 1024


class ReadyTable:
    """`replies`, `due` and `hits` are the hot path's; everything else goes by the methods."""

    __slots__ = ("_answered", "_domains", "_heap", "_limit", "_max_bytes", "_of", "bytes", "due",
                 "hits", "replies")  # fmt: skip

    def __init__(self, limit: int, max_bytes: int = MAX_BYTES) -> None:
        #: request netstring without its final comma -> reply netstring
        self.replies: dict[bytes, bytes] = {}
        #: the earliest expiry, seconds since the epoch
        self.due = math.inf
        #: request -> how often it was answered from here since `answered` was last called
        self.hits: defaultdict[bytes, int] = defaultdict(int)
        self._answered: dict[str, int] = {}
        self._limit = limit
        self._max_bytes = max_bytes
        #: what the requests and replies have together
        self.bytes = 0
        #: (until, request, policy domain, kind), the same objects in both
        self._heap: list[tuple[float, bytes, str, str]] = []
        self._of: dict[bytes, tuple[float, bytes, str, str]] = {}
        # A tuple, for most have one: a set takes four times the memory.
        self._domains: dict[str, tuple[bytes, ...]] = {}

    def add(self, request: bytes, reply: bytes, domain: str, until: float, kind: str = "") -> None:
        """Keep a reply until a time (seconds since the epoch); `kind` is what it counts as."""
        if request in self.replies:
            self._drop(request)
        elif len(self.replies) >= self._limit:
            self._drop(next(iter(self.replies)))  # the oldest
        size = len(request) + len(reply)
        while self.replies and self.bytes + size > self._max_bytes:
            self._drop(next(iter(self.replies)))
        self.bytes += size
        self.replies[request] = reply
        entry = self._of[request] = (until, request, domain, kind)
        self._domains[domain] = (*self._domains.get(domain, ()), request)
        heapq.heappush(self._heap, entry)
        if len(self._heap) > 4 * self._limit:  # mostly stale entries: make it anew
            self._heap = list(self._of.values())
            heapq.heapify(self._heap)
        self.due = self._heap[0][0]

    def forget(self, domain: str) -> None:
        """Remove all replies of a policy domain."""
        for request in self._domains.get(domain, ()):
            self._drop(request)

    def clear(self) -> None:
        """Remove all replies: the clock by which they expire was set."""
        for request in list(self.replies):
            self._drop(request)
        self._heap.clear()
        self.due = math.inf

    def answered(self) -> dict[str, int]:
        """How many requests were answered from here, by kind."""
        for request, times in self.hits.items():
            self._count(self._of[request][3], times)
        self.hits.clear()
        return self._answered

    def sweep(self, now: float) -> None:
        """Remove what has expired."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            entry = heapq.heappop(heap)
            if self._of.get(entry[1]) is entry:
                self._drop(entry[1])
        self.due = heap[0][0] if heap else math.inf

    def _drop(self, request: bytes) -> None:
        self.bytes -= len(request) + len(self.replies.pop(request))
        _, _, domain, kind = self._of.pop(request)
        if times := self.hits.pop(request, 0):
            self._count(kind, times)
        others = tuple(other for other in self._domains[domain] if other != request)
        if others:
            self._domains[domain] = others
        else:
            del self._domains[domain]

    def _count(self, kind: str, times: int) -> None:
        self._answered[kind] = self._answered.get(kind, 0) + times
