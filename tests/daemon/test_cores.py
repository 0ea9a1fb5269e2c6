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


THREADS = """
import asyncio, os
from smtp_sts.daemon import cores
from smtp_sts.net.handshakes import handshakes
cores.settle(0, 64)
{more}
async def main():
    ended = asyncio.get_running_loop().create_future()
    seen = []
    handshakes().submit(("n", "d"), lambda: seen.append(os.sched_getaffinity(0)), ended.set_result)
    assert await ended is None
    print(len(os.sched_getaffinity(0)), *sorted(seen[0]))
asyncio.run(main())
"""


@pytest.mark.parametrize("more", ["", "Handshakes.settle = lambda: cores._roam([4095])"])
def test_threads_compute_on_any_core_and_at_the_worst_where_the_worker_is(more: str) -> None:
    program = THREADS.format(
        more=more and f"from smtp_sts.net.handshakes import Handshakes\n{more}"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    alone, *cores = map(int, done.stdout.split())
    assert alone == 1
    assert cores == (CORES if not more else CORES[:1])
