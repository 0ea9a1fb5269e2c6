"""What an HTTPS server may make of its answer: one read of it must not hold up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import h11
import pytest

from smtp_sts.net.exchange import MAX_EVENTS, Exchange
from smtp_sts.net.failure import NetFailure

Run = Callable[[Coroutine[Any, Any, Any]], Any]
#: What one read may give (uvloop).
READ = 256 * 1024
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Taken(Exchange):
    """Takes whatever comes, and counts what it was told."""

    told = 0

    def head(self, response: h11.Response) -> None:
        self.told += 1

    def data(self, piece: bytes) -> None:
        self.told += 1


class Nowhere:
    def write(self, data: bytes) -> None:
        """What goes out is not looked at."""


async def exchange(came: bytes) -> Taken:
    taken = Taken(
        "mta-sts.bob.example", h11.Request(method="GET", target="/", headers=[("Host", "b")])
    )
    taken.connection_made(cast(asyncio.Transport, Nowhere()))
    taken.data_received(came)
    return taken


@pytest.mark.parametrize(
    "head, piece",
    [
        (b"", b"HTTP/1.1 100 \r\n\r\n"),
        (b"", b"HTTP/1.1 103 \r\na: b\r\n\r\n"),
        (CHUNKED, b"1\r\na\r\n"),
    ],
)
def test_law_6_an_answer_in_countless_pieces_ends_the_exchange(
    run: Run, head: bytes, piece: bytes
) -> None:
    # 40,000 pieces in one read: more than a second in which no MTA was answered.
    taken = run(exchange(head + piece * ((READ - len(head)) // len(piece))))
    with pytest.raises(NetFailure, match="pieces") as caught:
        taken.done.result()
    assert caught.value.slug == "http-protocol"
    assert taken.told <= MAX_EVENTS


def test_an_answer_in_some_pieces_is_taken(run: Run) -> None:
    body = b"".join(b"%x\r\n%s\r\n" % (len(line), line) for line in [b"mx: a.example\r\n"] * 400)
    taken = run(exchange(b"HTTP/1.1 103 \r\n\r\n" + CHUNKED + body + b"0\r\n\r\n"))
    assert taken.done.result() is None
    assert taken.told > 400
