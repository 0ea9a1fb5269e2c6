"""Law 1 where the disk of the store hangs: what it has is read, and what cannot be is looked for.

A real disk that hangs: a file system of its own that is frozen (fsfreeze(8)), so that every write
to it sleeps until it is thawed. Needs root.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from smtp_sts.config import UnixAddress
from smtp_sts.lab.policyhost import Page
from smtp_sts.lab.world import World
from smtp_sts.mta.client import ask

from .asking import expected
from .process import daemon, until
from .test_strangers_tls import keep

#: Asked for before the disk hangs, only kept on it, and not known.
KNOWN, KEPT, NEW = "known.example", [f"kept{n}.example" for n in range(20)], "new.example"


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a file system must be made and mounted: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    image, path = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    path.mkdir()
    run("/sbin/mkfs.ext4", "-q", "-O", "^has_journal", str(image))
    run("mount", "-o", "loop", str(image), str(path))
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


@contextmanager
def hung(disk: Path) -> Iterator[None]:
    run("fsfreeze", "-f", str(disk))
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "-u", str(disk)], check=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_law_1_what_is_on_a_disk_that_hangs_is_answered_by(disk: Path, workers: int) -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish(KNOWN)
            await world.publish(NEW)
            await world.publish("written.example")
            keep(f"sqlite:///{disk}/s.db", KEPT)
            for domain in KEPT:  # nothing of it can be had but from the disk
                world.names.spoil(f"_mta-sts.{domain}", "timeout")
                world.policy_hosts.pages[f"mta-sts.{domain}"] = Page(b"", status=404)
            config = world.config_toml(
                policy={"listen": f"unix:{world.socket_path}", "workers": workers},
                store={"url": f"sqlite:///{disk}/s.db"},
            )
            address = UnixAddress(str(world.socket_path))

            async def right(*domains: str) -> float:
                """Seconds until all were answered."""
                began = time.monotonic()
                answers = await asyncio.gather(*(ask(address, "postfix", d) for d in domains))
                assert list(answers) == [expected(domain) for domain in domains]
                return time.monotonic() - began

            with daemon(config, world.socket_path) as process:
                await right(KNOWN)
                await right(*KEPT[:4])  # read behind that write, by every worker
                with hung(disk):
                    # The write of this policy sleeps now, and with it whoever writes.
                    assert await right("written.example") < 3
                    assert await right(KNOWN) < 0.5
                    assert await right(*KEPT[4:]) < 4
                    assert await right(NEW) < 4
                    assert await right(KNOWN, *KEPT, NEW) < 0.5
                until(lambda: process.poll() is None)
                await right(KNOWN, *KEPT, NEW)

    asyncio.run(play())
