"""The line protocol and tcp_table of a running daemon, byte by byte."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from smtp_sts.lab.world import World

CASES_LINE = [
    (b"bob.example\n", b"enforce mx.bob.example\n"),
    (b"Bob.Example\r\n", b"enforce mx.bob.example\n"),
    (b"bob.example", b"enforce mx.bob.example\n"),  # the end of file ends the line
    (b"[bob.example]:587\n", b"enforce mx.bob.example\n"),
    (b"carol.example\n", b"none\n"),  # testing
    (b"nobody.example\n", b"none\n"),
    (b"192.0.2.1\n", b"none\n"),
    (b".bob.example\n", b"none\n"),
    (b"\n", b"none\n"),
    (b"\xff\x00 }{\n", b"none\n"),
    (b"x" * 5000 + b"\n", b""),  # no question: closed without an answer
]
SECURE = b"200 secure%20match=mx.bob.example%20servername=hostname\n"
CASES_TABLE = [
    (b"get bob.example\n", SECURE),
    (b"get %62ob.example\n", SECURE),
    (b"get bob.example\nget nobody.example\nget bob.example\n",
     SECURE + b"500 not%20found\n" + SECURE),
    (b"get carol.example\n", b"500 not%20found\n"),
    (b"get .example\n", b"500 not%20found\n"),
    (b"get 192.0.2.1\n", b"500 not%20found\n"),
    (b"get %zz\n", b"400 "),
    (b"put bob.example x\n", b"400 "),
    (b"get " + b"x" * 5000, b""),
]  # fmt: skip


@asynccontextmanager
async def serving(world: World) -> AsyncIterator[tuple[Path, Path]]:
    """A daemon in a world where bob enforces and carol tests: its line and tcp_table sockets."""
    await world.publish("bob.example")
    await world.publish("carol.example", mode="testing")
    home = world.socket_path.parent
    line, table = home / "line.sock", home / "table.sock"
    policy = {
        "workers": 1,
        "listen": f"unix:{world.socket_path}",
        "listen_line": f"unix:{line}",
        "listen_tcp_table": f"unix:{table}",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "smtp_sts", "--config", str(world.config_toml(policy=policy)),
        "serve", stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(500):
            if table.exists():
                break
            await asyncio.sleep(0.02)
        yield line, table
    finally:
        process.terminate()
        assert await process.wait() == 0


async def say(path: Path, data: bytes) -> bytes:
    """What comes back when `data` and an end of file are sent."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(8):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def test_each_protocol_answers_and_no_garbage_ends_it() -> None:
    async def play() -> None:
        async with World() as world, serving(world) as (line, table):
            for said, wanted in CASES_LINE:
                assert await say(line, said) == wanted, said[:40]
            for said, wanted in CASES_TABLE:
                got = await say(table, said)
                assert got.startswith(wanted) and bool(got) == bool(wanted), said[:40]
            assert await say(line, CASES_LINE[0][0]) == CASES_LINE[0][1]

    asyncio.run(play())
