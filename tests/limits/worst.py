"""What a stranger can make us compute at most: the worst that each place takes, ready to be run.

`python -m tests.limits.worst` measures them all (milliseconds of CPU); docs/limits-of-strangers.md
has the figures, test_limits_of_strangers.py holds each to a bound. TLS, which needs a server, is
tested in tests/net/test_net_hostile_tls.py and tests/daemon/test_strangers_tls.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import h11
import idna
import msgspec

from smtp_sts.daemon.log import printable
from smtp_sts.daemon.peers import Reply
from smtp_sts.dane import MatchError, Tlsa, match
from smtp_sts.dane.verify import MAX_CHAIN
from smtp_sts.mta.told import replies
from smtp_sts.net import dnswire, smtp
from smtp_sts.net.dns import Answer
from smtp_sts.net.exchange import Exchange
from smtp_sts.policy import (
    MAX_SIZE,
    NextHopError,
    Policy,
    RecordError,
    find_draft_record,
    find_record,
    policy_domain,
)
from smtp_sts.policy.organisation import load, organisational_domain
from smtp_sts.reporting import datagram, lines, looks
from smtp_sts.reporting.exim_log import EximLog
from smtp_sts.reporting.lines import MAX_LINE
from smtp_sts.reporting.outcome import Outcome
from smtp_sts.reporting.postfix_log import PostfixLog
from smtp_sts.resolver.dane_state import MAX_TLSA, judge
from smtp_sts.resolver.decision import Decision
from smtp_sts.tlsrpt.bounds import MAX_VALUES
from smtp_sts.tlsrpt.errors import ReportError, TlsrptError
from smtp_sts.tlsrpt.reading import read_json
from smtp_sts.tlsrpt.record import find_record as find_report_record

from ..dane.chains import Cert, der, spki

#: The longest TXT record that fits an answer of the DNS.
TXT = 65_000
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Worst:
    """`file` is the module below src/smtp_sts, `bound` in milliseconds of CPU: some five times what
    was measured, for a machine that is busy."""

    what: str
    file: str
    run: Callable[[], object]
    bound: float


def _names(number: int, end: str = ".bc") -> list[str]:
    """The shortest names there are."""
    name = [a + b + c for a in _LETTERS for b in _LETTERS for c in _LETTERS]
    return [one + end for one in name[:number]]


def policy_body() -> bytes:
    """A policy of 64 KiB with as many patterns as fit."""
    head = b"version: STSv1\nmode: enforce\nmax_age: 86400\n"
    lines = "".join(f"mx:{name}\n" for name in _names(17_000)).encode()
    return head + lines[: (MAX_SIZE - len(head)) // 10 * 10]


POLICY = Policy.parse(policy_body())
DECISION = Decision("eve.example", "enforce", "policy-found", policy=POLICY, policy_id="1")


def _quietly(work: Callable[[], object], *errors: type[Exception]) -> Callable[[], object]:
    def run() -> None:
        with contextlib.suppress(*errors):
            work()

    return run


def dns_message(kind: int, rdata: bytes, number: int, owner: bytes = b"\xc0\x0c") -> bytes:
    """An answer to a question for a.example of as many equal records as fit."""
    question = dnswire.encode_name("a.example") + struct.pack("!2H", kind, 1)
    record = owner + struct.pack("!HHIH", kind, 1, 60, len(rdata)) + rdata
    number = min(number, (65_000 - len(question)) // len(record))
    return struct.pack("!6H", 1, 0x8180, 1, number, 0, 0) + question + record * number


def _dns(kind: int, rdata: bytes, owner: bytes = b"\xc0\x0c") -> Callable[[], object]:
    message = dns_message(kind, rdata, dnswire.MAX_RECORDS, owner)
    return lambda: dnswire.parse(message, 1, "a.example", kind)


def _ladder() -> Callable[[], object]:
    """Owners whose names are as many pointers to pointers as are taken."""
    question = dnswire.encode_name("a.example") + struct.pack("!2H", dnswire.TXT, 1)
    body = bytearray(question)
    target = 12
    steps = b""
    for _ in range(dnswire.MAX_POINTERS - 2):
        at = 12 + len(question) + 2 + 10 + len(steps)
        steps += struct.pack("!H", 0xC000 | target)
        target = at
    body += b"\xc0\x0c" + struct.pack("!HHIH", 99, 1, 60, len(steps)) + steps
    record = struct.pack("!H", 0xC000 | target) + struct.pack("!HHIH", dnswire.TXT, 1, 60, 2)
    number = dnswire.MAX_RECORDS - 1
    body += (record + b"\1x") * number
    message = struct.pack("!6H", 1, 0x8180, 1, number + 1, 0, 0) + bytes(body)
    return lambda: dnswire.parse(message, 1, "a.example", dnswire.TXT)


def _nsec3() -> Callable[[], object]:
    question = dnswire.encode_name("a.example") + struct.pack("!2H", dnswire.DS, 1)
    salt = bytes(255)
    rdata = struct.pack("!2BHB", 1, 0, dnswire.MAX_ITERATIONS, 255) + salt + b"\x14" + bytes(20)
    record = b"\xc0\x0c" + struct.pack("!HHIH", 50, 1, 60, len(rdata)) + rdata
    number = 65_000 // len(record)
    message = struct.pack("!6H", 1, 0x8180, 1, 0, number, 0) + question + record * number
    return lambda: dnswire.parse(message, 1, "a.example", dnswire.DS)


class _Taken(Exchange):
    def head(self, response: h11.Response) -> None:
        """Any is taken."""

    def data(self, piece: bytes) -> None:
        """And any body."""


class _Nowhere:
    def write(self, data: bytes) -> None:
        """What goes out is not looked at."""


def _http(came: bytes, size: int) -> Callable[[], object]:
    async def scene() -> None:
        taken = _Taken("w", h11.Request(method="GET", target="/", headers=[("Host", "b")]))
        taken.connection_made(cast(asyncio.Transport, _Nowhere()))
        for at in range(0, len(came), size):
            taken.data_received(came[at : at + size])
        taken.done.cancel() if not taken.done.done() else taken.done.exception()

    return lambda: asyncio.run(scene())


def _reply() -> Callable[[], object]:
    async def scene() -> None:
        reader = asyncio.StreamReader(limit=smtp.MAX_REPLY)
        line = b"250-" + b"\xf0\x9f\x98\x80" * 38 + b"\r\n"
        reader.feed_data(line * (smtp.MAX_LINES + 1))
        reader.feed_eof()
        with contextlib.suppress(smtp._Talk):
            await smtp._reply(reader)

    return lambda: asyncio.run(scene())


def _forget(outcome: Outcome) -> None:
    """What a line tells of."""


def _postfix(text: bytes) -> Callable[[], object]:
    head = b"2026-11-27T11:00:00.000000+00:00 mx postfix/smtp[1]: "
    line = (head + text * MAX_LINE)[:MAX_LINE]
    return lambda: PostfixLog(_forget, lines.Clock(0.0)).line(line)


def _exim(text: bytes) -> Callable[[], object]:
    head = b"2026-11-25 13:18:06 1xWCsw-000000000Z7-1v50 "
    line = (head + text * MAX_LINE)[:MAX_LINE]
    return lambda: EximLog(_forget, lines.Clock(0.0)).line(line)


def _datagram() -> Callable[[], object]:
    """Postfix's, with what a domain's policy and records may hold."""
    policy = {
        "policy-type": 2,
        "policy-string": POLICY.lines(),
        "policy-domain": "eve.example",
        "mx-host": POLICY.mx,
        "f": 1,
        "failure-details": [{"c": 201, "h": "x" * 1000, "r": "y" * 4000} for _ in range(100)],
    }
    policies = [policy for _ in range(5)]
    message = {"d": "eve.example", "pr": "v=TLSRPTv1;rua=mailto:a@b.example", "policies": policies}
    data = msgspec.json.encode(message)
    return lambda: datagram.parse(data, 0.0)


def _tlsa(records: list[bytes]) -> Callable[[], object]:
    made = tuple(b"\x02" + one for one in records)
    found = Answer(0, made, 60, True, "mx.eve.example")
    return lambda: judge("mx.eve.example", "mx.eve.example", found, MAX_TLSA)


def places() -> list[Worst]:
    """All of them."""
    key, cert = spki(Cert("a key")), der(Cert("a certificate"))
    hosts = [f"{name}.x" for name in _names(dnswire.MAX_RECORDS)]
    fields = b"v=STSv1; id=1;" + b"a=b;" * (TXT // 4)
    patterns = ",".join(_names(9000))
    draft = f"v=STS1; to=true; mx={patterns}; e=86400".encode()
    unknown = b"v=STS1; to=true; " + b"x" * TXT + b"=1"
    rua = b"v=TLSRPTv1;rua=" + b"mailto:a@b.c," * (TXT // 13)
    wide = "\u1e9e" * 15 + "." + "\U00010400" * 14
    reply = msgspec.msgpack.encode(Reply(1, DECISION))
    decode = msgspec.msgpack.Decoder(Reply).decode
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    issuers = [Cert("x", kind="rsa", days=(-10, n)) for n in range(1, MAX_CHAIN)]
    leaf = Cert("leaf", issuers[0], ca=False, san=("mx.eve.example",), signer="another")
    chain = [der(leaf), *map(der, issuers)]
    anchors = [Tlsa(2, 0, 1, bytes([n % 256]) * 32) for n in range(MAX_TLSA)]
    failure = b'{"result-type":"validation-failure","failed-session-count":1}'
    report = (
        b'{"organization-name":"a","date-range":{"start-datetime":"2026-11-26T00:00:00Z",'
        b'"end-datetime":"2026-11-26T23:59:59Z"},"contact-info":"a@b.example","report-id":"1",'
        b'"policies":[{"policy":{"policy-type":"sts","policy-domain":"eve.example"},'
        b'"summary":{"total-successful-session-count":0,"total-failure-session-count":9},'
        b'"failure-details":[' + b",".join([failure] * (MAX_VALUES // 6)) + b"]}]}"
    )
    return [
        Worst("policy text", "policy/document.py", lambda: Policy.parse(policy_body()), 60),
        Worst("policy for each profile", "mta/profiles.py", lambda: replies(DECISION), 25),
        Worst(
            "record of RFC 8461", "policy/record.py",
            _quietly(lambda: find_record([fields]), RecordError), 40,
        ),
        Worst(
            "record of the first draft", "policy/draft00.py",
            lambda: find_draft_record([draft], "eve.example"), 45,
        ),
        Worst(
            "the same with an unknown field", "policy/draft00.py",
            _quietly(lambda: find_draft_record([unknown], "eve.example"), RecordError), 25,
        ),
        Worst(
            "record for reports", "tlsrpt/record.py",
            _quietly(lambda: find_report_record([rua]), TlsrptError), 50,
        ),
        Worst("DNS answer: addresses", "net/dnswire.py", _dns(dnswire.AAAA, bytes(16)), 50),
        Worst("DNS answer: hosts", "net/dnswire.py",
              _dns(dnswire.MX, b"\0\1" + dnswire.encode_name("a.b.c.d.e.f.g.h.i")[:20]), 40),
        Worst("DNS answer: strings of one byte", "net/dnswire.py",
              lambda: dnswire.parse(dns_message(16, b"\1x" * 32_000, 1), 1, "a.example", 16), 25),
        Worst("DNS answer: pointers to pointers", "net/dnswire.py", _ladder(), 200),
        Worst("DNS answer: hashed names", "net/dnswire.py", _nsec3(), 10),
        Worst("head of an HTTP answer", "net/exchange.py",
              _http(b"HTTP/1.1 200 OK\r\n" + b"a:b\r\n" * 6000 + b"\r\n", 4096), 40),
        Worst("the same in bytes", "net/exchange.py",
              _http(b"HTTP/1.1 200 OK\r\n" + b"a:b\r\n" * 190 + b"\r\n", 1), 15),
        Worst("body in pieces", "net/exchange.py",
              _http(chunked + b"1\r\na\r\n" * 600, 65536), 15),
        Worst("SMTP reply", "net/smtp.py", _reply(), 10),
        Worst("TLSA records: keys", "resolver/dane_state.py", _tlsa([b"\1\0" + key] * 600), 25),
        Worst("TLSA records: certificates", "resolver/dane_state.py",
              _tlsa([b"\0\0" + cert] * 180), 25),
        Worst("TLSA records: digests", "resolver/dane_state.py",
              _tlsa([b"\1\1" + bytes(32)] * MAX_TLSA), 10),
        Worst(
            "next hop in U-labels", "policy/nexthop.py",
            _quietly(lambda: policy_domain(wide), NextHopError, idna.IDNAError), 5,
        ),
        Worst("next hop of 1,024 letters", "policy/nexthop.py",
              _quietly(lambda: policy_domain("\u00e4." * 512), NextHopError), 5),
        Worst("whose a name is", "policy/organisation.py",
              lambda: organisational_domain("a." * 126 + "a"), 2),
        Worst("policy between workers", "daemon/peers.py", lambda: decode(reply), 10),
        Worst("text for the log", "daemon/log.py", lambda: printable("\x1b" * 64_000), 10),
        Worst("line of Postfix's log", "reporting/postfix_log.py",
              _postfix(b"AAAAA: to=<a@b.c>, orig_to=<"), 5),
        Worst("line of Exim's log", "reporting/exim_log.py", _exim(b"=> a@b.c <a@b.c> F=<"), 5),
        Worst("TLS result of Postfix", "reporting/datagram.py", _datagram(), 40),
        Worst("hosts held to patterns", "reporting/looks.py",
              lambda: looks.outside("eve.example", DECISION, hosts, 1), 60),
        Worst("chain held to TLSA records", "dane/verify.py",
              _quietly(lambda: match(anchors, chain, ["mx.eve.example"], when=0.0), MatchError),
              100),
        Worst("report as JSON", "tlsrpt/reading.py",
              _quietly(lambda: read_json(report), ReportError), 6000),
    ]  # fmt: skip


def milliseconds(work: Callable[[], object], times: int = 3) -> float:
    """CPU of the quickest of some runs."""
    gc.collect()
    taken = []
    for _ in range(times):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return min(taken) * 1000


def main() -> None:
    load()
    for place in places():
        print(f"{place.what:35} {place.file:28} {milliseconds(place.run):8.1f} of {place.bound}")


if __name__ == "__main__":
    main()
