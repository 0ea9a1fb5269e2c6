"""The lab's policy hosts: one HTTPS server that is `mta-sts.<domain>` for every domain, and each
host that a policy of the first draft names.

Promises: the name in the TLS handshake (SNI) chooses the page and the certificate; each page
misbehaves exactly as its data say; fetches are counted by host. Must not: read more of a request
than its head.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from smtp_sts.lab.authority import Authority, TlsVersion, Variant

PATH: Final = "/.well-known/mta-sts.txt"

#: `silence`: no answer; `drip`: one byte a second; `huge`: a body without end; `cut`: the end is
#: missing; `close`: none at all; `late`: after `LATE` seconds; `to-end`: no length is told, and
#: close_notify ends it; `to-end-unsaid`: the end of TCP does
Manner = Literal[
    "plain", "silence", "drip", "huge", "cut", "close", "late", "to-end", "to-end-unsaid"
]
#: Later than anybody may keep an MTA waiting.
LATE: Final = 5.5
_FILLING: Final = b"x" * 65536


@dataclass(frozen=True)
class Page:
    """What one policy host answers, and how."""

    body: bytes = b""
    status: int = 200
    content_type: str = "text/plain"
    location: str = ""
    manner: Manner = "plain"
    certificate: Variant = "good"
    #: The body comes in chunks (RFC 9112 section 7.1), not after a Content-Length.
    chunked: bool = False
    #: What Content-Length says; None: the truth, and nothing where the body has no end.
    length: int | None = None
    tls: TlsVersion = ""
    #: the content coding that is told
    coding: str = ""
    #: where it is; everything else is 404
    path: str = PATH

    def head(self) -> bytes:
        """The head of the HTTP response."""
        lines = [f"HTTP/1.1 {self.status} Lab", "Connection: close"]
        if self.content_type:
            lines.append(f"Content-Type: {self.content_type}")
        if self.coding:
            lines.append(f"Content-Encoding: {self.coding}")
        if self.location:
            lines.append(f"Location: {self.location}")
        if self.chunked:
            lines.append("Transfer-Encoding: chunked")
        elif self.length is not None:
            lines.append(f"Content-Length: {self.length}")
        elif self.manner not in ("huge", "to-end", "to-end-unsaid"):
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode()


class PolicyHosts:
    """All policy hosts behind one `port`; `pages` maps a host name to its page."""

    def __init__(self, authority: Authority, port: int = 0) -> None:
        """Certificates come from `authority`; a host without a page answers 404.

        `port` 0 takes a free one.
        """
        self.pages: dict[str, Page] = {}
        #: Requests answered (or left unanswered) by host name.
        self.fetches: Counter[str] = Counter()
        #: The head of the last request, by host name.
        self.heads: dict[str, bytes] = {}
        #: TLS handshakes begun, by host name.
        self.handshakes: Counter[str] = Counter()
        self.port = port
        self._authority = authority
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._names: dict[int, str] = {}

    async def start(self, *addresses: str) -> None:
        """Listen on one free port of each address (127.0.0.1 if none is given). Raises OSError."""
        context = self._authority.server_context("policy.host.invalid")
        context.sni_callback = self._choose
        for address in addresses or ("127.0.0.1",):
            server = await asyncio.start_server(self._serve, address, self.port, ssl=context)
            self.port = server.sockets[0].getsockname()[1]
            self._servers.append(server)

    async def close(self) -> None:
        """Stop, also where a page is silent or dripping."""
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _choose(
        self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext
    ) -> int | None:
        if not name:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        name = name.lower()
        page = self.pages.get(name, Page())
        self.handshakes[name] += 1
        self._names[id(connection)] = name
        connection.context = self._authority.server_context(
            name, variant=page.certificate, tls=page.tls
        )
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        name = self._names.pop(id(writer.get_extra_info("ssl_object")), "")
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            self.fetches[name] += 1
            self.heads[name] = request
            page = self.pages.get(name, Page(status=404))
            if request.split(b" ")[1:2] != [page.path.encode()]:
                page = Page(status=404)
            await _respond(page, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return
        except asyncio.CancelledError:
            writer.transport.abort()
            return
        finally:
            self._tasks.discard(task)
            writer.close()


async def _respond(page: Page, writer: asyncio.StreamWriter) -> None:
    if page.manner == "silence":
        await asyncio.Event().wait()
    if page.manner == "close":
        return
    if page.manner == "late":
        await asyncio.sleep(LATE)
    writer.write(page.head())
    chunk = _chunk if page.chunked else bytes
    if page.manner == "drip":
        for byte in page.body:
            writer.write(chunk([byte]))
            await writer.drain()
            await asyncio.sleep(1)
    elif page.manner == "huge":
        while not writer.is_closing():  # drain() says nothing of a peer that reset
            writer.write(chunk(_FILLING))
            await writer.drain()
            await asyncio.sleep(0)
    elif page.manner == "cut" and not page.chunked:
        writer.write(page.body[:-1])
    else:
        writer.write(chunk(page.body))
    if page.chunked and page.manner != "cut":
        writer.write(b"0\r\n\r\n")
    await writer.drain()
    if page.manner == "to-end-unsaid":
        # Under TLS, so that it says nothing; after all was sent, so that nothing is lost.
        await asyncio.sleep(0.05)
        writer.transport.abort()


def _chunk(data: Iterable[int]) -> bytes:
    body = bytes(data)
    return b"%x\r\n%b\r\n" % (len(body), body) if body else b""  # an empty one is the last
