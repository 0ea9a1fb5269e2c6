"""Run in namespaces of its own: a daemon that names no name servers, and resolv.conf changes."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from smtp_sts.config import UnixAddress
from smtp_sts.lab import apart
from smtp_sts.lab.world import APART, World
from smtp_sts.mta import client

RESOLV_CONF = Path("/etc/resolv.conf")
NOBODY = "nameserver 45.45.0.200\n"


async def main() -> None:
    apart.prepare()
    async with World(place=APART) as world:
        with apart.lead_in(world) as environment:
            RESOLV_CONF.write_text(NOBODY)
            for domain in ("one.example", "two.example", "three.example"):
                await world.publish(domain)
            config = world.home / "daemon.toml"
            config.write_text(
                f'[policy]\nlisten = "unix:{world.socket_path}"\nworkers = 2\n'
                f'[store]\nurl = "sqlite:///{world.home}/s.db"\n[control]\nsocket = ""\n'
            )
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "smtp_sts",
                "--config",
                str(config),
                "serve",
                env=environment,
            )
            try:
                await _until(world.socket_path.exists)
                print("nobody:", await ask(world, "one.example"), flush=True)
                RESOLV_CONF.write_text("search example\nnameserver 127.0.0.1\noptions trust-ad\n")
                await asyncio.sleep(3)
                print("changed:", await ask(world, "two.example"), flush=True)
                RESOLV_CONF.write_text("")
                await asyncio.sleep(3)
                print("emptied:", await ask(world, "three.example"), flush=True)
            finally:
                process.terminate()
                await process.wait()


async def ask(world: World, domain: str) -> str:
    began = time.monotonic()
    reply = await client.ask(UnixAddress(str(world.socket_path)), "postfix", domain)
    assert time.monotonic() - began < 5  # law 6
    return reply


async def _until(there: object) -> None:
    end = time.monotonic() + 10
    while not there():  # type: ignore[operator]
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main())
