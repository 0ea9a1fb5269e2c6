"""What a process counts, as plain numbers that can be added up. No I/O.

Promises: counters only grow; what is counted on the way of an answer costs an integer or two.
Names are bounded: none is made of what a client or the network says.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

import msgspec

#: Upper bounds of the look-up histogram, seconds; the last class has none.
BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0)


class Tally(msgspec.Struct):
    """`gauges` are sizes now, everything else counts since the start of the process."""

    #: slug -> how often something worth counting has happened
    counts: dict[str, int] = {}
    #: "profile outcome" -> answers
    answers: dict[str, int] = {}
    #: where answers came from: `replies` (ready ones), `policies` (known) or `network` -> answers
    sources: dict[str, int] = {}
    #: answers that waited for the network, by class of `BOUNDS`, and their seconds together
    waits: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    waited: float = 0.0
    gauges: dict[str, float] = {}

    def add(self, other: Tally) -> None:
        """Take in what another process has counted."""
        for mine, theirs in (
            (self.counts, other.counts),
            (self.answers, other.answers),
            (self.sources, other.sources),
        ):
            for name, number in theirs.items():
                mine[name] = mine.get(name, 0) + number
        for name, size in other.gauges.items():
            self.gauges[name] = self.gauges.get(name, 0) + size
        self.waits = [a + b for a, b in zip(self.waits, other.waits, strict=True)]
        self.waited += other.waited

    def wait(self, seconds: float) -> None:
        """One more answer that waited so long for the network."""
        self.waits[bisect_left(BOUNDS, seconds)] += 1
        self.waited += seconds
