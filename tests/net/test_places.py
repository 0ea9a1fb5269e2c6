"""Places and shares: bounds, order, turns, and waits that are cancelled."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from smtp_sts.net.places import Places, fair_share

KEYS = st.sampled_from(["a", "b", "c", "d"])


class Pool(RuleBasedStateMachine):
    """Any history of waits, cancels and releases, against what is promised."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        #: those who wait, in the order in which they came, and those who have a place
        self.waiting: list[tuple[str, asyncio.Task[None]]] = []
        self.holding: list[str] = []
        #: key -> places that others were given while it waited with its share not full, by key
        self.passed: dict[str, Counter[str]] = {}

    @initialize(total=st.integers(1, 6), share=st.integers(1, 4))
    def start(self, total: int, share: int) -> None:
        self.places = Places(total, share)

    def _settle(self) -> None:
        """Let every task run, and see who has got a place."""
        before = {key for key, _ in self.waiting if self.holding.count(key) < self.places.share}
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.run_until_complete(asyncio.sleep(0))
        given: list[str] = []
        for key in dict.fromkeys(key for key, _ in self.waiting):
            line = [task for k, task in self.waiting if k == key]
            done = [task.done() for task in line]
            assert done == sorted(done, reverse=True), "in order under one key"
            given += [key] * sum(done)
        self.waiting = [(key, task) for key, task in self.waiting if not task.done()]
        self.holding += given
        still = {key for key, _ in self.waiting} & before
        for key in still - set(given):
            self.passed.setdefault(key, Counter()).update(given)
        self.passed = {key: seen for key, seen in self.passed.items() if key in still - set(given)}

    @rule(key=KEYS)
    def wait(self, key: str) -> None:
        self.waiting.append((key, self.loop.create_task(self.places.wait(key))))
        self._settle()

    @rule(key=KEYS)
    def take(self, key: str) -> None:
        free = len(self.holding) < self.places.total
        mine = self.holding.count(key) < self.places.share
        assert self.places.take(key) == (free and mine)  # nobody waits where both hold: see below
        if free and mine:
            self.holding.append(key)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.holding:
            key = self.holding.pop(data.draw(st.integers(0, len(self.holding) - 1)))
            self.places.release(key)
            self._settle()

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.waiting:
            _, task = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
            task.cancel()
            self._settle()
            assert task.cancelled()

    @rule(data=st.data(), first=st.booleans())
    def release_and_cancel_at_once(self, data: st.DataObject, first: bool) -> None:
        """Who is given a place and cancelled in the same moment has it passed on."""
        if self.holding and self.waiting:
            key = self.holding.pop(data.draw(st.integers(0, len(self.holding) - 1)))
            _, task = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
            if first:
                task.cancel()
            self.places.release(key)
            if not first:
                task.cancel()
            self._settle()
            assert task.cancelled()

    @invariant()
    def bounds_hold(self) -> None:
        if not hasattr(self, "places"):
            return
        held = Counter(self.holding)
        assert self.places.taken == len(self.holding) <= self.places.total
        assert max(held.values(), default=0) <= self.places.share
        assert {key: self.places.held(key) for key in "abcd" if self.places.held(key)} == held
        assert self.places.waiting == len(self.waiting)

    @invariant()
    def no_place_is_idle_while_somebody_may_have_it(self) -> None:
        if hasattr(self, "places") and len(self.holding) < self.places.total:
            for key, _ in self.waiting:
                assert self.holding.count(key) == self.places.share

    @invariant()
    def each_key_has_its_turn(self) -> None:
        for seen in self.passed.values():
            assert max(seen.values(), default=0) <= 1

    def teardown(self) -> None:
        for _, task in self.waiting:
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_stranger_who_asks_for_all_of_it_leaves_the_rest_to_others() -> None:
    async def run() -> None:
        places = Places(20)
        assert places.share == fair_share(20) == 2
        greedy = [asyncio.ensure_future(places.wait("mallory.example")) for _ in range(5000)]
        await asyncio.sleep(0)
        assert places.taken == 2
        async with asyncio.timeout(1), places.of("bob.example"):
            assert places.held("bob.example") == 1
        for task in greedy:
            task.cancel()
        done = await asyncio.gather(*greedy, return_exceptions=True)
        assert sum(result is None for result in done) == 2
        assert places.waiting == 0

    asyncio.run(run())


def test_a_place_is_given_back_whatever_ends_the_block() -> None:
    async def run() -> None:
        places = Places(1)
        with pytest.raises(RuntimeError):
            async with places.of("a"):
                raise RuntimeError
        assert places.taken == 0

    asyncio.run(run())


def test_many_keys_that_wait_cost_little() -> None:
    """A place is given in a time that does not grow with the number of those who wait."""

    async def run() -> None:
        places = Places(100, 10)
        keys = [f"{n}.example" for n in range(20_000)]
        tasks = [asyncio.ensure_future(places.wait(key)) for key in keys]
        await asyncio.sleep(0)
        began = time.process_time()
        for key in keys:
            places.release(key)
        await asyncio.gather(*tasks)
        assert (places.taken, places.waiting) == (0, 0)
        assert time.process_time() - began < 2.0  # 0.1 s

    asyncio.run(run())


@pytest.mark.parametrize(("total", "share"), [(0, 1), (1, 0), (-1, None)])
def test_a_pool_without_places_is_refused(total: int, share: int | None) -> None:
    with pytest.raises(ValueError):
        Places(total, share)
