"""What the daemon logs: a line a decision change, none a look-up, no control codes of strangers."""

from __future__ import annotations

import asyncio
import json
import signal
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from smtp_sts.config import UnixAddress
from smtp_sts.lab.policyhost import Page
from smtp_sts.lab.world import World, policy_text
from smtp_sts.mta.client import ask
from smtp_sts.policy import policy_host, record_name

from .process import daemon, told

HOST = "mta-sts.bob.example"
HOSTILE = "\x1b[2J\r\nsmtp-sts[1] INFO bob.example: policy \u202e\x85\u2028 forged\x00\x07"
#: what makes each look fail anew
QUICK = {"recheck_interval": 1, "retry_interval": 1, "negative_ttl": 1, "error_ttl": 1}


def of(log: str, event: str) -> list[dict[str, Any]]:
    """The JSON lines of an event; every line must be one."""
    lines = [json.loads(line) for line in log.splitlines()]
    for line in lines:
        assert {"time", "level", "event", "message", "pid"} <= set(line), line
    return [line for line in lines if line["event"] == event]


@pytest.mark.parametrize("form", ["text", "json"])
def test_law_5_no_control_character_of_a_stranger_reaches_the_log(form: str) -> None:
    async def play() -> None:
        async with World() as world:
            for domain in ("body", "status", "type", "txt", "key", "redirect"):
                await world.publish(f"{domain}.example")
            pages = world.policy_hosts.pages
            hostile = HOSTILE.encode()
            for number, body in enumerate((hostile, b"version: STSv1\nmode: " + hostile)):
                await world.publish(f"body{number}.example")
                pages[policy_host(f"body{number}.example")] = Page(body)
            pages[policy_host("body.example")] = Page(
                b"version: STSv1\nmode: enforce\nmx: \x1b]0;mail\x07.example\nmax_age: 9\n"
            )
            pages[policy_host("type.example")] = Page(b"x", content_type="text/\x1b[2J\x07html")
            pages[policy_host("redirect.example")] = Page(
                b"", status=301, location="https://\x1b[31m\x9b\x00.example/"
            )
            pages[policy_host("key.example")] = Page(b"\x1b[2J\x07: STSv1\n" + b"\xff" * 5000)
            world.names.put(
                record_name("txt.example"), "TXT", '"v=STSv1; id=1\\027[2J\\007\\010\\013;"'
            )
            log = {"level": "debug", "format": form}
            with daemon(world.config_toml(log=log), world.socket_path) as process:
                address = UnixAddress(str(world.socket_path))
                names = ("body", "body0", "body1", "type", "txt", "key", "redirect")
                for name in names:
                    assert await ask(address, "postfix", f"{name}.example") == "NOTFOUND "
                await ask(address, "postfix", f"{HOSTILE}.example")
                written = told(process)
            assert written.endswith("\n")
            for line in written[:-1].split("\n"):
                assert line.isprintable(), ascii(line)
                if form == "json":
                    assert all(str(value).isprintable() for value in json.loads(line).values())
                else:
                    assert line.startswith("smtp-sts["), line
                assert len(line) < 5000
            assert not any(
                line.startswith("smtp-sts[1] ") or "policy forged" in line
                for line in written.splitlines()
            )
            for name in names:  # what was seen is told all the same
                assert f"{name}.example: no policy (sts-" in written, written

    asyncio.run(play())


def test_one_line_a_decision_change_and_none_a_lookup() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example", max_age=3)
            config = world.config_toml(policy={"workers": 2, **QUICK}, log={"format": "json"})
            with daemon(config, world.socket_path) as process:
                address = UnixAddress(str(world.socket_path))

                async def answer(begins: str, seconds: float = 10) -> None:
                    async with asyncio.timeout(seconds):
                        reply = ""
                        while not reply.startswith(begins):
                            reply = await ask(address, "postfix", "bob.example")

                async def look_often() -> None:
                    """Through several rechecks."""
                    for _ in range(25):
                        await ask(address, "postfix", "bob.example")
                        await ask(address, "postfix", "norecord.example")
                        await asyncio.sleep(0.05)

                await answer("OK secure match=mx.bob.example")
                await look_often()
                # Another policy under another id.
                text = policy_text("enforce", ["mx2.bob.example"], 3)
                world.policy_hosts.pages[HOST] = Page(text)
                world.names.put("_mta-sts.bob.example", "TXT", '"v=STSv1; id=2;"')
                await answer("OK secure match=mx2.bob.example")
                # A fault whose words differ from look to look, until the policy has expired.
                for number in range(100):
                    world.policy_hosts.pages[HOST] = Page(f"nonsense {number}\n".encode())
                    reply = await ask(address, "postfix", "bob.example")
                    await asyncio.sleep(0.05)
                assert reply == "NOTFOUND "
                # And back again.
                world.policy_hosts.pages[HOST] = Page(text)
                await answer("OK secure match=mx2.bob.example")
                written = told(process)
            lines = of(written, "decision")
            assert [(line["outcome"], line["reason"]) for line in lines] == [
                ("enforce", "policy-found"),
                ("enforce", "policy-found"),
                ("no-policy", "sts-policy-invalid"),
                ("enforce", "policy-found"),
            ], written
            assert {line["domain"] for line in lines} == {"bob.example"}
            assert [line.get("policy_id") for line in lines] == ["1", "2", None, "2"]
            failed = of(written, "refresh-failed")
            assert failed, written
            assert all(line["level"] == "warning" for line in failed)

    asyncio.run(play())


def test_a_slow_discovery_is_told_of_once_however_many_ask() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            world.policy_hosts.pages[HOST] = Page(manner="silence")
            config = world.config_toml(policy={"answer_timeout": 0.3}, log={"format": "json"})
            with daemon(config, world.socket_path) as process:
                address = UnixAddress(str(world.socket_path))
                for _ in range(20):
                    assert await ask(address, "postfix", "bob.example") == "NOTFOUND "
                written = told(process)
            (line,) = of(written, "decision")
            assert (line["outcome"], line["reason"]) == ("no-policy", "discovery-timeout")
            assert of(written, "counts")[-1]["counts"]["discovery-timeout"] == 20

    asyncio.run(play())


def test_what_all_workers_counted_is_logged_in_one_line_now_and_then_and_at_sigusr1() -> None:
    async def play() -> None:
        async with World() as world:
            for number in range(8):
                await world.publish(f"d{number}.example")
            log = {"format": "json", "counts_interval": 1}
            with daemon(world.config_toml(policy={"workers": 2}, log=log), world.socket_path) as p:
                address = UnixAddress(str(world.socket_path))
                for number in range(8):
                    await ask(address, "postfix", f"d{number}.example")
                await asyncio.sleep(2.5)
                written = told(p)
            whole = [line for line in of(written, "counts") if "since the start" in line["message"]]
            # One a second: two of them at least while we slept.
            begun = [datetime.fromisoformat(line["time"]) for line in whole]
            assert len(whole) >= 2, written
            assert all((b - a).total_seconds() > 0.9 for a, b in pairwise(begun)), written
            assert whole[-1]["counts"]["policies-fetched"] == 8

            with daemon(world.config_toml(policy={"workers": 2}), world.socket_path) as p:
                for number in range(8, 12):
                    await ask(address, "postfix", f"d{number}.example")
                for _ in range(2):
                    p.send_signal(signal.SIGUSR1)
                    await asyncio.sleep(0.3)
                assert p.poll() is None
                written = told(p)
            assert written.count("counted since the start: dane-no-mail 4, no-record 4\n") == 2, (
                written
            )

    asyncio.run(play())
