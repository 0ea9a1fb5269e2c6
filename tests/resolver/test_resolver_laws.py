"""The decision and the cache: the laws of the design that need a clock that can be moved.

What can be seen from outside is in the lab's scenarios (src/smtp_sts/lab/scenarios.toml).
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from smtp_sts.config import Override, PolicySection
from smtp_sts.lab.policyhost import Page
from smtp_sts.lab.world import World
from smtp_sts.policy import Dialect
from smtp_sts.resolver import keeper, memory, overrides
from smtp_sts.store import Stored, open_store

from .scene import HOST, TXT, Scene, scene


def test_law_2_an_unchanged_id_does_not_prolong_a_policy(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path) as s:
            await s.world.publish("bob.example", max_age=1000)
            first = await s.decide()
            for _ in range(3):
                await s.recheck()
                again = await s.decide()
                assert again.expires_at == first.expires_at
                assert again.valid_until <= (first.expires_at or 0)
            assert s.fetches == 1
            s.world.policy_hosts.pages[HOST] = Page(b"", status=500)
            s.clock.now = (first.expires_at or 0) + 0.001
            decision = await s.decide()
            assert (decision.outcome, decision.reason) == ("no-policy", "sts-policy-fetch-error")

    asyncio.run(play())


def test_law_2_a_restart_does_not_prolong_a_policy(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path) as s:
            await s.world.publish("bob.example", max_age=1000)
            first = await s.decide()
            s.clock.now += 900
            await s.restart()
            again = await s.decide()
            assert (again.outcome, again.source) == ("enforce", "cache")
            assert again.expires_at == first.expires_at

    asyncio.run(play())


def test_law_1_a_policy_of_the_largest_size_survives_a_restart(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path) as s:
            await s.world.publish("bob.example")
            body = b"version:STSv1\nmode:enforce\nmax_age:9999\n"
            body += b"".join(b"mx:%x.cd\n" % n for n in range(5900))
            s.world.policy_hosts.pages[HOST] = Page(body)
            first = await s.decide()
            assert len(first.policy.mx if first.policy else ()) == 5900
            await s.restart()
            assert (await s.decide()).policy == first.policy

    asyncio.run(play())


def test_law_7_large_policies_do_not_fill_the_memory_and_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is forgotten for want of room is read again from the store."""
    monkeypatch.setattr(memory, "STATES_BYTES", 2_000_000)
    mx = "".join(f"mx: {n:x}.cd\r\n" for n in range(5000))
    body = f"version: STSv1\r\nmode: enforce\r\n{mx}max_age: 9999\r\n"

    async def play() -> None:
        async with scene(tmp_path, dane=False) as s:
            now = s.clock.now
            for n in range(30):
                row = Stored(f"d{n}.example", "1", body, now, now + 9999, now + 999, now)
                await s.keeper.put(row)
            for n in range(30):
                assert (await s.resolver.decide(f"d{n}.example")).outcome == "enforce"
            await s.settled()
            assert 1 <= s.resolver.states <= 6
            assert sum(domain.weight for domain in s.resolver.memory) <= 2_000_000
            assert (await s.resolver.decide("d0.example")).outcome == "enforce"
            await s.resolver.purge("d0.example", now)
            await s.settled()
            assert s.resolver.memory.weight == sum(domain.weight for domain in s.resolver.memory)

    asyncio.run(play())


def test_a_successful_refresh_prolongs_a_policy_even_without_dns(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path) as s:
            await s.world.publish("bob.example", max_age=1000)
            first = await s.decide()
            s.clock.now += 500
            s.world.names.drop(TXT, "TXT")  # section 10.2: regardless of the TXT record
            await s.resolver.refresh("bob.example")
            assert (await s.decide()).expires_at == (first.expires_at or 0) + 500

    asyncio.run(play())


def test_law_4_a_domain_without_a_policy_is_let_through(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path, dane=False) as s:
            decision = await s.decide()
            assert (decision.outcome, decision.reason) == ("no-policy", "no-record")
            assert decision.valid_until == s.clock.now + 1800
            assert (await s.decide()).source == "cache"
            s.world.names.spoil("_mta-sts.eve.example", "servfail")
            decision = await s.resolver.decide("eve.example")
            assert (decision.outcome, decision.reason) == ("no-policy", "dns-error")
            assert decision.valid_until == s.clock.now + 60
            assert s.counts["no-record"] == s.counts["dns-error"] == 1

    asyncio.run(play())


