"""The looks for DANE of one process: when one is made, how many at once, and who waits for it.

Promises: one look for a next hop however many ask; an answer waits for it no longer than it may
(law 6); a stranger's names take his share of the places and no more, a place is given back after
the answer timeout, and a look ends soon after (`dane_look.LOOK_SECONDS`); a domain that is known to
be signed, or to have DANE, is not let through because a look is slow (law 3). What is said of what
is known is decided by `precedence.py`. Must not: keep what was found; that is its domain's state.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from smtp_sts.config import PolicySection
from smtp_sts.net.dns import Dns
from smtp_sts.net.places import Places
from smtp_sts.policy.nexthop import NextHop
from smtp_sts.policy.organisation import share_key
from smtp_sts.resolver.dane_look import DaneLook
from smtp_sts.resolver.dane_state import DaneState
from smtp_sts.resolver.decision import Decision
from smtp_sts.resolver.precedence import (
    Known,
    at_once,
    known,
    protects,
    renewed,
    standing,
    weigh,
)  # fmt: skip
from smtp_sts.resolver.waiting import wait_for_work

#: Looks that may be under way at all, as a multiple of those that hold a place.
SLOW_FACTOR: Final = 4
#: A verdict is kept for the life of its records, within these bounds (seconds): that a domain has
#: DANE is seen within an hour, and short-lived records cost no look for every message.
DANE_TTL: Final = (30.0, 3600.0)
#: Where an unexpired policy protects the domain, or it is known to have had DANE, an answer waits
#: no longer than this for a look (seconds).
DANE_PATIENCE: Final = 1.0

_log = logging.getLogger(__name__)


class Looking:
    """A look under way; `look` is None until it has a place."""

    __slots__ = ("look", "task")

    def __init__(self) -> None:
        self.look: DaneLook | None = None
        self.task: asyncio.Task[None] | None = None


class State(Protocol):
    """What is known of a next hop; its `dane` and `look` are changed here alone."""

    dane: Known | None
    look: Looking | None


class DaneLooks:
    """The looks of one process."""

    def __init__(
        self,
        settings: PolicySection,
        dns: Callable[[], Dns],
        count: Callable[[str], None],
        clock: Callable[[], float],
        *,
        learnt: Callable[[str, bool], None],
        smtp_port: int = 25,
    ) -> None:
        """`learnt` is called with the domain of a next hop of which something is known now, and
        whether answers about it change by that."""
        self._settings = settings
        self._dns = dns
        self._count = count
        self._clock = clock
        self._learnt = learnt
        self._smtp_port = smtp_port
        self._places = Places(settings.max_lookups)
        self._under_way = Places(settings.max_lookups * SLOW_FACTOR)
        self.running: set[asyncio.Task[None]] = set()

    def start(self, where: NextHop, state: State) -> None:
        """Look, unless what is known is fresh, a look is under way, or there are too many."""
        if state.look is not None or (state.dane is not None and self._clock() < state.dane.until):
            return
        key = share_key(where.domain)
        if not self._under_way.take(key):
            return
        looking = state.look = Looking()
        task = looking.task = asyncio.create_task(self._look(where, state, looking, key))
        self.running.add(task)
        task.add_done_callback(lambda done: self._ended(where, state, done, key))

    async def weighed(self, sts: Decision, state: State, began: float) -> Decision:
        """The decision once DANE has been weighed in; `began` is when it was asked for, by the
        loop's clock."""
        now = self._clock()
        looking = state.look
        dane = standing(state.dane, now)
        protected = protects(sts)
        if looking and looking.task and not at_once(state.dane, now, protected=protected):
            had = state.dane is not None and state.dane.verdict == "dane"
            patience = DANE_PATIENCE if protected or had else self._settings.answer_timeout
            left = began + patience - asyncio.get_running_loop().time()
            await wait_for_work([looking.task], left)
            now = self._clock()
            dane = standing(state.dane, now)
            if not looking.task.done() and not had and looking.look is not None:
                so_far = looking.look.so_far()
                dane = known(so_far, now) if so_far is not None else dane
        if dane is None:
            self._count("dane-timeout")
        return weigh(sts, dane, max(dane.until, now + 1.0) if dane else now + 1.0)

    async def close(self) -> None:
        """End the looks that still run."""
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)

    async def _look(self, where: NextHop, state: State, looking: Looking, key: str) -> None:
        await self._places.wait(key)
        held = True

        def give_back() -> None:
            nonlocal held
            if held:
                held = False
                self._places.release(key)

        late = asyncio.get_running_loop().call_later(self._settings.answer_timeout, give_back)
        try:
            looking.look = DaneLook(where, self._dns(), smtp_port=self._smtp_port)
            found = await looking.look.run()
        finally:
            late.cancel()
            give_back()
        self._learn(where, state, found)

    def _learn(self, where: NextHop, state: State, found: DaneState) -> None:
        before = state.dane
        least, most = DANE_TTL
        until = self._clock() + min(max(found.ttl, least), most)
        state.dane = renewed(before, known(found, until))
        self._count(f"dane-{found.verdict}")
        decides = {"dane": "dane", "indeterminate": "temporary-failure"}
        outcome = decides.get(state.dane.verdict)
        changed = (decides.get(before.verdict) if before else None) != outcome
        if changed:
            _log.info(
                "%s: DANE %s: %s", where, "decides" if outcome else "no longer decides",
                found.text,
                extra={"fields": {
                    "event": "dane", "domain": where.domain, "verdict": found.verdict,
                    "detail": found.text,
                }},
            )  # fmt: skip
        self._learnt(where.domain, changed)

    def _ended(self, where: NextHop, state: State, task: asyncio.Task[None], key: str) -> None:
        self.running.discard(task)
        self._under_way.release(key)
        state.look = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._count("internal-errors")
            _log.error("the look for DANE of %s broke", where, exc_info=error)
