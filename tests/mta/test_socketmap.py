"""socketmap over a real socket: order, garbage, limits; and the exact replies of each profile."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_sts.mta import netstring
from smtp_sts.mta.limits import POSTFIX_REPLY
from smtp_sts.mta.profiles import NOT_FOUND, WITHOUT_DANE, profile_of
from smtp_sts.mta.ready import ReadyTable
from smtp_sts.mta.service import Service
from smtp_sts.mta.socketmap import Socketmap
from smtp_sts.mta.tcp_table import answer as tcp_table_answer
from smtp_sts.mta.told import MTAS, replies
from smtp_sts.policy import NextHop, Policy
from smtp_sts.resolver.decision import Decision, Outcome

POLICY = Policy("enforce", ("mx.bob.example", "*.bob.example"), 86400)
SECURE = "OK secure match=mx.bob.example:.bob.example servername=hostname"


def decision(outcome: str = "enforce", policy: Policy = POLICY) -> Decision:
    return Decision(
        "bob.example",
        outcome,  # type: ignore[arg-type]
        "policy-found",
        policy=policy,
        valid_until=time.time() + 60,
    )


def test_the_replies_to_an_enforced_policy() -> None:
    told = replies(decision())
    assert told.pop("postfix-dane") == told["postfix"]
    assert told.pop("postfix-dane-tlsrpt") == told["postfix-tlsrpt"]
    assert told.pop("line") == "enforce mx.bob.example:*.bob.example"
    assert told.pop("tcp-table").startswith("200 secure%20match=mx.bob.example:.bob.example%20")
    assert told == {
        "postfix": SECURE,
        "postfix-no-sni": SECURE.removesuffix(" servername=hostname"),
        "sts": SECURE,
        "postfix-tlsrpt": f"{SECURE} policy_type=sts policy_domain=bob.example "
        "mx_host_pattern=mx.bob.example mx_host_pattern=*.bob.example "
        "{ policy_string = version: STSv1 } { policy_string = mode: enforce } "
        "{ policy_string = mx: mx.bob.example } { policy_string = mx: *.bob.example } "
        "{ policy_string = max_age: 86400 }",
    }


def test_the_replies_to_a_policy_in_testing() -> None:
    testing = replies(decision("testing", Policy("testing", ("mx.bob.example",), 60)))
    assert testing["postfix"] == testing["sts"] == NOT_FOUND
    assert testing["postfix-tlsrpt"] == (
        "OK may servername=hostname policy_type=sts policy_domain=bob.example "
        "mx_host_pattern=mx.bob.example "
        "{ policy_string = version: STSv1 } { policy_string = mode: testing } "
        "{ policy_string = mx: mx.bob.example } { policy_string = max_age: 60 }"
    )


@pytest.mark.parametrize("outcome", ["none", "no-policy"])
def test_everything_else_is_not_found(outcome: str) -> None:
    none = Decision("bob.example", outcome, "policy-found")  # type: ignore[arg-type]
    told = replies(none)
    assert {told.pop("line"), told.pop("tcp-table")} == {"none", "500 not%20found"}
    assert set(told.values()) == {NOT_FOUND}


TESTING = Policy("testing", ("mx.bob.example",), 60)


@pytest.mark.parametrize("outcome", ["dane", "temporary-failure"])
@pytest.mark.parametrize(
    ("policy", "alone", "reporting"),
    [
        (None, "NOTFOUND", "NOTFOUND"),
        (TESTING, "NOTFOUND", "OK may servername=hostname policy_type=sts"),
        (Policy("none", (), 60), "NOTFOUND", "NOTFOUND"),
        # RFC 8461 section 2: DANE goes first; a sender that does not do DANE does STS.
        (Policy("enforce", ("mx.bob.example",), 60), "OK secure", "OK secure"),
    ],
)
def test_law_4_dane_is_said_to_none_but_those_who_ask_for_it(
    outcome: Outcome, policy: Policy | None, alone: str, reporting: str
) -> None:
    what = Decision("bob.example", outcome, "tlsa-usable", policy=policy)
    told = replies(what)
    asked = "OK dane-only" if outcome == "dane" else "TEMP the DANE state of bob.example"
    for name in ("postfix-dane", "postfix-dane-tlsrpt"):
        assert told[name].startswith(asked)
        assert not told[WITHOUT_DANE[name]].startswith(("OK dane", "TEMP"))
    assert {n for n, reply in told.items() if reply.startswith(asked)} == set(WITHOUT_DANE)
    assert told["postfix"].startswith(alone)
    assert told["postfix-no-sni"].startswith(alone)
    assert told["postfix-tlsrpt"].startswith(reporting)
    assert tcp_table_answer(what).startswith(b"200 secure" if "secure" in alone else b"500 ")


def test_the_level_of_a_rule_is_said_to_all_who_understand_levels() -> None:
    what = Decision("bob.example", "no-policy", "override", level="dane-only")
    told = replies(what)
    assert (told.pop("sts"), told.pop("line")) == (NOT_FOUND, "none")
    assert told.pop("tcp-table") == "200 dane-only"
    assert set(told.values()) == {"OK dane-only"}


def test_query_tells_what_every_kind_of_mta_is_told() -> None:
    told = replies(decision("enforce", Policy("enforce", ("mx.bob.example", "*.bob.net"), 60)))
    assert set(told) == set(MTAS)
    assert told["line"] == "enforce mx.bob.example:*.bob.net"
    match = "match=mx.bob.example:.bob.net"
    assert told["tcp-table"] == f"200 secure%20{match}%20servername=hostname"
    assert told["sts"] == f"OK secure {match} servername=hostname"


def test_map_names() -> None:
    assert profile_of("postfix") is profile_of("anything")
    assert profile_of("QUERY") is profile_of("postfix-dane")
    assert profile_of("QUERYwithTLSRPT") is profile_of("postfix-dane-tlsrpt")


def test_a_reply_is_never_longer_than_postfix_reads() -> None:
    many = Policy("enforce", tuple(f"mx{n}.a-long-name.bob.example" for n in range(1500)), 60)
    told = replies(decision("enforce", many))
    assert told["postfix-tlsrpt"] == told["postfix"]
    assert SECURE[:9] == told["postfix"][:9]
    assert all(len(reply) <= POSTFIX_REPLY for reply in told.values())


@given(st.binary(max_size=300))
def test_netstrings_come_back(payload: bytes) -> None:
    wire = netstring.encode(payload)
    assert netstring.parse(wire + b"rest") == (payload, len(wire))
    assert all(netstring.parse(wire[:cut]) is None for cut in range(1, len(wire)))


@given(st.binary(max_size=50))
def test_nothing_but_netstring_errors_comes_out(data: bytes) -> None:
    try:
        found = netstring.parse(data)
    except netstring.NetstringError:
        return
    assert found is None or netstring.encode(found[0]) == data[: found[1]]


# -- over a socket ----------------------------------------------------------------------------


class Asked:
    """A resolver whose pace the test sets; everything else on the way is the real thing."""

    def __init__(self) -> None:
        self.slow: dict[str, asyncio.Event] = {}
        self.domains: list[str] = []
        self.more = asyncio.Event()

    async def until(self, count: int) -> None:
        """Wait until so many have been asked for."""
        while len(self.domains) < count:
            self.more.clear()
            await self.more.wait()

    async def decide(self, where: NextHop) -> Decision:
        domain = where.domain
        self.domains.append(domain)
        self.more.set()
        if domain in self.slow:
            await self.slow[domain].wait()
        if domain.startswith("bob"):
            return decision()
        return Decision(domain, "no-policy", "no-record", valid_until=time.time() + 60)


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *keys: str, name: str = "postfix") -> None:
        self.writer.write(b"".join(netstring.encode(f"{name} {key}".encode()) for key in keys))

    async def read(self) -> str:
        size = int((await self.reader.readuntil(b":"))[:-1])
        return (await self.reader.readexactly(size + 1))[:-1].decode()


@asynccontextmanager
async def serving(tmp_path: Path) -> AsyncIterator[tuple[Client, Asked, Service]]:
    asked = Asked()
    service = Service(asked.decide, ReadyTable(100), {})
    loop = asyncio.get_running_loop()
    path = str(tmp_path / "s")
    server = await loop.create_unix_server(lambda: Socketmap(service), path)
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        async with asyncio.timeout(10):
            yield Client(reader, writer), asked, service
    finally:
        writer.close()
        server.close()


def test_a_second_question_is_answered_from_the_table(tmp_path: Path) -> None:
    async def play() -> None:
        async with serving(tmp_path) as (client, asked, _):
            for _n in range(3):
                client.send("bob.example")
                assert await client.read() == SECURE
            client.send(*["bob.example"] * 50)
            assert [await client.read() for _ in range(50)] == [SECURE] * 50
            assert asked.domains == ["bob.example"]

    asyncio.run(play())


def test_law_1_what_was_decided_before_a_change_is_not_kept_ready(tmp_path: Path) -> None:
    """The decision is on its way, perhaps from another worker, when another one takes its place."""

    async def play() -> None:
        async with serving(tmp_path) as (client, asked, service):
            asked.slow["carol.example"] = asyncio.Event()
            client.send("carol.example", "carol.example:587")
            await asked.until(2)
            service.table.forget("carol.example")
            asked.slow["carol.example"].set()
            assert [await client.read() for _ in range(2)] == ["NOTFOUND "] * 2
            assert not service.table.replies
            client.send("carol.example")
            assert await client.read() == "NOTFOUND "
            assert len(service.table.replies) == 1
            assert len(asked.domains) == 3

    asyncio.run(play())


def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async def play() -> None:
        async with serving(tmp_path) as (client, asked, _):
            client.send("bob.example")
            await client.read()
            asked.slow["slow.example"] = asyncio.Event()
            client.send("slow.example", "bob.example", "x.example", ".com", "bob.example")
            await asyncio.sleep(0.05)
            client.send("bob.example")
            asked.slow["slow.example"].set()
            got = [await client.read() for _ in range(6)]
            assert got == [NOT_FOUND, SECURE, NOT_FOUND, NOT_FOUND, SECURE, SECURE]

    asyncio.run(play())


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_requests_may_come_in_any_pieces(tmp_path: Path, size: int) -> None:
    async def play() -> None:
        async with serving(tmp_path) as (client, _, _service):
            data = netstring.encode(b"postfix bob.example") * 3 + netstring.encode(b"postfix .b")
            for start in range(0, len(data), size):
                client.writer.write(data[start : start + size])
                await client.writer.drain()
                await asyncio.sleep(0)
            assert [await client.read() for _ in range(4)] == [SECURE] * 3 + [NOT_FOUND]

    asyncio.run(play())


@pytest.mark.parametrize(
    "garbage",
    [b"x", b"\0", b"GET / HTTP/1.1\r\n\r\n", b":x,", b"-1:x,", b"99999:", b"999999999999", b"01:x,",
     b"3:abcd", b"10001:", b" 3:abc,", b"3 :abc,"],
)  # fmt: skip
def test_law_7_garbage_closes_its_connection_and_is_counted(tmp_path: Path, garbage: bytes) -> None:
    async def play() -> None:
        async with serving(tmp_path) as (client, _, service):
            client.send("bob.example")
            client.writer.write(garbage)
            assert await client.read() == SECURE  # what came before is answered
            assert await client.reader.read() == b""
            assert service.counts["bad-netstrings"] == 1

    asyncio.run(play())


@pytest.mark.parametrize(
    "payload",
    [b"", b"postfix", b"postfix ", b"postfix a b.example", b"postfix a\0.example", b"postfix .com",
     b"postfix [192.0.2.1]", b"postfix " + b"a" * 300, b"postfix \xff\xfe.example", b"\xff x.y",
     b"postfix a,b.example", b"postfix 192.0.2.1:25", b" bob.example\n"],
)  # fmt: skip
def test_keys_that_can_have_no_policy_cost_nothing(tmp_path: Path, payload: bytes) -> None:
    async def play() -> None:
        async with serving(tmp_path) as (client, asked, service):
            client.writer.write(netstring.encode(payload))
            assert await client.read() == NOT_FOUND
            assert asked.domains == []
            assert service.counts["keys-without-policy"] == 1

    asyncio.run(play())


def test_law_6_an_answer_comes_whatever_hangs_behind_it(tmp_path: Path) -> None:
    async def play() -> None:
        async with serving(tmp_path) as (client, asked, service):
            service.deadline = 0.1
            asked.slow["bob.example"] = asyncio.Event()  # never set
            client.send("bob.example", "x.example")
            assert [await client.read() for _ in range(2)] == [NOT_FOUND, NOT_FOUND]
            assert service.counts["answer-deadline"] == 1
            assert not any(b"bob" in request for request in service.table.replies)

    asyncio.run(play())


def test_every_form_of_a_next_hop_leads_to_its_policy_domain(tmp_path: Path) -> None:
    async def play() -> None:
        async with serving(tmp_path) as (client, asked, _):
            client.send(
                "[bob.example]:587", "BOB.example", "bob.example:25", "bob.b\u00fccher.example"
            )
            for _n in range(4):
                assert await client.read() == SECURE
            assert asked.domains == ["bob.example"] * 3 + ["bob.xn--bcher-kva.example"]

    asyncio.run(play())


def test_the_table_is_bounded_and_forgets() -> None:
    table = ReadyTable(3)
    for n in range(10):
        table.add(b"%d" % n, b"r", f"d{n % 2}", 100.0 + n)
    assert list(table.replies) == [b"7", b"8", b"9"]
    table.forget("d1")
    assert list(table.replies) == [b"8"]
    table.add(b"8", b"new", "d0", 200.0)
    table.sweep(150.0)
    assert {key: ready.reply for key, ready in table.replies.items()} == {b"8": b"new"}
    assert table.due == 200.0
    table.sweep(200.0)
    assert not table.replies


def test_the_table_is_bounded_by_bytes_too() -> None:
    """50,000 replies to policies of 64 KiB would be gigabytes."""
    table = ReadyTable(1000, max_bytes=10_000)
    for n in range(100):
        table.add(b"%02d" % n, bytes(998), f"d{n}", 100.0)
        held = sum(len(key) + len(ready.reply) for key, ready in table.replies.items())
        assert table.bytes == held <= 10_000
    assert list(table.replies) == [b"%02d" % n for n in range(90, 100)]
    table.add(b"99", bytes(4998), "d99", 100.0)
    assert list(table.replies) == [b"%02d" % n for n in range(94, 99)] + [b"99"]
    table.sweep(100.0)
    assert (table.bytes, table.replies) == (0, {})


def test_a_table_that_was_cleared_is_as_new() -> None:
    table = ReadyTable(3)
    for n in range(3):
        table.add(b"%d" % n, b"r", "d", 100.0, "postfix enforce")
    table.given(table.replies[b"1"], 2)
    table.clear()
    assert (table.replies, table.bytes, table.due) == ({}, 0, math.inf)
    assert table.answered() == {"postfix enforce": 2}
    table.add(b"1", b"r", "d", 50.0)
    assert table.due == 50.0


def test_law_2_an_expired_reply_is_not_given(tmp_path: Path) -> None:
    async def play() -> None:
        async with serving(tmp_path) as (client, asked, service):
            client.send("bob.example")
            await client.read()
            (request,) = service.table.replies
            service.table.add(request, b"5:stale,", "bob.example", time.time() - 0.001)
            client.send("bob.example")
            assert await client.read() == SECURE
            assert len(asked.domains) == 2

    asyncio.run(play())
