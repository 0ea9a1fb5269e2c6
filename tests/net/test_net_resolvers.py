"""Several resolvers: who is asked, how often, and what is told where none of them helps."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest

from smtp_sts.lab.names import Names
from smtp_sts.net import dns
from smtp_sts.net.dns import Dns
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
