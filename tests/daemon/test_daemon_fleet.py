"""Daemons that share a PostgreSQL: one fetch for all, changes seen by all, and a database that goes
away and comes back while they answer."""

from __future__ import annotations

import asyncio
import itertools
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from smtp_sts.config import UnixAddress
from smtp_sts.lab.policyhost import Page
from smtp_sts.lab.world import World, policy_text
from smtp_sts.mta.client import ask
from smtp_sts.store import Stored, open_store

from ..store.cluster import PASSWORD, Cluster, cluster
from .process import COMMAND, daemon, told, until

HOST = "mta-sts.bob.example"
SECURE = "OK secure match={} servername=hostname"
BOB = SECURE.format("mx.bob.example")

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


class Fleet:
    """Daemons in one world with one database."""

    def __init__(self, world: World, server: Cluster, stack: ExitStack) -> None:
        self.world = world
        self.server = server
        self._stack = stack
        self.database = f"fleet{next(_numbers)}"
        server.database(self.database)
        self.url = server.url(self.database)
        self.processes: list[subprocess.Popen[str]] = []
        self.sockets: list[Path] = []

    def start(self, **policy: object) -> int:
        """One more daemon, of two workers; its number."""
        number = len(self.processes)
        path = self.world.home / f"{number}.sock"
        config = self.world.config_toml(
            policy={"listen": f"unix:{path}", "workers": 2, "recheck_interval": 1, **policy},
            store={"url": self.url},
        )
        own = config.rename(self.world.home / f"{number}.toml")
        self.processes.append(self._stack.enter_context(daemon(own, path)))
        self.sockets.append(path)
        return number

    async def ask(self, number: int, domain: str = "bob.example") -> str:
        return await ask(UnixAddress(str(self.sockets[number])), "postfix", domain)

    async def until(self, number: int, reply: str, domain: str = "bob.example",
                    seconds: float = 8.0) -> None:  # fmt: skip
        end = time.monotonic() + seconds
        while (got := await self.ask(number, domain)) != reply:
            assert time.monotonic() < end, got
            await asyncio.sleep(0.1)

    async def kept(self, *domains: str) -> dict[str, Stored]:
        def read() -> dict[str, Stored]:
            store = open_store(self.url)
            try:
                return store.get(domains)
            finally:
                store.close()

        return await asyncio.to_thread(read)


@asynccontextmanager
async def fleet(server: Cluster) -> AsyncIterator[Fleet]:
    async with World() as world:
        with ExitStack() as stack:
            yield Fleet(world, server, stack)


def test_one_fetch_for_the_fleet_however_many_ask_at_once(server: Cluster) -> None:
    async def play() -> bool:
        async with fleet(server) as f:
            domains = [f"d{n}.example" for n in range(10)]
            for domain in domains:
                await f.world.publish(domain)
            for _ in range(3):
                f.start()
            asked = [(n, domain) for domain in domains for n in range(3)]
            got = await asyncio.gather(*(f.ask(n, domain) for n, domain in asked))
            assert list(got) == [SECURE.format(f"mx.{domain}") for _, domain in asked]
            hosts = [f"mta-sts.{domain}" for domain in domains]
            fetches = [f.world.policy_hosts.fetches[host] for host in hosts]
            used = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{f.database}'"
            assert int(server.sql(used)[0]) <= 6  # one a worker
            assert server.sql("SELECT * FROM claims", f.database) == []
            logs = [await asyncio.to_thread(told, process) for process in f.processes]
            # A machine so busy that the database was not waited for (law 4) shows nothing.
            if any("going on from memory" in log for log in logs):
                return False
            assert fetches == [1] * 10
            return True

    assert any(asyncio.run(play()) for _ in range(4))


def test_what_one_finds_is_seen_by_all_though_the_record_does_not_tell(server: Cluster) -> None:
    async def play() -> None:
        async with fleet(server) as f:
            await f.world.publish("bob.example")
            first, second = f.start(recheck_interval=300), f.start(recheck_interval=300)
            assert [await f.ask(first), await f.ask(second)] == [BOB, BOB]
            text = policy_text("enforce", ["mx2.bob.example"], 86400)
            f.world.policy_hosts.pages[HOST] = Page(text)
            # Due for one of them, whichever comes first.
            server.sql("UPDATE policies SET refresh_at = 0", f.database)
            # And a policy where there was none, which would be remembered for half an hour.
            assert await f.ask(second, "carol.example") == "NOTFOUND "
            await f.world.publish("carol.example")
            carol = SECURE.format("mx.carol.example")
            assert await f.ask(first, "carol.example") == carol
            await f.until(second, carol, "carol.example")
            for number in (first, second):
                await f.until(number, SECURE.format("mx2.bob.example"), seconds=12)
            assert f.world.policy_hosts.fetches == {HOST: 2, "mta-sts.carol.example": 1}

    asyncio.run(play())


