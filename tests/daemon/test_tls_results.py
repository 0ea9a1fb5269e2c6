"""TLS results through the daemon: counted once and written, whichever process dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from smtp_sts.config import UnixAddress
from smtp_sts.daemon.reporter import KEPT_DAYS
from smtp_sts.lab.world import World
from smtp_sts.mta.client import ask
from smtp_sts.store import StoreError
from smtp_sts.store.tallies import open_tallies
from smtp_sts.tlsrpt import PolicyResult

from ..store.old import watched
from .process import daemon, told, until, workers_of

RECORD = "v=TLSRPTv1; rua=mailto:r@bob.example"


def datagram(domain: str = "bob.example", *, code: int = 0) -> bytes:
    policy: dict[str, Any] = {
        "policy-type": 2, "policy-domain": domain, "policy-string": ["version: STSv1"],
        "mx-host": [f"mx.{domain}"], "t": 0, "f": int(bool(code)),
    }  # fmt: skip
    if code:
        policy["failure-details"] = [{"c": code, "n": f"mx.{domain}", "r": "192.0.2.2"}]
    return json.dumps({"d": domain, "pr": RECORD, "policies": [policy]}).encode()


def store_of(world: World) -> str:
    return f"sqlite:///{world.home}/reports.db"


def results(world: World, domain: str = "bob.example") -> list[PolicyResult]:
    try:
        tallies = open_tallies(store_of(world))
    except StoreError:
        return []
    try:
        today = int(time.time() // 86400)
        return [r for day in (today - 1, today) for r in tallies.results(day, domain)]
    finally:
        tallies.close()


def counted(world: World, domain: str = "bob.example") -> tuple[int, int]:
    found = results(world, domain)
    return sum(r.successful for r in found), sum(r.failed for r in found)


def configured(world: World, **section: object) -> Path:
    return world.config_toml(
        store={"url": store_of(world)},
        tls_reports={"enabled": True, "deliver": False, **section},
    )


def send(path: Path, *datagrams: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        for one in datagrams:
            out.sendto(one, str(path))


def children(process: subprocess.Popen[str], number: int) -> list[int]:
    """All of the daemon's processes, in the order of their start."""
    until(lambda: len(workers_of(process)) == number, 10)
    return sorted(workers_of(process))


def children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def play(scene: Callable[[World], Any]) -> None:
    async def run() -> None:
        async with World() as world:
            await world.publish("bob.example", mode="enforce", mx=["mx.bob.example"])
            world.names.put("_smtp._tls.bob.example", "TXT", f'"{RECORD}"')
            await scene(world)

    asyncio.run(run())


async def soon(what: Callable[[], object], seconds: float = 10.0) -> None:
    """As `until`, while the world goes on."""
    end = asyncio.get_running_loop().time() + seconds
    while not what():
        assert asyncio.get_running_loop().time() < end, "it did not come about"
        await asyncio.sleep(0.05)


def test_datagrams_are_counted_and_what_is_none_is_kept_for_inspection() -> None:
    async def scene(world: World) -> None:
        path = world.home / "tlsrpt.sock"
        kept = world.home / "malformed"
        kept.mkdir()
        for number in range(60):  # of days long ago, and what is not ours
            (kept / f"malformed-2020-{number // 28 + 1:02}-{number % 28 + 1:02}.jsonl").touch()
        (kept / "notes").touch()
        recent = kept / f"malformed-{datetime.now(UTC) - timedelta(KEPT_DAYS - 1):%Y-%m-%d}.jsonl"
        recent.touch()
        watched(store_of(world))  # it is certain what is old
        config = configured(world, socket=str(path), socket_mode="0620", keep_malformed=str(kept))
        with daemon(config, world.socket_path) as process:
            await soon(path.exists)
            assert path.stat().st_mode & 0o777 == 0o620
            send(path, datagram(), datagram(code=202), b"{", b'{"d": "\xff"}', datagram())
            await soon(lambda: counted(world) == (2, 1))
            (result,) = results(world)
            assert [f.result_type for f in result.failures] == ["certificate-host-mismatch"]
            await soon(lambda: any(file.stat().st_size for file in kept.glob("*.jsonl")))
            log = told(process)
        assert not path.exists()
        *old, latest = sorted(kept.glob("*.jsonl"))
        assert old == [recent]
        assert (kept / "notes").exists()
        samples = [json.loads(line) for line in latest.read_text().splitlines()]
        assert [sample["slug"] for sample in samples] == ["datagram-not-json", "datagram-fields"]
        assert "broke" not in log

    play(scene)


