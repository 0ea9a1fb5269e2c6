"""Laws 1 and 6 where a look-up is not in time: what is known is answered, whatever has stalled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from smtp_sts.mta.ready import ReadyTable
from smtp_sts.mta.service import Service
from smtp_sts.policy import NextHop, Policy
from smtp_sts.resolver.decision import Decision

ENFORCE = Decision(
    "bob.example", "enforce", "policy-found", policy=Policy("enforce", ("mx.bob.example",), 86400)
)


async def hangs(_where: NextHop) -> Decision:
    await asyncio.sleep(60)
    raise AssertionError("nobody waits so long")


async def knows(_where: NextHop) -> Decision | None:
    return await asyncio.to_thread(lambda: ENFORCE)


def service(
    decide: Callable[[NextHop], Awaitable[Decision]],
    known: Decision | None = None,
    recall: Callable[[NextHop], Awaitable[Decision | None]] | None = None,
) -> Service:
    return Service(
        decide, ReadyTable(10), {}, deadline=0.9, known=lambda _domain: known, recall=recall
    )


@pytest.mark.parametrize(
    ("known", "recall", "outcome"),
    [
        (ENFORCE, hangs, "enforce"),  # memory, though the store hangs
        (None, knows, "enforce"),  # the store
        (None, hangs, "no-policy"),  # truly unknown: law 4
        (None, None, "no-policy"),
    ],
)
def test_law_1_a_look_up_that_hangs_is_answered_by_what_is_kept(
    known: Decision | None,
    recall: Callable[[NextHop], Awaitable[Decision | None]] | None,
    outcome: str,
) -> None:
    async def play() -> None:
        began = time.monotonic()
        decision = await service(hangs, known, recall).decision(NextHop("bob.example"))
        assert decision.outcome == outcome
        assert time.monotonic() - began < 2

    asyncio.run(play())


def test_law_1_what_has_finished_during_a_stall_of_the_loop_is_answered() -> None:
    """The loop stands still for longer than the deadline, while a thread does the work."""

    async def work(_where: NextHop) -> Decision:
        await asyncio.to_thread(time.sleep, 0.2)
        for _ in range(20):  # seen only some turns of the loop later
            await asyncio.to_thread(time.sleep, 0)
        return ENFORCE

    async def play() -> None:
        asked = asyncio.ensure_future(service(work).decision(NextHop("bob.example")))
        await asyncio.sleep(0.05)
        time.sleep(1.5)  # noqa: ASYNC251  the stall
        assert (await asked).outcome == "enforce"

    asyncio.run(play())


def test_law_1_what_the_store_knows_is_answered_after_a_stall_too() -> None:
    async def play() -> None:
        asked = asyncio.ensure_future(service(hangs, None, knows).decision(NextHop("bob.example")))
        await asyncio.sleep(0.05)
        time.sleep(1.5)  # noqa: ASYNC251
        assert (await asked).outcome == "enforce"

    asyncio.run(play())
