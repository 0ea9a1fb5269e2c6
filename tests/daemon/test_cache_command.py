"""`smtp-sts cache` and `query --server` as an operator types them, with a daemon and without."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest

from smtp_sts.config import UnixAddress
from smtp_sts.lab.policyhost import Page
from smtp_sts.lab.world import World, policy_text
from smtp_sts.mta.client import ask
from smtp_sts.store import Stored, open_store

from .process import COMMAND, daemon, until

HOST = "mta-sts.bob.example"
SECURE = "OK secure match=mx.bob.example servername=hostname"
DAY = 86400.0


def smtp_sts(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "--config", str(config), *arguments],
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip


async def run(config: Path, *arguments: str) -> tuple[int, str, str]:
    done = await asyncio.to_thread(smtp_sts, config, *arguments)
    return done.returncode, done.stdout, done.stderr


def stored(domain: str, mode: str = "enforce", **times: float) -> Stored:
    now = time.time()
    text = policy_text(mode, [f"mx.{domain}"], 1_000_000).decode()
    at = {"fetched_at": now, "expires_at": now + DAY, "refresh_at": now + DAY, "used_at": now}
    return Stored(domain, "20260101T000000", text, **{**at, **times})


def offline(folder: Path, *policies: Stored) -> Path:
    config = folder / "smtp-sts.toml"
    config.write_text(
        f'[store]\nurl = "sqlite:///{folder}/s.db"\n[control]\nsocket = "{folder}/c.sock"\n'
        f'[policy]\nlisten = "unix:{folder}/p.sock"\n'
    )
    store = open_store(f"sqlite:///{folder}/s.db")
    store.put(policies)
    store.close()
    return config


def test_list_and_show_against_the_running_daemon() -> None:
    async def play() -> None:
        async with World() as world:
            for domain in ("carol.example", "bob.example"):
                await world.publish(domain)
            config = world.config_toml(policy={"workers": 2})
            with daemon(config, world.socket_path):
                address = UnixAddress(str(world.socket_path))
                for domain in ("carol.example", "bob.example"):
                    await ask(address, "postfix", domain)
                world.policy_hosts.pages[HOST] = Page(b"", status=404)
                status, out, _ = await run(config, "cache", "refresh", "bob.example")
                assert status == 1
                assert out.startswith("bob.example: failed (sts-policy-fetch-error): http-status")
                status, out, _ = await run(config, "cache", "refresh", "bob.example")
                assert status == 3
                assert "waits until" in out
                assert "--force" in out

                status, out, error = await run(config, "cache", "list")
                assert (status, error) == (0, "")
                head, *rows = out.splitlines()
                assert head.split()[:2] == ["domain", "mode"]
                assert [row.split()[:2] for row in rows] == [
                    ["bob.example", "enforce"], ["carol.example", "enforce"],
                ]  # fmt: skip
                assert rows[0].endswith("failed 1")
                assert rows[1].endswith("ready")
                listed = json.loads((await run(config, "cache", "list", "--json"))[1])
                assert [row["domain"] for row in listed] == ["bob.example", "carol.example"]

                status, out, error = await run(config, "cache", "show", "bob.example")
                assert (status, error) == (0, "")
                assert f"  postfix        {SECURE}\n" in out
                assert "last failure" in out
                shown = json.loads((await run(config, "cache", "show", "--json", "bob.example"))[1])
                assert shown["last_failure"]["failures"] == 1
                assert shown["replies"]["postfix"] == SECURE
                assert (await run(config, "cache", "show", "nobody.example"))[0] == 1

    asyncio.run(play())


def test_purge_warns_of_an_enforce_policy_and_wants_a_yes() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            config = world.config_toml()
            with daemon(config, world.socket_path):
                address = UnixAddress(str(world.socket_path))
                assert await ask(address, "postfix", "bob.example") == SECURE
                status, _, error = await run(config, "cache", "purge", "bob.example")
                assert status == 2
                assert "--yes" in error
                assert await asyncio.to_thread(at_terminal, config, b"n\n") == 1
                assert "bob.example" in (await run(config, "cache", "list"))[1]
                world.policy_hosts.pages[HOST] = Page(b"", status=404)
                status, out, error = await run(config, "cache", "purge", "--yes", "bob.example")
                assert (status, out) == (0, "bob.example: forgotten\n")
                assert "in the clear" in error
                assert await ask(address, "postfix", "bob.example") == "NOTFOUND "
                status, out, _ = await run(config, "cache", "purge", "--yes", "bob.example")
                assert (status, out) == (1, "bob.example: no policy was kept\n")
                await world.publish("bob.example")
                assert (await run(config, "cache", "refresh", "--force", "bob.example"))[0] == 0
                assert await asyncio.to_thread(at_terminal, config, b"y\n") == 0

    asyncio.run(play())


def at_terminal(config: Path, answer: bytes) -> int:
    """The exit status of a purge whose question is answered at a terminal."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        return subprocess.run(
            [*COMMAND, "--config", str(config), "cache", "purge", "bob.example"],
            stdin=theirs, capture_output=True, timeout=30,
        ).returncode  # fmt: skip
    finally:
        os.close(ours)
        os.close(theirs)


