"""A policy that expires, or is replaced, while something about it is waited for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from smtp_sts.lab.policyhost import Page
from smtp_sts.resolver import Decision

from .scene import HOST, TXT, Scene, scene
from .test_draft_laws import record


def _expire_behind_the_answer(s: Scene, name: str, at: float) -> None:
    """The clock comes to `at` between the DNS's answer to a name and its use."""
    dns = s.resolver.reach.dns
    query = dns.query

    async def late(asked: str, *args: object, **kwargs: object) -> object:
        answer = await query(asked, *args, **kwargs)  # type: ignore[arg-type]
        if asked == name:
            s.clock.now = max(s.clock.now, at)
        return answer

    dns.query = late  # type: ignore[assignment, method-assign]


@pytest.mark.parametrize("refresh", [False, True])
def test_a_policy_that_expires_while_its_record_is_looked_at_is_fetched_anew(
    tmp_path: Path, refresh: bool
) -> None:
    async def play() -> None:
        async with scene(tmp_path, dane=False) as s:
            await s.world.publish("bob.example", max_age=1000)
            first = await s.decide()
            end = first.expires_at or 0
            s.clock.now = end - 1
            _expire_behind_the_answer(s, TXT, end + 1)
            if refresh:
                await s.resolver.refresh("bob.example")
            else:
                assert (await s.decide()).outcome == "enforce"
                await s.settled()
            assert s.clock.now == end + 1
            again = await s.decide()
            assert (again.outcome, again.expires_at) == ("enforce", end + 1001)
            assert s.fetches == 2
            assert "policy-found" not in s.counts

    asyncio.run(play())


def test_a_policy_that_expires_while_its_failed_refresh_is_noted_breaks_nothing(
    tmp_path: Path,
) -> None:
    async def play() -> None:
        async with scene(tmp_path, dane=False) as s:
            await s.world.publish("bob.example", max_age=1000)
            end = (await s.decide()).expires_at or 0
            s.world.policy_hosts.pages[HOST] = Page(b"", status=500)
            postpone = s.keeper.postpone
            asked: list[asyncio.Task[Decision]] = []

            async def late(domain: str, refresh_at: float, before: float) -> None:
                s.clock.now = end + 1
                asked.append(asyncio.ensure_future(s.decide()))
                await asyncio.sleep(0.05)
                await postpone(domain, refresh_at, before)

            s.keeper.postpone = late  # type: ignore[method-assign]
            s.clock.now = end - 1
            await s.resolver.refresh("bob.example")
            await s.settled()
            assert asked
            await asyncio.gather(*asked)
            assert "internal-errors" not in s.counts

    asyncio.run(play())


def test_a_policy_that_expires_while_it_is_put_breaks_nothing(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path, dane=False) as s:
            await s.world.publish("bob.example", max_age=1000)
            put = s.keeper.put
            asked: list[asyncio.Task[Decision]] = []

            async def late(stored: object) -> None:
                s.clock.now += 1001
                asked.append(asyncio.ensure_future(s.decide()))
                await asyncio.sleep(0.05)
                await put(stored)  # type: ignore[arg-type]

            s.keeper.put = late  # type: ignore[method-assign]
            assert (await s.decide()).outcome == "enforce"
            s.keeper.put = put  # type: ignore[method-assign]
            await asyncio.gather(*asked)
            assert "internal-errors" not in s.counts

    asyncio.run(play())


def test_a_draft_policy_that_expires_while_its_record_is_looked_at_is_looked_for_again(
    tmp_path: Path,
) -> None:
    async def play() -> None:
        async with scene(tmp_path, dane=False, dialects=("rfc8461", "draft00")) as s:
            await s.world.receive("bob.example", "mx.bob.example")
            s.world.publish_draft("bob.example", record(e=1000))
            await s.decide()
            await s.settled()
            end = (await s.decide()).expires_at or 0
            s.clock.now = end - 1
            _expire_behind_the_answer(s, "_smtp_sts.bob.example", end + 1)
            await s.decide()
            await s.settled()
            await s.decide()
            await s.settled()
            again = await s.decide()
            assert (again.outcome, again.reason) == ("enforce", "policy-found")
            assert "internal-errors" not in s.counts

    asyncio.run(play())