def test_law_1_a_row_of_an_earlier_fetch_weakens_nothing(server: Cluster) -> None:
    async def play() -> None:
        async with fleet(server) as f:
            number = f.start(recheck_interval=300)
            weak = policy_text("none", [], 86400).decode().replace("\r\n", "\\r\\n")
            mark = "extract(epoch FROM clock_timestamp())"
            # Later, earlier, and with a time that only a wrong clock can have written.
            for domain, change in (("a", "+ 1"), ("b", "- 10"), ("c", "+ 86400")):
                await f.world.publish(f"{domain}.example")
                assert await f.ask(number, f"{domain}.example") != "NOTFOUND "
                server.sql(
                    f"UPDATE policies SET body = E'{weak}', fetched_at = fetched_at {change}, "
                    f"changed_at = {mark} WHERE domain = '{domain}.example'",
                    f.database,
                )
            # Seen by the next look but one at the latest, and so are the others.
            await f.until(number, "NOTFOUND ", "a.example")
            await asyncio.sleep(2.2)
            for domain in ("b.example", "c.example"):
                assert await f.ask(number, domain) == SECURE.format(f"mx.{domain}")

    asyncio.run(play())


def test_a_daemon_that_is_killed_while_it_fetches_holds_nobody_up(server: Cluster) -> None:
    async def play() -> None:
        async with fleet(server) as f:
            await f.world.publish("bob.example")
            good = f.world.policy_hosts.pages[HOST]
            f.world.policy_hosts.pages[HOST] = Page(b"", manner="silence")
            first, second = f.start(), f.start()
            asked = asyncio.ensure_future(f.ask(first))
            claims = "SELECT domain FROM claims"
            await asyncio.to_thread(
                until, lambda: server.sql(claims, f.database) == ["bob.example"]
            )
            f.processes[first].kill()
            f.world.policy_hosts.pages[HOST] = good
            began = time.monotonic()
            assert await f.ask(second) == BOB
            assert time.monotonic() - began < 4.0
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            # And what it has left is over within a minute.
            left = f"SELECT coalesce(max(until), 0) - {time.time()} FROM claims"
            assert float(server.sql(left, f.database)[0]) < 60

    asyncio.run(play())


def test_a_database_that_stops_and_starts_and_a_daemon_that_stops_meanwhile(
    server: Cluster,
) -> None:
    async def play() -> None:
        async with fleet(server) as f:
            for domain in ("bob.example", "carol.example", "dave.example"):
                await f.world.publish(domain)
            first, second = f.start(), f.start()
            assert [await f.ask(first), await f.ask(second)] == [BOB, BOB]
            server.stop()
            try:
                f.world.policy_hosts.pages[HOST] = Page(b"", status=404)  # an attack meanwhile
                f.world.names.spoil("_mta-sts.bob.example", "nxdomain")
                for number in (first, second):
                    for domain in ("bob.example", "carol.example"):
                        began = time.monotonic()
                        reply = await f.ask(number, domain)
                        assert reply == SECURE.format(f"mx.{domain}")
                        assert time.monotonic() - began < 2.0
                third = f.start()  # what the store knows it cannot know yet
                assert await f.ask(third) == "NOTFOUND "
                log = await asyncio.to_thread(told, f.processes[second])
            finally:
                server.start()
            assert "going on from memory" in log, log
            assert "Traceback" not in log, log
            assert PASSWORD not in log
            await f.until(third, BOB)  # law 1: it has asked the store again
            # What was found meanwhile is written, for all.
            end = time.monotonic() + 15
            while set(await f.kept("bob.example", "carol.example")) != {
                "bob.example",
                "carol.example",
            }:
                assert time.monotonic() < end
                await asyncio.sleep(0.2)
            f.world.policy_hosts.pages["mta-sts.carol.example"] = Page(b"", status=404)
            f.world.names.spoil("_mta-sts.carol.example", "nxdomain")
            assert await f.ask(third, "carol.example") == SECURE.format("mx.carol.example")
            assert await f.ask(third, "dave.example") == SECURE.format("mx.dave.example")
            await f.until(first, SECURE.format("mx.dave.example"), "dave.example")
            assert f.world.policy_hosts.fetches["mta-sts.dave.example"] == 1
            log = await asyncio.to_thread(told, f.processes[first])
            assert "the store is back" in log, log

    asyncio.run(play())