def test_without_a_daemon_the_store_is_read_and_nothing_changed(tmp_path: Path) -> None:
    old = time.time() - 10
    config = offline(
        tmp_path,
        stored("b.example", "testing", refresh_at=old),
        stored("a.example"),
        stored("c.example", "none", expires_at=old),
    )
    before = (tmp_path / "s.db").read_bytes()
    done = smtp_sts(config, "cache", "list")
    assert done.returncode == 0
    assert "no daemon takes commands" in done.stderr
    rows = [(row.split()[0], row.split()[1], row.split()[-1]) for row in done.stdout.splitlines()]
    assert rows[1:] == [
        ("a.example", "enforce", "ready"), ("b.example", "testing", "due"),
        ("c.example", "none", "expired"),
    ]  # fmt: skip
    done = smtp_sts(config, "cache", "show", "a.example")
    assert (done.returncode, "OK secure match=mx.a.example" in done.stdout) == (0, True)
    assert smtp_sts(config, "cache", "show", "z.example").returncode == 1
    for arguments in (("refresh", "a.example"), ("purge", "--yes", "a.example")):
        done = smtp_sts(config, "cache", *arguments)
        assert (done.returncode, done.stdout) == (3, "")
        assert "start the daemon" in done.stderr
    assert (tmp_path / "s.db").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("cache", "show", "a b"), 2, "'a b' is no domain"),
        (("cache", "show"), 2, "DOMAIN"),
        (("cache", "purge", "--yes", "x@y"), 2, "is no domain"),
        (("cache", "list"), 3, "there is none"),
        (("query", "--server"), 2, "DOMAIN"),
        (("query", "--server", "bob.example"), 3, "no running daemon answers"),
        (("query", "bob.example", "--server", "nonsense"), 2, "is no address"),
    ],
)
def test_wrong_usage_is_named(
    tmp_path: Path, arguments: tuple[str, ...], status: int, says: str
) -> None:
    config = tmp_path / "smtp-sts.toml"
    config.write_text(
        f'[store]\nurl = "sqlite:///{tmp_path}/none.db"\n[policy]\nlisten = "unix:{tmp_path}/p"\n'
        f'[control]\nsocket = "{tmp_path}/c.sock"\n'
    )
    done = smtp_sts(config, *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("control", [True, False])
def test_query_server_asks_the_daemon_of_the_configuration(control: bool) -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            config = world.config_toml(**({} if control else {"control": {"socket": ""}}))
            with daemon(config, world.socket_path):
                assert (await run(config, "query", "bob.example", "--server", "--json"))[0] == 0
                for arguments in (
                    ("bob.example", "--json", "--server"),
                    ("--json", "--server", "bob.example"),
                    ("--json", "bob.example", "--server", f"unix:{world.socket_path}"),
                ):
                    status, out, error = await run(config, "query", *arguments)
                    assert (status, error) == (0, "")
                    assert json.loads(out)["from"] == "cache"
                assert world.policy_hosts.fetches[HOST] == 1

    asyncio.run(play())


def test_100_000_policies_are_listed_as_they_come_and_mtas_do_not_wait() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            config = world.config_toml(policy={"workers": 2})
            store = open_store(f"sqlite:///{world.home / 'policies.db'}")
            store.put([stored(f"d{n:06}.example") for n in range(100_000)])
            store.close()
            with daemon(config, world.socket_path):
                address = UnixAddress(str(world.socket_path))
                assert await ask(address, "postfix", "bob.example") == SECURE
                listing = asyncio.create_task(run(config, "cache", "list", "--json"))
                slowest = 0.0
                while not listing.done():
                    began = time.monotonic()
                    assert await ask(address, "postfix", "bob.example") == SECURE
                    slowest = max(slowest, time.monotonic() - began)
                    await asyncio.sleep(0.01)
                status, out, _ = await listing
                assert status == 0
                rows = json.loads(out)
                names = [row["domain"] for row in rows]
                assert names == sorted(names)
                assert len(names) == 100_001
                assert slowest < 1.0
                # Its reader goes away in the middle: the daemon does not mind.
                whole = subprocess.Popen(
                    [*COMMAND, "--config", str(config), "cache", "list"], stdout=subprocess.PIPE
                )
                assert whole.stdout is not None
                assert whole.stdout.readline().startswith(b"domain")
                whole.stdout.close()
                await asyncio.to_thread(whole.wait, 20)
                assert await ask(address, "postfix", "bob.example") == SECURE

    asyncio.run(play())


def test_a_list_that_is_cut_off_is_no_whole_one() -> None:
    async def play() -> None:
        async with World() as world:
            config = world.config_toml(policy={"workers": 1})
            store = open_store(f"sqlite:///{world.home / 'policies.db'}")
            store.put([stored(f"d{n:06}.example") for n in range(50_000)])
            store.close()
            with daemon(config, world.socket_path) as process:
                command = [*COMMAND, "--config", str(config), "cache", "list", "--json"]
                listing = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                assert listing.stdout is not None
                assert listing.stdout.readline().startswith(b"[{")
                process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(until, lambda: process.poll() is not None, 10)
                out, error = await asyncio.to_thread(listing.communicate)
                assert listing.returncode == 3
                assert not out.rstrip().endswith(b"]")
                assert b"smtp-sts: " in error

    asyncio.run(play())


def test_policies_of_the_first_draft_are_listed_shown_refreshed_and_purged() -> None:
    record = "v=STS1; to=true; mx=mx.bob.example; c=webpki; e=999; a=webpki:https://bob.example/sts"

    async def play() -> None:
        async with World() as world:
            await world.receive("bob.example", "mx.bob.example")
            world.publish_draft("bob.example", record)
            config = world.config_toml(policy={"dialects": ["rfc8461", "draft00"], "workers": 2})
            with daemon(config, world.socket_path):
                address = UnixAddress(str(world.socket_path))
                limit = time.monotonic() + 10
                while await ask(address, "postfix", "bob.example") != SECURE:
                    assert time.monotonic() < limit
                    await asyncio.sleep(0.05)
                (row,) = json.loads((await run(config, "cache", "list", "--json"))[1])
                assert (row["domain"], row["dialect"], row["mode"], row["refresh"]) == (
                    "bob.example", "draft00", "enforce", "ready",
                )  # fmt: skip
                out = (await run(config, "cache", "show", "bob.example"))[1]
                assert "draft00: proven (webpki:https://bob.example/sts)" in out
                assert "an MX host has met it" in out
                status, out, _ = await run(config, "cache", "refresh", "bob.example")
                assert (status, out) == (0, "bob.example: fetched; applies: enforce\n")
                data = json.loads(
                    (await run(config, "query", "--server", "--json", "bob.example"))[1]
                )
                assert data["policy"]["dialect"] == "draft00"
                assert data["policy"]["applied"] is True
            out = (await run(config, "cache", "show", "bob.example"))[1]  # from the store
            assert "an MX host has met it" in out
            with daemon(config, world.socket_path):
                world.receivers["mx.bob.example"].starttls = False
                assert await ask(address, "postfix", "bob.example") == SECURE
                status, out, error = await run(config, "cache", "purge", "--yes", "bob.example")
                assert (status, out) == (0, "bob.example: forgotten\n")
                assert "in the clear" in error
                assert await ask(address, "postfix", "bob.example") == "NOTFOUND "

    asyncio.run(play())


def test_query_looks_for_the_dialect_that_is_wanted() -> None:
    record = "v=STS1; to=true; mx=*.bob.example; c=webpki; e=999; a=webpki:https://bob.example/sts"

    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example", "testing")
            world.publish_draft("bob.example", record)
            config = world.config_toml()
            status, out, _ = await run(
                config, "query", "--json", "--dialect", "draft00", "bob.example"
            )
            data = json.loads(out)
            assert (status, data["outcome"]) == (0, "enforce")
            assert data["policy"] == {
                "version": "STS1", "mode": "enforce", "mx": ["*.bob.example"], "max_age": 999,
                "id": data["policy"]["id"], "dialect": "draft00", "constraint": "webpki",
                "authentication": "webpki:https://bob.example/sts", "authenticated": True,
                "applied": True,
            }  # fmt: skip
            reply = "OK secure match=.bob.example servername=hostname"
            assert data["replies"]["postfix-tlsrpt"] == reply
            out = (await run(config, "query", "--dialect", "draft00", "bob.example"))[1]
            assert "dialect          draft-margolis-smtp-sts-00" in out
            assert "MX host          ok      mx.bob.example at 127.0." in out
            words = ("query", "--json", "bob.example")
            assert json.loads((await run(config, *words))[1])["policy"]["dialect"] == "rfc8461"
            both = (*words, "--dialect", "draft00", "--dialect", "rfc8461")
            data = json.loads((await run(config, *both))[1])
            assert (data["policy"]["dialect"], data["outcome"]) == ("rfc8461", "testing")
            assert "_smtp_sts.bob.example" in json.dumps(data["steps"])
            for wrong in (("--dialect", "draft01"), ("--dialect", "draft00", "--server")):
                assert (await run(config, "query", "bob.example", *wrong))[0] == 2

    asyncio.run(play())
