"""A process that does nothing but empty the datagram socket, so that its short queue never fills.

The queue of the socket is ten datagrams long by default, and a sender drops what does not fit. Who
parses and counts takes 20 microseconds a datagram, and now and then a pause of milliseconds; this
process takes two, and keeps what the reader has not taken yet.

Promises: what was received is handed on, in order, unless the reader stays away so long that
`MAX_KEPT` bytes wait: then datagrams are left in the socket, whose senders drop them, as ever. It
ends with its reader, or when all is handed on after STOP-FD was closed at its other end; signals to
the whole group do not end it earlier.
Must not: import much, or look at what it hands on. Each datagram goes out behind its length
(`LENGTH`).

Run as a program: siphon.py SOCKET-FD PIPE-FD STOP-FD.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import struct
import sys
import time
from collections import deque

#: How long what was received may wait for more before it is handed on (seconds).
GATHER = 0.005
#: Bytes that are handed on at once without waiting for more.
ENOUGH = 32 * 1024
#: More than the kernel was seen to take as one datagram (212,960 bytes).
MAX_DATAGRAM = 256 * 1024
BLOCK = 1024 * 1024
#: Bytes that are kept for a reader that is slow.
MAX_KEPT = 64 * 1024 * 1024
LENGTH = struct.Struct("=I")


def _hurry() -> None:
    """Go before those who count what this brings, where that is allowed."""
    with contextlib.suppress(PermissionError):
        policy = os.sched_getscheduler(0)
        if policy in (os.SCHED_FIFO, os.SCHED_RR):
            priority = os.sched_getparam(0).sched_priority + 1
            os.sched_setscheduler(0, policy, os.sched_param(priority))
        else:
            os.setpriority(os.PRIO_PROCESS, 0, -10)


def siphon(source: socket.socket, out: int, stop: int) -> None:
    """Hand datagrams on from a socket to a pipe, until its reader is gone, or `stop` has been
    closed at its other end and all is handed on."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ending = False
    _hurry()
    source.setblocking(False)
    os.set_blocking(out, False)
    poll = select.poll()
    poll.register(source, select.POLLIN)
    # These tell, unasked, when the other end is gone.
    poll.register(stop, 0)
    poll.register(out, 0)
    gc.disable()
    receive, pack, head = source.recv_into, LENGTH.pack_into, LENGTH.size
    buffer = memoryview(bytearray(BLOCK))
    used = 0
    due = 0.0
    #: what waits for the reader, and the bytes of it
    kept: deque[bytes] = deque()
    waiting = 0
    while True:
        # Received until there is nothing more: nothing else is done before that.
        full = waiting >= MAX_KEPT
        empty = full
        while not full and used <= BLOCK - MAX_DATAGRAM - head:
            try:
                size = receive(buffer[used + head :])
            except BlockingIOError:
                empty = True
                break
            pack(buffer, used, size)
            used += head + size
        now = time.monotonic()
        try:
            while kept:
                sent = os.write(out, kept[0])
                waiting -= sent
                if sent < len(kept[0]):
                    kept[0] = kept[0][sent:]
                else:
                    kept.popleft()
            if used and (not empty or used >= ENOUGH or now >= due or ending):
                sent = os.write(out, buffer[:used])
                if sent < used:
                    kept.append(bytes(buffer[sent:used]))
                    waiting += used - sent
                used = 0
        except BlockingIOError:  # the pipe is full
            if used:
                kept.append(bytes(buffer[:used]))
                waiting += used
                used = 0
        except BrokenPipeError:
            return
        if not empty:
            continue
        if ending and not used and not kept:
            return
        if not used:
            due = now + GATHER
        poll.modify(source, 0 if full else select.POLLIN)
        poll.modify(out, select.POLLOUT if kept else 0)
        for descriptor, event in poll.poll(GATHER * 1000 if used or ending else None):
            if descriptor == out and event & select.POLLERR:
                return
            if descriptor == stop:
                ending = True
                poll.unregister(stop)


if __name__ == "__main__":
    siphon(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]))
