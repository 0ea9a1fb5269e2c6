"""Connections of the HTTP pages: what is slow or silent is closed, on both event loops."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from smtp_sts.mta.ready import ReadyTable
from smtp_sts.mta.service import Service
from smtp_sts.policy import NextHop
from smtp_sts.resolver import Decision
from smtp_sts.web import api, server

PATIENCE = 0.4


async def decide(where: NextHop) -> Decision:
    domain = where.domain
    if domain == "defect.example":
        raise RuntimeError("a defect")
    if domain == "late.example":
        await asyncio.sleep(60)
    return Decision(domain, "no-policy", "no-record")


async def played(path: Path, scene: Callable[[str], Awaitable[None]]) -> dict[str, int]:
    """What a server on `path` has counted when the scene is over."""
    service = Service(decide, ReadyTable(10), {}, deadline=0.3)
    speaker = api.speaker(service, lambda: True)
    listener = await asyncio.get_running_loop().create_unix_server(speaker, str(path))
    await scene(str(path))
    listener.close()
    for connection in list(service.connections):
        connection.drain()
    async with asyncio.timeout(2):
        await service.idle.wait()
    return service.counts


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[str], Awaitable[None]]], dict[str, int]]:
    monkeypatch.setattr(server, "PATIENCE", PATIENCE)
    monkeypatch.setattr(server, "BODY_SECONDS", PATIENCE)

    def runner(scene: Callable[[str], Awaitable[None]]) -> dict[str, int]:
        with asyncio.Runner(loop_factory=request.param) as loop:
            return loop.run(played(tmp_path / "http", scene))

    return runner


@pytest.mark.parametrize(
    ("said", "then", "unfinished"),
    [
        (b"", b"", 0),
        (b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n", b"", 0),
        (b"GET /v1/hea", b"l", 1),
        (b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /v1/he", 1),
    ],
    ids=["nothing", "an answered request", "a part", "one and a part"],
)
def test_who_says_no_more_is_closed(
    run: Callable[..., dict[str, int]], said: bytes, then: bytes, unfinished: int
) -> None:
    async def scene(path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        begun = time.monotonic()
        writer.write(said)
        await asyncio.sleep(0.05)
        writer.write(then)
        async with asyncio.timeout(4 * PATIENCE):
            answer = await reader.read()
        assert time.monotonic() - begun >= PATIENCE / 2
        assert bool(answer) == said.startswith(b"GET /v1/health ")
        writer.close()

    assert run(scene).get("unfinished-requests", 0) == unfinished


@pytest.mark.parametrize(
    "head",
    [b"GET /v1/health HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n"],
)
def test_who_drips_is_closed(run: Callable[..., dict[str, int]], head: bytes) -> None:
    async def scene(path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(head)
        end = asyncio.ensure_future(reader.read())
        begun = time.monotonic()
        while not end.done():
            assert time.monotonic() - begun < 4 * PATIENCE
            writer.write(b"a")
            await asyncio.sleep(0.02)
        writer.close()

    counts = run(scene)
    assert counts.get("unfinished-requests", 0) + counts.get("refused-requests", 0) == 1


def test_law_6_and_7_a_late_decision_lets_through_and_a_defect_ends_one_connection(
    run: Callable[..., dict[str, int]],
) -> None:
    async def scene(path: str) -> None:
        for domain, status, word in (
            (b"late", b"200", b"discovery-timeout"),
            (b"defect", b"500", b"internal-error"),
            (b"fine", b"200", b"no-record"),
        ):
            reader, writer = await asyncio.open_unix_connection(path)
            line = b"GET /v1/policy/%s.example HTTP/1.1\r\nHost: x\r\n" % domain
            writer.write(line + b"Connection: close\r\n\r\n")
            got = await reader.read()
            assert got.startswith(b"HTTP/1.1 " + status)
            assert word in got
            writer.close()

    counts = run(scene)
    assert (counts["answer-deadline"], counts["internal-errors"]) == (1, 1)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200), ("127.0.0.1:8464", 200), ("localhost:8464", 200), ("[::1]:8464", 200),
        (socket.gethostname(), 200), ("sts.localhost", 200), ("LOCALHOST.", 200), (None, 200),
        # A page of mallory's, whose name leads to 127.0.0.1 by now (DNS rebinding).
        ("mallory.example", 421), ("mallory.example:8464", 421),
        ("127.0.0.1.mallory.example:8464", 421), ("localhost.mallory.example", 421),
    ],
)  # fmt: skip
def test_law_11_a_name_of_a_strangers_that_leads_to_loopback_reads_nothing(
    host: str | None, status: int
) -> None:
    async def scene() -> None:
        service = Service(decide, ReadyTable(10), {})
        speaker = api.speaker(service, lambda: True)
        listener = await asyncio.get_running_loop().create_server(speaker, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
        version, field = ("1.1", f"Host: {host}\r\n") if host else ("1.0", "")
        writer.write(f"GET /v1/policy/bob.example HTTP/{version}\r\n{field}\r\n".encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(f"HTTP/{version} {status} ".encode()), head
        assert (b"no-policy" in await reader.read(2000)) is (status == 200)
        writer.close()
        listener.close()

    asyncio.run(scene())
