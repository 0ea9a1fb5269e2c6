"""Posting to where a stranger says: any answer ends it, and nothing leads astray (RFC 8460 5.4)."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from smtp_sts.lab.authority import Variant
from smtp_sts.lab.world import World
from smtp_sts.net import post as posting
from smtp_sts.net.dns import Dns
from smtp_sts.net.failure import NetFailure
from smtp_sts.net.https import tls_context
from smtp_sts.net.post import Posted, post, post_contexts

from ..reporting.receivers import HttpsReceiver, Manner

Run = Callable[[Coroutine[Any, Any, Any]], Any]
BODY = b"\x1f\x8b" + bytes(range(256)) * 40
TYPE = "application/tlsrpt+gzip"


async def send(
    world: World,
    url: str,
    *,
    allow_private: bool = True,
    timeout: float = 5.0,
    body: bytes = BODY,
) -> Posted:
    return await post(
        url,
        body,
        TYPE,
        dns=Dns([world.names.address]),
        contexts=post_contexts(tls_context(str(world.ca_file))),
        allow_private=allow_private,
        timeout=timeout,
    )


def scene(
    run: Run, act: Callable[[World, HttpsReceiver], Coroutine[Any, Any, Any]], **told: Any
) -> Any:
    async def play() -> Any:
        async with World() as world:
            receiver = HttpsReceiver(world.authority, **told)
            await receiver.start()
            world.names.put(receiver.name, "A", "127.0.0.1")
            try:
                return await act(world, receiver)
            finally:
                await receiver.close()

    return run(play())


def test_a_report_arrives_as_it_was_sent(run: Run) -> None:
    async def act(world: World, receiver: HttpsReceiver) -> None:
        posted = await send(world, f"{receiver.url}?a=b")
        assert posted.accepted
        assert (posted.status, posted.reason, posted.certificate) == (201, "Told", "")
        (got,) = receiver.posts
        assert got.body == BODY
        assert got.target == "/v1/tlsrpt?a=b"
        assert got.headers["content-type"] == TYPE
        assert got.headers["host"] == f"{receiver.name}:{receiver.port}"

    scene(run, act)


def test_a_url_without_a_path(run: Run) -> None:
    async def act(world: World, receiver: HttpsReceiver) -> None:
        await send(world, f"https://{receiver.name}:{receiver.port}")
        assert receiver.posts[0].target == "/"

    scene(run, act)


def test_a_url_is_one_url(run: Run) -> None:
    """`[1-50]` in a path made fifty requests of one through curl; it cannot stand in a record, and
    here it is only a path."""

    async def act(world: World, receiver: HttpsReceiver) -> None:
        await send(world, f"https://{receiver.name}:{receiver.port}/[1-50]/{{a,b}}")
        assert [p.target for p in receiver.posts] == ["/[1-50]/{a,b}"]

    scene(run, act)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_accepted(run: Run, status: int) -> None:
    async def act(world: World, receiver: HttpsReceiver) -> None:
        assert (await send(world, receiver.url)).accepted

    scene(run, act, status=status)


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 404, 413, 429, 500, 503])
def test_nothing_else_is_and_redirects_are_not_followed(run: Run, status: int) -> None:
    async def act(world: World, receiver: HttpsReceiver) -> None:
        receiver.location = f"https://{receiver.name}:{receiver.port}/elsewhere"
        posted = await send(world, receiver.url)
        assert (posted.status, posted.accepted) == (status, False)
        assert len(receiver.posts) == 1

    scene(run, act, status=status)


@pytest.mark.parametrize(("said", "seconds"), [("120", 120), ("9999999", 86400), ("soon", 0)])
def test_how_long_the_server_wants_us_to_wait(run: Run, said: str, seconds: float) -> None:
    async def act(world: World, receiver: HttpsReceiver) -> None:
        assert (await send(world, receiver.url)).retry_after == seconds

    scene(run, act, status=503, retry_after=said)


@pytest.mark.parametrize(
    ("manner", "slug"),
    [
        ("silent", "fetch-timeout"),
        ("informed", "fetch-timeout"),
        ("endless-head", "http-protocol"),
        ("garbage", "http-protocol"),
        ("closes", "tcp-closed"),
    ],
)
def test_a_server_that_does_not_answer_is_left(run: Run, manner: Manner, slug: str) -> None:
    async def act(world: World, receiver: HttpsReceiver) -> None:
        # A second address is not for what the first had already
        world.names.put(receiver.name, "A", "127.0.0.1", "127.0.0.1")
        tracemalloc.start()
        with pytest.raises(NetFailure) as caught:
            await send(world, receiver.url, timeout=1.0)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert caught.value.slug == slug
        assert receiver.name in caught.value.sentence
        assert most < 8_000_000
        assert len(receiver.posts) == 1

    scene(run, act, manner=manner)


@pytest.mark.parametrize("manner", ["endless", "early", "cut", "plain"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_status_counts_whatever_follows_it(run: Run, manner: Manner, chunked: bool) -> None:
    async def act(world: World, receiver: HttpsReceiver) -> None:
        began = asyncio.get_running_loop().time()
        assert (await send(world, receiver.url)).accepted
        assert asyncio.get_running_loop().time() - began < 3

    scene(run, act, manner=manner, chunked=chunked)


def test_a_body_that_drips_is_read_for_a_moment_only(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posting, "READ_SECONDS", 0.2)

    async def act(world: World, receiver: HttpsReceiver) -> None:
        async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
            await asyncio.sleep(60)

        context = world.authority.server_context(receiver.name)
        server = await asyncio.start_server(drip, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        assert (await send(world, f"https://{receiver.name}:{port}/")).status == 200
        server.close()

    scene(run, act)


@pytest.mark.parametrize("variant", ["expired", "self-signed", "other-name", "stranger"])
def test_a_bad_certificate_is_noted_and_keeps_nothing_back(run: Run, variant: Variant) -> None:
    async def act(world: World, receiver: HttpsReceiver) -> None:
        posted = await send(world, receiver.url)
        assert posted.accepted
        assert "the certificate" in posted.certificate
        assert len(receiver.posts) == 1

    scene(run, act, certificate=variant)


@pytest.mark.parametrize(
    "host",
    [
        "reports.bob.example",
        "127.0.0.1",
        "10.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "169.254.169.254",
    ],
)
def test_law_5_private_addresses_get_nothing(run: Run, host: str) -> None:
    async def act(world: World, receiver: HttpsReceiver) -> None:
        with pytest.raises(NetFailure) as caught:
            await send(world, f"https://{host}:{receiver.port}/", allow_private=False)
        assert caught.value.slug == "private-address"
        assert receiver.connections == 0

    scene(run, act)


def test_the_next_address_is_tried_where_nothing_was_sent(run: Run) -> None:
    async def act(world: World, receiver: HttpsReceiver) -> None:
        world.names.put(receiver.name, "A", "127.9.9.9", "127.0.0.1")
        assert (await send(world, receiver.url)).address == "127.0.0.1"
        world.names.put(receiver.name, "A", "127.9.9.9")
        with pytest.raises(NetFailure) as caught:
            await send(world, receiver.url)
        assert caught.value.slug == "tcp-refused"
        world.names.drop(receiver.name, "A")
        with pytest.raises(NetFailure) as caught:
            await send(world, receiver.url)
        assert caught.value.slug == "tcp-unreachable"

    scene(run, act)


def test_a_large_report_to_a_server_that_refuses_it_early(run: Run) -> None:
    async def act(world: World, receiver: HttpsReceiver) -> None:
        receiver.manner = "early"
        assert (await send(world, receiver.url, body=b"x" * 3_000_000)).status == 413

    scene(run, act, status=413)
