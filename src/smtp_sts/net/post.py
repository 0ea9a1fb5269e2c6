"""Posting to an HTTPS address that a stranger named (RFC 8460 section 5.4).

Promises: an answer's status within `timeout`, or a `NetFailure` that names host, address and cause.
The host's address is checked and pinned: private ones are refused unless allowed. Of the answer's
body at most `READ_BYTES` are read, for at most `READ_SECONDS`, and nothing is kept.
Redirects are not followed: where a report goes is said in the DNS, and nowhere else.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from typing import Final
from urllib.parse import urlsplit

import h11
import msgspec

from smtp_sts import __version__
from smtp_sts.net.dns import Dns
from smtp_sts.net.exchange import Exchange, connect, first_of, usable
from smtp_sts.net.failure import NetFailure
from smtp_sts.net.tls import trusting_context

#: What is read of the body of an answer, and for how long after its head (seconds): a server that
#: is cut off while it answers might take back what it took.
READ_BYTES: Final = 64 * 1024
READ_SECONDS: Final = 5.0
#: Longest wait that a server may ask for (seconds).
MAX_RETRY_AFTER: Final = 86400.0


class Posted(msgspec.Struct, frozen=True):
    """What was answered. `certificate` says what was wrong with the server's, "" for nothing;
    `retry_after` is in seconds, 0 where the server asks for no wait."""

    status: int
    reason: str
    address: str
    certificate: str
    retry_after: float

    @property
    def accepted(self) -> bool:
        """Any 2xx (section 5.4: "typically a 200 or 201")."""
        return 200 <= self.status < 300


class PostContexts(msgspec.Struct, frozen=True):
    """The TLS contexts for posting, made once: one that verifies, and one that does not."""

    strict: ssl.SSLContext
    lax: ssl.SSLContext


def post_contexts(strict: ssl.SSLContext) -> PostContexts:
    """Both contexts; `strict` is that of `https.tls_context`."""
    return PostContexts(strict, trusting_context())


def host_of(url: str) -> str:
    """The host of an https URL of a `tlsrpt.Destination`."""
    return urlsplit(url).hostname or ""


async def post(
    url: str,
    body: bytes,
    media_type: str,
    *,
    dns: Dns,
    contexts: PostContexts,
    allow_private: bool = False,
    timeout: float = 60.0,
) -> Posted:
    """Post a body to `url`, the target of a `tlsrpt.Destination`; `timeout` seconds for everything.

    Raises NetFailure where nothing was answered; where several addresses failed, the most telling
    cause is named.
    """
    host = host_of(url)
    try:
        async with asyncio.timeout(timeout):
            addresses = usable(host, await _addresses(host, dns), allow_private=allow_private)
            if not addresses:
                raise NetFailure("tcp-unreachable", f"{host} has no address")
            answer = await first_of(
                addresses,
                lambda address, seconds: _post(url, address, body, media_type, contexts, seconds),
            )
    except TimeoutError:
        raise NetFailure("fetch-timeout", f"{host} did not answer within {timeout:g} s") from None
    if isinstance(answer, NetFailure):
        raise answer
    return answer


async def _addresses(host: str, dns: Dns) -> list[str]:
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        return await dns.addresses(host)


class _Post(Exchange):
    """One POST: done with the end of the answer, or when enough of it was read."""

    status = 0
    reason = ""
    retry_after = 0.0
    _read_bytes = 0

    def head(self, response: h11.Response) -> None:
        self.status = response.status_code
        self.reason = response.reason.decode("latin-1")
        wait = dict(response.headers).get(b"retry-after", b"")
        if wait.isdigit() and len(wait) < 9:  # RFC 9110 section 10.2.3; dates are not looked at
            self.retry_after = min(float(wait), MAX_RETRY_AFTER)
        asyncio.get_running_loop().call_later(READ_SECONDS, self.finish)

    def data(self, piece: bytes) -> None:
        self._read_bytes += len(piece)
        if self._read_bytes >= READ_BYTES:
            self.finish()

    def cut_off(self) -> None:
        if self.status:
            self.finish()
        else:
            super().cut_off()

    def fail(self, slug: str, sentence: str) -> None:
        # The status is what counts; what is wrong after it is the server's own affair.
        if self.status:
            self.finish()
        else:
            super().fail(slug, sentence)


async def _post(
    url: str,
    address: str,
    body: bytes,
    media_type: str,
    contexts: PostContexts,
    seconds: float,
) -> Posted | NetFailure:
    """What was answered, or why nothing was: given back and not raised, since the next address is
    only for what was not sent yet."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    where = f"{host} at {address}"
    request = h11.Request(
        method="POST",
        target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        headers=[
            ("Host", parts.netloc),
            ("User-Agent", f"smtp-sts/{__version__}"),
            ("Content-Type", media_type),
            ("Content-Length", str(len(body))),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
        ],
    )
    port = parts.port or 443
    flaw = ""
    try:
        transport, answer = await connect(
            lambda: _Post(where, request, body),
            where,
            host,
            address,
            port,
            contexts.strict,
            seconds,
        )
    except NetFailure as failure:
        # Section 3: "Report submitters MAY ignore certificate validation errors": what is broken
        # there may be what the report is about.
        if not failure.slug.startswith("certificate-"):
            raise
        flaw = failure.sentence
        transport, answer = await connect(
            lambda: _Post(where, request, body), where, host, address, port, contexts.lax, seconds
        )
    try:
        await answer.done
    except NetFailure as failure:
        return failure
    finally:
        transport.abort()
    reason = "".join(c for c in answer.reason if c.isprintable())[:80]
    return Posted(answer.status, reason, address, flaw, answer.retry_after)