def test_what_is_sent_is_counted_once_whichever_process_is_killed() -> None:
    async def scene(world: World) -> None:
        path = world.home / "tlsrpt.sock"
        config = configured(world, socket=str(path))
        with daemon(config, world.socket_path) as process:
            await soon(path.exists)
            *workers, collector, reporter = children(process, 4)

            async def killed(pid: int) -> int:
                """Kill, send meanwhile, wait until another has taken over: its pid."""
                others = set(workers_of(process)) - {pid}
                os.kill(pid, signal.SIGKILL)
                if pid == collector:  # what is on its way within it dies with it
                    await asyncio.sleep(0.5)
                send(path, datagram())
                await soon(lambda: len(set(workers_of(process)) - {pid}) == 4, 15)
                (new,) = set(workers_of(process)) - others
                return new

            async def all_counted(number: int) -> None:
                await soon(lambda: counted(world) == (number, 0), 15)

            sent = 0
            for round_ in range(3):
                for _ in range(20):
                    send(path, datagram())
                    await asyncio.sleep(0.02)
                reporter = await killed(reporter)  # at any moment
                sent += 21
                await all_counted(sent)
                if round_ < 2:  # when all is handed over: what is sent then waits in the socket
                    collector = await killed(collector)
                    sent += 1
                    await all_counted(sent)
            assert set(workers) < set(workers_of(process))  # no worker has died of it
            send(path, datagram())
            (siphon,) = children_of(collector)
            os.kill(siphon, signal.SIGKILL)
            await soon(lambda: children_of(collector) not in ([], [siphon]))
            send(path, datagram())
            log = told(process)  # at once: what is in the socket is written before the end
        assert counted(world) == (sent + 2, 0)
        assert log.count("the reporter ended by itself") == 3
        assert log.count("the collector ended by itself") == 2

    play(scene)


def test_a_reload_loses_and_doubles_nothing() -> None:
    async def scene(world: World) -> None:
        path = world.home / "tlsrpt.sock"
        config = configured(world, socket=str(path))
        with daemon(config, world.socket_path) as process:
            await soon(path.exists)
            children(process, 4)
            send(path, *[datagram()] * 5)
            process.send_signal(signal.SIGHUP)
            send(path, *[datagram()] * 5)
            await soon(lambda: counted(world) == (10, 0), 15)
            configured(world, enabled=False)
            process.send_signal(signal.SIGHUP)
            await soon(lambda: not path.exists())
            assert await ask(UnixAddress(str(world.socket_path)), "postfix", "bob.example")

    play(scene)


def session(at: float, tls: str, queue_id: str, pid: int = 7) -> bytes:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
    head = f"{stamp} alice postfix/smtp[{pid}]"
    mx = "mx.bob.example[192.0.2.2]:25"
    return (
        f"{head}: {tls} TLS connection established to {mx}: TLSv1.3 with cipher X (256/256 bits)\n"
        f"{head}: {queue_id}: to=<x@bob.example>, relay={mx}, delay=1, delays=0/0/1/0, "
        "dsn=2.0.0, status=sent (250 ok)\n"
    ).encode()


def test_a_log_is_followed_over_rotation_and_restart_and_judged_by_the_policy() -> None:
    async def scene(world: World) -> None:
        log = world.home / "mail.log"
        now = time.time()
        log.write_bytes(session(now, "Verified", "4XOLD"))  # of before: for import-log
        config = configured(world, log=[f"postfix:{log}"])
        with daemon(config, world.socket_path) as process:
            children(process, 3)
            await asyncio.sleep(2)
            with log.open("ab") as out:
                out.write(session(now, "Verified", "4XA") + session(now, "Trusted", "4XB"))
                out.write(b"half a li")
            await soon(lambda: counted(world) == (1, 1))
            (result,) = results(world)
            assert result.policy.policy_type == "sts"
            assert result.policy.mx_host == ("mx.bob.example",)
            assert [f.result_type for f in result.failures] == ["certificate-host-mismatch"]
            with log.open("ab") as out:
                out.write(b"ne\n" + session(now, "Verified", "4XC"))
            log.rename(world.home / "mail.log.1")
            log.write_bytes(session(now, "Verified", "4XD"))
            await soon(lambda: counted(world) == (3, 1))
            told(process)
        with log.open("ab") as out:
            out.write(session(now, "Verified", "4XE"))
        log.rename(world.home / "mail.log.1")
        log.write_bytes(session(now, "Verified", "4XF"))
        with daemon(config, world.socket_path):
            await soon(lambda: counted(world) == (5, 1))
            log.write_bytes(b"")  # copied and truncated
            await asyncio.sleep(1.5)
            with log.open("ab") as out:
                out.write(session(now, "Verified", "4XG"))
            await soon(lambda: counted(world) == (6, 1))

    play(scene)


