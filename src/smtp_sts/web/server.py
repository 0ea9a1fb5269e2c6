"""What every HTTP page does alike: connections that are bounded and end well, errors as JSON.

Promises: a connection that says nothing, or has not sent its whole request, `PATIENCE` after it was
opened or last answered is closed; line, header and body sizes are limited; bytes that are no HTTP
are counted and end that connection alone (law 7); HEAD works wherever GET does; every error is JSON
with a slug and a sentence, and repeats nothing that a client sent unless it is quoted (law 5).
Must not: know what is served. Needs aiohttp, so it is imported only where something is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import logging
import re
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from smtp_sts.mta.service import Service

METHODS: Final = ("GET", "HEAD")
#: Seconds.
PATIENCE: Final = 30.0
#: The request line, and each header line, bytes; how many header lines.
MAX_LINE: Final = 8190
MAX_HEADERS: Final = 64
#: A request needs no body. One that has one is read and dropped, up to these bytes and seconds.
MAX_BODY: Final = 65536
BODY_SECONDS: Final = 2.0
#: A drain waits so long for the answer that is under way.
DRAIN_SECONDS: Final = 1.0
_MISDIRECTED: Final = "on loopback this answers to localhost, addresses and the name of the machine"
_HEADERS: Final = {
    "Server": "smtp-sts",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}

_log = logging.getLogger(__name__)


class Refusal(Exception):
    """A request that gets an error: a status of HTTP, a stable slug and a sentence."""

    def __init__(self, status: int, slug: str, sentence: str) -> None:
        self.status = status
        self.slug = slug
        self.sentence = sentence
        super().__init__(f"{status} {slug}: {sentence}")


Page = Callable[[], Awaitable[web.Response]]
#: The page of a path (as sent, still percent-encoded); raises Refusal for a path that has none.
Find = Callable[[str], Page]


def as_json(data: Any, status: int = 200) -> web.Response:
    """An answer of JSON, and a newline for people."""
    body = msgspec.json.encode(data) + b"\n"
    return response(body, "application/json", status)


def response(body: bytes, content_type: str, status: int = 200) -> web.Response:
    """An answer of a type that may hold parameters (`text/plain; charset=utf-8`)."""
    return web.Response(
        body=body, status=status, headers={**_HEADERS, "Content-Type": content_type}
    )


def refused(refusal: Refusal) -> web.Response:
    """A refusal as an answer."""
    return as_json({"error": refusal.slug, "message": refusal.sentence}, refusal.status)


def host_of(host: str) -> str:
    """A Host without its port; "localhost" for an address, which no name can have led to."""
    name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
    name = name.strip("[]").lower().removesuffix(".")
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "localhost" if name.endswith(".localhost") else name
    return "localhost"


@functools.cache
def _here() -> frozenset[str]:
    """The names of this machine; "" where a request has none (HTTP/1.0)."""
    found = {"", "localhost", socket.gethostname().lower()}
    with contextlib.suppress(OSError):  # without asking any DNS: this is where answers are given
        for line in Path("/etc/hosts").read_text(encoding="utf-8", errors="replace").splitlines():
            found.update(line.partition("#")[0].lower().split()[1:])
    return frozenset(found)


def speaker(service: Service, find: Find) -> Callable[[], asyncio.BaseProtocol]:
    """What speaks HTTP on a connection, for pages found by `find`."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, _Connection)
        try:
            await _drop_body(request)
            connection.unanswered = False
            if not connection.is_meant(request.headers.get("Host", "")):
                raise Refusal(421, "host-unknown", _MISDIRECTED)
            page = find(request.rel_url.raw_path)
            if request.method not in METHODS:
                text = f"only {' and '.join(METHODS)} work here"
                raise Refusal(405, "method-not-allowed", text)
            return await page()
        except Refusal as refusal:
            service.count("refused-requests")
            connection.unanswered = False
            found = refused(refusal)
            if refusal.status == 405:
                found.headers["Allow"] = ", ".join(METHODS)
        if request.body_exists and not request.content.is_eof():
            found.force_close()
            connection.closing = True
        return found

    server = web.Server(answer)
    loop = asyncio.get_running_loop()
    return lambda: _Connection(service, server, loop)


async def _drop_body(request: web.BaseRequest) -> None:
    # RFC 9110 section 10.1.1: with Expect, the final status may come before the body does.
    if not request.body_exists or "Expect" in request.headers:
        return
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.content.iter_any():
                size += len(chunk)
                if size > MAX_BODY:
                    raise Refusal(413, "body-too-large", f"no body is needed, least of {MAX_BODY}")
    except TimeoutError:
        raise Refusal(
            408, "body-too-slow", f"the body did not come within {BODY_SECONDS:g} s; none is needed"
        ) from None
    except web.RequestPayloadError:
        raise Refusal(400, "bad-http", "the body is not what its headers say") from None


class _Connection(web.RequestHandler):
    """One connection of a client."""

    __slots__ = ("_service", "closing", "unanswered")

    def __init__(
        self, service: Service, server: web.Server, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=PATIENCE,
            access_log=None,  # type: ignore[arg-type]  # None is documented: no access log
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            max_headers=MAX_HEADERS,
            lingering_time=0,
            auto_decompress=False,
        )
        self._service = service
        #: bytes have come since the last request was taken up
        self.unanswered = False
        #: what still comes is not read
        self.closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._service.opened(self)

    def is_meant(self, host: str) -> bool:
        """Whether a request by this Host was meant for us.

        Law 11: on loopback nobody asks who asks, for only this machine can. A browser on it can be
        led here too, by a name of a stranger's that leads to 127.0.0.1 (DNS rebinding), and then
        his page reads what we answer. Such a request names the stranger's host.
        """
        assert self.transport is not None
        name = self.transport.get_extra_info("sockname")
        if not isinstance(name, tuple) or not ipaddress.ip_address(name[0]).is_loopback:
            return True
        return host_of(host) in _here()

    def data_received(self, data: bytes) -> None:
        self.unanswered = not self.closing
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.unanswered:  # it took too long, or went before it had asked
            self._service.count("unfinished-requests")
        self._service.closed(self)
        super().connection_lost(exc)

    def drain(self) -> None:
        """Answer what is under way, then close."""
        self.close()
        task = asyncio.ensure_future(self.shutdown(DRAIN_SECONDS))
        self._service.tasks.add(task)
        task.add_done_callback(self._service.tasks.discard)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The last answer of a connection: to bytes that are no HTTP, or for a defect of ours."""
        self.unanswered = False
        if status == 400:
            self._service.count("bad-http")
            _log.debug("bad HTTP: %s", type(exc).__name__)
            if isinstance(exc, LineTooLong):
                sentence = f"a line of a request may have {MAX_LINE} bytes, its head {MAX_HEADERS}"
                found = refused(Refusal(431, "request-too-large", f"{sentence} lines"))
            else:
                found = refused(Refusal(400, "bad-http", "no HTTP/1.1, or too many header lines"))
        else:
            self._service.count("internal-errors")
            _log.error("a page broke", exc_info=exc)
            found = refused(Refusal(500, "internal-error", "a defect of smtp-sts; see its log"))
        found.force_close()
        return found
