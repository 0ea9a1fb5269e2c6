"""Our own looks: at the hosts that mail goes to, and never a burden to whoever is named as one."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import pytest
import uvloop

from smtp_sts.lab.world import World
from smtp_sts.net.dns import Dns
from smtp_sts.net.https import tls_context
from smtp_sts.net.smtp import MxLook
from smtp_sts.policy import Policy
from smtp_sts.reporting import mx_check
from smtp_sts.reporting.looks import MAX_BACK, TestingLooks, UseLooks, seen
from smtp_sts.reporting.mx_check import MxChecker
from smtp_sts.resolver.decision import Decision
from smtp_sts.store.checks import Check
from smtp_sts.store.tallies import Tally
from smtp_sts.tlsrpt import AppliedPolicy, PolicyResult

Run = Callable[[Coroutine[Any, Any, Any]], Any]
TESTING = AppliedPolicy("sts", "bob.example", ("mode: testing",), ("*.bob.example",))


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    runner: Run = request.param
    return runner


def _checker(world: World, **more: Any) -> MxChecker:
    return MxChecker(
        Dns([world.names.address]), tls_context(str(world.ca_file)),
        **{"own_name": "alice.example", "port": world.smtp_port, "allow_private": True,
           "pause": 0.0, **more},
    )  # fmt: skip


def test_the_hosts_of_the_best_preference_that_answer_are_looked_at(run: Run) -> None:
    async def scene() -> None:
        async with World() as world:
            await world.receive("bob.example", "mx1.bob.example", "mx2.bob.example")
            world.receivers["mx2.bob.example"].certificate = "expired"
            checker = _checker(world)
            check = await checker.check("bob.example")
            assert [(c.host, c.result_type, c.helo) for c in seen(check)] == [
                ("mx1.bob.example", "", "mx1.bob.example")
            ]
            assert checker.connections == 1
            # it is not bothered again for a while
            assert await checker.check("bob.example") == check
            assert checker.connections == 1
            # when it does not answer mail goes to the next
            world.receivers["mx1.bob.example"].refuses = True
            check = await _checker(world).check("bob.example")
            assert [(c.host, c.result_type) for c in seen(check)] == [
                ("mx2.bob.example", "certificate-expired")
            ]
            world.receivers["mx2.bob.example"].refuses = True
            check = await _checker(world).check("bob.example")
            assert (check.seen, "mx2" in check.text or "closes" in check.text) == ((), True)

    run(scene())


def test_domains_without_mx_hosts_and_hosts_without_addresses(run: Run) -> None:
    async def scene() -> None:
        async with World() as world:
            await world.receiver("own.example")  # RFC 5321 section 5.1: its own MX host
            world.names.put("null.example", "MX", "0 .")
            world.names.put("nowhere.example", "MX", "10 mx.nowhere.example.")
            world.names.spoil("broken.example", "servfail")
            checker = _checker(world)
            assert [c.host for c in seen(await checker.check("own.example"))] == ["own.example"]
            for domain, text in (
                ("null.example", "takes no mail"),
                ("gone.example", "does not exist"),
                ("nowhere.example", "no MX host"),
                ("broken.example", ""),
            ):
                check = await checker.check(domain)
                assert (check.seen, text in check.text, bool(check.text)) == ((), True, True)

    run(scene())


def test_private_addresses_are_not_connected_to(run: Run) -> None:
    """Law 5."""

    async def scene() -> None:
        async with World() as world:
            await world.receive("bob.example", "mx.bob.example")
            check = await _checker(world, allow_private=False).check("bob.example")
            assert (check.seen, check.looks[0].text) == ((), "not on the public Internet")

    run(scene())


class _Slow:
    """Counts who is connected to at the same time."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.times: dict[str, list[float]] = {}

    async def __call__(self, host: str, address: str, **_: object) -> MxLook:
        for name in (host, address, "all"):
            self.now[name] += 1
            self.most[name] = max(self.most[name], self.now[name])
        self.times.setdefault(address, []).append(time.monotonic())
        await asyncio.sleep(0.01)
        for name in (host, address, "all"):
            self.now[name] -= 1
        return MxLook(host, address, True)


