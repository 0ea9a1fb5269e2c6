"""The socketmap client: whatever a daemon does, it gets an answer or a declared error."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from smtp_sts.config import UnixAddress
from smtp_sts.mta import client, netstring
from smtp_sts.mta.client import ClientError, ask


@asynccontextmanager
async def answering(path: Path, *pieces: bytes, hold: bool = False) -> AsyncIterator[UnixAddress]:
    """Answers every request with the same pieces, then closes or holds the connection."""
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b",")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        if hold:
            await over.wait()
        writer.close()

    server = await asyncio.start_unix_server(serve, str(path))
    try:
        yield UnixAddress(str(path))
    finally:
        over.set()
        server.close()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "closed the connection without an answer"),
        (b"99:OK ", "closed the connection without an answer"),
        (b"x:OK ,", "does not speak socketmap"),
        (b"3:OK x", "does not speak socketmap"),
        (b"9" * 200_000, "does not speak socketmap"),
        (b"9999999:", "does not speak socketmap"),
    ],
)
def test_garbage_from_a_daemon_is_a_declared_error(
    tmp_path: Path, answer: bytes, says: str
) -> None:
    async def play() -> None:
        async with answering(tmp_path / "s", answer) as address:
            with pytest.raises(ClientError, match=says):
                await ask(address, "postfix", "bob.example")

    asyncio.run(play())


def test_nobody_there_and_no_answer_are_declared_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        with pytest.raises(ClientError, match=os.strerror(2)):
            await ask(UnixAddress(str(tmp_path / "nobody")), "postfix", "bob.example")
        monkeypatch.setattr(client, "TIMEOUT", 0.1)
        async with answering(tmp_path / "s", b"3:OK", hold=True) as address:
            with pytest.raises(ClientError, match="did not answer within"):
                await ask(address, "postfix", "bob.example")

    asyncio.run(play())


@pytest.mark.parametrize("cut", [1, 6, 7, 8, 70_000])
def test_a_long_answer_may_come_in_any_pieces(tmp_path: Path, cut: int) -> None:
    async def play() -> None:
        wire = netstring.encode(b"OK " + b"x" * 150_000)
        async with answering(tmp_path / "s", wire[:cut], wire[cut:]) as address:
            assert len(await ask(address, "postfix", "bob.example")) == 150_003

    asyncio.run(play())
