"""The daemon: a supervisor that owns the sockets, and workers that share them.

Promises: a worker that dies is replaced; SIGHUP re-reads the configuration and, where it is good,
starts new workers on the same sockets while the old ones finish with their clients; a bad one is
logged and changes nothing; SIGUSR1 has logged what was counted; SIGTERM ends everything within two
seconds or so. Trouble with the store or the control socket is logged and does not keep the daemon
from answering (law 4: mail must not wait for our disk).
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from typing import Any, Final, NoReturn

from smtp_sts import store
from smtp_sts.config import (
    Config,
    ConfigError,
    ControlSection,
    UnixAddress,
    control_address,
    load,
)
from smtp_sts.daemon import cores, log, peers, reloading, sockets, starting, worker
from smtp_sts.daemon.beside import Beside
from smtp_sts.daemon.board import Board
from smtp_sts.daemon.listening import Listening
from smtp_sts.store import StoreError, open_store, repair

MAX_DEFAULT_WORKERS: Final = 4
#: A worker that dies is started again, after this pause where it died young (seconds).
RESTART_SECONDS: Final = 1.0
#: Most of what a look-up makes is freed by reference counts; the collector is asked less often.
GC_THRESHOLDS: Final = (20_000, 20, 50)
#: A thread beside the event loop (the store, what is large) gives way after so long (seconds).
SWITCH_SECONDS: Final = 0.001
#: Workers that do not end by themselves are killed after this long (seconds).
KILL_SECONDS: Final = 4.0

_log = logging.getLogger("smtp_sts")


def worker_count(config: Config) -> int:
    """`[policy] workers`, or one a core, at most 4."""
    cores = len(os.sched_getaffinity(0))
    return config.policy.workers or min(cores, MAX_DEFAULT_WORKERS)


def serve(config_path: str | None) -> None:
    """Run the daemon until SIGTERM. Raises ConfigError or ListenError where it cannot start."""
    config, wrong = starting.to_start(config_path)
    log.set_up(config.log)
    for sentence in wrong:
        _log.error(
            "%s; mail servers are answered all the same", sentence,
            extra={"fields": {"event": "configuration-fault"}},
        )  # fmt: skip
    _Supervisor(config_path, config).run()


class _Supervisor:
    def __init__(self, config_path: str | None, config: Config) -> None:
        self._config_path = config_path
        self._config = config
        self._listening = Listening(sockets.activated())
        self._control: tuple[ControlSection, socket.socket] | None = None
        self._peers: list[socket.socket] = []
        self._elders: list[tuple[float, bytes]] = []  # until when, and the address
        self._workers: dict[int, tuple[int, float]] = {}  # pid -> (index, since)
        self._retired: set[int] = set()
        self._restarts: list[tuple[float, int]] = []
        self._signals: set[int] = set()
        self._wake, self._waker = socket.socketpair()
        self._askers = reloading.Askers()
        self._board = Board()
        self._slots: dict[int, int | None] = {}  # pid -> where it counts
        self._alive, self._kept = os.pipe()  # workers see the end of it when we are gone
        self._beside = Beside(self._board, self._alive, self._become_reporting, _run)

    def run(self) -> None:
        self._catch_signals()
        self._repair_store()
        self._listening.start(self._config)
        self._listen_control(self._config)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
        # What is loaded by now stays, shared by all workers: nothing for the collector to look at,
        # which would be paid for by cold look-ups and in copied pages.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        sys.setswitchinterval(SWITCH_SECONDS)
        self._start_all()
        _log.info(
            "ready on %s with %d workers", self._listening, len(self._workers),
            extra={"fields": {"event": "ready", "workers": len(self._workers)}},
        )  # fmt: skip
        sockets.notify("READY=1")
        self._beside.start(self._config, self._peers)
        try:
            self._loop()
        finally:
            sockets.notify("STOPPING=1")
            self._stop()

    def _catch_signals(self) -> None:
        for end in (self._wake, self._waker):
            end.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for number in (
            signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1,
        ):  # fmt: skip
            signal.signal(number, lambda caught, _frame: self._signals.add(caught))

    def _repair_store(self) -> None:
        if store.is_shared(self._config.store.url):  # its trouble must not delay the sockets
            return
        try:
            told = repair(self._config.store.url)
            if told:
                _log.error("%s", told)
            open_store(self._config.store.url).close()
        except StoreError as error:
            _log.error("%s; going on from memory: policies will not last", error)

    def _listen_control(self, config: Config) -> None:
        """Open the control socket, or say why there is none: MTAs are answered all the same."""
        if self._listening.has_control:
            return
        if self._control is not None and self._control[0] == config.control:
            return
        self._close_control()
        address = control_address(config)
        if address is None:
            return
        try:
            self._control = (config.control, sockets.open_control(address, config.control))
        except OSError as error:
            _log.warning(
                "no control socket, so no `smtp-sts cache`: %s; make its folder writable for the "
                "daemon's user, or set control.socket", error.strerror,
            )  # fmt: skip

    def _close_control(self) -> None:
        if self._control is not None:
            self._control[1].close()
            sockets.remove_unix([UnixAddress(self._control[0].socket)])
            self._control = None

    def _start_all(self) -> None:
        self._peers = [peers.listener() for _ in range(worker_count(self._config))]
        for index in range(len(self._peers)):
            self._fork_or_later(index, wait=True)

    def _fork_or_later(self, index: int, *, wait: bool = False) -> None:
        try:
            self._fork(index, wait=wait)
        except OSError as error:  # no memory, descriptors or processes left: not for ever
            _log.error("worker %d cannot be started: %s; trying again", index, error.strerror)
            self._restarts.append((time.monotonic() + RESTART_SECONDS, index))

    def _fork(self, index: int, *, wait: bool = False) -> None:
        told, tell = os.pipe()
        slot = self._board.take()
        pid = os.fork()
        if pid == 0:
            os.close(told)
            self._be_worker(index, tell, slot)
        os.close(tell)
        self._slots[pid] = slot
        self._workers[pid] = (index, time.monotonic())
        if wait:
            select.select([told], [], [], 10.0)  # ready, or dead: either way something comes
        os.close(told)

    def _become_child(self) -> None:
        """Let go of what is the supervisor's alone."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        self._wake.close()
        self._waker.close()
        self._askers.close()
        os.close(self._kept)

    def _become_reporting(self) -> None:
        """Let go of the MTAs' sockets too: a successor is to get them."""
        self._become_child()
        self._listening.let_go()
        if self._control is not None:
            self._control[1].close()

    def _be_worker(self, index: int, tell: int, slot: int | None) -> NoReturn:
        status = 1
        try:
            self._become_child()
            listening = self._listening.all
            if self._control is not None:
                listening.append(sockets.Listener("control", self._control[1]))
            elders = [address for until, address in self._elders if until > time.monotonic()]
            counting = (self._board, slot)
            _run_loop(
                self._config, index, listening, self._peers, tell, self._alive, counting, elders
            )
            status = 0
        except KeyboardInterrupt:
            status = 0
        finally:
            if sys.exc_info()[0] is not None:
                _log.exception("worker %d broke", index)
            logging.shutdown()
            os._exit(status)

    def _loop(self) -> None:
        while True:
            due = min((at for at, _ in self._restarts), default=1e9)
            due = min(due, self._beside.attend(), self._listening.due)
            pause = max(0.0, due - time.monotonic())
            select.select([self._wake.fileno(), self._askers.fileno()], [], [], min(pause, 60.0))
            with contextlib.suppress(BlockingIOError):
                while self._wake.recv(512):
                    pass
            caught, self._signals = self._signals, set()
            if caught & {signal.SIGTERM, signal.SIGINT}:
                return
            self._reap()
            if signal.SIGUSR1 in caught:
                self._tell_counts()
            if self._askers.come() or signal.SIGHUP in caught:
                self._askers.answer(reloading.Verdict(self._reload()))
            now = time.monotonic()
            if now >= self._listening.due and self._listening.again(self._config):
                self._renew_workers()
            again = [index for at, index in self._restarts if at <= now]
            self._restarts = [(at, index) for at, index in self._restarts if at > now]
            for index in again:
                self._fork_or_later(index)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._beside.reaped(pid, status):
                continue
            self._retired.discard(pid)
            self._board.release(self._slots.pop(pid, None))
            gone = self._workers.pop(pid, None)
            if gone is not None:
                index, since = gone
                self._board.count("worker-deaths")
                _log.error(
                    "worker %d ended by itself (status %d); starting another",
                    index, os.waitstatus_to_exitcode(status),
                    extra={"fields": {"event": "worker-ended", "worker": index}},
                )  # fmt: skip
                young = time.monotonic() - since < RESTART_SECONDS
                self._restarts.append((time.monotonic() + (RESTART_SECONDS if young else 0), index))

    def _tell_counts(self) -> None:
        """The first worker knows what all have counted."""
        for pid, (index, _) in self._workers.items():
            if index == 0:
                os.kill(pid, signal.SIGUSR1)
        self._beside.tell_counts()

    def _reload(self) -> str:
        """Why the configuration was not taken; "" where it was."""
        refused = ""
        sockets.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            config = load(self._config_path)
            starting.check(config)
            self._listening.change(config)
            self._listen_control(config)
        except (ConfigError, OSError) as error:
            refused = getattr(error, "strerror", None) or str(error)
            _log.error(
                "configuration not taken, going on with the one before: %s", refused,
                extra={"fields": {"event": "configuration-refused"}},
            )  # fmt: skip
        else:
            self._config = config
            log.set_up(config.log)
            self._repair_store()
            self._renew_workers()
            _log.info(
                "configuration taken, %d new workers", len(self._workers),
                extra={"fields": {"event": "configuration-taken"}},
            )  # fmt: skip
        sockets.notify("READY=1")
        return refused

    def _renew_workers(self) -> None:
        """New workers on the sockets of now; those of before finish with their clients."""
        old, self._workers, self._restarts = self._workers, {}, []
        before = self._peers
        now = time.monotonic()
        self._elders = [(until, address) for until, address in self._elders if until > now]
        self._elders += [(now + worker.RETIRE_SECONDS, s.getsockname()) for s in before]
        self._start_all()
        for pid in old:
            self._retired.add(pid)
            self._board.retire(self._slots.get(pid))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR2)
        for listener in before:
            listener.close()
        self._beside.start(self._config, self._peers)

    def _stop(self) -> None:
        self._askers.close()
        self._listening.close()
        self._close_control()
        self._beside.close()
        waiting = {*self._workers, *self._retired, *self._beside.pids}
        for pid in waiting:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + KILL_SECONDS
        while waiting and time.monotonic() < until:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                time.sleep(0.01)
            waiting.discard(pid)
        for pid in waiting:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _run_loop(
    config: Config,
    index: int,
    open_listeners: list[sockets.Listener],
    peer_listeners: list[socket.socket],
    tell: int,
    supervisor: int,
    counting: tuple[Board, int | None],
    elders: list[bytes],
) -> None:
    cores.settle(index, len(peer_listeners))

    def ready() -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody waits for a worker that replaces one
            os.write(tell, b"1")
        os.close(tell)

    _run(
        worker.run(
            config, index, open_listeners, peer_listeners, ready, supervisor, *counting, elders
        )
    )


def _run(work: Coroutine[Any, Any, None]) -> None:
    import asyncio

    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)
