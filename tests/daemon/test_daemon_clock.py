"""Law 1 on machines whose clock jumps: nothing is destroyed by what it says for a while."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import msgspec
import pytest

from smtp_sts.config import UnixAddress
from smtp_sts.lab import clock
from smtp_sts.lab.world import World, policy_text
from smtp_sts.mta.client import ask
from smtp_sts.store import EXPIRED_SECONDS, Stored, open_store

from ..real.cannot import cannot
from ..store.old import DAY, watched
from .process import daemon, told, until

NAMES = [f"d{n}.example" for n in range(20)]


def stored(domain: str, **changes: float) -> Stored:
    now = time.time()
    times = {
        "fetched_at": now - DAY, "expires_at": now + 6 * DAY, "refresh_at": now + DAY,
        "used_at": now - 10, **changes,
    }  # fmt: skip
    return Stored(domain, "1", policy_text("enforce", [f"mx.{domain}"], 604800).decode(), **times)


def movable(home: Path) -> clock.Clock:
    library = clock.library()
    if library is None:
        cannot(clock.MISSING)
    return clock.Clock(home, library)


@pytest.mark.parametrize("ahead", [45 * DAY, 800 * DAY])
@pytest.mark.parametrize("when", ["at the start", "at SIGHUP"])
def test_law_1_a_clock_that_was_ahead_for_a_moment_deletes_nothing(when: str, ahead: float) -> None:
    """At the start, at a reload (which starts workers anew), and right again."""

    async def play() -> None:
        async with World() as world:
            moved = movable(world.home)
            config = world.config_toml(policy={"workers": 1})
            url = f"sqlite:///{world.home / 'policies.db'}"
            store = open_store(url)
            store.put([stored(name) for name in NAMES])
            watched(url)  # it has been right for days
            address = UnixAddress(str(world.socket_path))
            if when == "at the start":
                moved.move(ahead)
            with daemon(config, world.socket_path, moved.environment) as process:
                if when == "at SIGHUP":
                    moved.move(ahead)
                    os.kill(process.pid, signal.SIGHUP)
                # The clock was read, and whatever is done at the start is done.
                await ask(address, "postfix", NAMES[0])
                await asyncio.sleep(1.0)
                log = told(process)
            assert store.count() == len(NAMES), log
            moved.move(-ahead)
            with daemon(config, world.socket_path, moved.environment):
                for name in NAMES:
                    expected = f"OK secure match=mx.{name} servername=hostname"
                    assert await ask(address, "postfix", name) == expected
            assert world.policy_hosts.fetches == {}
            store.close()

    asyncio.run(play())


def test_what_is_expired_for_long_is_deleted_and_what_nobody_asks_for_is_not_refreshed() -> None:
    now = time.time()

    async def play() -> None:
        async with World() as world:
            await world.publish("due.example")
            await world.publish("unused.example")
            config = world.config_toml(policy={"workers": 2, "unused_days": 1})
            url = f"sqlite:///{world.home / 'policies.db'}"
            store = open_store(url)
            kept = [
                stored("due.example", refresh_at=now - 1),
                stored("unused.example", refresh_at=now - 1, used_at=now - 1.1 * DAY),
                stored("expired.example", expires_at=now - 1),
                stored("old.example", expires_at=now - EXPIRED_SECONDS - 1.5 * DAY),
            ]
            store.put(kept)
            names = [one.domain for one in kept]
            with daemon(config, world.socket_path) as process:
                await asyncio.to_thread(
                    until, lambda: store.get(names)["due.example"].fetched_at > now - 1
                )
                assert set(store.get(names)) == set(names)  # nothing is certain yet
                told(process)
            watched(url)
            with daemon(config, world.socket_path) as process:
                await asyncio.to_thread(until, lambda: "old.example" not in store.get(names))
                assert "deleted 1 policies" in told(process)
            found = store.get(names)
            assert set(found) == {*names} - {"old.example"}
            assert found["due.example"].used_at == kept[0].used_at  # a refresh is no use
            assert found["unused.example"] == kept[1]  # in force, to its end
            assert world.policy_hosts.fetches == {"mta-sts.due.example": 1}
            store.close()

    asyncio.run(play())


def test_a_full_store_says_so_and_makes_room_of_what_nobody_asks_for() -> None:
    now = time.time()

    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            await world.publish("carol.example")
            config = world.config_toml(
                policy={"workers": 1, "unused_days": 30}, store={"max_megabytes": 1}
            )
            url = f"sqlite:///{world.home / 'policies.db'}"
            store = open_store(url)
            big = "x" * 60_000
            store.put(
                [
                    msgspec.structs.replace(stored(f"s{n}.example", **times), body=big)
                    for n, times in enumerate([{}] * 12 + [{"used_at": now - 40 * DAY}] * 6)
                ]
            )
            assert store.size() > 1 << 20
            address = UnixAddress(str(world.socket_path))
            secure = "OK secure match=mx.{0} servername=hostname"
            with daemon(config, world.socket_path) as process:
                answer = await ask(address, "postfix", "bob.example")
                assert answer == secure.format("bob.example")
                log = told(process)
            assert "store is full" in log, log
            assert "store-full 1" in log, log
            assert store.get(["bob.example"]) == {}
            assert store.count() == 18
            watched(url)
            with daemon(config, world.socket_path) as process:
                await asyncio.to_thread(until, lambda: store.count() < 18)
                answer = await ask(address, "postfix", "carol.example")
                assert answer == secure.format("carol.example")
                log = told(process)
            assert set(store.get(["carol.example"])) == {"carol.example"}
            names = [f"s{n}.example" for n in range(12)]
            assert set(store.get(names)) == set(names)  # somebody asks for these
            store.close()

    asyncio.run(play())
