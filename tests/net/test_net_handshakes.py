"""Who computes when: no stranger holds up the others, whatever he costs (law 6)."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from smtp_sts.net import handshakes as module
from smtp_sts.net.handshakes import Crowded, Handshakes, handshakes, stranger

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def costly(milliseconds: int = 4) -> None:
    """Some CPU without the interpreter's lock, as a handshake takes it."""
    for _ in range(milliseconds):
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", 800)


async def done(pool: Handshakes, who: tuple[str, str], work: Callable[[], object]) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ended(raised: Exception | None) -> None:
        if raised is None:
            future.set_result(None)
        else:
            future.set_exception(raised)

    pool.submit(who, work, ended)
    await future


def test_law_6_one_strangers_handshakes_do_not_hold_up_anothers(run: Run) -> None:
    async def scene() -> None:
        finished = 0

        async def eve(number: int) -> None:
            nonlocal finished
            await done(pool, ("eve", f"e{number}.example"), costly)
            finished += 1

        pool = handshakes()
        assert pool is handshakes()
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(eve(number))
            await asyncio.sleep(0.02)
            before = finished
            await done(pool, ("bob", "bob.example"), costly)
            assert finished - before < 10

    run(scene())


def test_of_one_stranger_one_is_computed_at_a_time(run: Run) -> None:
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()
    lock = threading.Lock()

    def work(*names: str) -> None:
        with lock:
            for name in (*names, "all"):
                running[name] += 1
                most[name] = max(most[name], running[name])
        costly(2)
        with lock:
            for name in (*names, "all"):
                running[name] -= 1

    async def scene() -> None:
        pool = handshakes()
        pairs = [(f"network {n}", "eve.example") for n in range(30)]
        pairs += [("network", f"e{n}.example") for n in range(30)]
        async with asyncio.TaskGroup() as group:
            for pair in pairs:
                group.create_task(done(pool, pair, partial(work, *pair)))

    run(scene())
    assert most.pop("all") == module.THREADS  # both strangers at once
    assert set(most.values()) == {1}


def test_who_cost_much_waits_for_who_cost_little(run: Run) -> None:
    order: list[str] = []

    async def scene() -> None:
        pool = handshakes()
        await done(pool, ("eve", "eve.example"), partial(costly, 20))
        await done(pool, ("bob", "bob.example"), partial(costly, 1))
        first, others = threading.Event(), threading.Event()
        async with asyncio.TaskGroup() as group:
            for n in range(module.THREADS):
                wait = first.wait if n == 0 else others.wait
                group.create_task(done(pool, (f"x{n}", f"x{n}"), wait))
            await asyncio.sleep(0)
            waiting = []
            for who in ("eve", "bob", "new"):
                work = partial(order.append, who)
                waiting.append(group.create_task(done(pool, (who, f"{who}.example"), work)))
            await asyncio.sleep(0)
            first.set()  # one thread alone, so that there is an order
            await asyncio.wait(waiting)
            others.set()

    run(scene())
    assert order == ["new", "bob", "eve"]


def test_no_more_wait_than_may_and_nobody_for_who_has_left(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 5)

    async def scene() -> None:
        pool = handshakes()
        gate = threading.Event()
        async with asyncio.TaskGroup() as group:
            for n in range(module.THREADS):
                group.create_task(done(pool, (f"x{n}", f"x{n}"), gate.wait))
            await asyncio.sleep(0.01)
            never = [pool.submit(("e", "e"), costly, pytest.fail) for _ in range(5)]  # type: ignore[arg-type]
            with pytest.raises(Crowded, match="5 TLS handshakes wait"):
                pool.submit(("bob", "bob"), costly, pytest.fail)  # type: ignore[arg-type]
            for piece in never:
                piece.drop()
            group.create_task(done(pool, ("bob", "bob"), costly))
            await asyncio.sleep(0)
            gate.set()
        with pytest.raises(ZeroDivisionError):
            await done(pool, ("bob", "bob"), lambda: 1 // 0)

    run(scene())


@pytest.mark.parametrize(
    "host, address, other, same",
    [
        ("mta-sts.a.example", "192.0.2.1", ("mta-sts.b.example", "192.0.2.254"), (True, False)),
        ("mta-sts.a.example", "192.0.2.1", ("mx.a.example", "192.0.3.1"), (False, True)),
        ("a.co.uk", "2001:db8:1::1", ("b.co.uk", "2001:db8:1:ffff::1"), (True, False)),
        ("a.co.uk", "2001:db8:1::1", ("x.A.co.uk", "2001:db8:2::1"), (False, True)),
        ("a.co.uk", "::ffff:192.0.2.1", ("192.0.2.1", "fe80::1%lo"), (False, False)),
    ],
)
def test_who_is_one_stranger(
    host: str, address: str, other: tuple[str, str], same: tuple[bool, bool]
) -> None:
    pairs = zip(stranger(host, address), stranger(*other), strict=True)
    assert tuple(a == b for a, b in pairs) == same
