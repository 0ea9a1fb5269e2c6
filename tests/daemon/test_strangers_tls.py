"""Laws 1 and 6 beside strangers' TLS servers that make their clients compute what they can."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from smtp_sts.config import UnixAddress
from smtp_sts.lab.world import World, policy_text
from smtp_sts.mta.client import ask
from smtp_sts.store import Stored, open_store

from ..net import hostile
from .asking import asking, expected, prompt
from .process import daemon

pytestmark = pytest.mark.alone

#: Domains of strangers, and addresses of each: as many as are tried, of IPv4 and of IPv6.
DOMAINS = 20
ADDRESSES = 8
KINDS = ["dhe", "retry", "1.3:ffdhe8192", "chain", "records"]
KEPT = 300


def keep(url: str, domains: list[str]) -> None:
    """Unexpired enforce policies, as a daemon that was ended has left them."""
    now = time.time()
    store = open_store(url)
    bodies = [policy_text("enforce", [f"mx.{domain}"], 604800).decode() for domain in domains]
    store.put(
        [
            Stored(domain, "1", body, now, now + 604800, now + 86400, now)
            for domain, body in zip(domains, bodies, strict=True)
        ]
    )
    store.close()


async def beside(kept: int, seconds: float) -> dict[str, Any]:
    """The figures of who asks for kept policies, from the start of a daemon on, beside it all."""
    strangers = [f"e{n}.example" for n in range(DOMAINS)]
    hosts = [f"mta-sts.{domain}" for domain in strangers]
    places = {
        f"127.0.{20 + n}.{1 + number}": kind
        for n, kind in enumerate(KINDS)
        for number in range(ADDRESSES)
    }
    async with World() as world:
        await world.publish("bob.example")
        for n, (domain, host) in enumerate(zip(strangers, hosts, strict=True)):
            mine = [at for at, kind in places.items() if kind == KINDS[n % len(KINDS)]]
            world.names.put(f"_mta-sts.{domain}", "TXT", '"v=STSv1; id=1;"')
            world.names.put(host, "A", *mine)
            world.names.put(host, "AAAA", *(f"::ffff:{at}" for at in mine))
        hostile.prepare(world.authority, hosts, world.home)
        url = f"sqlite:///{world.home / 'policies.db'}"
        domains = [f"k{n}.example" for n in range(kept)]
        keep(url, domains)
        config = world.config_toml(policy={"listen": f"unix:{world.socket_path}", "workers": 2})
        address = UnixAddress(str(world.socket_path))
        with (
            hostile.servers(world.home, places, world.https_port),
            daemon(config, world.socket_path),
            asking(world.socket_path, domains, seconds) as figures,
        ):
            began = time.monotonic()
            asked = asyncio.gather(*(ask(address, "postfix", one) for one in strangers))
            await asyncio.sleep(0.3)
            # Who is new beside them is found as ever.
            assert await ask(address, "postfix", "bob.example") == expected("bob.example")
            assert time.monotonic() - began < 3
            assert {answer.partition(" ")[0] for answer in await asked} <= {"NOTFOUND", "OK"}
            assert time.monotonic() - began < 6
            await asyncio.sleep(max(0.0, seconds - (time.monotonic() - began)))
        return figures


def test_laws_1_and_6_kept_policies_are_answered_beside_strangers_handshakes() -> None:
    figures = asyncio.run(beside(KEPT, 6.0))
    assert figures["wrong"] == []
    assert prompt(figures), figures
