"""Law 7 at the daemon: whatever a client sends gets its reply or ends that connection alone."""

from __future__ import annotations

import asyncio

from smtp_sts.config import UnixAddress
from smtp_sts.lab.world import World
from smtp_sts.mta import netstring
from smtp_sts.mta.client import ask

from .process import daemon, told, until, workers_of

SECURE = b"OK secure match=mx.bob.example servername=hostname"
NOT_FOUND = b"NOTFOUND "
UMLAUT = "b\u00fccher.example"

#: key as it stands on the wire -> reply
KEYS = {
    b"bob.example": SECURE,
    b"BOB.Example.": SECURE,
    b"[bob.example]:587": SECURE,
    b"bob.example:25": SECURE,
    UMLAUT.encode(): b"OK secure match=mx.xn--bcher-kva.example servername=hostname",
    "\uff42\uff4f\uff42\u3002example".encode(): SECURE,  # full width, ideographic stop
    b"": NOT_FOUND,
    b" ": NOT_FOUND,
    b"bob.example x": NOT_FOUND,
    b" bob.example": NOT_FOUND,
    b"bob.example\n": NOT_FOUND,
    b"bob\0.example": NOT_FOUND,
    b"\x1b[31mbob.example": NOT_FOUND,
    b"\xff\xfe.example": NOT_FOUND,
    b".example": NOT_FOUND,
    b".": NOT_FOUND,
    b"..": NOT_FOUND,
    b"bob..example": NOT_FOUND,
    b"192.0.2.1": NOT_FOUND,
    b"[192.0.2.1]": NOT_FOUND,
    b"[IPv6:2001:db8::1]:25": NOT_FOUND,
    b"2001:db8::1": NOT_FOUND,
    b"[bob.example": NOT_FOUND,
    b"*.example": NOT_FOUND,
    b"a" * 300 + b".example": NOT_FOUND,
    b".".join([b"a" * 63] * 4): NOT_FOUND,
    b"a." * 4000 + b"example": NOT_FOUND,
    "\u00fc".encode() * 300 + b".example": NOT_FOUND,
    "\u00fc".encode() * 4000: NOT_FOUND,
    "xn--\u00fc.example".encode(): NOT_FOUND,
    b"a,b.example": NOT_FOUND,
    b"a}b.example": NOT_FOUND,
}
#: what can never become a request
GARBAGE = [
    b"10001:",
    b"99999999999:",
    b"4294967296:x",
    b"-1:,",
    b":,",
    b"00:,",
    b"3:abcd",
    b"x" * 1000,
    b"\x16\x03\x01\x02\0\x01",
    b"GET / HTTP/1.1\r\n\r\n",
]


def test_law_7_bad_requests_get_their_reply_or_end_their_connection() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            await world.publish("xn--bcher-kva.example")
            config = world.config_toml(policy={"workers": 2}, log={"level": "debug"})
            path = str(world.socket_path)
            with daemon(config, world.socket_path) as process:
                until(lambda: len(workers_of(process)) == 2)
                workers = workers_of(process)
                halves = [await asyncio.open_unix_connection(path) for _ in range(3)]
                for (_, writer), half in zip(
                    halves, (b"1", b"19:", b"19:postfix bob.exampl"), strict=True
                ):
                    writer.write(half)  # and then silence
                for key, reply in KEYS.items():
                    got = await exchange(path, netstring.encode(b"postfix " + key))
                    assert got == netstring.encode(reply), key
                for payload in (b"", b"postfix", b" ", b"\xff\xff bob.example\0"):
                    got = await exchange(path, netstring.encode(payload))
                    assert got == netstring.encode(NOT_FOUND), payload
                for garbage in GARBAGE:
                    before = netstring.encode(b"postfix bob.example")
                    got = await exchange(path, before + garbage, closes=True)
                    assert got == netstring.encode(SECURE), garbage
                address = UnixAddress(path)
                assert (await ask(address, "postfix", "bob.example")).encode() == SECURE
                rest = (b"9:postfix bob.example,", b"postfix bob.example,", b"e,")
                for (reader, writer), half in zip(halves, rest, strict=True):
                    writer.write(half)
                    assert await reader.readexactly(54) == netstring.encode(SECURE)
                    writer.close()
                assert workers_of(process) == workers
                log = told(process)
            assert "Traceback" not in log, log
            assert "\x1b" not in log
            assert "bad-netstrings" in log

    asyncio.run(play())


async def exchange(path: str, request: bytes, *, closes: bool = False) -> bytes:
    """The reply to a request; with `closes` everything up to the end of the connection."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        async with asyncio.timeout(5):
            writer.write(request)
            if not closes:
                head = await reader.readuntil(b":")
                return head + await reader.readexactly(int(head[:-1]) + 1)
            return await reader.read()
    finally:
        writer.close()
