"""alice's sending client obeys the replies of a daemon as Postfix does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from smtp_sts.config import UnixAddress
from smtp_sts.lab.sender import (
    Delivery,
    Sender,
    certificate_matches,
    name_matches,
    read_reply,
)
from smtp_sts.lab.world import World
from smtp_sts.mta.client import ask

SECURE = "OK secure match=mx.bob.example servername=hostname"
TLSRPT = (
    " policy_type=sts policy_domain=bob.example mx_host_pattern=*.bob.example"
    " { policy_string = version: STSv1 }"
)


@asynccontextmanager
async def responder(path: Path, reply: bytes) -> AsyncIterator[None]:
    """Answers every request with the same bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b",")
        writer.write(reply)
        writer.close()

    server = await asyncio.start_unix_server(serve, str(path))
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()


def netstring(text: str) -> bytes:
    return b"%d:%s," % (len(text), text.encode())


async def deliver(world: World, reply: str) -> Delivery:
    async with responder(world.socket_path, netstring(reply)):
        sender = Sender(
            world.names.address,
            world.smtp_port,
            world.ca_file,
            ask=partial(ask, UnixAddress(str(world.socket_path)), "postfix"),
        )
        return await sender.send("bob@bob.example", text="Subject: x\r\n\r\n.dot")


@pytest.mark.parametrize(
    ("reply", "tls", "host"),
    [
        ("NOTFOUND ", "unverified", "mx.bob.example"),
        ("OK may" + TLSRPT, "unverified", "mx.bob.example"),
        (SECURE, "verified", "mx.bob.example"),
        ("OK secure match=.bob.example servername=hostname", "verified", "mx.bob.example"),
        ("OK secure match=mx2.bob.example servername=hostname", "verified", "mx2.bob.example"),
        ("OK secure match=.other.example:mx2.bob.example", "verified", "mx2.bob.example"),
        (SECURE + TLSRPT, "verified", "mx.bob.example"),
        ("OK secure match=mx.other.example servername=hostname", "none", ""),
        ("TEMP try later", "none", ""),
        ("OK ", "none", ""),
        ("OK secure servername=hostname", "none", ""),
        ("OK dane", "unverified", "mx.bob.example"),
        ("OK dane-only", "none", ""),
        ("OK fingerprint", "none", ""),
    ],
)
def test_the_reply_decides_how_mail_goes(reply: str, tls: str, host: str) -> None:
    async def scene() -> None:
        async with World() as world:
            await world.receive("bob.example", "mx.bob.example", "mx2.bob.example")
            delivery = await deliver(world, reply)
            assert (delivery.tls, delivery.host) == (tls, host), delivery
            seen = world.messages("bob", "bob@bob.example")
            assert len(seen) == (1 if host else 0)
            assert all(message.content.rstrip().endswith(b"\r\n.dot") for message in seen)

    asyncio.run(scene())


def test_an_mx_host_outside_the_patterns_is_skipped_though_its_certificate_is_valid() -> None:
    async def scene() -> None:
        async with World() as world:
            await world.receive("bob.example", "mx.deep.bob.example", "mx.bob.example")
            reply = "OK secure match=.bob.example servername=hostname"
            assert (await deliver(world, reply)).host == "mx.deep.bob.example"
            delivery = await deliver(world, reply + TLSRPT)
            assert delivery.host == "mx.bob.example"
            assert delivery.story[0] == (
                "mx.deep.bob.example: the policy does not list this MX host"
            )

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("strip", "TLS is required, but was not offered"),
        ("expired", "certificate not trusted: certificate has expired"),
        ("self-signed", "certificate not trusted: self-signed certificate"),
        ("not-yet", "certificate not trusted: certificate is not yet valid"),
        ("other-name", "certificate is for mallory.example"),
    ],
)
def test_a_secure_delivery_is_deferred_where_tls_is_not_what_it_must_be(
    broken: str, says: str
) -> None:
    async def scene() -> None:
        async with World() as world:
            await world.receive("bob.example", "mx.bob.example")
            receiver = world.receivers["mx.bob.example"]
            if broken == "strip":
                receiver.starttls = False
            else:
                receiver.certificate = broken  # type: ignore[assignment]
            delivery = await deliver(world, SECURE)
            assert not delivery.delivered
            assert delivery.story == (f"mx.bob.example: {says}",)
            assert not receiver.messages
            assert (await deliver(world, "NOTFOUND ")).delivered

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("pattern", "name", "covered"),
    [
        ("mx.a.example", "MX.a.example", True),
        ("mx.a.example", "mx.b.example", False),
        (".a.example", "x.y.a.example", True),
        (".a.example", "a.example", False),
        ("*.a.example", "x.a.example", True),
        ("*.a.example", "x.y.a.example", False),
        ("*.a.example", "a.example", False),
    ],
)
def test_names_match_as_in_postfix(pattern: str, name: str, covered: bool) -> None:
    assert name_matches(pattern, name) is covered


def test_wildcard_certificates_cover_one_label() -> None:
    assert certificate_matches("mx.a.example", "*.a.example")
    assert not certificate_matches("mx.x.a.example", "*.a.example")
    assert certificate_matches(".a.example", "mx.a.example")


def test_a_full_reply_is_read_with_all_its_patterns() -> None:
    policy = read_reply(SECURE + TLSRPT + " { policy_string = mx: q }")
    assert policy.secure
    assert policy.match == ("mx.bob.example",)
    assert policy.mx_patterns == ("*.bob.example",)
