"""Law 6: what a stranger's TLS server makes us compute is bounded, and none of it on the loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtp_sts.lab.authority import Authority
from smtp_sts.lab.costly import retry
from smtp_sts.net import https, post, smtp, tls
from smtp_sts.net.failure import NetFailure
from smtp_sts.net.https import tls_context
from smtp_sts.net.tls import trusting_context
from smtp_sts.net.tls_records import Records

from . import hostile

Run = Callable[[Coroutine[Any, Any, Any]], Any]
HOST = "mta-sts.eve.example"
#: kind of server -> what is said of it
REFUSED = {
    "dhe": "tls-handshake",
    "retry": "tls-handshake",
    "1.3:ffdhe8192": "tls-handshake",
    "1.3:ffdhe2048": "tls-handshake",
    "chain": "certificate-",
    "large": "tls-handshake",
    "records": "http-protocol",
}
#: One group each: who is strict offers no other.
GOOD = ["1.2", "1.3", *(f"{v}:{g}" for v in ("1.2", "1.3") for g in (
    "prime256v1", "secp384r1", "secp521r1", "X25519", "X448"))]  # fmt: skip
ADDRESSES = {kind: f"127.0.7.{n}" for n, kind in enumerate([*REFUSED, *GOOD], 1)}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Authority, int]]:
    """An authority, and the port of all servers."""
    home = tmp_path_factory.mktemp("hostile")
    authority = Authority(home)
    hostile.prepare(authority, [HOST], home)
    kinds = {address: kind for kind, address in ADDRESSES.items()}
    with hostile.servers(home, kinds) as port:
        yield authority, port


@functools.cache
def _context(authority: Authority) -> ssl.SSLContext:
    return tls_context(str(authority.ca_file))


async def _fetch(world: tuple[Authority, int], kind: str) -> https.Fetched:
    authority, port = world
    context = _context(authority)
    return await https._get(HOST, https.PATH, ADDRESSES[kind], port, context, 10)


@pytest.mark.parametrize("kind", GOOD)
def test_a_server_with_one_group_of_elliptic_curves_is_served(
    run: Run, world: tuple[Authority, int], kind: str
) -> None:
    fetched = run(_fetch(world, kind))
    assert fetched.body == hostile.BODY
    assert fetched.tls_version == f"TLSv{kind[:3]}"


@pytest.mark.parametrize("kind", REFUSED)
def test_law_6_what_costs_much_is_not_computed(
    run: Run, world: tuple[Authority, int], kind: str
) -> None:
    async def scene() -> float:
        began = time.process_time()
        with pytest.raises(NetFailure) as caught:
            await _fetch(world, kind)
        assert caught.value.slug.startswith(REFUSED[kind]), caught.value
        return time.process_time() - began

    run(_warm(world))
    assert run(scene()) < 0.05


async def _warm(world: tuple[Authority, int]) -> None:
    await _fetch(world, "1.3")


@pytest.mark.alone
def test_law_6_the_loop_computes_none_of_it(run: Run, world: tuple[Authority, int]) -> None:
    """All of them at once, sixteen times: twice what one domain has addresses."""

    async def scene() -> float:
        longest = [0.0]
        lag = asyncio.create_task(_longest_turn(longest))
        kinds = [kind for kind in REFUSED if kind != "records"] * 16

        async def fetch(number: int) -> https.Fetched:
            await asyncio.sleep(number / 500)  # as connections come to be, not all in one turn
            return await _fetch(world, kinds[number])

        fetches = [fetch(number) for number in range(len(kinds))]
        found = await asyncio.gather(*fetches, return_exceptions=True)
        lag.cancel()
        assert {type(one) for one in found} == {NetFailure}, found
        return longest[0]

    run(_warm(world))
    gc.collect()
    gc.freeze()  # what pytest and hypothesis hold takes 40 ms to go through
    try:
        assert run(scene()) < 0.02
    finally:
        gc.unfreeze()


async def _longest_turn(longest: list[float]) -> None:
    """The most CPU that the event loop took between two of our turns (seconds)."""
    before = time.thread_time()
    while True:
        await asyncio.sleep(0.001)
        now = time.thread_time()
        longest[0] = max(longest[0], now - before)
        before = now


class _Offers(asyncio.Protocol):
    """An MX host that offers STARTTLS, and is a hostile server's from there on."""

    def __init__(self, address: str, port: int) -> None:
        self._to = (address, port)
        self._peer: asyncio.Transport | None = None
        self._ready = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(b"220 x ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        if self._peer is not None:
            self._peer.write(data)
        elif data.startswith(b"EHLO"):
            self._transport.write(b"250-x\r\n250 STARTTLS\r\n")
        else:
            self._task = asyncio.create_task(self._through())

    async def _through(self) -> None:
        front = self._transport

        class Back(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                front.write(data)

            def connection_lost(self, exc: Exception | None) -> None:
                front.close()

        loop = asyncio.get_running_loop()
        self._peer, _ = await loop.create_connection(Back, *self._to)
        front.write(b"220 go\r\n")


@pytest.mark.parametrize(
    ("kind", "seen", "result_type"),
    [
        ("1.2", True, ""),
        ("1.3", True, ""),
        ("1.3:secp384r1", True, ""),
        # What we do not offer may be no fault in the eyes of a mail server.
        ("dhe", False, ""),
        ("retry", False, ""),
        ("1.3:ffdhe2048", False, ""),
        ("large", False, ""),
        ("chain", True, "certificate-not-trusted"),
    ],
)
def test_law_6_a_look_at_an_mx_host_costs_no_more(
    run: Run, world: tuple[Authority, int], kind: str, seen: bool, result_type: str
) -> None:
    authority, port = world

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Offers(ADDRESSES[kind], port), "127.0.0.1", 0)
        async with server:
            for context in (tls_context(str(authority.ca_file)), trusting_context()):
                began = time.thread_time()
                found = await smtp.look(
                    HOST, "127.0.0.1", context=context, own_name="alice.example",
                    port=server.sockets[0].getsockname()[1], allow_private=True, seconds=5,
                )  # fmt: skip
                assert time.thread_time() - began < 0.05
                expected = "" if context is trusting_context() else result_type
                assert (found.seen, found.result_type) == (seen, expected), found
                assert bool(found.chain) is (seen and not expected)

    run(_warm(world))
    run(scene())


def test_what_a_server_says_before_it_closes_is_told(run: Run) -> None:
    """An alert, and the end of the connection in the same packet or right behind it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(2000)
        writer.write(b"\x15\x03\x03\0\x02\x02\x28")  # fatal: handshake_failure
        writer.close()

    async def scene() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        context = tls_context(None)
        async with server:
            port = server.sockets[0].getsockname()[1]
            for _ in range(50):
                with pytest.raises(NetFailure, match="HANDSHAKE_FAILURE"):
                    await https._get(HOST, https.PATH, "127.0.0.1", port, context, 5)

    run(scene())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_retry_is_seen_however_it_is_cut(data: st.DataObject) -> None:
    """Into records, and those into reads; behind a HelloRequest, which OpenSSL passes over."""
    group = data.draw(st.sampled_from([0x0100, 0x0104, 0x001D, 0x0017, 0x11EC]))
    message = retry(bytes(32), group)[5:]
    message = b"\0\0\0\0" * data.draw(st.integers(0, 2)) + message
    pieces = []
    while message:
        size = data.draw(st.integers(1, len(message)))
        pieces.append(b"\x16\x03\x03" + size.to_bytes(2, "big") + message[:size])
        message = message[size:]
    stream = b"".join(pieces) + data.draw(st.sampled_from([b"", b"\x14\x03\x03\0\x01\x01"]))
    records, said = Records(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        said.append(records.take(stream[:size]))
        stream = stream[size:]
    assert records.whole
    refused = 0x0100 <= group < 0x0200
    assert [text for text in said if text] == [
        "it wants finite-field Diffie-Hellman, which costs too much"
    ] * refused


@given(st.binary(max_size=300), st.integers(0, 300))
def test_law_7_records_take_any_bytes(data: bytes, at: int) -> None:
    records = Records()
    for piece in (data[:at], data[at:]):
        if records.take(piece):
            break


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not there")
def test_law_6_a_server_gets_no_second_handshake(
    world: tuple[Authority, int], tmp_path: Path
) -> None:
    """OpenSSL's own server asks for another one where we read."""
    authority, _ = world
    pem = authority.ca_file.parent / "good.pem"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", str(pem), "-key",
               str(pem), "-tls1_2", "-msg"]  # fmt: skip

    async def scene(server: subprocess.Popen[bytes], log: Path) -> None:
        def logged(what: bytes) -> None:
            end = time.monotonic() + 10
            while what not in log.read_bytes():
                assert time.monotonic() < end, log.read_bytes()
                time.sleep(0.02)

        await asyncio.to_thread(logged, b"ACCEPT")
        session = await tls.connect(
            asyncio.Protocol(), HOST, "127.0.0.1", port, _context(authority)
        )
        assert server.stdin is not None
        server.stdin.write(b"r\n")
        server.stdin.flush()
        await asyncio.to_thread(logged, b"HelloRequest")
        await asyncio.to_thread(logged, b"no_renegotiation")
        session.abort()
        assert log.read_bytes().count(b", ClientHello") == 1

    log = tmp_path / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output) as server,
    ):
        try:
            asyncio.run(scene(server, log))
        finally:
            server.kill()


@pytest.mark.parametrize("kind", ["dhe", "retry", "chain", "large"])
def test_law_6_a_report_costs_no_more(world: tuple[Authority, int], kind: str) -> None:
    """Reports go to hosts whose certificate is worth nothing, too: a second connection."""
    authority, port = world

    async def scene() -> float:
        contexts = post.post_contexts(_context(authority))
        began = time.process_time()
        with pytest.raises(NetFailure) if kind != "chain" else contextlib.nullcontext():
            url = f"https://{HOST}:{port}/"
            await post._post(url, ADDRESSES[kind], b"{}", "application/json", contexts, 5)
        return time.process_time() - began

    asyncio.run(_warm(world))
    assert asyncio.run(scene()) < 0.08
