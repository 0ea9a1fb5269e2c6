"""The process that counts TLS results as they come, and does nothing else of weight.

Promises: datagrams are read at once, by a process that does nothing but that (`reporting.siphon`),
so that the queue of the socket (net.unix.max_dgram_qlen) does not fill up; what was counted is
handed to the reporter when it asks (`reporting.handover`); after SIGTERM that goes on until all is
written, for `DRAIN_SECONDS` at most. Must not: write to disk, look anything up, run a thread, or
wait for anybody.
"""

from __future__ import annotations

import contextlib
import gc
import select
import selectors
import signal
import socket
import time
from typing import Final

from smtp_sts.daemon.peers import accept
from smtp_sts.reporting.aggregate import DAY, Aggregate
from smtp_sts.reporting.handover import LENGTH, Ask, Giver, asks, framed
from smtp_sts.reporting.receive import Receiver, Siphon

#: What is not handed over by then after SIGTERM is lost, and said to be (seconds).
DRAIN_SECONDS: Final = 2.0
#: An `Ask` is tiny; more than this is none.
_MAX_ASK: Final = 1024
#: How often days that are over are let go of (seconds).
_FORGET_SECONDS: Final = 3600.0


class _Link:
    """The connection of the reporter."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.incoming = b""
        self.outgoing = memoryview(b"")

    def asked(self) -> list[Ask]:
        """What came. Raises OSError and ValueError where the connection is of no more use."""
        data = self.sock.recv(4096)
        if not data:
            raise ConnectionResetError
        self.incoming += data
        found: list[Ask] = []
        while len(self.incoming) >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self.incoming)
            if size > _MAX_ASK:
                raise ValueError
            end = LENGTH.size + size
            if len(self.incoming) < end:
                break
            found.append(asks.decode(self.incoming[LENGTH.size : end]))
            self.incoming = self.incoming[end:]
        return found

    def write(self) -> bool:
        """Send what the kernel takes; whether something is left. Raises OSError."""
        with contextlib.suppress(BlockingIOError):
            self.outgoing = self.outgoing[self.sock.send(self.outgoing) :]
        return bool(self.outgoing)


class _Collector:
    def __init__(self, source: socket.socket, listener: socket.socket, supervisor: int) -> None:
        self._aggregate = Aggregate()
        self._source = source
        self._siphon = Siphon(source)
        #: siphons that have died
        self.siphons = 0
        self._receiver = Receiver(self._siphon, self._aggregate.take, time.time)
        self._giver = Giver(self._aggregate)
        self._listener = listener
        self._supervisor = supervisor
        self._poll = selectors.DefaultSelector()
        self._link: _Link | None = None
        self._wake, waker = socket.socketpair()
        for end in (self._wake, waker):
            end.setblocking(False)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: None)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        self._waker = waker

    def run(self) -> bool:
        """Until a signal comes, or the supervisor has gone; whether all was handed over."""
        for readable in (self._siphon, self._listener, self._wake, self._supervisor):
            self._poll.register(readable, selectors.EVENT_READ)
        forget = time.monotonic() + _FORGET_SECONDS
        while True:
            ready = self._poll.select(_FORGET_SECONDS)
            # First what cannot wait, and again after whatever else took its time.
            try:
                self._receiver.drain()
            except EOFError:
                self._renew_siphon()
            for key, events in ready:
                if key.fileobj in (self._wake, self._supervisor):
                    return self._end()
                self._attend(key, events)
            if time.monotonic() > forget:
                forget = time.monotonic() + _FORGET_SECONDS
                self._aggregate.forget_before(int(time.time() // DAY) - 1)

    def _renew_siphon(self) -> None:
        """Ours has died, and what it had not handed on with it."""
        self.siphons += 1
        self._poll.unregister(self._siphon)
        self._siphon.close()
        time.sleep(min(self.siphons, 10) / 10)
        self._siphon = Siphon(self._source)
        self._receiver.use(self._siphon)
        self._poll.register(self._siphon, selectors.EVENT_READ)

    def _end(self) -> bool:
        """What waits in the queue is counted, and what is counted handed over.

        What comes from now on waits in the socket for whoever follows.
        """
        for readable in (self._wake, self._supervisor, self._siphon):
            self._poll.unregister(readable)
        until = time.monotonic() + DRAIN_SECONDS
        self._siphon.end()
        with contextlib.suppress(EOFError):
            while time.monotonic() < until:
                if not self._receiver.drain():
                    select.select([self._siphon], [], [], until - time.monotonic())
        self._siphon.close()
        while not self._giver.empty and (left := until - time.monotonic()) > 0:
            for key, events in self._poll.select(left):
                self._attend(key, events)
        return self._giver.empty

    def _attend(self, key: selectors.SelectorKey, events: int) -> None:
        if key.fileobj is self._listener:
            self._accept()
        elif self._link is not None and key.fileobj is self._link.sock:
            try:
                self._serve(self._link, events)
            except (OSError, ValueError):  # msgspec's errors are ValueErrors
                self._drop()

    def _accept(self) -> None:
        sock = accept(self._listener)
        if sock is None:
            return
        self._drop()  # one reporter; the one before has died
        self._link = _Link(sock)
        self._poll.register(sock, selectors.EVENT_READ)

    def _drop(self) -> None:
        if self._link is not None:
            self._poll.unregister(self._link.sock)
            self._link.sock.close()
            self._link = None

    def _serve(self, link: _Link, events: int) -> None:
        if events & selectors.EVENT_READ:
            for ask in link.asked():
                samples = list(self._receiver.samples)
                self._receiver.samples.clear()
                portion = self._giver.answer(ask, self._counts(), samples)
                link.outgoing = memoryview(bytes(link.outgoing) + framed(portion))
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if link.write() else 0)
        self._poll.modify(link.sock, wanted)

    def _counts(self) -> dict[str, int]:
        return {
            "tls-datagrams": self._receiver.datagrams,
            "tls-outcomes-datagram": self._receiver.outcomes,
            "tls-siphon-deaths": self.siphons,
            "tls-refused": self._aggregate.refused,
            "tls-folded": self._aggregate.folded,
            **{f"tls-{slug}": number for slug, number in self._receiver.malformed.items()},
        }


def run(source: socket.socket, listener: socket.socket, supervisor: int) -> bool:
    """Collect until a signal comes; False where something could not be handed over.

    `source` is the datagram socket, `listener` where the reporter connects, `supervisor` a
    descriptor that reaches its end of file when the supervisor is gone.
    """
    collector = _Collector(source, listener, supervisor)
    # What is there by now is not walked by the collector of garbage, whose pauses cost datagrams.
    gc.collect()
    gc.freeze()
    return collector.run()
