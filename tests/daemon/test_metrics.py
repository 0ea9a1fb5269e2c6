"""The metrics of a running daemon: real queries, two workers, and sums that never go down."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from smtp_sts.config import UnixAddress
from smtp_sts.lab.policyhost import Page
from smtp_sts.lab.world import World
from smtp_sts.mta import netstring
from smtp_sts.mta.client import ask
from smtp_sts.web.metrics import COUNTERS, EVENTS, GAUGES

from .process import daemon, told, until, workers_of
from .test_http_api import get, say

DOCS = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
Samples = dict[tuple[str, tuple[str, ...]], float]


def config_of(world: World, **policy: object) -> tuple[Path, Path]:
    metrics = world.home / "metrics.sock"
    settings: dict[str, object] = {
        "workers": 2,
        "listen": f"unix:{world.socket_path}",
        "listen_http": f"unix:{world.home / 'http.sock'}",
        "listen_line": f"unix:{world.home / 'line.sock'}",
    }
    listen = {"listen": f"unix:{metrics}"}
    return world.config_toml(policy=settings | policy, metrics=listen), metrics


async def scrape(path: Path) -> Samples:
    got = await get(path, "/metrics")
    assert got.status == 200
    assert got.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(got.body.decode())
        for sample in family.samples
    }


async def settled(path: Path, key: tuple[str, tuple[str, ...]], value: float) -> Samples:
    """The samples once one of them is what it should be: workers tell of each other in turns."""
    for _ in range(100):
        found = await scrape(path)
        if found.get(key) == value:
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"{key} is {found.get(key)}, not {value}: {found}")


def answers(profile: str, outcome: str) -> tuple[str, tuple[str, ...]]:
    return "smtp_sts_answers_total", (outcome, profile)


def test_answers_are_counted_by_profile_and_outcome_over_all_workers() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            await world.publish("carol.example", mode="testing")
            world.names.spoil("_mta-sts.broken.example", "servfail")
            world.names.put("_mta-sts.lost.example", "TXT", '"v=STSv1; id=1;"')
            world.names.put("mta-sts.lost.example", "A", "127.0.0.1")
            world.policy_hosts.pages["mta-sts.lost.example"] = Page(b"", status=404)
            config, metrics = config_of(world)
            address = UnixAddress(str(world.socket_path))
            with daemon(config, world.socket_path) as process:
                until(lambda: len(workers_of(process)) == 2)
                for _ in range(30):  # each its own connection, so that both workers get some
                    await ask(address, "postfix", "bob.example")
                    await ask(address, "QUERY", "bob.example")  # an alias counts as its profile
                    await ask(address, "postfix-tlsrpt", "carol.example")
                for name in ("nobody", "broken", "lost"):
                    await ask(address, "no-such-map", f"{name}.example")
                await ask(address, "sts", "[192.0.2.1]")
                pipelined = netstring.encode(b"postfix bob.example") * 20
                reader, writer = await asyncio.open_unix_connection(str(world.socket_path))
                for _ in range(5):
                    writer.write(pipelined)
                    got = b""
                    while got.count(b"OK secure") < 20:
                        got += await reader.read(65536)
                writer.close()
                await say(world.home / "line.sock", b"bob.example\n")
                await get(world.home / "http.sock", "/v1/policy/carol.example")
                await get(world.home / "http.sock", "/v1/policy/192.0.2.1")
                await say(world.socket_path, b"99999999:")

                found = await settled(metrics, answers("postfix", "enforce"), 130)
                assert found[answers("postfix-dane", "enforce")] == 30
                assert found[answers("postfix-tlsrpt", "testing")] == 30
                assert found[answers("postfix", "no-policy")] == 3
                assert found[answers("sts", "no-policy-domain")] == 1
                assert found[answers("line", "enforce")] == 1
                assert found[answers("http", "testing")] == 1
                assert found[answers("http", "no-policy-domain")] == 1
                decided = sum(
                    value
                    for (name, labels), value in found.items()
                    if name == "smtp_sts_answers_total" and labels[0] != "no-policy-domain"
                )
                hits = found["smtp_sts_cache_hits_total", ("replies",)]
                known = found["smtp_sts_cache_hits_total", ("policies",)]
                missed = found["smtp_sts_cache_misses_total", ()]
                assert hits + known + missed == decided
                assert hits > 100
                assert missed == found["smtp_sts_lookup_duration_seconds_count", ()] == 5
                assert 0 < found["smtp_sts_lookup_duration_seconds_sum", ()] < 25
                assert found["smtp_sts_lookup_duration_seconds_bucket", ("+Inf",)] == 5
                fetches = {k[1][0]: v for k, v in found.items() if k[0] == "smtp_sts_fetches_total"}
                assert fetches == {
                    "policy-found": 2,
                    "sts-policy-fetch-error": 1,
                    "sts-policy-invalid": 0,
                    "sts-webpki-invalid": 0,
                }
                assert found["smtp_sts_dns_failures_total", ()] == 1
                assert found["smtp_sts_events_total", ("no-record",)] == 1
                assert found["smtp_sts_events_total", ("bad-netstrings",)] == 1
                assert found["smtp_sts_events_total", ("internal-errors",)] == 0
                assert found["smtp_sts_store_policies", ()] == 2
                assert found["smtp_sts_store_up", ()] == 1
                assert found["smtp_sts_states", ()] >= 5
                assert found["smtp_sts_ready_replies", ()] >= 2
                assert found["smtp_sts_ready_reply_bytes", ()] >= 100
                assert 0 <= found["smtp_sts_oldest_policy_age_seconds", ()] < 60
                assert found["smtp_sts_workers", ("serving",)] == 2
                assert found["smtp_sts_workers_configured", ()] == 2
                assert found["smtp_sts_refresh_overdue_seconds", ()] == 0

    asyncio.run(play())


def test_sums_outlive_kill_9_and_a_reload() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            config, metrics = config_of(world)
            address = UnixAddress(str(world.socket_path))
            enforced = answers("postfix", "enforce")
            with daemon(config, world.socket_path) as process:
                until(lambda: len(workers_of(process)) == 2)
                for _ in range(20):
                    await ask(address, "postfix", "bob.example")
                await settled(metrics, enforced, 20)
                await asyncio.sleep(2.5)  # what a worker has not put up yet dies with it
                for victim in workers_of(process):
                    os.kill(victim, signal.SIGKILL)
                    until(
                        lambda pid=victim: (
                            pid not in workers_of(process)  # type: ignore[misc]
                            and len(workers_of(process)) == 2
                        )
                    )
                found = await settled(metrics, ("smtp_sts_worker_deaths_total", ()), 2)
                assert found[enforced] == 20
                await ask(address, "postfix", "bob.example")
                await settled(metrics, enforced, 21)

                _, idle = await asyncio.open_unix_connection(str(world.socket_path))
                await asyncio.sleep(0.2)
                before = set(workers_of(process))
                os.kill(process.pid, signal.SIGHUP)
                until(lambda: not (before - set(workers_of(process))) or len(before) == 2)
                await settled(metrics, ("smtp_sts_workers", ("retired",)), 1)
                found = await settled(metrics, ("smtp_sts_workers", ("serving",)), 2)
                assert found[enforced] == 21
                idle.close()
                found = await settled(metrics, ("smtp_sts_workers", ("retired",)), 0)
                assert found[enforced] == 21
                assert found["smtp_sts_worker_deaths_total", ()] == 2
                log = await asyncio.to_thread(told, process)
                assert "Traceback" not in log

    asyncio.run(play())


def test_a_refresh_that_fails_and_a_store_that_is_broken_show() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example", max_age=3600)
            config, metrics = config_of(world, refresh_interval=1.0, recheck_interval=1.0)
            address = UnixAddress(str(world.socket_path))
            with daemon(config, world.socket_path):
                await ask(address, "postfix", "bob.example")
                world.policy_hosts.pages["mta-sts.bob.example"] = Page(b"", status=500)
                failed = ("smtp_sts_refreshes_total", ("failed",))
                await settled(metrics, failed, 1)
            (world.home / "policies.db").unlink()
            (world.home / "policies.db").mkdir()
            with daemon(config, world.socket_path):
                await ask(address, "postfix", "bob.example")
                found = await settled(metrics, ("smtp_sts_store_up", ()), 0)
                assert found["smtp_sts_store_errors_total", ()] > 0
                assert ("smtp_sts_store_policies", ()) not in found
                health = await get(world.home / "http.sock", "/v1/health")
                assert (health.status, health.data["status"]) == (200, "degraded")

    asyncio.run(play())


def test_only_metrics_is_served_and_every_name_is_documented() -> None:
    async def play() -> None:
        async with World() as world:
            config, metrics = config_of(world)
            with daemon(config, world.socket_path):
                assert (await get(metrics, "/")).status == 404
                assert (await get(metrics, "/v1/policy/bob.example")).status == 404
                assert (await get(metrics, "/metrics", "POST")).status == 405
                assert (await get(metrics, "/metrics", "HEAD")).body == b""
                text = (await get(metrics, "/metrics")).body.decode()
                names = {family.name for family in text_string_to_metric_families(text)}
                described = re.findall(r"`(smtp_sts(?:_\w+)?)`", DOCS.read_text())
                # The parser takes _total off the names of counters.
                assert names == {name.removesuffix("_total") for name in described}
                assert {*COUNTERS, *(name for name, _ in GAUGES.values())} <= names
                listed = re.findall(r"^\| `([\w-]+)` \|", DOCS.read_text(), re.MULTILINE)
                assert set(EVENTS) <= set(listed)

    asyncio.run(play())