@pytest.mark.parametrize("with_socket", [False, True])
def test_a_policy_of_the_first_draft_has_its_sessions_counted_without_any_record(
    with_socket: bool,
) -> None:
    async def scene(world: World) -> None:
        text = (
            "v=STS1; to=false; mx=mx.carol.example; c=webpki; e=86400; rua=mailto:r@carol.example"
        )
        world.names.put("_smtp_sts.carol.example", "TXT", f'"{text}"')
        log = world.home / "mail.log"
        log.touch()
        told_by = {"socket": str(world.home / "tlsrpt.sock")} if with_socket else {}
        path = configured(world, log=f"postfix:{log}", **told_by)
        section = '[policy]\ndialects = ["rfc8461", "draft00"]'
        path.write_text(path.read_text().replace("[policy]", section, 1))
        line = session(time.time(), "Untrusted", "4XA").replace(b"bob.example", b"carol.example")
        with daemon(path, world.socket_path):
            # bob has a record: where there is a socket, libtlsrpt tells of his sessions
            other = session(time.time(), "Verified", "4XB", pid=8)
            await asyncio.sleep(2)
            with log.open("ab") as out:
                out.write(line + other)
            await soon(lambda: counted(world, "carol.example") == (0, 1))
            await soon(lambda: counted(world) == ((0, 0) if with_socket else (1, 0)))
        (result,) = results(world, "carol.example")
        assert result.policy.policy_string == (text,)
        assert [f.result_type for f in result.failures] == ["certificate-not-trusted"]

    play(scene)


def test_domains_that_ask_for_no_report_are_not_kept() -> None:
    async def scene(world: World) -> None:
        world.names.put("_smtp._tls.bob.example", "TXT")
        log = world.home / "mail.log"
        log.touch()
        config = configured(world, log=f"postfix:{log}")
        with daemon(config, world.socket_path) as process:
            children(process, 3)
            await asyncio.sleep(2)
            with log.open("ab") as out:
                out.write(session(time.time(), "Verified", "4XA"))
            await asyncio.sleep(2)
            process.send_signal(signal.SIGUSR1)
            await asyncio.sleep(0.5)
            assert "tls-no-record 1" in told(process)
        assert counted(world) == (0, 0)

    play(scene)


@pytest.mark.parametrize("folder", ["", "missing"])
def test_trouble_with_the_socket_or_the_store_keeps_nobody_from_an_answer(folder: str) -> None:
    async def scene(world: World) -> None:
        path = world.home / folder / "no" / "such.sock" if folder else world.home / "plain-file"
        (world.home / "plain-file").write_text("mine")
        config = configured(world, socket=str(path))
        with daemon(config, world.socket_path) as process:
            answer = await ask(UnixAddress(str(world.socket_path)), "postfix", "bob.example")
            assert answer.startswith("OK secure")
            assert "no TLS results from Postfix" in told(process)
        assert (world.home / "plain-file").read_text() == "mine"

    play(scene)


def test_counts_wait_for_a_store_that_refuses() -> None:
    async def scene(world: World) -> None:
        path = world.home / "tlsrpt.sock"
        broken = Path(store_of(world).removeprefix("sqlite:///"))
        config = configured(world, socket=str(path))
        with daemon(config, world.socket_path):
            await soon(path.exists)
            send(path, datagram())
            await soon(lambda: counted(world) == (1, 0))
            lock = subprocess.Popen(
                ["python3", "-P", "-c",
                 "import sqlite3,sys,time;c=sqlite3.connect(sys.argv[1],isolation_level=None);"
                 "c.execute('BEGIN IMMEDIATE');print(1,flush=True);time.sleep(60)", str(broken)],
                stdout=subprocess.PIPE,
            )  # fmt: skip
            try:
                assert lock.stdout is not None
                lock.stdout.readline()
                send(path, *[datagram()] * 3)
                await asyncio.sleep(2)
                assert counted(world) == (1, 0)
            finally:
                lock.kill()
                lock.wait()
            await soon(lambda: counted(world) == (4, 0), 30)

    play(scene)
