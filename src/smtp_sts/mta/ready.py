"""The table of ready replies: whole requests to whole replies, both as bytes on the wire.

Promises: what is looked up has not expired (`sweep` is called when the clock passes `due`); the
table never holds more than `limit` replies; `forget` removes all replies of a policy domain.
Must not: be filled with anything but well-formed requests that hold no comma, for the hot path
relies on that (`socketmap.py`).
"""

from __future__ import annotations

import heapq
import math


class ReadyTable:
    """`replies` and `due` are read by the hot path itself; everything else goes by the methods."""

    __slots__ = ("_domains", "_heap", "_limit", "_of", "due", "replies")

    def __init__(self, limit: int) -> None:
        #: request netstring without its final comma -> reply netstring
        self.replies: dict[bytes, bytes] = {}
        #: the earliest expiry, seconds since the epoch
        self.due = math.inf
        self._limit = limit
        #: (until, request, policy domain), the same objects in both
        self._heap: list[tuple[float, bytes, str]] = []
        self._of: dict[bytes, tuple[float, bytes, str]] = {}
        # A tuple, for most have one: a set takes four times the memory.
        self._domains: dict[str, tuple[bytes, ...]] = {}

    def add(self, request: bytes, reply: bytes, domain: str, until: float) -> None:
        """Keep a reply until a time (seconds since the epoch)."""
        if request in self.replies:
            self._drop(request)
        elif len(self.replies) >= self._limit:
            self._drop(next(iter(self.replies)))  # the oldest
        self.replies[request] = reply
        entry = self._of[request] = (until, request, domain)
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
        """Remove everything."""
        self.__init__(self._limit)  # type: ignore[misc]

    def sweep(self, now: float) -> None:
        """Remove what has expired."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            entry = heapq.heappop(heap)
            if self._of.get(entry[1]) is entry:
                self._drop(entry[1])
        self.due = heap[0][0] if heap else math.inf

    def _drop(self, request: bytes) -> None:
        del self.replies[request]
        domain = self._of.pop(request)[2]
        others = tuple(other for other in self._domains[domain] if other != request)
        if others:
            self._domains[domain] = others
        else:
            del self._domains[domain]
