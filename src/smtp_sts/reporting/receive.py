"""The unix datagram socket that Postfix's libtlsrpt writes to.

Promises: `drain` reads until there is nothing left, for the queue of such a socket is ten datagrams
long by default (net.unix.max_dgram_qlen) and the sender drops what does not fit; whatever arrives
is counted, as an outcome or as malformed under a slug; nothing that arrives ends it. Must not:
write to disk, log, or wait. At 10,000 a second a queue of 512 bridges 50 ms, so nothing else of
weight may run in the process: no thread that is busy, and `gc.freeze()` before the first datagram.
"""

from __future__ import annotations

import os
import socket
import stat
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from smtp_sts.reporting import datagram
from smtp_sts.reporting.outcome import Outcome

#: sun_path is 108 bytes with its end (unix(7)); libtlsrpt refuses longer ones too.
MAX_PATH: Final = 107
#: More than the kernel was seen to take (212,960 bytes).
MAX_DATAGRAM: Final = 1024 * 1024
#: Bytes of memory for datagrams that wait, asked of the kernel.
RECEIVE_BUFFER: Final = 8 * 1024 * 1024
#: Malformed datagrams whose beginnings are kept for inspection.
SAMPLES: Final = 16
#: Datagrams that one `drain` reads at most, lest others on the event loop starve.
MAX_DRAIN: Final = 256


class SocketError(Exception):
    """The socket cannot be made; the message says why and what to do."""


def bind(path: Path, mode: int) -> socket.socket:
    """A non-blocking socket at `path` with this mode; a dead one there is replaced.

    Raises SocketError.
    """
    name = os.fsencode(path)
    if len(name) > MAX_PATH:
        raise SocketError(f"{path}: {len(name)} bytes; the path of a socket has {MAX_PATH} at most")
    try:
        if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
            raise SocketError(f"{path}: is there and is no socket; move it away")
        path.unlink(missing_ok=True)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            # Nobody may write between bind and chmod who is not to write afterwards.
            before = os.umask(0o777 & ~mode)
            try:
                made.bind(name)
            finally:
                os.umask(before)
            path.chmod(mode)
        except OSError:
            made.close()
            raise
    except OSError as error:
        raise SocketError(
            f"{path}: {error.strerror}; its folder must exist and be writable"
        ) from error
    return made


class Receiver:
    """Reads datagrams and hands outcomes on, counting what it sees."""

    def __init__(
        self,
        source: socket.socket,
        take: Callable[[Outcome], None],
        clock: Callable[[], float],
    ) -> None:
        self._socket = source
        self._take = take
        self._clock = clock
        self._buffer = bytearray(MAX_DATAGRAM)
        self.datagrams = 0
        self.outcomes = 0
        self.malformed: Counter[str] = Counter()
        self.samples: deque[dict[str, Any]] = deque(maxlen=SAMPLES)

    def drain(self, limit: int = MAX_DRAIN) -> int:
        """Read what waits, at most `limit` datagrams; how many there were."""
        receive, buffer, at = self._socket.recv_into, self._buffer, self._clock()
        for number in range(limit):
            try:
                size = receive(buffer)
            except BlockingIOError:
                return number
            self._one(bytes(memoryview(buffer)[:size]), at)
        return limit

    def _one(self, data: bytes, at: float) -> None:
        self.datagrams += 1
        try:
            outcomes = datagram.parse(data, at)
        except datagram.DatagramError as error:
            self.malformed[error.slug] += 1
            self.samples.append({"slug": error.slug, "why": str(error), **datagram.sample(data)})
            return
        for outcome in outcomes:
            self._take(outcome)
        self.outcomes += len(outcomes)
