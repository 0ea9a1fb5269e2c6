"""Law 4 where a note to the store hangs: who asks then has all of the answer timeout."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from smtp_sts.lab.policyhost import Page

from .scene import HOST, scene


def test_law_4_a_postponement_that_hangs_costs_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refresh has failed, the disk hangs, and then the policy expires: it is fetched anew."""

    async def play() -> None:
        async with scene(tmp_path, answer_timeout=1.0, dane=False) as s:
            await s.world.publish("bob.example", max_age=600)
            good = s.world.policy_hosts.pages[HOST]
            assert (await s.decide()).outcome == "enforce"

            async def hangs(*_what: object) -> None:
                await asyncio.sleep(60)

            monkeypatch.setattr(s.keeper, "postpone", hangs)
            s.world.policy_hosts.pages[HOST] = Page(b"", status=404)
            refreshing = asyncio.ensure_future(s.resolver.refresh("bob.example"))
            await asyncio.sleep(1.5)
            s.world.policy_hosts.pages[HOST] = good
            s.clock.now += 601
            assert (await s.decide()).outcome == "enforce"
            refreshing.cancel()

    asyncio.run(play())