def test_law_6_an_answer_does_not_wait_for_a_slow_policy_host(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path, answer_timeout=0.2) as s:
            await s.world.publish("bob.example")
            good = s.world.policy_hosts.pages[HOST]
            s.world.policy_hosts.pages[HOST] = Page(b"", manner="silence")
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert (await s.decide()).reason == "discovery-timeout"
            assert loop.time() - began < 1.0
            began = loop.time()
            assert (await s.decide()).reason == "discovery-timeout"
            assert loop.time() - began < 0.15  # who asks later does not wait again
            await s.settled()
            s.world.policy_hosts.pages[HOST] = good
            s.clock.now += 300
            assert (await s.decide()).outcome == "enforce"

    asyncio.run(play())


def test_section_3_3_no_second_fetch_within_five_minutes(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path) as s:
            await s.world.publish("bob.example")
            s.world.policy_hosts.pages[HOST] = Page(b"", status=500)
            for _ in range(4):
                assert (await s.decide()).reason == "sts-policy-fetch-error"
                assert s.fetches == 1
                s.clock.now += 99
            await s.decide()
            assert s.fetches == 2

    asyncio.run(play())


def test_max_age_zero_applies_once_and_is_not_kept(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path) as s:
            await s.world.publish("bob.example", max_age=0)
            for count in (1, 2):
                decision = await s.decide()
                assert decision.outcome == "enforce"
                assert decision.valid_until <= s.clock.now
                assert s.fetches == count

    asyncio.run(play())


def test_a_store_that_cannot_be_written_loses_no_policy_while_we_run(tmp_path: Path) -> None:
    async def play() -> None:
        async with World() as world:
            (tmp_path / "file").write_text("not a folder")
            s = Scene(world, tmp_path / "file" / "s.db", PolicySection())
            await world.publish("bob.example")
            assert (await s.decide()).outcome == "enforce"
            assert s.counts["store-errors"] >= 1
            assert (await s.decide()).outcome == "enforce"
            await s.stop()

    asyncio.run(play())


def test_law_1_a_store_that_could_not_be_read_is_read_again(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path) as s:
            await s.world.publish("bob.example")
            assert (await s.decide()).outcome == "enforce"
            await s.stop()
            s.world.names.spoil(TXT, "servfail")
            with closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as other:
                other.execute("PRAGMA locking_mode=EXCLUSIVE")
                other.execute("BEGIN EXCLUSIVE")
                s.start()
                decision = await s.decide()
                assert decision.outcome == "no-policy"
                assert decision.valid_until == 0.0  # not to be kept by anybody
                assert s.counts["store-late"] == 1
            s.keeper._next_try = 0.0  # thirty seconds later
            assert (await s.decide()).outcome == "enforce"
            assert s.fetches == 1

    asyncio.run(play())


def test_a_rule_of_the_operators_rules_and_leaves_the_policy_alone(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path) as s:
            await s.world.publish("bob.example")
            assert (await s.decide()).outcome == "enforce"
            s.rules = overrides.read({".example": Override(off=True)})
            await s.restart()
            decision = await s.decide()
            assert (decision.outcome, decision.reason) == ("no-policy", "override")
            assert decision.valid_until == s.clock.now + overrides.VALID_SECONDS
            s.rules = {}
            await s.restart()
            decision = await s.decide()
            assert (decision.outcome, decision.source) == ("enforce", "cache")
            assert s.fetches == 1

    asyncio.run(play())


def test_policies_that_the_store_refuses_are_bounded_by_bytes_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "UNSAVED_BYTES", 10_000)

    async def play() -> None:
        (tmp_path / "file").write_text("not a folder")
        async with World() as world:
            s = Scene(world, tmp_path / "file" / "s.db", PolicySection())
            now = s.clock.now
            for n in range(15):
                await s.keeper.put(Stored(f"d{n}", "1", "x" * 1000, now, now + 9, now + 9, now))
            assert (s.keeper.unsaved, s.counts["store-dropped"]) == (10, 5)
            assert await s.keeper.get("d14") is not None
            await s.stop()

    asyncio.run(play())


