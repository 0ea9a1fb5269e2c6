"""Fetching a policy over HTTPS (RFC 8461 section 3.3).

Promises: the bytes that come back were served with status 200 as text/plain by a host whose
certificate is valid for the policy host, within `timeout`, and are at most 64 KiB; everything else
is a `NetFailure` that names host, address and cause. Private addresses are refused unless allowed.
Must not follow redirects, cache, or read a single byte beyond the limit.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Mapping
from typing import Any, Final

import h11
import msgspec

from smtp_sts import __version__
from smtp_sts.net.addresses import is_public
from smtp_sts.net.dns import Dns
from smtp_sts.net.failure import NetFailure
from smtp_sts.policy import MAX_SIZE, policy_host

PATH: Final = "/.well-known/mta-sts.txt"
#: Connecting to one address, TLS included, seconds; and to all of them together.
CONNECT_SECONDS: Final = 10.0
CONNECT_ALL_SECONDS: Final = 30.0
#: Addresses that are tried, at most.
MAX_ADDRESSES: Final = 8
_MAX_HEADERS: Final = 32 * 1024
#: h11 measures the head between two pieces only, and the event loop may hand us 256 KiB at once.
_PIECE: Final = 4096

_MONTHS: Final = "JanFebMarAprMayJunJulAugSepOctNovDec"
_NO_ISSUER: Final = "is of an issuer that is not trusted, or its chain is not whole"

# X509_V_ERR_... of OpenSSL.
_VERIFY: Final[dict[int, tuple[str, str]]] = {
    9: ("certificate-not-yet-valid", "is not yet valid"),
    10: ("certificate-expired", "has expired"),
    18: ("certificate-self-signed", "is self-signed"),
    19: ("certificate-self-signed", "ends in a self-signed certificate that is not trusted"),
    20: (
        "certificate-unknown-issuer",
        _NO_ISSUER,
    ),
    21: (
        "certificate-unknown-issuer",
        _NO_ISSUER,
    ),
    2: (
        "certificate-unknown-issuer",
        _NO_ISSUER,
    ),
    62: ("certificate-name-mismatch", "is for other names"),
}


class Fetched(msgspec.Struct, frozen=True):
    """A policy document as it was served, and by whom."""

    body: bytes
    address: str
    tls_version: str
    certificate: dict[str, object]
    content_type: str


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """The context for policy hosts, made once (it takes 45 ms) and shared.

    `ca_file` holds the only trusted CAs; without it the system's are. Raises OSError or
    ssl.SSLError where it cannot be read.
    """
    context = ssl.create_default_context(cafile=ca_file or None)
    # Section 3.3: DNS-ID identifiers only, never the common name.
    context.hostname_checks_common_name = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # section 7.2
    # Python 3.13 sets it; MTAs and browsers do not have it.
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    return context


async def fetch_policy(
    domain: str,
    *,
    dns: Dns,
    context: ssl.SSLContext,
    port: int = 443,
    allow_private: bool = False,
    timeout: float = 60.0,
) -> Fetched:
    """Fetch the policy document of a policy domain; `timeout` seconds for everything.

    Raises NetFailure; where several addresses failed, the most telling cause is named.
    """
    host = policy_host(domain)
    try:
        async with asyncio.timeout(timeout):
            return await _fetch(host, dns, context, port, allow_private)
    except TimeoutError:
        raise NetFailure(
            "fetch-timeout", f"{host} did not serve a whole policy within {timeout:g} s"
        ) from None


async def _fetch(
    host: str, dns: Dns, context: ssl.SSLContext, port: int, allow_private: bool
) -> Fetched:
    try:
        addresses = await dns.addresses(host)
    except NetFailure as failure:
        raise NetFailure("policy-host-dns-error", f"{host}: {failure.sentence}") from failure
    if not addresses:
        raise NetFailure("policy-host-not-found", f"{host} has no address")
    usable = [a for a in addresses if allow_private or is_public(a)][:MAX_ADDRESSES]
    if not usable:
        raise NetFailure(
            "private-address", f"{host} is at {addresses[0]}, which is not on the public Internet"
        )
    worst: NetFailure | None = None
    for address in usable:
        try:
            limit = min(CONNECT_SECONDS, CONNECT_ALL_SECONDS / len(usable))
            return await _get(host, address, port, context, limit)
        except NetFailure as failure:
            # What a host said tells more than that another address could not be reached.
            if worst is None or worst.slug.startswith("tcp-"):
                worst = failure
    assert worst is not None
    raise worst


class _Exchange(asyncio.Protocol):
    """One GET: everything up to the end of the response, or the cause why not."""

    def __init__(self, host: str, where: str) -> None:
        self._where = where
        self._host = host
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEADERS)
        self._body = bytearray()
        self._type = ""
        self.done: asyncio.Future[tuple[bytes, str]] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        request = h11.Request(
            method="GET",
            target=PATH,
            headers=[
                ("Host", self._host),
                ("User-Agent", f"smtp-sts/{__version__}"),
                ("Accept", "text/plain"),
                ("Connection", "close"),
            ],
        )
        data = (self._h11.send(request) or b"") + (self._h11.send(h11.EndOfMessage()) or b"")
        transport.write(data)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), _PIECE):
            self._read(data[start : start + _PIECE])

    def eof_received(self) -> bool:
        self._read(b"")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._cut_off()

    def _cut_off(self) -> None:
        if self._type:
            self._fail("body-truncated", f"{self._where}: the policy is cut off")
        else:
            self._fail("tcp-closed", f"{self._where} closed the connection before its answer")

    def _fail(self, slug: str, sentence: str) -> None:
        if not self.done.done():
            self.done.set_exception(NetFailure(slug, sentence))

    def _read(self, data: bytes) -> None:
        if self.done.done():
            return
        try:
            self._h11.receive_data(data)
            while not self.done.done():
                event = self._h11.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return
                self._take(event)
        except h11.RemoteProtocolError as error:
            if data:
                self._fail("http-protocol", f"{self._where} does not speak HTTP: {error}")
            else:
                self._cut_off()

    def _take(self, event: object) -> None:
        if isinstance(event, h11.Response):
            self._head(event)
        elif isinstance(event, h11.Data):
            self._body += event.data
            if len(self._body) > MAX_SIZE:
                self._fail("body-too-large", f"{self._where}: more than {MAX_SIZE} bytes of policy")
        elif isinstance(event, h11.EndOfMessage):
            self.done.set_result((bytes(self._body), self._type))
        elif isinstance(event, h11.ConnectionClosed):
            self._fail("tcp-closed", f"{self._where} closed the connection before its answer")

    def _head(self, response: h11.Response) -> None:
        status = response.status_code
        if 300 <= status < 400:  # section 3.3: "HTTP 3xx redirects MUST NOT be followed"
            self._fail("http-redirect", f"{self._where} redirects (status {status})")
        elif status != 200:  # section 3.3: only valid if the response code is 200
            self._fail("http-status", f"{self._where} answers with status {status}, not 200")
        headers = dict(response.headers)
        self._type = headers.get(b"content-type", b"").decode("latin-1")
        # Section 3.2: text/plain, any parameters.
        if self._type.partition(";")[0].strip().lower() != "text/plain":
            shown = self._type[:80] or "no media type"
            self._fail("media-type", f"{self._where} serves {shown}, not text/plain")
        length = headers.get(b"content-length", b"")
        if not length and b"transfer-encoding" not in headers:
            # Its end would be that of the connection, which anyone on the path can bring about: a
            # policy cut short must not count as one.
            self._fail(
                "http-protocol", f"{self._where}: neither Content-Length nor chunks tell the length"
            )
        if length.isdigit() and int(length) > MAX_SIZE:
            self._fail("body-too-large", f"{self._where}: more than {MAX_SIZE} bytes of policy")


async def _get(
    host: str, address: str, port: int, context: ssl.SSLContext, connect_seconds: float
) -> Fetched:
    where = f"{host} at {address}"
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(connect_seconds):
            # The address is pinned: no second look-up between check and use. SNI is the policy
            # host (section 7.1), and so is the name that the certificate is checked for.
            transport, exchange = await loop.create_connection(
                lambda: _Exchange(host, where), address, port, ssl=context, server_hostname=host
            )
    except TimeoutError:
        raise NetFailure(
            "tcp-timeout", f"{where}: no TLS connection within {connect_seconds:g} s"
        ) from None
    except ssl.SSLCertVerificationError as error:
        slug, words = _VERIFY.get(
            error.verify_code, ("certificate-invalid", f"is not valid: {error.verify_message}")
        )
        raise NetFailure(slug, f"{where}: the certificate {words}") from None
    except ssl.SSLError as error:
        raise NetFailure("tls-handshake", f"{where}: TLS failed: {error.reason}") from None
    except ConnectionRefusedError:
        raise NetFailure("tcp-refused", f"{where} refuses connections on port {port}") from None
    except (ConnectionResetError, BrokenPipeError):
        raise NetFailure("tls-handshake", f"{where} closed the connection within TLS") from None
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "?")
        raise NetFailure("tcp-unreachable", f"{where} cannot be reached ({name})") from None
    try:
        body, content_type = await exchange.done
        tls = transport.get_extra_info("ssl_object")
        return Fetched(body, address, str(tls.version()), _summary(tls.getpeercert()), content_type)
    finally:
        # Without waiting for the peer's close_notify: what we wanted we have.
        transport.abort()


def _summary(certificate: Mapping[str, Any] | None) -> dict[str, object]:
    certificate = certificate or {}  # never empty where verification is on
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
    issuer = {key: value for rdn in certificate.get("issuer", ()) for key, value in rdn}
    return {
        "subject_names": names,
        "issuer": issuer.get("commonName") or issuer.get("organizationName") or "?",
        "not_after": _rfc3339(str(certificate.get("notAfter", ""))),
    }


def _rfc3339(text: str) -> str:
    """OpenSSL's `Nov 24 03:07:06 2027 GMT` as RFC 3339; strptime would cost 0.05 ms."""
    month, day, clock, year = text.split()[:4]
    return f"{year}-{_MONTHS.index(month) // 3 + 1:02}-{int(day):02}T{clock}Z"
