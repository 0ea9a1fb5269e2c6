"""What concerns every domain at once, in a memory that is full: laws 1 and 6."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from smtp_sts.config import PolicySection
from smtp_sts.lab.world import policy_text
from smtp_sts.policy import Policy
from smtp_sts.resolver import memory
from smtp_sts.resolver.life import events as ev
from smtp_sts.resolver.life.machine import step
from smtp_sts.resolver.life.rfc8461 import RFC8461
from smtp_sts.resolver.life.state import Cached, Reason, State
from smtp_sts.resolver.stored import to_store
from smtp_sts.store import Stored

from .scene import Scene, scene

pytestmark = pytest.mark.alone

#: Domains with a policy, of which one process remembers up to 50,000.
CROWD = 30_000
#: What the loop may have to compute before it answers others (seconds of CPU). One domain after
#: the other it was 0.1 s for a store that was replaced, 0.4 s for a clock that was set, and seconds
#: with the messages to the other workers.
TURN = 0.05


def remember(s: Scene, name: str) -> Cached:
    now = s.clock.now
    policy = Policy.parse(policy_text("enforce", [f"mx.{name}", f"*.{name}"], 604800))
    cached = Cached(policy, "1", now, now + 604800, now + 86400, now)
    domain = s.resolver.memory.of(name)
    domain.lives[0].state = State(unread=False, cached=cached, next_check=now + 300, number=3)
    s.resolver.memory.weigh(domain)
    return cached


async def longest_turn(turns: int) -> float:
    """Seconds of CPU between two turns of who waits for one, at most."""
    longest, last = 0.0, time.thread_time()
    for _ in range(turns):
        await asyncio.sleep(0.001)
        now = time.thread_time()
        longest, last = max(longest, now - last), now
    return longest


def test_law_6_a_clock_that_is_set_holds_up_no_answer(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path, dane=False) as s:
            for n in range(CROWD):
                remember(s, f"k{n}.example")
            # As each worker does (`Peers.changed`): a message to every other one.
            told: list[asyncio.Future[None]] = []
            s.resolver.on_change = lambda _name: told.append(
                asyncio.ensure_future(asyncio.sleep(0))
            )
            turns = asyncio.ensure_future(longest_turn(300))
            await asyncio.sleep(0.01)
            s.clock.now += 3600
            s.resolver.clock_set(3600)
            assert await turns < TURN
            decision = await s.resolver.decide("k7.example")
            assert decision.outcome == "enforce"
            # What waited goes on waiting as long as before, and not an hour.
            state = s.resolver.memory.of("k7.example").lives[0].state
            assert state.next_check == s.clock.now + 300

    asyncio.run(play())


def test_law_6_a_store_that_is_replaced_holds_up_no_answer(tmp_path: Path) -> None:
    """Nor does it lose anything: what is in memory is put there again, in portions."""

    async def play() -> None:
        async with scene(tmp_path, dane=False) as s:
            for n in range(CROWD):
                remember(s, f"k{n}.example")
            await s.keeper.put(to_store("first.example", remember(s, "first.example")))
            turns = asyncio.ensure_future(longest_turn(2000))
            await asyncio.sleep(0.01)
            s.keeper.on_replaced()
            assert await turns < TURN
            await s.resolver.close()  # what is under way is done
            figures = await s.keeper.figures(s.clock.now)
            assert figures is not None
            assert figures[0] == CROWD + 1

    asyncio.run(play())


def test_law_4_no_policy_is_remembered_no_longer_for_a_look_while_the_clock_was_set() -> None:
    """Between the setting of a clock and our seeing it a look has gone by the new one already."""
    settings, now = PolicySection(), 1_800_000_000.0
    absent = Reason("no-record", sentence="none")
    late = State(unread=False, absent=absent, next_check=now + 300, retry_at=now + 300, number=3)
    event = ev.ClockSet(now=now, seconds=365 * 86400.0)
    after, _ = step(RFC8461, late, event, settings)
    assert max(after.next_check, after.retry_at) <= now + 3 * settings.negative_ttl


def test_law_7_what_was_forgotten_weighs_nothing_whatever_is_learnt_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A domain is forgotten while a large policy of it is read that another daemon has fetched:
    what that weighs would be missing for ever, and in the end there were room for no domain."""
    monkeypatch.setattr(memory, "STATES_LIMIT", 1)
    mx = "".join(f"mx: {n:x}.cd\r\n" for n in range(3000))
    body = f"version: STSv1\r\nmode: enforce\r\n{mx}max_age: 9999\r\n"

    async def play() -> None:
        async with scene(tmp_path, dane=False) as s:
            now = s.clock.now
            s.resolver.memory.of("bob.example")
            row = Stored("bob.example", "1", body, now, now + 9999, now + 999, now)
            learning = asyncio.ensure_future(s.resolver.learn(row))
            await asyncio.sleep(0)
            s.resolver.memory.of("other.example")
            await learning
            assert s.resolver.memory.find("bob.example") is None
            assert s.resolver.memory.weight == 0

    asyncio.run(play())
