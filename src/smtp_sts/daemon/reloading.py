"""Reload, with an answer: `smtp-sts reload` asks the supervisor and is told what came of it.

SIGHUP reloads too, and tells nobody: systemd called a reload good that was refused. Promises: who
asks has the rights of the daemon's user or of root (by the kernel's word), and is answered by the
process that it asked. It is an abstract unix socket, named by the process: nothing is left behind.
Must not: reload, or be reachable from the network.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
from typing import Final

import msgspec

from smtp_sts.config import UnixAddress

#: Reading the configuration, and as many new workers as there are cores (seconds).
PATIENCE: Final = 60.0
#: Who asks and does not read is not waited for (seconds).
_ANSWER_SECONDS: Final = 1.0
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)
_MAX_ANSWER: Final = 65536

_log = logging.getLogger(__name__)


class ReloadError(Exception):
    """It cannot be told whether the configuration was taken; the message says why."""


class Verdict(msgspec.Struct, frozen=True):
    """What came of a reload; `refused` says why, "" where the configuration was taken."""

    refused: str = ""


class Askers:
    """The supervisor's end: who waits for a verdict."""

    def __init__(self) -> None:
        """Listen. Where that cannot be there is SIGHUP still."""
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.setblocking(False)
        self._waiting: list[socket.socket] = []
        try:
            self._sock.bind(_address(os.getpid()))
            self._sock.listen()
        except OSError as error:
            _log.warning("`smtp-sts reload` does not work: %s", error.strerror)

    def fileno(self) -> int:
        """Readable when somebody asks."""
        return self._sock.fileno()

    def come(self) -> bool:
        """Whether somebody asks by now, and may."""
        with contextlib.suppress(OSError):  # no more of them, or no descriptors left
            while True:
                asker, _ = self._sock.accept()
                if _peer(asker)[1] in (0, os.geteuid()):
                    self._waiting.append(asker)
                else:
                    asker.close()
        return bool(self._waiting)

    def answer(self, verdict: Verdict) -> None:
        """Tell all who have asked."""
        for asker in self._waiting:
            with asker, contextlib.suppress(OSError):  # gone meanwhile
                asker.settimeout(_ANSWER_SECONDS)
                asker.sendall(msgspec.json.encode(verdict)[:_MAX_ANSWER])
        self._waiting.clear()

    def close(self) -> None:
        """Listen no more; in a child too, lest who asks waits for its end."""
        for one in (self._sock, *self._waiting):
            one.close()
        self._waiting.clear()


def ask(pid: int) -> Verdict:
    """Have the daemon of this supervisor reload. Raises ReloadError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        try:
            sock.connect(_address(pid))
            if _peer(sock)[0] != pid:  # anybody can take an abstract name
                raise ReloadError(f"another process answers for {pid}")
            with sock.makefile("rb") as whole:
                said = whole.read(_MAX_ANSWER)
        except TimeoutError:
            raise ReloadError(f"process {pid} gave no answer for {PATIENCE:g} s") from None
        except OSError as error:
            raise ReloadError(f"process {pid} cannot be asked: {error.strerror}") from None
    try:
        return msgspec.json.decode(said, type=Verdict)
    except msgspec.DecodeError:
        raise ReloadError(f"process {pid} did not answer: does it run as another user?") from None


def supervisor_at(address: UnixAddress) -> int:
    """The process that listens on a control socket. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(address.path)
        return _peer(sock)[0]


def _address(pid: int) -> str:
    return f"\0smtp-sts-reload-{pid}"


def _peer(sock: socket.socket) -> tuple[int, int, int]:
    """Process, user and group at the other end; of a listener, those that called listen(2)."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(data)
    return pid, uid, gid
