"""Receivers of reports, as real as they need be: an HTTPS server that answers as it is told, and an
SMTP server (aiosmtpd) that keeps what it took. Each may run in a process of its own.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import h11
from aiosmtpd.smtp import SMTP, Envelope, Session

from smtp_sts.lab.authority import Authority, Variant

#: `silent`: accepts and never answers; `endless`: a body without end; `informed`: 100 without end;
#: `early`: answers before it has read the body; `cut`: less body than it said; `garbage`: no HTTP
Manner = Literal[
    "plain", "silent", "endless", "endless-head", "informed", "early", "cut", "garbage", "closes"
]


@dataclass
class Post:
    """What one request brought."""

    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class HttpsReceiver:
    """An HTTPS server on 127.0.0.1; its attributes may be changed while it runs."""

    authority: Authority
    name: str = "reports.bob.example"
    status: int = 201
    manner: Manner = "plain"
    chunked: bool = False
    location: str = ""
    retry_after: str = ""
    certificate: Variant = "good"
    #: called before the answer leaves
    on_post: Callable[[Post], None] | None = None
    posts: list[Post] = field(default_factory=list)
    connections: int = 0
    at_once: int = 0
    most_at_once: int = 0
    port: int = 0

    async def start(self) -> None:
        context = self.authority.server_context(self.name)

        def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            connection.context = self.authority.server_context(
                name or self.name, variant=self.certificate
            )

        context.sni_callback = choose
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"https://{self.name}:{self.port}/v1/tlsrpt"

    async def close(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self._answer(reader, writer)
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:  # by `close`
            pass
        finally:
            self.at_once -= 1
            self._tasks.discard(task)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 %d Told\r\nConnection: close\r\n" % self.status
        if self.location:
            head += f"Location: {self.location}\r\n".encode()
        if self.retry_after:
            head += f"Retry-After: {self.retry_after}\r\n".encode()
        if self.manner == "early":
            writer.write(head + b"Content-Length: 2\r\n\r\nok")
            await writer.drain()
        post = await _read(reader)
        if post is None:
            return
        self.posts.append(post)
        if self.on_post:
            self.on_post(post)
        if self.manner == "silent":
            await asyncio.sleep(3600)
        elif self.manner == "closes":
            return
        elif self.manner == "garbage":
            writer.write(b"550 I speak another tongue\r\n\r\n")
        elif self.manner == "cut":
            writer.write(head + b"Content-Length: 100\r\n\r\nsome")
        elif self.manner == "informed":
            while True:
                writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
                await writer.drain()
                await asyncio.sleep(0.01)
        elif self.manner == "endless-head":
            writer.write(head)
            while True:
                writer.write(b"X-More: " + b"x" * 1000 + b"\r\n")
                await writer.drain()
        elif self.manner == "endless":
            writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                await writer.drain()
        elif self.chunked:
            writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
        elif self.manner != "early":
            writer.write(head + b"Content-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()


async def _read(reader: asyncio.StreamReader) -> Post | None:
    connection = h11.Connection(h11.SERVER)
    request: h11.Request | None = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            data = await reader.read(65536)
            if not data:
                return None
            connection.receive_data(data)
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None and request.method == b"POST"
            headers = {k.decode(): v.decode() for k, v in request.headers}
            return Post(request.target.decode(), headers, body)
        else:
            return None


@dataclass
class MailReceiver:
    """An SMTP server on 127.0.0.1, in the place of the operator's MTA."""

    #: what it says to a recipient, by address; "" for "250"
    answers: dict[str, str] = field(default_factory=dict)
    #: what it says to DATA, for all
    after_data: str = "250 2.0.0 kept"
    silent: bool = False
    on_mail: Callable[[Envelope], None] | None = None
    mails: list[Envelope] = field(default_factory=list)
    attempts: Counter[str] = field(default_factory=Counter)
    port: int = 0
    at_once: int = 0
    most_at_once: int = 0

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._session, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def _session(self) -> SMTP:
        return SMTP(self, hostname="mta.alice.example", loop=asyncio.get_running_loop())

    async def close(self) -> None:
        self._server.close()
        await asyncio.sleep(0)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.attempts[address] += 1
        if answer := self.answers.get(address, ""):
            return answer
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.silent:
            await asyncio.sleep(3600)
        if self.after_data.startswith("2"):
            self.mails.append(envelope)
            if self.on_mail:
                self.on_mail(envelope)
        return self.after_data

    def contents(self) -> list[bytes]:
        found = []
        for mail in self.mails:
            content = mail.original_content or mail.content or b""
            found.append(content.encode() if isinstance(content, str) else content)
        return found
