"""What the runner of a dialect needs of everything around it: a store, a network, a clock, counts.

Must not: do anything itself.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from smtp_sts.config import PolicySection
from smtp_sts.resolver.life import events as ev
from smtp_sts.resolver.memory import Memory
from smtp_sts.store import Stored


class Keeping(Protocol):
    """Where policies last: `keeper.Keeper`, or `one_off.NothingKept`."""

    async def get(self, domain: str) -> Stored | None:
        """What is kept under a key. Raises StoreError where that is not known."""

    def put(self, stored: Stored) -> Awaitable[None]:
        """Keep a policy, from this call on; what is returned ends when it lasts, or was refused."""

    def keep_again(self, policies: list[Stored]) -> None:
        """Keep policies with the next batch."""

    async def purge(self, domain: str, before: float) -> bool:
        """Forget what was fetched at a time or before; False where that may not last."""

    def touch(self, domain: str, when: float) -> None:
        """Note that a policy was asked for."""

    async def claim(self, domain: str, patience: float) -> Stored | None:
        """Wait until no other daemon fetches this policy; what is kept then."""

    def release(self, domain: str) -> None:
        """Our fetch has ended."""

    async def postpone(self, domain: str, refresh_at: float, before: float) -> None:
        """Put off the next refresh of a policy that was fetched at `before` or earlier."""


class Network(Protocol):
    """What the effects of a dialect ask of the network: `dialects.py`."""

    async def answer(self, domain: str, effect: ev.Effect) -> ev.Answer:
        """What comes of a look, a fetch, a proof or a check."""


class Surroundings:
    """What the runners of one process share."""

    def __init__(
        self,
        settings: PolicySection,
        keeper: Keeping,
        counts: dict[str, int],
        memory: Memory,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.keeper = keeper
        self.counts = counts
        self.memory = memory
        self.clock = clock
        #: called with a domain whose decision has changed
        self.on_change: Callable[[str], None] = lambda _domain: None
        #: whether TLSA records can be looked for
        self.dane: Callable[[], bool] = lambda: False

    def count(self, name: str) -> None:
        """One more of something worth counting."""
        self.counts[name] = self.counts.get(name, 0) + 1
