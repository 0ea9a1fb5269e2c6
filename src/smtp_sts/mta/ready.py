"""The table of ready replies: whole requests to whole replies, both as bytes on the wire.

Promises: what is looked up has not expired (`sweep` is called when the clock passes `due`); the
table never holds more than `limit` replies, nor more than `max_bytes` of requests and replies (a
policy of 64 KiB makes replies of twice that); `forget` removes all replies of a policy domain, and
keeps out those to questions that are open: what they are told may be from before.
Must not: be filled with anything but well-formed requests that hold no comma but their last, for
the hot path relies on that (`socketmap.py`).
"""

from __future__ import annotations

import heapq
import math
from typing import Final

#: Requests and replies that a table holds, bytes: 50,000 of the usual size have a quarter of this.
MAX_BYTES: Final = 64 * 1024 * 1024


class Ready:
    """One reply; `hits` is how often it was given since that was last counted."""

    __slots__ = ("domain", "hits", "kind", "reply", "until")

    def __init__(self, reply: bytes, until: float, domain: str, kind: str) -> None:
        self.reply = reply
        self.hits = 0
        self.until = until
        self.domain = domain
        self.kind = kind


class Question:
    """One that is not answered yet; `stale` once replies about its domain are void."""

    __slots__ = ("domain", "stale")

    def __init__(self, domain: str) -> None:
        self.domain = domain
        self.stale = False


class ReadyTable:
    """`replies`, `due` and `asked` are the hot path's; everything else goes by the methods."""

    __slots__ = ("_answered", "_domains", "_heap", "_limit", "_max_bytes", "_open", "asked",
                 "bytes", "due", "replies")  # fmt: skip

    def __init__(self, limit: int, max_bytes: int = MAX_BYTES) -> None:
        #: request netstring -> what is ready for it
        self.replies: dict[bytes, Ready] = {}
        #: the earliest expiry, seconds since the epoch
        self.due = math.inf
        #: what has been given since `answered` was last called
        self.asked: list[Ready] = []
        self._answered: dict[str, int] = {}
        self._limit = limit
        self._max_bytes = max_bytes
        #: what the requests and replies have together
        self.bytes = 0
        #: (until, request); the stale ones among them are not of the time that the reply has
        self._heap: list[tuple[float, bytes]] = []
        # A tuple, for most have one: a set takes four times the memory.
        self._domains: dict[str, tuple[bytes, ...]] = {}
        #: questions that are open, by policy domain
        self._open: dict[str, set[Question]] = {}

    def open(self, domain: str) -> Question:
        """A question about a policy domain is asked; `close` it when it is answered."""
        question = Question(domain)
        self._open.setdefault(domain, set()).add(question)
        return question

    def close(self, question: Question) -> None:
        """A question is answered."""
        others = self._open[question.domain]
        others.discard(question)
        if not others:
            del self._open[question.domain]

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
        self.replies[request] = Ready(reply, until, domain, kind)
        self._domains[domain] = (*self._domains.get(domain, ()), request)
        heapq.heappush(self._heap, (until, request))
        if len(self._heap) > 4 * self._limit:  # mostly stale entries: make it anew
            self._heap = [(ready.until, request) for request, ready in self.replies.items()]
            heapq.heapify(self._heap)
        self.due = self._heap[0][0]

    def given(self, ready: Ready, times: int = 1) -> None:
        """Count that a reply was given; the hot path does it by itself, for a call costs."""
        if not ready.hits:
            self.asked.append(ready)
        ready.hits += times

    def forget(self, domain: str) -> None:
        """Remove all replies of a policy domain, by whatever next hop it was asked for."""
        for request in self._domains.get(domain, ()):
            self._drop(request)
        for question in self._open.get(domain, ()):
            question.stale = True

    def clear(self) -> None:
        """Remove all replies: the clock by which they expire was set."""
        for questions in self._open.values():
            for question in questions:
                question.stale = True
        for ready in self.asked:
            self._count(ready)
        self.asked.clear()
        self.replies.clear()
        self._domains.clear()
        self._heap.clear()
        self.bytes = 0
        self.due = math.inf

    def answered(self) -> dict[str, int]:
        """How many requests were answered from here, by kind."""
        for ready in self.asked:
            self._count(ready)
        self.asked.clear()
        return self._answered

    def sweep(self, now: float) -> None:
        """Remove what has expired."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            until, request = heapq.heappop(heap)
            ready = self.replies.get(request)
            if ready is not None and ready.until == until:
                self._drop(request)
        self.due = heap[0][0] if heap else math.inf

    def _drop(self, request: bytes) -> None:
        ready = self.replies.pop(request)
        self.bytes -= len(request) + len(ready.reply)
        ready.reply = b""  # `asked` may hold it for a while
        self._count(ready)
        others = tuple(other for other in self._domains[ready.domain] if other != request)
        if others:
            self._domains[ready.domain] = others
        else:
            del self._domains[ready.domain]

    def _count(self, ready: Ready) -> None:
        if ready.hits:
            self._answered[ready.kind] = self._answered.get(ready.kind, 0) + ready.hits
            ready.hits = 0
