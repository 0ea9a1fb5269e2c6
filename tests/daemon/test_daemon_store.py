"""The daemon and its store in bad days: it goes on, says why, and no cached policy is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from smtp_sts.config import UnixAddress
from smtp_sts.lab.policyhost import Page
from smtp_sts.lab.world import World
from smtp_sts.mta.client import ask
from smtp_sts.resolver import Keeper, keeper
from smtp_sts.store import Stored, open_store

from .process import daemon, told, workers_of

SECURE = "OK secure match=mx.{} servername=hostname"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    mount("-t", "tmpfs", "-o", "size=400k", "tmpfs", str(path))
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def mount(*arguments: str) -> None:
    run = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if run.returncode:
        pytest.skip(f"a file system must be mounted: {run.stderr.strip()}")


def read_only(disk: Path) -> None:
    mount("-o", "remount,ro", str(disk))


def full(disk: Path) -> None:
    with (disk / "filling").open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def room_again(disk: Path) -> None:
    mount("-o", "remount,rw", str(disk))
    (disk / "filling").unlink(missing_ok=True)


def attack(world: World, domain: str) -> None:
    world.names.spoil(f"_mta-sts.{domain}", "nxdomain")
    world.policy_hosts.pages[f"mta-sts.{domain}"] = Page(b"", status=404)


@pytest.mark.parametrize(
    ("trouble", "killed", "says"),
    [
        (read_only, False, "make the file and its folder writable"),
        (read_only, True, "make the file and its folder writable"),
        (full, False, "free space"),
        (full, True, ""),  # the log of before is there, with room for a few more
    ],
)
def test_law_1_a_cached_policy_outlives_a_disk_that_takes_no_more(
    disk: Path, trouble: Callable[[Path], None], killed: bool, says: str
) -> None:
    async def play() -> None:
        async with World() as world:
            for domain in ("bob.example", "carol.example"):
                await world.publish(domain)
            config = world.config_toml(
                policy={"listen": f"unix:{world.socket_path}", "workers": 2},
                store={"url": f"sqlite:///{disk}/s.db"},
            )
            address = UnixAddress(str(world.socket_path))
            with daemon(config, world.socket_path) as process:
                assert await ask(address, "postfix", "bob.example") == SECURE.format("bob.example")
                for pid in [*workers_of(process), process.pid] if killed else []:
                    os.kill(pid, signal.SIGKILL)
            if not killed:  # two workers that end at once may leave the log, which has room
                open_store(f"sqlite:///{disk}/s.db").close()
                assert not (disk / "s.db-wal").exists()
            trouble(disk)
            attack(world, "bob.example")
            with daemon(config, world.socket_path) as process:
                for _ in range(2):
                    for domain in ("bob.example", "carol.example"):
                        assert await ask(address, "postfix", domain) == SECURE.format(domain)
                assert await ask(address, "postfix", "dave.example") == "NOTFOUND "
                assert world.policy_hosts.fetches["mta-sts.carol.example"] == 1
                log = told(process)
            assert says in log, log
            assert "Traceback" not in log, log

    asyncio.run(play())


def test_a_store_of_a_newer_version_is_left_as_it_is_and_the_daemon_goes_on() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            config = world.config_toml()
            file = world.home / "policies.db"
            address = UnixAddress(str(world.socket_path))
            with daemon(config, world.socket_path):
                assert await ask(address, "postfix", "bob.example") == SECURE.format("bob.example")
            with closing(sqlite3.connect(file)) as raw:
                raw.execute("PRAGMA user_version=99")
            before = file.read_bytes()
            with daemon(config, world.socket_path) as process:
                # What the store holds is not known, so the network is asked.
                assert await ask(address, "postfix", "bob.example") == SECURE.format("bob.example")
                log = told(process)
            assert "written by a newer smtp-sts" in log, log
            assert "Traceback" not in log, log
            assert file.read_bytes() == before

    asyncio.run(play())


@pytest.mark.parametrize("trouble", [read_only, full])
def test_what_the_disk_refused_is_written_when_it_takes_more(
    disk: Path, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[Path], None]
) -> None:
    url = f"sqlite:///{disk}/s.db"
    monkeypatch.setattr(keeper, "RETRY_SECONDS", 0.05)

    async def play() -> None:
        counts: dict[str, int] = {}
        kept = Keeper(url, counts)
        try:
            await kept.put(stored("new.example"))
            assert counts["store-errors"] == 1
            assert await kept.get("old.example") == stored("old.example")
            assert await kept.get("new.example") == stored("new.example")
            room_again(disk)
            await asyncio.sleep(0.1)
            await kept.put(stored("third.example"))
        finally:
            await kept.close()

    store = open_store(url)
    store.put([stored("old.example")])
    store.close()
    trouble(disk)
    asyncio.run(play())
    assert kept_in(url) == {"old.example", "new.example", "third.example"}


def test_a_disk_that_fills_up_and_is_cleared_loses_no_policy(disk: Path) -> None:
    url = f"sqlite:///{disk}/s.db"
    large = msgspec.structs.replace(stored("new.example"), body="x" * 100_000)

    async def play() -> None:
        counts: dict[str, int] = {}
        kept = Keeper(url, counts)
        try:
            await kept.put(stored("old.example"))
            full(disk)
            await kept.put(large)
            assert counts["store-errors"] == 1
            assert await kept.get("old.example") == stored("old.example")
            assert await kept.get("new.example") == large
            room_again(disk)
            await kept.put(stored("third.example"))
        finally:
            await kept.close()

    asyncio.run(play())
    assert kept_in(url) == {"old.example", "new.example", "third.example"}


def kept_in(url: str) -> set[str]:
    store = open_store(url)
    found = store.get(["old.example", "new.example", "third.example"])
    store.close()
    return set(found)


def stored(domain: str) -> Stored:
    return Stored(domain, "1", "version: STSv1\r\n", 1000.0, 2000.0, 1500.0, 1000.0)
