"""The processes beside the workers that report on TLS: the collector and the reporter.

Promises: they are there while `[tls_reports]` is on, and whichever dies is started again; a new
configuration is theirs once the processes of the one before have written what they had; trouble
with them never keeps the workers from answering. The supervisor owns the sockets, so that what is
sent while a process is away waits in them. Must not: count or write anything itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Literal, NoReturn

from smtp_sts.config import Config, ConfigError, TlsReportsSection, UnixAddress
from smtp_sts.daemon import peers, sockets
from smtp_sts.daemon.board import Board

#: A process that dies is started again after this pause (seconds).
RESTART_SECONDS: Final = 2.0
#: One of the configuration before that does not end is killed after so long (seconds).
LINGER_SECONDS: Final = 10.0

Name = Literal["collector", "reporter"]
_log = logging.getLogger(__name__)


def _place(section: TlsReportsSection) -> tuple[str, ...]:
    """What the datagram socket depends on."""
    if not section.enabled or not section.socket:
        return ()
    return section.socket, section.socket_mode, section.socket_owner, section.socket_group


class Beside:
    """What the supervisor knows of them."""

    def __init__(
        self,
        board: Board,
        supervisor: int,
        become: Callable[[], None],
        run_loop: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """`become` is called in a child that was forked; `run_loop` runs a coroutine to its end."""
        self._board = board
        self._supervisor = supervisor
        self._become = become
        self._run_loop = run_loop
        self._config: Config | None = None
        self._workers: Sequence[socket.socket] = ()
        self._link: socket.socket | None = None
        self._datagrams: tuple[TlsReportsSection, socket.socket] | None = None
        self._running: dict[int, Name] = {}
        self._slots: dict[int, int | None] = {}
        self._old: dict[int, float] = {}  # pid -> when it is killed
        self._due: dict[Name, float] = {}

    def start(self, config: Config, workers: Sequence[socket.socket]) -> None:
        """Start what `config` wants; what runs by another one ends first."""
        self._config, self._workers = config, workers
        self._due.clear()
        before = self._datagrams
        self._listen(config.tls_reports)
        # All that a collector knows of the configuration is its socket.
        kept = before is not None and self._datagrams is before
        for pid, name in list(self._running.items()):
            if name == "collector" and kept:
                continue
            del self._running[pid]
            self._old[pid] = time.monotonic() + LINGER_SECONDS
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        if config.tls_reports.enabled:
            now = time.monotonic()
            if self._datagrams is not None and "collector" not in self._running.values():
                self._due["collector"] = now
            self._due["reporter"] = now
        self.attend()

    def attend(self) -> float:
        """Do what is due; when it is time again, by time.monotonic()."""
        now = time.monotonic()
        for pid, until in self._old.items():
            if until <= now:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self._old:  # they may be writing what the new ones would count again
            return min(self._old.values())
        for name in [name for name, at in self._due.items() if at <= now]:
            del self._due[name]
            try:
                self._fork(name)
            except OSError as error:  # no memory or processes left: MTAs are answered all the same
                _log.error("the %s cannot be started: %s; trying again", name, error.strerror)
                self._due[name] = now + RESTART_SECONDS
        return min(self._due.values(), default=now + 60.0)

    def reaped(self, pid: int, status: int) -> bool:
        """Whether this was one of ours; if it ended by itself another one follows."""
        if pid not in self._slots:
            return False
        self._board.release(self._slots.pop(pid))
        self._old.pop(pid, None)
        name = self._running.pop(pid, None)
        if name is not None:
            self._board.count(f"{name}-deaths")
            _log.error(
                "the %s ended by itself (status %d); starting another",
                name, os.waitstatus_to_exitcode(status),
                extra={"fields": {"event": "reporting-ended", "process": name}},
            )  # fmt: skip
            self._due[name] = time.monotonic() + RESTART_SECONDS
        return True

    @property
    def pids(self) -> set[int]:
        """All that are there."""
        return set(self._slots)

    def tell_counts(self) -> None:
        """Have the reporter log what was counted."""
        for pid, name in self._running.items():
            if name == "reporter":
                os.kill(pid, signal.SIGUSR1)

    def close(self) -> None:
        """Give the sockets back."""
        self._listen(TlsReportsSection())

    def _listen(self, section: TlsReportsSection) -> None:
        if self._datagrams is not None and _place(self._datagrams[0]) != _place(section):
            self._datagrams[1].close()
            sockets.remove_unix([UnixAddress(self._datagrams[0].socket)])
            self._datagrams = None
        if _place(section) and self._datagrams is None:
            try:
                self._datagrams = (section, sockets.open_datagrams(section))
            except (OSError, ConfigError) as error:
                _log.error(
                    "no TLS results from Postfix: %s", getattr(error, "strerror", None) or error,
                    extra={"fields": {"event": "no-datagram-socket"}},
                )  # fmt: skip
        if self._datagrams is not None and self._link is None:
            self._link = peers.listener()

    def _fork(self, name: Name) -> None:
        slot = self._board.take(worker=False)
        pid = os.fork()
        if pid == 0:
            self._be(name, slot)
        self._running[pid] = name
        self._slots[pid] = slot

    def _be(self, name: Name, slot: int | None) -> NoReturn:
        status = 1
        try:
            self._become()
            if name == "collector":
                self._collect()
            else:
                self._report(slot)
            status = 0
        except KeyboardInterrupt:
            status = 0
        finally:
            if sys.exc_info()[0] is not None:
                _log.exception("the %s broke", name)
            logging.shutdown()
            os._exit(status)

    def _collect(self) -> None:
        from smtp_sts.daemon import collector

        assert self._datagrams is not None and self._link is not None
        if not collector.run(self._datagrams[1], self._link, self._supervisor):
            _log.error("TLS results were lost: they could not be written in time")

    def _report(self, slot: int | None) -> None:
        from smtp_sts.daemon import reporter

        assert self._config is not None
        address = b""
        if self._datagrams is not None and self._link is not None:
            address = self._link.getsockname()
        self._run_loop(
            reporter.run(self._config, self._workers, address, self._supervisor, self._board, slot)
        )
