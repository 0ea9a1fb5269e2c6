"""The dialects as the runner knows them: a table, and what its effects ask of the network."""

from __future__ import annotations

import random
from collections.abc import Callable

from smtp_sts.resolver import draft00_look, rfc8461_look
from smtp_sts.resolver.draft_check import check
from smtp_sts.resolver.life import events as ev
from smtp_sts.resolver.reach import Reach


class Rfc8461Network:
    """TXT records and policy hosts."""

    def __init__(self, reach: Callable[[], Reach], clock: Callable[[], float]) -> None:
        self._reach = reach
        self._clock = clock

    async def answer(self, domain: str, effect: ev.Effect) -> ev.Answer:
        """What comes of a look or a fetch."""
        if isinstance(effect, ev.LookUp):
            return await rfc8461_look.look_up(domain, effect.number, self._reach(), self._clock)
        if isinstance(effect, ev.Fetch):
            return await rfc8461_look.fetch(domain, effect.number, self._reach(), self._clock)
        raise ValueError(f"RFC 8461 asks for nothing like {effect!r}")


class Draft00Network:
    """TXT records, the hosts that prove them, and MX hosts."""

    def __init__(
        self,
        reach: Callable[[], Reach],
        clock: Callable[[], float],
        *,
        dane: Callable[[], bool],
        smtp_port: int,
    ) -> None:
        self._reach = reach
        self._clock = clock
        self._dane = dane
        self._smtp_port = smtp_port

    async def answer(self, domain: str, effect: ev.Effect) -> ev.Answer:
        """What comes of a look, a proof or a check."""
        reach = self._reach()
        if isinstance(effect, ev.LookUp):
            return await draft00_look.look_up(domain, effect.number, reach, self._clock)
        if isinstance(effect, ev.Prove):
            return await draft00_look.prove(effect, reach, self._clock)
        if isinstance(effect, ev.CheckMx):
            checked = await check(
                domain, effect.record, reach, smtp_port=self._smtp_port, dane=self._dane()
            )
            return ev.MxChecked(
                now=self._clock(),
                number=effect.number,
                verdict=checked.verdict,
                spread=random.random(),
                failure=checked.failure,
                steps=checked.steps,
            )
        raise ValueError(f"the first draft asks for nothing like {effect!r}")
