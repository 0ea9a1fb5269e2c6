"""Laws 1 and 6 beside strangers' texts of the largest size: none is read where answers are given.

Each test plays twice of what once made a cached answer two seconds late, from the start of the
daemon on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smtp_sts.config import UnixAddress
from smtp_sts.lab.world import World
from smtp_sts.mta.client import ask
from smtp_sts.store import Stored, open_store

from ..store.cluster import Cluster, cluster
from .asking import asking, prompt
from .large_records import large_records
from .process import daemon
from .test_strangers_tls import keep

pytestmark = pytest.mark.alone

KEPT = [f"k{n}.example" for n in range(300)]
RECORDS = 400
POLICIES = 480
SECONDS = 8.0


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


async def _ask_for(path: Path, domains: list[str]) -> None:
    address = UnixAddress(str(path))
    places = asyncio.Semaphore(100)

    async def one(domain: str) -> None:
        async with places:
            await ask(address, "postfix", domain)

    await asyncio.gather(*(one(domain) for domain in domains))


def _right(figures: dict[str, Any]) -> None:
    assert figures["wrong"] == []
    assert prompt(figures), figures


async def beside_records() -> dict[str, Any]:
    async with World() as world:
        keep(f"sqlite:///{world.home / 'policies.db'}", KEPT)
        with large_records() as port:
            config = world.config_toml(
                policy={
                    "listen": f"unix:{world.socket_path}", "workers": 1,
                    "dialects": ["rfc8461", "draft00"],
                },
                dns={"nameservers": [f"127.0.0.1:{port}"]},
                log={"level": "error"},
            )  # fmt: skip
            with (
                daemon(config, world.socket_path),
                asking(world.socket_path, KEPT, SECONDS) as figures,
            ):
                began = time.monotonic()
                strangers = [f"s{n}.example" for n in range(RECORDS)]
                await _ask_for(world.socket_path, strangers)
                figures["strangers"] = time.monotonic() - began
    return figures


def test_laws_1_and_6_kept_policies_are_answered_beside_large_records() -> None:
    _right(asyncio.run(beside_records()))


def large_policies(domains: list[str]) -> list[Stored]:
    now = time.time()
    mx = "".join(f"mx: {n:x}.cd\r\n" for n in range(5900))
    body = f"version: STSv1\r\nmode: enforce\r\n{mx}max_age: 604800\r\n"
    return [Stored(d, "1", body, now, now + 604800, now + 86400, now) for d in domains]


async def beside_policies(server: Cluster) -> dict[str, Any]:
    async with World() as world:
        server.database("large")
        url = server.url("large")
        keep(url, KEPT)
        strangers = [f"s{n}.example" for n in range(POLICIES)]
        policies = large_policies(strangers)
        config = world.config_toml(
            policy={"listen": f"unix:{world.socket_path}", "workers": 1},
            store={"url": url},
            log={"level": "error"},
        )
        with (
            daemon(config, world.socket_path),
            asking(world.socket_path, KEPT, SECONDS) as figures,
        ):
            await _ask_for(world.socket_path, strangers)  # known, and without a policy
            store = open_store(url)
            await asyncio.to_thread(store.put, policies)
            store.close()
            end = time.monotonic() + 20
            address = UnixAddress(str(world.socket_path))
            while (await ask(address, "postfix", strangers[-1])) == "NOTFOUND ":
                assert time.monotonic() < end
                await asyncio.sleep(0.1)
    return figures


def test_laws_1_and_6_kept_policies_are_answered_beside_large_ones_of_a_fleet(
    server: Cluster,
) -> None:
    _right(asyncio.run(beside_policies(server)))
