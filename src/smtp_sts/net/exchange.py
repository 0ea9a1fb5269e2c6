"""One HTTPS exchange with one host at an address that was checked: request out, response in.

Promises: the address is pinned, so that nothing is looked up between the check and the use; the
name sent (SNI) and checked is the host's; not a byte is kept beyond the limits; what goes wrong is
a `NetFailure` that names host, address and cause. Must not: follow redirects, judge a status, or
wait without end: callers set a deadline.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import h11

from smtp_sts.net import tls
from smtp_sts.net.addresses import is_public
from smtp_sts.net.failure import NetFailure
from smtp_sts.net.handshakes import Crowded

#: Connecting to one address, TLS included, seconds; and to all of them together.
CONNECT_SECONDS: Final = 10.0
CONNECT_ALL_SECONDS: Final = 30.0
#: Addresses that are tried, at most.
MAX_ADDRESSES: Final = 8
_MAX_HEADERS: Final = 32 * 1024
#: h11 measures the head between two pieces only, and the event loop may hand us 256 KiB at once.
_PIECE: Final = 4096
#: Interim answers and pieces of a body that one answer may come in. Each costs h11 some 30 us, and
#: one read holds 40,000 of them: the event loop would stand still for more than a second.
MAX_EVENTS: Final = 500

_NO_ISSUER: Final = "is of an issuer that is not trusted, or its chain is not whole"

# X509_V_ERR_... of OpenSSL.
_VERIFY: Final[dict[int, tuple[str, str]]] = {
    9: ("certificate-not-yet-valid", "is not yet valid"),
    10: ("certificate-expired", "has expired"),
    18: ("certificate-self-signed", "is self-signed"),
    19: ("certificate-self-signed", "ends in a self-signed certificate that is not trusted"),
    20: ("certificate-unknown-issuer", _NO_ISSUER),
    21: ("certificate-unknown-issuer", _NO_ISSUER),
    2: ("certificate-unknown-issuer", _NO_ISSUER),
    62: ("certificate-name-mismatch", "is for other names"),
}

T = TypeVar("T")
E = TypeVar("E", bound="Exchange")


class Exchange(asyncio.Protocol):
    """One request and its response; a subclass judges the head and takes the body.

    It calls `fail` for what it does not take; `done` ends with the exchange.
    """

    def __init__(self, where: str, request: h11.Request, body: bytes = b"") -> None:
        """`where` stands in failures: host and address."""
        self.where = where
        self._request = request
        self._sent = body
        self._events = 0
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEADERS)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def head(self, response: h11.Response) -> None:
        """The status and the header are there."""
        raise NotImplementedError

    def data(self, piece: bytes) -> None:
        """A piece of the body."""
        raise NotImplementedError

    def cut_off(self) -> None:
        """The connection ended before the response did."""
        self.fail("tcp-closed", f"{self.where} closed the connection before its answer")

    def fail(self, slug: str, sentence: str) -> None:
        """End with this failure, unless it has ended."""
        if not self.done.done():
            self.done.set_exception(NetFailure(slug, sentence))

    def finish(self) -> None:
        """End well, unless it has ended."""
        if not self.done.done():
            self.done.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        pieces = [self._h11.send(self._request)]
        if self._sent:
            pieces.append(self._h11.send(h11.Data(self._sent)))
        pieces.append(self._h11.send(h11.EndOfMessage()))
        transport.write(b"".join(piece or b"" for piece in pieces))  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), _PIECE):
            self._read(data[start : start + _PIECE])

    def eof_received(self) -> bool:
        # The end that the peer means (see `tls.Tls`): it ends a body without a length too (RFC 9112
        # section 9.8).
        self._read(b"")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, tls.TlsTrouble):
            self.fail("http-protocol", f"{self.where}: {exc.reason}")
        elif not self.done.done():
            self.cut_off()

    def _read(self, data: bytes) -> None:
        if self.done.done():
            return
        try:
            self._h11.receive_data(data)
            while not self.done.done():
                event = self._h11.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return
                self._events += 1
                if self._events > MAX_EVENTS:
                    self.fail(
                        "http-protocol", f"{self.where} answers in more than {MAX_EVENTS} pieces"
                    )
                elif isinstance(event, h11.Response):
                    self.head(event)
                elif isinstance(event, h11.Data):
                    self.data(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    self.finish()
                elif isinstance(event, h11.ConnectionClosed):
                    self.cut_off()
        except h11.RemoteProtocolError as error:
            if data:
                self.fail("http-protocol", f"{self.where} does not speak HTTP: {error}")
            elif not self.done.done():
                self.cut_off()


def certificate_fault(error: ssl.SSLCertVerificationError) -> tuple[str, str]:
    """Why OpenSSL refuses a certificate: a slug of `CAUSES`, words to stand after its name."""
    return _VERIFY.get(
        error.verify_code, ("certificate-invalid", f"is not valid: {error.verify_message}")
    )


def usable(host: str, addresses: Sequence[str], *, allow_private: bool) -> list[str]:
    """Those of a host's addresses that we connect to. Raises NetFailure where none is public."""
    found = [a for a in addresses if allow_private or is_public(a)][:MAX_ADDRESSES]
    if addresses and not found:
        raise NetFailure(
            "private-address", f"{host} is at {addresses[0]}, which is not on the public Internet"
        )
    return found


async def first_of(addresses: Sequence[str], attempt: Callable[[str, float], Awaitable[T]]) -> T:
    """What `attempt` gives at the first address where it does not raise NetFailure.

    It is given the address and the seconds that connecting may take. Where all failed, the most
    telling cause is raised.
    """
    worst: NetFailure | None = None
    limit = min(CONNECT_SECONDS, CONNECT_ALL_SECONDS / len(addresses))
    for address in addresses:
        try:
            return await attempt(address, limit)
        except NetFailure as failure:
            worst = more_telling(worst, failure)
    assert worst is not None
    raise worst


def more_telling(before: NetFailure | None, failure: NetFailure) -> NetFailure:
    """Which of two causes to name: what a host said tells more than that another address could not
    be reached."""
    return failure if before is None or before.slug.startswith("tcp-") else before


async def connect(
    make: Callable[[], E],
    where: str,
    host: str,
    address: str,
    port: int,
    context: ssl.SSLContext,
    seconds: float,
) -> tuple[asyncio.Transport, E]:
    """Connect to an address as `host`, and begin the exchange. Raises NetFailure."""
    exchange = make()
    try:
        async with asyncio.timeout(seconds):
            # The address is pinned: no second look-up between check and use. SNI is the host (RFC
            # 8461 section 7.1), and so is the name that the certificate is checked for.
            return await tls.connect(exchange, host, address, port, context), exchange
    except TimeoutError:
        raise NetFailure(
            "tcp-timeout", f"{where}: no TLS connection within {seconds:g} s"
        ) from None
    except ssl.SSLCertVerificationError as error:
        slug, words = certificate_fault(error)
        raise NetFailure(slug, f"{where}: the certificate {words}") from None
    except ssl.SSLError as error:
        raise NetFailure("tls-handshake", f"{where}: TLS failed: {error.reason}") from None
    except Crowded as error:
        raise NetFailure("tls-handshake", f"{where}: {error}") from None
    except ConnectionRefusedError:
        raise NetFailure("tcp-refused", f"{where} refuses connections on port {port}") from None
    except (ConnectionResetError, BrokenPipeError):
        raise NetFailure("tls-handshake", f"{where} closed the connection within TLS") from None
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "?")
        raise NetFailure("tcp-unreachable", f"{where} cannot be reached ({name})") from None