class Wire:
    """The network between a daemon and its database, which can be cut so that packets vanish."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._links: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._fill: list[socket.socket] = []

    async def __aenter__(self) -> Wire:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(8)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._taking = asyncio.create_task(self._take())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (self._taking, *self._links):
            task.cancel()
        await asyncio.gather(self._taking, *self._links, return_exceptions=True)
        for sock in (self._listener, *self._fill):
            sock.close()

    async def cut(self) -> None:
        """What is sent is lost from now on; the kernel drops the first packet of a connection."""
        self._open.clear()
        self._taking.cancel()
        self._listener.listen(0)
        for _ in range(2):  # a full backlog takes no SYN, listen(2)
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", self.port))
            self._fill.append(sock)
        await asyncio.sleep(0.05)

    async def _take(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._listener)
            reader, writer = await asyncio.open_connection(sock=sock)
            theirs, ours = await asyncio.open_connection("127.0.0.1", self._target)
            for source, sink in ((reader, ours), (theirs, writer)):
                self._links.add(asyncio.create_task(self._carry(source, sink)))

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self._open.wait()
                sink.write(data)
        finally:
            sink.close()


@pytest.mark.parametrize(
    ("how", "asked"),
    [("packets vanish", 20), ("packets vanish from the start", 8)],
)
def test_law_6_a_database_that_hangs_delays_no_answer(
    server: Cluster, how: str, asked: int
) -> None:
    async def play() -> None:
        async with fleet(server) as f, Wire(server.port) as wire:
            domains = [f"d{n}.example" for n in range(asked)]
            for domain in ("bob.example", *domains):
                await f.world.publish(domain)
            f.url = server.tcp_url(f.database, wire.port)
            if how == "packets vanish from the start":
                await wire.cut()
            began = time.monotonic()
            number = f.start()
            assert time.monotonic() - began < 2.5  # it answers at once
            assert await f.ask(number) == BOB
            if how == "packets vanish":
                await wire.cut()
            slow = []
            for domain in domains:
                began = time.monotonic()
                assert await f.ask(number) == BOB  # a ready reply, or one from memory
                assert time.monotonic() - began < 0.5
                began = time.monotonic()
                assert await f.ask(number, domain) == SECURE.format(f"mx.{domain}")
                slow.append(time.monotonic() - began)
                await asyncio.sleep(0.1)
            # The first to meet the trouble wait for it a little, in each worker.
            assert max(slow) < 4.0
            assert sum(took > 0.5 for took in slow) <= 4, slow
            began = time.monotonic()
            log = await asyncio.to_thread(told, f.processes[number])
            assert time.monotonic() - began < 3.0
            assert "going on from memory" in log, log
            assert "Traceback" not in log, log

    asyncio.run(play())


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://me:sec%zzret@db/x", "write % as %25"),
        ("postgresql://me:secret@127.0.0.1:1/x", "refused"),
    ],
)
def test_config_check_tells_what_is_wrong_without_the_password(
    tmp_path: Path, url: str, says: str
) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f'[store]\nurl = "{url}"\n')
    run = subprocess.run(
        [*COMMAND, "--config", str(config), "config", "check"], capture_output=True, text=True
    )
    assert run.returncode == 2
    assert says in run.stderr
    assert "sec" not in run.stdout + run.stderr


def test_config_check_shows_the_database_and_what_it_holds(server: Cluster, tmp_path: Path) -> None:
    server.database("checked")
    config = tmp_path / "c.toml"
    config.write_text(f'[store]\nurl = "{server.url("checked")}"\n')
    run = subprocess.run(
        [*COMMAND, "--config", str(config), "config", "check"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert f"postgresql://fleet@{server.home}:{server.port}/checked, 0 policies" in run.stdout
    assert PASSWORD not in run.stdout
