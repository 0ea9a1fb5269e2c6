"""Resolvers that lie, dawdle or break off: a question ends in time, with the right cause."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from smtp_sts.lab.names import Names
from smtp_sts.net import dns, dnswire
from smtp_sts.net.dns import Dns
from smtp_sts.net.failure import NetFailure

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Answer = Callable[[bytes], bytes]
RECORD = b"\xc0\x0c\0\x10\0\1\0\0\0\x3c\0\2\1"


def answer(query: bytes, text: bytes, flags: bytes = b"\x81\xa0") -> bytes:
    """A TXT record of one letter for whatever was asked."""
    end = query.index(b"\0", 12) + 5
    return query[:2] + flags + b"\0\1\0\1\0\0\0\0" + query[12:end] + RECORD + text


def truncated(query: bytes) -> bytes:
    return answer(query, b"t", b"\x83\xa0")


def other_question(query: bytes) -> bytes:
    return answer(query[:12] + b"\1b\7example\0\0\x10\0\1", b"b")


def other_type(query: bytes) -> bytes:
    end = query.index(b"\0", 12) + 1
    return answer(query[:end] + b"\0\1\0\1", b"b")


def no_question(query: bytes) -> bytes:
    return query[:2] + b"\x81\xa0\0\0\0\1\0\0\0\0" + b"\1a\7example\0" + RECORD[2:] + b"n"


def pointer_loop(query: bytes) -> bytes:
    at = len(answer(query, b"")) - len(RECORD)
    return answer(query, b"x").replace(RECORD, (0xC000 | at).to_bytes(2, "big") + RECORD[2:])


class Liar(asyncio.DatagramProtocol):
    """A resolver that answers with whatever it was made with, over UDP and TCP."""

    def __init__(self, udp: Answer, tcp: Answer, delay: float) -> None:
        self.udp, self.tcp, self.delay = udp, tcp, delay
        self.asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked += 1
        loop = asyncio.get_running_loop()
        loop.call_later(self.delay, self.transport.sendto, self.udp(data), addr)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        writer.write(self.tcp(await reader.readexactly(size)))
        await writer.drain()
        if self.tcp is not announce:
            writer.close()


def framed(made: Answer) -> Answer:
    def of(query: bytes) -> bytes:
        data = made(query)
        return len(data).to_bytes(2, "big") + data

    return of


def announce(query: bytes) -> bytes:
    """64 KiB, of which one byte comes."""
    return b"\xff\xffx"


def cut(query: bytes) -> bytes:
    return framed(lambda q: answer(q, b"x"))(query)[:-3]


@asynccontextmanager
async def liar(
    udp: Answer, tcp: Answer = truncated, delay: float = 0.0
) -> AsyncIterator[tuple[Liar, tuple[str, int]]]:
    loop = asyncio.get_running_loop()
    made = Liar(udp, tcp, delay)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    transport, _ = await loop.create_datagram_endpoint(lambda: made, local_addr=address)
    try:
        yield made, address
    finally:
        transport.close()
        server.close()


@pytest.mark.parametrize(
    ("udp", "tcp", "slug"),
    [
        pytest.param(truncated, framed(truncated), "dns-malformed", id="truncates-for-ever"),
        pytest.param(truncated, cut, "dns-malformed", id="breaks-off-over-tcp"),
        pytest.param(truncated, announce, "dns-timeout", id="announces-and-does-not-send"),
        pytest.param(truncated, lambda q: b"\0\0", "dns-malformed", id="nothing-over-tcp"),
        pytest.param(
            truncated, framed(other_question), "dns-malformed", id="another-question-over-tcp"
        ),
        pytest.param(other_question, framed(truncated), "dns-malformed", id="another-question"),
        pytest.param(other_type, framed(truncated), "dns-malformed", id="another-type"),
        pytest.param(no_question, framed(truncated), "dns-malformed", id="no-question"),
        pytest.param(pointer_loop, framed(truncated), "dns-malformed", id="compression-loop"),
    ],
)
def test_a_lie_is_no_answer_and_the_next_resolver_is_asked(
    run: Run, monkeypatch: pytest.MonkeyPatch, udp: Answer, tcp: Answer, slug: str
) -> None:
    monkeypatch.setattr(dns, "ATTEMPT_SECONDS", 0.2)

    async def play() -> None:
        names = Names()
        await names.start()
        names.put("a.example", "TXT", '"true"')
        try:
            async with liar(udp, tcp) as (made, address):
                began = time.monotonic()
                with pytest.raises(NetFailure) as caught:
                    await Dns([address], timeout=2).txt("a.example")
                assert caught.value.slug == slug
                assert time.monotonic() - began < 1
                assert made.asked <= dns.ROUNDS
                found = await Dns([address, names.address], timeout=2).txt("a.example")
                assert found.records == (b"true",)
        finally:
            await names.close()

    run(play())


def test_an_answer_behind_the_deadline_is_none_and_is_not_taken_for_the_next_question(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns, "ATTEMPT_SECONDS", 0.1)

    async def play() -> None:
        async with liar(lambda q: answer(q, b"l"), delay=0.25) as (made, address):
            client = Dns([address], timeout=0.4)
            with pytest.raises(NetFailure) as caught:
                await client.txt("a.example")
            assert caught.value.slug == "dns-timeout"
            made.delay = 0.0
            made.udp = lambda q: answer(q, b"n")
            for _ in range(5):  # while the late ones arrive
                assert (await client.txt("a.example")).records == (b"n",)
                await asyncio.sleep(0.05)

    run(play())


def test_the_ad_bit_of_a_liar_is_worth_nothing_where_it_is_not_trusted(run: Run) -> None:
    async def play() -> None:
        async with liar(lambda q: answer(q, b"x")) as (_, address):
            for trusted in (True, False):
                found = await Dns([address], trust_ad=trusted).query("a.example", dnswire.TXT)
                assert (found.records, found.ad) == ((b"x",), trusted)

    run(play())


def formerr(query: bytes) -> bytes:
    return query[:2] + b"\x81\x81" + bytes(8)


def notimp(query: bytes) -> bytes:
    end = query.index(b"\0", 12) + 5
    return query[:2] + b"\x81\x84\0\1" + bytes(6) + query[12:end]


def badvers(query: bytes) -> bytes:
    """NOERROR in the header; the rest of the code, 16, is in the OPT record."""
    end = query.index(b"\0", 12) + 5
    opt = b"\0\0\x29\4\xd0\1\0\0\0\0\0"
    return query[:2] + b"\x81\x80\0\1\0\0\0\0\0\1" + query[12:end] + opt


def without_edns(refusal: Answer) -> Answer:
    """One that knows no EDNS: the question counts its additional records in the header."""
    return lambda query: refusal(query) if query[11] else answer(query, b"x")


@pytest.mark.parametrize("refusal", [formerr, notimp, badvers])
def test_who_knows_no_edns_is_asked_again_without_it(run: Run, refusal: Answer) -> None:
    """RFC 6891 section 7; `BADVERS` is no answer without records (RFC 6891 section 6.1.3)."""

    async def play() -> None:
        async with liar(without_edns(refusal)) as (made, address):
            assert (await Dns([address]).txt("a.example")).records == (b"x",)
            assert made.asked == 2
            made.udp, made.asked = refusal, 0
            with pytest.raises(NetFailure) as caught:
                await Dns([address]).txt("a.example")
            assert (caught.value.slug, made.asked) == ("dns-refused", 2)

    run(play())
