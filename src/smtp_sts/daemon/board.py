"""A board in shared memory on which every worker writes what it counts, for any to read.

Promises: sums never go down while the daemon lives, whatever becomes of its workers: what a worker
has written is kept when it ends, also by `kill -9`; a reader never sees half of a text. Only the
supervisor takes, retires and releases slots; a worker writes to its own alone. Nobody waits for
anybody.
"""

from __future__ import annotations

import mmap
import struct
from typing import Final, NamedTuple

import msgspec

from smtp_sts.mta.tally import Tally

#: Workers that may be there at once, those that finish after a reload among them.
SLOTS: Final = 256
#: What a worker may write, bytes. Pages that nobody writes to take no memory.
SIZE: Final = 32768
#: the last is of processes that answer nobody
_FREE, _SERVING, _RETIRED, _BESIDE = range(4)
#: a slot: its state, how often it was written, the lengths of its two texts. The text of write n is
#: the one numbered n % 2, and is not touched again before write n + 2.
_HEAD: Final = struct.Struct("=BxxxIII")
_WRITES: Final = struct.Struct("=I")
_WRITES_AT: Final = 4
_SLOT: Final = _HEAD.size + 2 * SIZE
_VERSION: Final = struct.Struct("=Q")

_decode: Final = msgspec.msgpack.Decoder(Tally).decode


class Sum(NamedTuple):
    """What all have counted together, and how many workers there are."""

    tally: Tally
    serving: int
    retired: int


class Board:
    """Made by the supervisor, before it forks."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _VERSION.size + (SLOTS + 1) * _SLOT)
        #: of workers that have ended; written to the last slot
        self._past = Tally()

    # -- the supervisor -----------------------------------------------------------------------

    def take(self, *, worker: bool = True) -> int | None:
        """A slot for a new process; None where none is free: it then counts for itself alone."""
        for slot in range(SLOTS):
            if self._state(slot) == _FREE:
                state = _SERVING if worker else _BESIDE
                _HEAD.pack_into(self._memory, self._at(slot), state, 0, 0, 0)
                return slot
        return None

    def retire(self, slot: int | None) -> None:
        """The worker of this slot takes no new connections."""
        if slot is not None:
            self._memory[self._at(slot)] = _RETIRED

    def release(self, slot: int | None) -> None:
        """The worker of this slot has ended: what it has counted is kept."""
        if slot is None:
            return
        last = self._read(slot)
        last.gauges = {}
        self._past.add(last)
        self._turn()
        self.write(SLOTS, self._past)
        self._memory[self._at(slot)] = _FREE
        self._turn()

    def count(self, name: str) -> None:
        """One more of something that the supervisor counts."""
        self._past.counts[name] = self._past.counts.get(name, 0) + 1
        self.write(SLOTS, self._past)

    # -- workers ------------------------------------------------------------------------------

    def write(self, slot: int, tally: Tally) -> None:
        """Put up what a process has counted, in place of what it wrote before."""
        text = msgspec.msgpack.encode(tally)
        if len(text) > SIZE:
            raise ValueError(f"a tally of {len(text)} bytes: names must be bounded")
        at = self._at(slot)
        writes = (self._writes(slot) + 1) % 2**32
        start = at + _HEAD.size + writes % 2 * SIZE
        self._memory[start : start + len(text)] = text
        _WRITES.pack_into(
            self._memory, at + _WRITES_AT + _WRITES.size * (1 + writes % 2), len(text)
        )
        _WRITES.pack_into(self._memory, at + _WRITES_AT, writes)  # from now on it holds

    def read(self) -> Sum:
        """What all have counted. A release that happens meanwhile is waited for, for a while."""
        for _ in range(100):
            before = self._version()
            states = [self._state(slot) for slot in range(SLOTS)]
            total = self._read(SLOTS)
            for slot, state in enumerate(states):
                if state != _FREE:
                    total.add(self._read(slot))
            if before == self._version() and before % 2 == 0:
                break
        return Sum(total, states.count(_SERVING), states.count(_RETIRED))

    # -- the memory ---------------------------------------------------------------------------

    def _at(self, slot: int) -> int:
        return _VERSION.size + slot * _SLOT

    def _state(self, slot: int) -> int:
        return self._memory[self._at(slot)]

    def _read(self, slot: int) -> Tally:
        at = self._at(slot)
        while True:
            _, writes, *lengths = _HEAD.unpack_from(self._memory, at)
            start = at + _HEAD.size + writes % 2 * SIZE
            text = self._memory[start : start + lengths[writes % 2]]
            if writes == self._writes(slot):  # else it may have been written over meanwhile
                return _decode(text) if text else Tally()

    def _writes(self, slot: int) -> int:
        writes: int = _WRITES.unpack_from(self._memory, self._at(slot) + _WRITES_AT)[0]
        return writes

    def _version(self) -> int:
        version: int = _VERSION.unpack_from(self._memory)[0]
        return version

    def _turn(self) -> None:
        """Odd while a slot moves into the past."""
        _VERSION.pack_into(self._memory, 0, self._version() + 1)
