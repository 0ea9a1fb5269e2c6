"""Fetching a policy over HTTPS (RFC 8461 section 3.3; draft-margolis-smtp-sts-00 section 3.3).

Promises: no network of addresses has more than its share of our connections, whatever domains lead
to it; the bytes that come back were served with status 200 as text/plain by a host whose
certificate is valid for the host that was asked, within `timeout`, and are at most 64 KiB;
everything else is a `NetFailure` that names host, address and cause. Private addresses are refused
unless allowed.
Must not follow redirects, cache, or read a single byte beyond the limit.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping
from typing import Any, Final

import h11
import msgspec

from smtp_sts import __version__
from smtp_sts.net import tls
from smtp_sts.net.dns import Dns
from smtp_sts.net.dnswire import AAAA, A
from smtp_sts.net.exchange import Exchange, connect, first_of, more_telling, usable
from smtp_sts.net.failure import NetFailure
from smtp_sts.net.handshakes import stranger
from smtp_sts.net.places import fair_share, of_process
from smtp_sts.policy import MAX_SIZE, policy_host

PATH: Final = "/.well-known/mta-sts.txt"
#: Connections for policies at the same time; one network of addresses gets its share, and of that
#: one organisation his.
CONNECTIONS: Final = 1000
#: How long a fetch waits for a place among those of its network (seconds).
PLACE_SECONDS: Final = 5.0
_MONTHS: Final = "JanFebMarAprMayJunJulAugSepOctNovDec"


class Fetched(msgspec.Struct, frozen=True):
    """A policy document as it was served, and by whom."""

    body: bytes
    address: str
    tls_version: str
    certificate: dict[str, object]
    content_type: str


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """The context for policy hosts, made once (it takes 45 ms) and shared.

    `ca_file` holds the only trusted CAs; without it the system's are, and with /dev/null none is.
    Raises OSError or ssl.SSLError where it cannot be read.
    """
    if ca_file == os.devnull:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    else:
        context = ssl.create_default_context(cafile=ca_file or None)
    # Section 3.3: DNS-ID identifiers only, never the common name.
    context.hostname_checks_common_name = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # section 7.2
    # Python 3.13 sets it; MTAs and browsers do not have it.
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    return tls.bounded(context)


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
    return await fetch_text(
        policy_host(domain), PATH, dns=dns, context=context, port=port,
        allow_private=allow_private, timeout=timeout,
    )  # fmt: skip


async def fetch_text(
    host: str,
    target: str,
    *,
    dns: Dns,
    context: ssl.SSLContext,
    port: int = 443,
    allow_private: bool = False,
    timeout: float = 60.0,
) -> Fetched:
    """Fetch the policy at `target` (path and query) of a host by the same rules; see
    `fetch_policy`. Raises NetFailure."""
    try:
        async with asyncio.timeout(timeout):
            return await _fetch(host, target, dns, context, port, allow_private)
    except TimeoutError:
        raise NetFailure(
            "fetch-timeout", f"{host} did not serve a whole policy within {timeout:g} s"
        ) from None


async def _fetch(
    host: str, target: str, dns: Dns, context: ssl.SSLContext, port: int, allow_private: bool
) -> Fetched:
    """From the first address that serves it. IPv6 ones are asked for only where no IPv4 one does:
    a question costs the resolver and us more than the wait for it, where it is needed, costs."""
    unknown: NetFailure | None = None
    worst: NetFailure | None = None
    for rrtype in (A, AAAA):
        try:
            answer = await dns.query(host, rrtype)
        except NetFailure as failure:
            unknown = unknown or failure
            continue
        addresses = [address for address in answer.records if isinstance(address, str)]
        if not addresses:
            if answer.nxdomain:  # of any type
                break
            continue
        try:
            return await first_of(
                usable(host, addresses, allow_private=allow_private),
                lambda address, seconds: _get(host, target, address, port, context, seconds),
            )
        except NetFailure as failure:
            worst = more_telling(worst, failure)
    if worst is not None:
        raise worst
    if unknown is not None:
        raise NetFailure("policy-host-dns-error", f"{host}: {unknown.sentence}") from unknown
    raise NetFailure("policy-host-not-found", f"{host} has no address")


class _Policy(Exchange):
    """One GET: everything up to the end of the response, or the cause why not."""

    def __init__(self, host: str, target: str, where: str) -> None:
        headers = [
            ("Host", host),
            ("User-Agent", f"smtp-sts/{__version__}"),
            ("Accept", "text/plain"),
            ("Accept-Encoding", "identity"),  # RFC 9110 section 12.5.3: else any is as good
            ("Connection", "close"),
        ]
        super().__init__(where, h11.Request(method="GET", target=target, headers=headers))
        self.body = bytearray()
        self.type = ""
        self.bounded = True

    def head(self, response: h11.Response) -> None:
        status = response.status_code
        if 300 <= status < 400:  # section 3.3: "HTTP 3xx redirects MUST NOT be followed"
            self.fail("http-redirect", f"{self.where} redirects (status {status})")
        elif status != 200:  # section 3.3: only valid if the response code is 200
            self.fail("http-status", f"{self.where} answers with status {status}, not 200")
        headers = dict(response.headers)
        self.type = headers.get(b"content-type", b"").decode("latin-1")
        # Section 3.2: text/plain, any parameters.
        if self.type.partition(";")[0].strip().lower() != "text/plain":
            shown = self.type[:80] or "no media type"
            self.fail("media-type", f"{self.where} serves {shown}, not text/plain")
        codings = [value for name, value in response.headers if name == b"content-encoding"]
        coding = b", ".join(codings).decode("latin-1").strip()
        if coding.lower() not in ("", "identity"):
            self.fail(
                "content-coding",
                f"{self.where} serves the policy in the content coding {coding[:80]}, though asked "
                "for identity: have it served as it is",
            )
        length = headers.get(b"content-length", b"")
        # Without a length, its end is that of the connection, and has to be said by close_notify
        # (RFC 9112 section 9.8): any other end anyone on the path can bring about, and a policy cut
        # short must not count as one.
        self.bounded = bool(length) or b"transfer-encoding" in headers
        if length.isdigit() and int(length) > MAX_SIZE:
            self._too_large()

    def data(self, piece: bytes) -> None:
        self.body += piece
        if len(self.body) > MAX_SIZE:
            self._too_large()

    def _too_large(self) -> None:
        self.fail("body-too-large", f"{self.where}: more than {MAX_SIZE} bytes of policy")

    def cut_off(self) -> None:
        if self.type:
            why = "" if self.bounded else ": it has no length, and no close_notify ends it"
            self.fail("body-truncated", f"{self.where}: the policy is cut off{why}")
        else:
            super().cut_off()


async def _get(
    host: str, target: str, address: str, port: int, context: ssl.SSLContext, seconds: float
) -> Fetched:
    where = f"{host} at {address}"
    network, organisation = stranger(host, address)
    places = of_process("policy fetches", CONNECTIONS)
    # Where many have their policy hosts in one network, at a provider, one gets his share of it.
    within = of_process("policy fetches in a network", CONNECTIONS**2, fair_share(places.share))
    whose = f"{network} {organisation}"
    try:
        async with asyncio.timeout(PLACE_SECONDS):
            await within.wait(whose)
            try:
                await places.wait(network)
            except BaseException:
                within.release(whose)
                raise
    except TimeoutError:
        raise NetFailure(
            "tcp-timeout", f"{where}: {places.share} connections to its network are busy"
        ) from None
    try:
        transport, policy = await connect(
            lambda: _Policy(host, target, where), where, host, address, port, context, seconds
        )
        try:
            await policy.done
            session = transport.get_extra_info("ssl_object")
            certificate = _summary(session.getpeercert())
            version = str(session.version())
            return Fetched(bytes(policy.body), address, version, certificate, policy.type)
        finally:
            # Without waiting for the peer's close_notify: what we wanted we have.
            transport.abort()
    finally:
        places.release(network)
        within.release(whose)


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
