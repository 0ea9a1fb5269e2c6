"""What is told of a policy that is longer than an MTA takes (laws 1, 4 and 7)."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_sts.mta import netstring
from smtp_sts.mta.limits import EXIM_LIST, POSTFIX_REPLY, SENDMAIL_LIST, TCP_TABLE_LINE, fitting
from smtp_sts.mta.profiles import NOT_FOUND
from smtp_sts.mta.ready import ReadyTable
from smtp_sts.mta.service import Service
from smtp_sts.mta.socketmap import Socketmap
from smtp_sts.mta.told import replies
from smtp_sts.policy import NextHop, Policy
from smtp_sts.policy.document import MAX_SIZE
from smtp_sts.resolver.decision import Decision

MANY = tuple(f"m{number:04}.a.bc" for number in range(4070))

_names = st.text(alphabet="ab", min_size=1, max_size=20)
_patterns = st.lists(
    st.builds(lambda wild, a, b: f"{'*.' if wild else ''}{a}.{b}", st.booleans(), _names, _names),
    unique=True,
    max_size=40,
).map(tuple)


def decided(*patterns: str) -> Decision:
    policy = Policy("enforce", patterns, 86400)
    return Decision("bob.example", "enforce", "policy-found", policy=policy, valid_until=1e12)


@given(_patterns, st.integers(0, 400))
def test_what_is_told_has_room_and_is_of_the_policy(patterns: tuple[str, ...], room: int) -> None:
    told = fitting(patterns, room)
    assert len(":".join(told)) <= room
    assert set(told) <= set(patterns)
    assert len(set(told)) == len(told)
    if len(":".join(patterns)) <= room:
        assert told == patterns


def test_wildcards_are_told_first_and_what_they_cover_is_left_out() -> None:
    patterns = ("a.bob.example", "mx.other.example", "*.bob.example", "b.bob.example")
    assert fitting(patterns, 40) == ("*.bob.example", "mx.other.example")
    assert fitting(patterns, 13) == ("*.bob.example",)


@pytest.mark.parametrize("last", ["mx.bob.example", "*.bob.example"])
def test_law_1_a_policy_as_long_as_can_be_is_told_to_every_mta(last: str) -> None:
    what = decided(*MANY, last)
    assert what.policy is not None
    assert MAX_SIZE - 1000 < len(what.policy.render()) <= MAX_SIZE
    told = replies(what)
    assert not {NOT_FOUND, "none", "500 not%20found"} & set(told.values())
    assert all(len(reply) <= POSTFIX_REPLY for reply in told.values())
    assert len(told["line"]) <= len("enforce ") + EXIM_LIST
    assert len(told["tcp-table"]) < TCP_TABLE_LINE  # without its line end
    match = told["sts"].removeprefix("OK secure match=").partition(" ")[0]
    assert len(match) <= SENDMAIL_LIST
    if last.startswith("*"):
        assert all(":.bob.example" in r or "=.bob.example" in r or " *.bob" in r
                   for r in told.values())  # fmt: skip


class Wire(asyncio.Transport):
    """What a connection has written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return False


async def asked(decision: Decision, *keys: bytes) -> tuple[list[bytes], Service]:
    """The answers of socketmap to these questions, each asked twice."""

    async def decide(_where: NextHop) -> Decision:
        return decision

    service = Service(decide, ReadyTable(100), {})
    found = []
    for key in (*keys, *keys):
        wire, speaker = Wire(), Socketmap(service)
        speaker.connection_made(wire)
        speaker.data_received(netstring.encode(key))
        while service.tasks:
            await asyncio.gather(*service.tasks)
        answer = netstring.parse(wire.written, limit=POSTFIX_REPLY)
        assert answer is not None
        found.append(answer[0])
    assert found[: len(keys)] == found[len(keys) :]
    return found[: len(keys)], service


def test_sendmail_may_ask_about_one_host() -> None:
    what = decided(*MANY, "*.bob.example")
    answers, _ = asyncio.run(
        asked(
            what,
            b"stsmx bob.example/mx.bob.example",
            b"stsmx bob.example/MX.bob.example.",
            b"stsmx bob.example/a.mx.bob.example",
            b"stsmx bob.example/mx.mallory.example",
            b"stsmx bob.example/m0001.a.bc",
            b"stsmx bob.example/",
            b"stsmx bob.example",
            b"stsmx bob.example/\xff",
            b"stsmx [192.0.2.1]/mx.bob.example",
        )
    )
    assert [a == b"OK allowed" for a in answers] == [True, True, False, False, True] + [False] * 4
    assert set(answers) == {b"OK allowed", b"NOTFOUND "}


@pytest.mark.parametrize("outcome", ["testing", "no-policy", "none", "temporary-failure"])
def test_and_is_told_that_none_is_allowed_where_nothing_is_enforced(outcome: str) -> None:
    policy = Policy("testing", ("mx.bob.example",), 60)
    what = Decision("bob.example", outcome, "policy-found", policy=policy)  # type: ignore[arg-type]
    answers, _ = asyncio.run(asked(what, b"stsmx bob.example/mx.bob.example"))
    assert answers == [b"NOTFOUND "]


def test_law_7_a_policy_told_in_part_is_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    _, service = asyncio.run(asked(decided(*MANY), b"sts bob.example", b"postfix bob.example"))
    assert service.counts["policy-too-long"] == 1  # a ready reply is not counted again
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("bob.example: its policy names 4070 MX host patterns, of which sts is")
    _, service = asyncio.run(asked(decided(*MANY[:20]), b"sts bob.example"))
    assert "policy-too-long" not in service.counts
