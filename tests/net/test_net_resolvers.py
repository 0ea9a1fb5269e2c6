"""Several resolvers: who is asked, how often, and what is told where none of them helps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest

from smtp_sts.lab.names import Names
from smtp_sts.net import dns
from smtp_sts.net.dns import Dns
from smtp_sts.net.dnswire import TXT
from smtp_sts.net.failure import NetFailure

Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Lossy(Names):
    """A resolver whose first answer is lost on the way."""

    def answer(self, query: bytes, *, udp: bool) -> bytes | None:
        reply = super().answer(query, udp=udp)
        return reply if self.queries["a.example", "TXT"] > 1 else None


async def resolver(manner: str, stack: AsyncExitStack) -> Names:
    names = Lossy() if manner == "lossy" else Names()
    await names.start()
    stack.push_async_callback(names.close)
    names.put("a.example", "TXT", '"x"')
    if manner == "dead":
        await names.close()  # its port refuses
    elif manner not in ("good", "lossy"):
        names.spoil("a.example", manner)  # type: ignore[arg-type]
    return names


@pytest.mark.parametrize(
    ("manners", "told", "asked"),
    [
        ("good good", "", [1, 0]),
        ("dead good", "", [0, 1]),
        ("timeout good", "", [1, 1]),
        ("servfail good", "", [1, 1]),
        ("refused good", "", [1, 1]),
        ("cut good", "", [2, 1]),  # over UDP, and over TCP
        ("truncated good", "", [2, 0]),
        ("lossy servfail", "", [2, 1]),
        ("servfail lossy", "", [1, 2]),
        ("servfail dead lossy", "", [1, 0, 2]),
        ("timeout servfail", "dns-servfail", [2, 1]),
        ("servfail timeout", "dns-servfail", [1, 2]),
        ("dead refused", "dns-refused", [0, 1]),
        ("servfail refused", "dns-servfail", [1, 1]),
        ("cut cut", "dns-malformed", [2, 2]),
        ("timeout dead", "dns-unreachable", [2, 0]),
        ("dead timeout", "dns-timeout", [0, 2]),
        ("timeout timeout", "dns-timeout", [2, 2]),
    ],
)
def test_silent_resolvers_are_asked_once_more_and_those_that_answered_are_not(
    run: Run, monkeypatch: pytest.MonkeyPatch, manners: str, told: str, asked: list[int]
) -> None:
    monkeypatch.setattr(dns, "ATTEMPT_SECONDS", 0.1)

    async def scene() -> None:
        async with AsyncExitStack() as stack:
            resolvers = [await resolver(manner, stack) for manner in manners.split()]
            client = Dns([names.address for names in resolvers])
            if told:
                with pytest.raises(NetFailure) as caught:
                    await client.txt("a.example")
                assert caught.value.slug == told
            else:
                assert (await client.txt("a.example")).records == (b"x",)
            assert [names.queries["a.example", "TXT"] for names in resolvers] == asked

    run(scene())


def test_no_resolver_at_all_is_a_declared_failure(run: Run) -> None:
    with pytest.raises(NetFailure, match="no name server is configured"):
        run(Dns([]).txt("a.example"))


def test_a_resolver_that_is_silent_again_and_again_is_asked_last_for_a_while(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each question of a look-up waits for it anew, and all of them together for too long."""
    monkeypatch.setattr(dns, "ATTEMPT_SECONDS", 0.05)
    monkeypatch.setattr(dns, "SILENT_SECONDS", 0.5)

    async def scene() -> None:
        async with AsyncExitStack() as stack:
            silent, good = [await resolver(m, stack) for m in ("timeout", "good")]
            client = Dns([silent.address, good.address])
            for _ in range(10):
                assert (await client.txt("a.example")).records == (b"x",)
            assert silent.queries["a.example", "TXT"] == dns.SILENT_TIMES
            silent.mend("a.example")
            await asyncio.sleep(0.6)
            await client.txt("a.example")
            assert good.queries["a.example", "TXT"] == 10  # back in its turn
            for _ in range(dns.SILENT_TIMES - 1):
                silent.spoil("a.example", "timeout")
                await client.txt("a.example")
                silent.mend("a.example")
                await client.txt("a.example")  # an answer between: not silent in a row
            silent.spoil("a.example", "timeout")
            before = silent.queries["a.example", "TXT"]
            await client.txt("a.example")
            assert silent.queries["a.example", "TXT"] == before + 1

    run(scene())


def test_other_resolvers_from_the_next_question_on(run: Run) -> None:
    async def scene() -> None:
        async with AsyncExitStack() as stack:
            first, second = [await resolver("good", stack) for _ in range(2)]
            client = Dns([first.address])
            await client.txt("a.example")
            client.use([second.address])
            await client.txt("a.example")
            assert [n.queries["a.example", "TXT"] for n in (first, second)] == [1, 1]

    run(scene())


@pytest.mark.parametrize("manner", ["servfail", "timeout", "refused", "cut"])
def test_law_3_an_untrusted_resolver_does_not_answer_for_a_trusted_one_that_fails(
    run: Run, monkeypatch: pytest.MonkeyPatch, manner: str
) -> None:
    """Whoever silences the name servers of a signed zone must not get "not signed" instead: a
    validating resolver says SERVFAIL, and the one behind it, which does not validate, anything."""
    monkeypatch.setattr(dns, "ATTEMPT_SECONDS", 0.1)

    async def scene() -> None:
        async with AsyncExitStack() as stack:
            trusted, other = [await resolver(m, stack) for m in (manner, "good")]
            client = Dns([trusted.address, other.address])
            client._trusted[other.address] = False  # as one that is not on loopback
            with pytest.raises(NetFailure):
                await client.query("a.example", TXT, validated=True)
            assert other.queries["a.example", "TXT"] == 0
            answer = await client.query("a.example", TXT)  # what needs no DNSSEC is answered
            assert (answer.records, answer.ad) == ((b"x",), False)
            client._trusted[trusted.address] = False  # nobody is trusted: then all are asked
            assert not (await client.query("a.example", TXT, validated=True)).ad

    run(scene())


@pytest.mark.parametrize(
    ("address", "set_to", "named", "believed"),
    [
        ("127.0.0.1", None, False, True),
        ("127.0.0.53", None, False, True),
        ("::1", None, False, True),
        ("10.9.9.9", None, False, False),
        ("10.9.9.9", None, True, True),  # resolv.conf says: options trust-ad
        ("10.9.9.9", False, True, False),
        ("127.0.0.1", False, True, False),
        ("fe80::1%eth0", None, False, False),
        ("fe80::1%eth0", None, True, True),
        ("127.0.0.11", None, False, False),
        ("127.0.0.11", None, True, False),  # Docker copies the options of the machine's file
        ("::ffff:127.0.0.11", None, True, False),
        ("127.0.0.11", True, False, True),  # a validating resolver behind it, as mailcow has it
        ("127.0.0.11", False, False, False),
    ],
)
def test_law_3_whose_ad_bit_is_believed(
    address: str, set_to: bool | None, named: bool, believed: bool
) -> None:
    client = Dns([], trust_ad=set_to)
    client.use([(address, 53)], trust_ad=named)
    assert client.trusts_ad is believed


def test_other_trust_is_a_change_and_the_same_is_none() -> None:
    client = Dns([("10.9.9.9", 53)])
    assert not client.use([("10.9.9.9", 53)])
    assert client.use([("10.9.9.9", 53)], trust_ad=True)
    assert not client.use([("10.9.9.9", 53)], trust_ad=True)
    assert client.use([("10.9.9.9", 53)])
    assert not client.trusts_ad