def test_law_1_a_clock_that_is_set_back_neither_loses_nor_freezes_anything(tmp_path: Path) -> None:
    """What was fetched by a clock that was a year ahead protects, is fetched anew at once, and the
    later fetch lasts though its time is the earlier one."""

    async def play() -> None:
        async with scene(tmp_path, dane=False) as s:
            year = 365 * 86400.0
            s.clock.now = time.time() + year
            await s.world.publish("bob.example")
            assert (await s.decide()).outcome == "enforce"
            assert (await s.resolver.decide("none.example")).reason == "no-record"
            s.clock.now -= year
            s.resolver.clock_set(-year)
            await s.world.publish("none.example")
            s.clock.now += PolicySection().negative_ttl
            # "No policy" is remembered no longer than before.
            assert (await s.resolver.decide("none.example")).outcome == "enforce"
            assert (await s.decide()).outcome == "enforce"
            await s.settled()
            assert s.fetches == 2
            assert (await s.decide()).fetched_at == s.clock.now
            await s.restart()
            decision = await s.decide()
            assert (decision.outcome, decision.fetched_at) == ("enforce", s.clock.now)

    asyncio.run(play())


def test_law_1_a_policy_that_seemed_to_be_expired_is_in_force_by_the_right_time(
    tmp_path: Path,
) -> None:
    async def play() -> None:
        async with scene(tmp_path, dane=False) as s:
            await s.world.publish("bob.example", max_age=1000)
            assert (await s.decide()).outcome == "enforce"
            s.world.names.spoil(TXT, "servfail")
            s.clock.now += 86400
            s.resolver.clock_set(86400)
            assert (await s.decide()).outcome == "no-policy"
            s.clock.now -= 86400
            s.resolver.clock_set(-86400)
            assert (await s.decide()).outcome == "enforce"

    asyncio.run(play())


@pytest.mark.parametrize("how", ["deleted", "replaced", "garbage"])
def test_law_1_a_store_that_is_deleted_or_replaced_underneath_gets_its_policies_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(keeper, "LOOK_SECONDS", 0.0)

    async def play() -> None:
        async with scene(tmp_path, dane=False) as s:
            for domain in ("bob.example", "carol.example"):
                await s.world.publish(domain)
                assert (await s.resolver.decide(domain)).outcome == "enforce"
            path = tmp_path / "s.db"
            if how == "deleted":
                for file in tmp_path.glob("s.db*"):
                    file.unlink()
            else:
                other = tmp_path / "other.db"
                if how == "garbage":
                    other.write_bytes(b"garbage" * 1000)
                else:
                    open_store(f"sqlite:///{other}").close()
                other.rename(path)
            await s.world.publish("dave.example")
            assert (await s.resolver.decide("dave.example")).outcome == "enforce"
            await s.keeper.put(Stored("x.example", "1", "", 1.0, 2.0, 3.0, 4.0))  # and those before
            assert s.counts["store-replaced"] == 1
            await s.stop()
            for name in ("bob", "carol", "dave"):
                s.world.names.spoil(f"_mta-sts.{name}.example", "servfail")
            s.start()
            for name in ("bob", "carol", "dave"):
                decision = await s.resolver.decide(f"{name}.example")
                assert (decision.outcome, decision.source) == ("enforce", "cache"), name

    asyncio.run(play())


@pytest.mark.parametrize("dialects", [(), ("rfc8461", "draft00")])
def test_law_1_what_is_kept_can_be_told_without_the_network(
    tmp_path: Path, dialects: tuple[Dialect, ...]
) -> None:
    async def play() -> None:
        async with scene(tmp_path, dialects=dialects) as s:
            assert s.resolver.known("bob.example") is None
            assert await s.resolver.recall("bob.example") is None
            await s.world.publish("bob.example", max_age=1000)
            kept = await s.decide() if not await s.resolver.recall("bob.example") else None
            assert kept is not None
            await s.restart()
            s.world.names.spoil("bob.example", "servfail")
            assert s.resolver.known("bob.example") is None  # not in memory
            for told in (await s.resolver.recall("bob.example"), s.resolver.known("bob.example")):
                assert told is not None
                assert (told.outcome, told.policy) == ("enforce", kept.policy)
            s.clock.now += 1001
            assert await s.resolver.recall("bob.example") is None  # law 2

    asyncio.run(play())
