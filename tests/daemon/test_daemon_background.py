"""What the daemon does by itself: policies are fetched anew, and those nobody uses are deleted."""

from __future__ import annotations

import asyncio
import time

from smtp_sts.config import UnixAddress
from smtp_sts.lab.policyhost import Page
from smtp_sts.lab.world import World, policy_text
from smtp_sts.mta.client import ask
from smtp_sts.store import Stored, open_store

from .process import daemon, told, until

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


def test_policies_that_are_due_are_fetched_and_unused_ones_deleted_at_the_start() -> None:
    now = time.time()

    def stored(domain: str, **changes: float) -> Stored:
        times = {"expires_at": now + DAY, "refresh_at": now + DAY, "used_at": now - 10, **changes}
        text = policy_text("enforce", [f"mx.{domain}"], 1_000_000).decode()
        return Stored(domain, "1", text, fetched_at=now - 3 * DAY, **times)

    async def play() -> None:
        async with World() as world:
            await world.publish("due.example")
            config = world.config_toml(policy={"workers": 2, "unused_days": 1})
            url = f"sqlite:///{world.home / 'policies.db'}"
            store = open_store(url)
            store.put(
                [
                    stored("due.example", refresh_at=now - 1),
                    stored("unused.example", used_at=now - 1.1 * DAY),
                    stored("expired.example", expires_at=now - 1),
                    stored("used.example", used_at=now - 0.9 * DAY),
                ]
            )
            store.close()
            with daemon(config, world.socket_path) as process:
                store = open_store(url)
                names = [f"{name}.example" for name in ("due", "unused", "expired", "used")]
                await asyncio.to_thread(
                    until, lambda: set(store.get(names)) == {"due.example", "used.example"}
                )
                due = store.get(names)["due.example"]
                assert due.fetched_at > now - 1
                assert due.used_at == now - 10  # a refresh is no use
                store.close()
                log = told(process)
            assert "deleted 2 policies" in log, log
            assert world.policy_hosts.fetches == {"mta-sts.due.example": 1}

    asyncio.run(play())
