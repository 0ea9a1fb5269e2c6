"""How workers settle on the cores, seen from outside as the kernel has it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from smtp_sts.lab.world import World

from .process import daemon, until, workers_of

CORES = sorted(os.sched_getaffinity(0))


async def _settled(workers: int) -> list[tuple[int, set[int]]]:
    """Scheduling policy and cores of each worker."""
    async with World() as world:
        config = world.config_toml(
            policy={"workers": workers, "listen": f"unix:{world.socket_path}"}
        )
        with daemon(config, world.socket_path) as process:
            until(lambda: len(workers_of(process)) == workers)
            pids = workers_of(process)
            until(lambda: all(os.sched_getscheduler(pid) == os.SCHED_BATCH for pid in pids))
            supervisor = os.sched_getscheduler(process.pid), os.sched_getaffinity(process.pid)
            assert supervisor == (os.SCHED_OTHER, set(CORES))
            return [(os.sched_getscheduler(pid), os.sched_getaffinity(pid)) for pid in pids]


@pytest.mark.skipif(len(CORES) > 8, reason="so many workers are not worth a test")
def test_each_has_a_core_where_they_are_as_many() -> None:
    settled = asyncio.run(_settled(len(CORES)))
    assert sorted(core for _, cores in settled for core in cores) == CORES


@pytest.mark.skipif(len(CORES) < 2, reason="there is one core")
def test_fewer_go_where_there_is_room() -> None:
    assert asyncio.run(_settled(1)) == [(os.SCHED_BATCH, set(CORES))]


def _in_a_process(prepare: Callable[[], None]) -> str:
    show = (
        "import os; from smtp_sts.daemon import cores; cores.settle(3, 64);"
        "print(os.sched_getscheduler(0), *os.sched_getaffinity(0))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", show],
        preexec_fn=prepare,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_what_an_operator_has_set_stays() -> None:
    def set_by_the_operator() -> None:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        os.sched_setaffinity(0, {CORES[-1]})

    assert _in_a_process(set_by_the_operator) == f"{os.SCHED_IDLE} {CORES[-1]}"
