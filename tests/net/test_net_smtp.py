"""A look at an MX host gives the result type that RFC 8460 has for what is wrong there."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from smtp_sts.dane import Tlsa, match
from smtp_sts.lab.authority import Authority, Variant
from smtp_sts.lab.receiver import Receiver
from smtp_sts.net.https import tls_context
from smtp_sts.net.smtp import MAX_LINES, MxLook, look

Run = Callable[[Coroutine[Any, Any, Any]], Any]
HOST = "mx.bob.example"


async def seen(
    port: int, context: ssl.SSLContext, *, address: str = "127.0.0.1", allow_private: bool = True
) -> MxLook:
    return await look(
        HOST,
        address,
        context=context,
        own_name="alice.example",
        port=port,
        allow_private=allow_private,
        seconds=1.0,
    )


@pytest.mark.parametrize(
    ("variant", "result_type"),
    [
        ("good", ""),
        ("wildcard", ""),
        ("other-name", "certificate-host-mismatch"),
        # RFC 8461 section 4.1: DNS-ID only
        ("common-name", "certificate-host-mismatch"),
        ("expired", "certificate-expired"),
        ("not-yet", "certificate-expired"),
        ("self-signed", "certificate-not-trusted"),
        ("stranger", "certificate-not-trusted"),
    ],
)
def test_a_certificate_is_held_to_the_mx_host(
    run: Run, tmp_path: Path, variant: Variant, result_type: str
) -> None:
    async def scene() -> None:
        authority = Authority(tmp_path)
        receiver = Receiver(authority, HOST, "127.0.0.1")
        receiver.certificate = variant
        await receiver.start()
        try:
            found = await seen(receiver.port, tls_context(str(authority.ca_file)))
        finally:
            await receiver.close()
        assert (found.seen, found.result_type) == (True, result_type)
        assert bool(found.text) == bool(result_type)
        assert found.helo == HOST
        assert not receiver.messages

    run(scene())


def test_a_host_without_starttls_and_one_that_hangs_up(run: Run, tmp_path: Path) -> None:
    async def scene() -> None:
        authority = Authority(tmp_path)
        context = tls_context(str(authority.ca_file))
        receiver = Receiver(authority, HOST, "127.0.0.1")
        receiver.starttls = False
        await receiver.start()
        try:
            found = await seen(receiver.port, context)
            assert (found.seen, found.result_type) == (True, "starttls-not-supported")
            receiver.refuses = True
            found = await seen(receiver.port, context)
            assert (found.seen, found.result_type) == (False, "")
        finally:
            await receiver.close()
        found = await seen(receiver.port, context)
        assert (found.seen, found.text) == (False, "cannot be reached (ECONNREFUSED)")
        found = await seen(receiver.port, context, allow_private=False)
        assert (found.seen, found.text) == (False, "not on the public Internet")

    run(scene())


def test_the_chain_is_there_for_dane_where_pkix_is_not_asked(run: Run, tmp_path: Path) -> None:
    async def scene() -> None:
        authority = Authority(tmp_path)
        receiver = Receiver(authority, HOST, "127.0.0.1")
        receiver.certificate = "self-signed"
        await receiver.start()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            found = await seen(receiver.port, context)
        finally:
            await receiver.close()
        digest = bytes.fromhex(authority.key_digest(HOST, variant="self-signed"))
        record = Tlsa(3, 1, 1, digest)
        assert match([record], found.chain, [HOST], when=0.0).record == record

    run(scene())


HEAD = b"220 x ESMTP\r\n"
OFFER = b"250-x\r\n250-SIZE\r\n250 starttls\r\n"


@pytest.mark.parametrize(
    ("replies", "told", "result_type"),
    [
        ([b"554 no\r\n"], False, ""),
        ([HEAD, b"421 later\r\n"], False, ""),
        ([HEAD, OFFER, b"454 4.7.0 TLS not available\r\n"], True, "starttls-not-supported"),
        ([HEAD, OFFER, b"220 go\r\n", b"this is no TLS"], True, "validation-failure"),
        ([HEAD, OFFER, b"220 go\r\nthis is read by nobody"], False, ""),
        ([HEAD, b"250-x\r\n250 XSTARTTLS\r\n"], True, "starttls-not-supported"),
        ([b"HTTP/1.1 400 Bad Request\r\n"], False, ""),
        ([b"\xff\x00\r\n"], False, ""),
        ([b"220-x\r\n" * (MAX_LINES + 1)], False, ""),
        ([b"220 " + b"x" * 1_000_000], False, ""),
        ([b"220 half"], False, ""),
        ([], False, ""),
        ([HEAD, b"250 x\x1b[2J\r\n"], True, "starttls-not-supported"),
    ],
)
def test_what_hosts_answer(run: Run, replies: list[bytes], told: bool, result_type: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for number, reply in enumerate(replies):
                if number:
                    await reader.read(2000)
                writer.write(reply)
                await writer.drain()
            await reader.read()  # silent from here on
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()

    async def scene() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            found = await seen(server.sockets[0].getsockname()[1], tls_context(None))
        assert (found.seen, found.result_type) == (told, result_type)
        assert (found.text + found.helo).isprintable()

    run(scene())
