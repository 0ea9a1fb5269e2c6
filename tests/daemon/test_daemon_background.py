"""What the daemon does by itself: policies are fetched anew."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from smtp_sts.config import Config, UnixAddress
from smtp_sts.daemon import background
from smtp_sts.lab.policyhost import Page
from smtp_sts.lab.world import World, policy_text
from smtp_sts.mta.client import ask
from smtp_sts.resolver import Keeper
from smtp_sts.store import Stored, open_store

from .process import daemon, until

HOST = "mta-sts.bob.example"
SECURE = "OK secure match=mx.bob.example servername=hostname"
DAY = 86400.0


def test_a_policy_is_fetched_anew_though_nobody_asks() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            config = world.config_toml(policy={"workers": 2, "refresh_interval": 1})
            address = UnixAddress(str(world.socket_path))
            with daemon(config, world.socket_path):
                assert await ask(address, "postfix", "bob.example") == SECURE
                # The record is not changed: only the refresh can bring this policy.
                text = policy_text("enforce", ["mx2.bob.example"], 86400)
                world.policy_hosts.pages[HOST] = Page(text)
                async with asyncio.timeout(10):
                    await asyncio.to_thread(until, lambda: world.policy_hosts.fetches[HOST] > 1, 9)
                await asyncio.sleep(0.3)
                # And the ready replies of all workers are void.
                for _ in range(8):
                    reply = await ask(address, "postfix", "bob.example")
                    assert reply == SECURE.replace("mx.", "mx2.")

    asyncio.run(play())


def test_policy_hosts_that_are_silent_do_not_keep_others_from_being_refreshed() -> None:
    """After a long stop everything is due. One that is silent takes a minute; here the 30 that wait
    longest are, and they are asked once, not again with each look."""
    now = time.time()
    silent = [f"silent{n}.example" for n in range(30)]
    good = [f"good{n}.example" for n in range(10)]

    async def play() -> None:
        async with World() as world:
            config = world.config_toml(policy={"workers": 2})
            rows = []
            for n, domain in enumerate([*silent, *good]):
                text = policy_text("enforce", [f"mx.{domain}"], 1_000_000)
                world.names.put(f"_mta-sts.{domain}", "TXT", '"v=STSv1; id=1;"')
                world.names.put(f"mta-sts.{domain}", "A", "127.0.0.1")
                page = Page(text, manner="silence" if domain in silent else "plain")
                world.policy_hosts.pages[f"mta-sts.{domain}"] = page
                rows.append(
                    Stored(domain, "1", text.decode(), now - 9 * DAY, now + DAY, now - 99 + n, now)
                )
            url = f"sqlite:///{world.home / 'policies.db'}"
            store = open_store(url)
            store.put(rows)
            with daemon(config, world.socket_path):
                await asyncio.to_thread(
                    until,
                    lambda: all(row.fetched_at > now - 1 for row in store.get(good).values()),
                    20,
                )
                assert all(row.fetched_at < now - DAY for row in store.get(silent).values())
                await asyncio.sleep(6)  # one more look
            store.close()
            asked = [world.policy_hosts.handshakes[f"mta-sts.{domain}"] for domain in silent]
            assert asked == [1] * len(silent)

    asyncio.run(play())


class _Hanging:
    """Refreshes as peers do them, where mallory's policy hosts accept and never say a word."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.others = asyncio.Event()

    async def refresh(self, domain: str) -> None:
        self.begun.append(domain)
        if domain.endswith("mallory.example"):
            await asyncio.sleep(60)
        self.others.set()


def test_law_2_a_strangers_silent_policy_hosts_hold_up_no_others_refresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than there are places, all due before bob's policy."""
    now = time.time()

    def stored(domain: str, refresh_at: float) -> Stored:
        text = policy_text("enforce", [f"mx.{domain}"], 86400).decode()
        return Stored(domain, "1", text, now - 3600, now + DAY, refresh_at, now - 10)

    async def play() -> None:
        monkeypatch.setattr(background, "PARALLEL", 20)
        url = f"sqlite:///{tmp_path / 'policies.db'}"
        store = open_store(url)
        store.put([stored(f"d{n}.mallory.example", now - 100) for n in range(150)])
        store.put([stored("bob.example", now - 1)])
        store.close()
        keeper, peers = Keeper(url, {}), _Hanging()
        await keeper.open()
        work = asyncio.create_task(background.refresh(Config(), keeper, peers))  # type: ignore[arg-type]
        try:
            async with asyncio.timeout(8):
                await peers.others.wait()
            assert peers.begun.count("bob.example") == 1
            assert len(peers.begun) <= 1 + 2  # a tenth of the places
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await keeper.close()

    asyncio.run(play())
