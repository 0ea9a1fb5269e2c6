"""The unix datagram socket that Postfix's libtlsrpt writes to.

Promises: `drain` reads until there is nothing left, for the queue of such a socket is ten datagrams
long by default (net.unix.max_dgram_qlen) and the sender drops what does not fit; whatever arrives
is counted, as an outcome or as malformed under a slug; nothing that arrives ends it. Must not:
write to disk, log, or wait. At 10,000 a second a queue of 512 bridges 50 ms, so nothing else of
weight may run in the process: no thread that is busy, and `gc.freeze()` before the first datagram.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from smtp_sts.reporting import datagram, siphon
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
#: Bytes that a siphon's pipe holds, and that are read of it at once: some 100 datagrams.
PIPE_SIZE: Final = 1024 * 1024
READ_SIZE: Final = 64 * 1024
_LENGTH: Final = siphon.LENGTH


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


class Siphon:
    """A process that empties a socket and hands its datagrams on: `siphon.py`.

    It is readable (`fileno`) when there is something for `read`.
    """

    def __init__(self, source: socket.socket) -> None:
        """Start it. Raises OSError."""
        self._pipe, out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        stop, self._stop = os.pipe2(os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # the most that everyone may ask for
                fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
            # Without site and our package: it is to be small, and at work at once.
            command = [sys.executable, "-I", "-S", siphon.__file__]
            self.process = subprocess.Popen(
                [*command, str(source.fileno()), str(out), str(stop)],
                pass_fds=(source.fileno(), out, stop),
                stdin=subprocess.DEVNULL,
            )
        except OSError:
            os.close(self._pipe)
            os.close(self._stop)
            raise
        finally:
            os.close(out)
            os.close(stop)
        self._rest = b""

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._pipe

    def read(self) -> list[bytes] | None:
        """Datagrams that were handed on, in order; none where nothing waits; None at the end: the
        process is gone, and all that it handed on was read."""
        try:
            block = os.read(self._pipe, READ_SIZE)
        except BlockingIOError:
            return []
        if not block:
            return None
        data = self._rest + block
        found: list[bytes] = []
        start, size = 0, len(data)
        while start + _LENGTH.size <= size:
            (length,) = _LENGTH.unpack_from(data, start)
            end = start + _LENGTH.size + length
            if end > size:
                break
            found.append(data[start + _LENGTH.size : end])
            start = end
        self._rest = data[start:]
        return found

    def end(self) -> None:
        """Ask it to hand on what there is, and end; `read` until it gives None."""
        if self._stop >= 0:
            os.close(self._stop)
            self._stop = -1

    def close(self) -> None:
        """Give everything back; what was not read is lost."""
        self.end()
        os.close(self._pipe)
        self.process.kill()
        self.process.wait()


class Receiver:
    """Reads datagrams and hands outcomes on, counting what it sees."""

    def __init__(
        self,
        source: socket.socket | Siphon,
        take: Callable[[Outcome], None],
        clock: Callable[[], float],
    ) -> None:
        self._source = source
        self._take = take
        self._clock = clock
        self._buffer = bytearray(MAX_DATAGRAM)
        self.datagrams = 0
        self.outcomes = 0
        self.malformed: Counter[str] = Counter()
        self.samples: deque[dict[str, Any]] = deque(maxlen=SAMPLES)

    def use(self, source: socket.socket | Siphon) -> None:
        """Read from another source from now on."""
        self._source = source

    def drain(self, limit: int = MAX_DRAIN) -> int:
        """Read what waits, of a socket at most `limit` datagrams; how many there were.

        Raises EOFError where a siphon has ended and all of it was read.
        """
        if isinstance(self._source, Siphon):
            return self._drain_siphon(self._source)
        receive, buffer, at = self._source.recv_into, self._buffer, self._clock()
        for number in range(limit):
            try:
                size = receive(buffer)
            except BlockingIOError:
                return number
            self._one(bytes(memoryview(buffer)[:size]), at)
        return limit

    def _drain_siphon(self, source: Siphon) -> int:
        found, at = source.read(), self._clock()
        if found is None:
            raise EOFError
        for data in found:
            self._one(data, at)
        return len(found)

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
