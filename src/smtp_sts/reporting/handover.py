"""How counts go from the process that receives to the one that writes: the words, and who keeps
what until it is safe. No I/O.

Promises: what was counted is written once, whichever of the two dies: a portion is kept until the
other side says that it is written, is given again after a new connection, and bears a number by
which the writer, who keeps that number with the counts, tells it from one it has. What the
receiving process had not handed over when it died is lost.
On the wire: a length of 4 bytes, then msgpack of `Ask` (from the writer) or `Portion`.
"""

from __future__ import annotations

import os
import struct
from typing import Any, Final

import msgspec

from smtp_sts.reporting.aggregate import Aggregate
from smtp_sts.store.tallies import Tally

#: Policies of one portion: making it takes some milliseconds, in which nothing is received.
PORTION: Final = 100
LENGTH: Final = struct.Struct("!I")


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """The portion after number `after` of giver `giver`, please; up to `written` all are written.

    Numbers of another giver count for nothing.
    """

    giver: str = ""
    written: int = 0
    after: int = 0


class Portion(msgspec.Struct, frozen=True, array_like=True):
    """`batch` is empty where nothing waits, and `number` is then 0.

    `counts` are those of the giver since its start, `samples` the malformed datagrams since the
    portion before (`receive.Receiver.samples`).
    """

    giver: str
    number: int
    batch: list[Tally]
    more: bool
    counts: dict[str, int]
    samples: list[dict[str, Any]]


asks: Final = msgspec.msgpack.Decoder(Ask)
portions: Final = msgspec.msgpack.Decoder(Portion)


def framed(message: Ask | Portion) -> bytes:
    """A message as it goes out."""
    data = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(data)) + data


class Giver:
    """The receiving side: gives what an aggregate holds, and keeps it until it is written."""

    def __init__(self, aggregate: Aggregate) -> None:
        self._aggregate = aggregate
        self.name = os.urandom(8).hex()
        self._number = 0
        #: number -> what was given and is not known to be written
        self._given: dict[int, list[Tally]] = {}

    @property
    def empty(self) -> bool:
        """Everything that was counted is written."""
        return not self._given and not self._aggregate.waiting

    def answer(self, ask: Ask, counts: dict[str, int], samples: list[dict[str, Any]]) -> Portion:
        """What an `Ask` is answered with."""
        written, after = (ask.written, ask.after) if ask.giver == self.name else (0, 0)
        for number in [n for n in self._given if n <= written]:
            del self._given[number]
        number = next((n for n in self._given if n > after), 0)
        if not number and (new := self._aggregate.drain(PORTION)):
            number = self._number = self._number + 1
            self._given[number] = new
        batch = self._given[number] if number else []
        more = self._aggregate.waiting > 0 or 0 < number < self._number
        return Portion(self.name, number, batch, more, counts, samples)