def test_whoever_is_named_as_mx_host_gets_one_connection_at_a_time(run: Run) -> None:
    async def scene() -> None:
        async with World() as world:
            for n in range(30):  # mallory's domains, all naming one server, and one host
                world.names.put(f"m{n}.example", "MX", f"10 h{n}.m.example.", "10 same.m.example.")
                world.names.put(f"h{n}.m.example", "A", "192.0.2.1")
            world.names.put("same.m.example", "A", "192.0.2.1", *(f"192.0.3.{n}" for n in range(9)))
            slow = _Slow()
            checker = _checker(world, look=slow, at_once=3, pause=0.03)
            await asyncio.gather(*(checker.check(f"m{n}.example") for n in range(30)))
            assert slow.most.pop("all") <= 3
            assert set(slow.most.values()) == {1}
            assert checker.connections == 30 + mx_check.MAX_ADDRESSES
            starts = slow.times["192.0.2.1"]
            assert len(starts) in (30, 31)  # `same` may have it among its first addresses
            assert min(b - a for a, b in itertools.pairwise(starts)) >= 0.03

    run(scene())


def test_silent_mx_hosts_of_one_stranger_leave_places_for_others(run: Run) -> None:
    async def scene() -> None:
        async with World() as world:
            for n in range(40):
                world.names.put(f"d{n}.mallory.example", "MX", f"10 h{n}.mallory.example.")
                world.names.put(f"h{n}.mallory.example", "A", f"192.0.2.{n + 1}")
            world.names.put("bob.example", "MX", "10 mx.bob.example.")
            world.names.put("mx.bob.example", "A", "192.0.3.1")
            begun: list[str] = []

            async def silent(host: str, address: str, **_: object) -> MxLook:
                begun.append(host)
                if "mallory" in host:
                    await asyncio.sleep(60)
                return MxLook(host, address, True)

            checker = _checker(world, look=silent, at_once=16, pause=0.0)
            strangers = [
                asyncio.ensure_future(checker.check(f"d{n}.mallory.example")) for n in range(40)
            ]
            await asyncio.sleep(0.3)
            assert len(begun) == mx_check.SHARE
            async with asyncio.timeout(2):
                assert (await checker.check("bob.example")).seen
            for task in strangers:
                task.cancel()
            await asyncio.gather(*strangers, return_exceptions=True)

    run(scene())


def test_a_domain_in_testing_mode_is_looked_at_once_an_hour_and_day(run: Run) -> None:
    async def scene() -> None:
        async with World() as world:
            await world.receive("bob.example", "mx.bob.example")
            world.receivers["mx.bob.example"].certificate = "other-name"
            kept: list[tuple[int, str, Sequence[Check]]] = []
            counts: Counter[str] = Counter()
            checker = _checker(world)

            async def keep(day: int, domain: str, checks: Sequence[Check]) -> None:
                kept.append((day, domain, checks))

            looks = TestingLooks(checker, keep, counts)
            enforce = AppliedPolicy("sts", "bob.example", ("mode: enforce",))
            task = asyncio.create_task(looks.run())
            for policy, good in ((enforce, 1), (TESTING, 0), (TESTING, 1), (TESTING, 1)):
                looks.take([Tally(7, "bob.example", "", PolicyResult(policy, good, 0))])
            looks.take([Tally(8, "bob.example", "", PolicyResult(TESTING, 1, 0))])
            looks.take([Tally(8, "gone.example", "", PolicyResult(TESTING, 1, 0))])
            for _ in range(1000):
                if len(kept) == 2 and counts["tls-looks-unseen"]:
                    break
                await asyncio.sleep(0.01)
            task.cancel()
            assert sorted(day for day, _, _ in kept) == [7, 8]
            assert [c.result_type for _, _, checks in kept for c in checks] == [
                "certificate-host-mismatch"
            ] * 2
            assert checker.connections == 1
            assert counts == {"tls-looks": 2, "tls-looks-unseen": 1}

    run(scene())


def test_looks_are_bounded_and_what_is_beyond_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        monkeypatch.setattr("smtp_sts.reporting.looks.MAX_WAITING", 5)
        counts: Counter[str] = Counter()

        async def keep(day: int, domain: str, checks: Sequence[Check]) -> None:
            raise AssertionError

        checker = MxChecker(Dns([]), tls_context(None), own_name="alice.example")
        looks = TestingLooks(checker, keep, counts)
        looks.take(Tally(7, f"d{n}.example", "", PolicyResult(TESTING, 1, 0)) for n in range(8))
        assert counts == {"tls-looks-refused": 3}

    asyncio.run(scene())


