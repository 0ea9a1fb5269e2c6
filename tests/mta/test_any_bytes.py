"""Law 7 at the parsers of all protocols: any bytes, in any pieces, get a whole answer or an end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtp_sts.mta import netstring
from smtp_sts.mta.limits import TCP_TABLE_LINE
from smtp_sts.mta.line import Line
from smtp_sts.mta.profiles import PROFILES
from smtp_sts.mta.ready import ReadyTable
from smtp_sts.mta.service import Connection, Service
from smtp_sts.mta.socketmap import Socketmap
from smtp_sts.mta.tcp_table import TcpTable
from smtp_sts.policy import NextHop, Policy, PolicyError
from smtp_sts.resolver.decision import Decision

POLICY = Policy("enforce", ("mx.bob.example", "*.bob.example"), 86400)


class Wire(asyncio.Transport):
    """What a connection has written, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def decide(where: NextHop) -> Decision:
    domain = where.domain
    outcome = "enforce" if "b" in domain else "no-policy"
    return Decision(domain, outcome, "policy-found", policy=POLICY, valid_until=1e12)  # type: ignore[arg-type]


Speaker = Callable[[Service], Connection]

_words = st.sampled_from([
    b"postfix bob.example", b"19:postfix bob.example,", b"get bob.example\n", b"get ", b"%41",
    b"%4", b"\n", b"\r\n", b",", b":", b"5:", b"00", b"999999999999", b"0:,", b" ", b"\0",
    b"\xff\xfe",
    "b\u00fc.example".encode(), b"x" * 300, b"x" * 11_000, b"bob.example\n", b"explain bob.example",
    b"[bob.example]:25", b"12:sts a.example,", b"10:postfix   ,",
])  # fmt: skip
_bytes = st.lists(st.one_of(_words, st.binary(max_size=20)), max_size=12).map(b"".join)


def netstrings(data: bytes) -> bool:
    """Whether these are whole replies of socketmap, and nothing else."""
    position = 0
    while position < len(data):
        found = netstring.parse(data, position, limit=1_000_000)
        if found is None or not re.match(rb"(OK .|NOTFOUND $|TEMP .|PERM .)", found[0]):
            return False
        position = found[1]
    return True


def lines(pattern: bytes) -> Callable[[bytes], bool]:
    return lambda data: re.fullmatch(rb"(?:" + pattern + rb"\n)*", data) is not None


@pytest.mark.parametrize(
    ("speaker", "whole"),
    [
        (Socketmap, netstrings),
        (TcpTable, lines(rb"[245]00 [!-~]{1,4090}")),
        (Line, lines(rb"(?:none|enforce [a-z0-9.*:-]+)")),
    ],
)
@settings(max_examples=150, deadline=None)
@given(data=_bytes, cuts=st.lists(st.integers(1, 400), max_size=8))
def test_law_7_any_bytes_in_any_pieces(
    speaker: Speaker, whole: Callable[[bytes], bool], data: bytes, cuts: list[int]
) -> None:
    async def play() -> None:
        seen = []
        for pieces in (cuts, []):
            table, counts = ReadyTable(10), dict[str, int]()
            service = Service(decide, table, counts)
            wire, connection = Wire(), speaker(service)
            connection.connection_made(wire)
            rest = data
            for cut in [*pieces, len(data)]:
                if rest and not wire.closed:
                    connection.data_received(rest[:cut])
                    rest = rest[cut:]
                    held = len(connection._buffer)
                    assert held <= max(netstring.MAX_REQUEST + 7, TCP_TABLE_LINE + len(data))
                await asyncio.sleep(0)
            if not wire.closed:
                connection.eof_received()
            while service.tasks:
                await asyncio.gather(*service.tasks)
            connection.connection_lost(None)
            assert whole(wire.written), wire.written
            assert "internal-errors" not in counts
            seen.append(wire.written)
        if speaker is not Line:  # one question: what comes behind it may come too late
            assert seen[0] == seen[1]  # pieces change nothing

    asyncio.run(play())


_value = st.text(st.sampled_from("ab.*-{}=: \t}%\\\"'$,;"), max_size=12)
_line = st.builds(
    "{}: {}".format, st.sampled_from(["mx", "mode", "version", "x", "max_age"]), _value
)
REPLY = re.compile(
    r"OK (?:secure match=[a-z0-9.:-]+|may) servername=hostname"
    r"(?: policy_type=sts policy_domain=bob\.example(?: mx_host_pattern=(?:\*\.)?[a-z0-9.-]+)+"
    r"(?: \{ policy_string = (?:version: STSv1|mode: [a-z]+|mx: (?:\*\.)?[a-z0-9.-]+"
    r"|max_age: [0-9]+) \})+)?"
)


@given(st.lists(_line, max_size=8), st.sampled_from(["enforce", "testing"]))
def test_law_5_no_policy_adds_an_attribute_to_a_reply(given: list[str], mode: str) -> None:
    text = "\n".join(
        ["version: STSv1", f"mode: {mode}", "mx: mx.bob.example", *given, "max_age: 9"]
    )
    try:
        policy = Policy.parse(text.encode())
    except PolicyError:
        return
    decision = Decision("bob.example", policy.mode, "policy-found", policy=policy)
    for name, render in PROFILES.items():
        reply = render(decision)
        if name != "postfix-no-sni" and reply != "NOTFOUND ":
            assert REPLY.fullmatch(reply), (name, reply)