def test_what_no_mail_server_tells_is_counted_for_who_asks_for_reports(run: Run) -> None:
    async def scene() -> None:
        async with World() as world:
            for domain in ("bob.example", "good.example", "silent.example"):
                host = "mx.good.example" if domain == "good.example" else "mx.mallory.example"
                world.names.put(domain, "MX", f"10 {host}.")
            for domain in ("plain.test.example", "tls.test.example"):
                await world.receive(domain, f"mx.{domain}")
            world.receivers["mx.plain.test.example"].starttls = False
            world.receivers["mx.tls.test.example"].certificate = "expired"
            added: dict[str, PolicyResult] = {}
            counts: Counter[str] = Counter()
            looked: list[str] = []

            async def in_use(since: float) -> AsyncIterator[str]:
                for domain in ("bob", "good", "silent", "gone", "plain.test", "tls.test"):
                    yield f"{domain}.example"

            async def decision(domain: str) -> Decision | None:
                if domain == "gone.example":  # no worker can be asked
                    return None
                looked.append(domain)
                mode: Any = "testing" if ".test." in domain else "enforce"
                text = f"version: STSv1\nmode: {mode}\nmx: mx.{domain}\nmax_age: 86400\n"
                return Decision(domain, mode, "policy-found", policy=Policy.parse(text.encode()))

            async def record(domain: str) -> str | None:
                return None if domain == "silent.example" else f"v=TLSRPTv1; rua=mailto:r@{domain}"

            async def add(batch: Sequence[Tally]) -> None:
                for tally in batch:
                    assert tally.record == f"v=TLSRPTv1; rua=mailto:r@{tally.domain}"
                    added[tally.domain] = tally.result

            await UseLooks(_checker(world), in_use, decision, record, add, counts).once(0.0)
            assert set(added) == {"bob.example", "plain.test.example"}
            (failure,) = added["bob.example"].failures
            assert failure.receiving_mx_hostname == "mx.mallory.example"
            assert failure.failure_reason_code == "sender-check: mx-mismatch"
            (failure,) = added["plain.test.example"].failures
            assert failure.result_type == "starttls-not-supported"
            assert failure.failure_reason_code == "sender-check: does not offer STARTTLS"
            assert {(r.successful, r.failed) for r in added.values()} == {(0, 1)}
            assert counts == {"tls-own-failures": 2}
            assert "silent.example" not in looked

            added.clear()
            none = UseLooks(
                _checker(world), in_use, decision, record, add, counts, testing=False, names=False
            )
            await none.once(0.0)
            assert not added

    run(scene())


def test_a_silent_host_costs_a_domain_no_more_than_its_time(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mx_check, "DOMAIN_SECONDS", 1.0)

    async def scene() -> None:
        async with World() as world:
            await world.receive("bob.example", "mx1.bob.example")

            async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.read()
                writer.close()

            server = await asyncio.start_server(silent, "127.0.0.99", world.smtp_port)
            world.names.put("mx2.bob.example", "A", "127.0.0.99")
            world.names.put("bob.example", "MX", "10 mx1.bob.example.", "10 mx2.bob.example.")
            began = time.monotonic()
            check = await _checker(world).check("bob.example")
            assert time.monotonic() - began < 5
            assert [one.host for one in check.seen] == ["mx1.bob.example"]
            assert any("mx2" in one.text and not one.seen for one in check.looks)
            server.close()

    run(scene())


def test_a_reload_goes_through_no_use_a_second_time() -> None:
    """Who begins anew goes on where the last one ended, which the store knows."""

    async def scene() -> None:
        asked: list[float] = []
        kept = {"at": 0.0}
        written = asyncio.Event()

        class Kept:
            async def read(self) -> float:
                return kept["at"]

            async def write(self, at: float) -> None:
                kept["at"] = at
                written.set()

        async def in_use(since: float) -> AsyncIterator[str]:
            asked.append(since)
            nobody: tuple[str, ...] = ()
            for domain in nobody:
                yield domain

        async def nothing(_: Any) -> None:
            return None

        async def one_daemon() -> None:
            counts: Counter[str] = Counter()
            looks = UseLooks(None, in_use, nothing, nothing, nothing, counts)  # type: ignore[arg-type]
            task = asyncio.create_task(looks.run(Kept()))
            await written.wait()
            written.clear()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        began = time.time()
        await one_daemon()
        await one_daemon()  # after a reload
        first, second = asked
        assert began - 3601 < first <= time.time() - 3600
        assert began <= second <= time.time()
        kept["at"] = 1.0  # long ago
        await one_daemon()
        assert time.time() - asked[2] < MAX_BACK + 5

    asyncio.run(scene())
