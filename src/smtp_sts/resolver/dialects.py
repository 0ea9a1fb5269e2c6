"""The decision for a domain where the first draft is looked for too, or alone.

`Resolver` with what the first draft needs beside: so a daemon that speaks RFC 8461 alone runs
nothing of this. Promises: both dialects are asked at the same time, and none where an RFC 8461
policy is in force; which one wins is `precedence.py`'s to say. DANE and the operator's rules go
before either, as in `Resolver`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import MappingProxyType

from smtp_sts.config import PolicySection
from smtp_sts.resolver import Resolver, _live, _State
from smtp_sts.resolver.decision import Decision
from smtp_sts.resolver.discovery import Reach
from smtp_sts.resolver.draft_cache import PREFIX, DraftCache
from smtp_sts.resolver.keeper import Keeper
from smtp_sts.resolver.overrides import Rules
from smtp_sts.resolver.precedence import of_dialects
from smtp_sts.resolver.upkeep import Renewal, Upkeep
from smtp_sts.store import Stored


class DialectResolver(Resolver):
    """Decides for the domains of one process, by the first draft too."""

    def __init__(
        self,
        settings: PolicySection,
        reach: Reach,
        keeper: Keeper,
        counts: dict[str, int],
        *,
        on_change: Callable[[str], None] = lambda _domain: None,
        rules: Rules = MappingProxyType({}),
        smtp_port: int = 25,
        clock: Callable[[], float] = time.time,
        rfc8461: bool = True,
    ) -> None:
        super().__init__(
            settings, reach, keeper, counts,
            on_change=on_change, rules=rules, smtp_port=smtp_port, clock=clock,
        )  # fmt: skip
        self._rfc8461 = rfc8461
        self.draft = DraftCache(
            settings,
            lambda: self.reach,
            keeper,
            counts,
            on_change=self._changed,
            dane=lambda: self.dane,
            smtp_port=smtp_port,
            clock=clock,
        )

    def _changed(self, domain: str) -> None:
        self.on_change(domain)  # which is set anew when there are peers to tell

    async def _decide(self, domain: str, state: _State) -> Decision:
        if not self._rfc8461:
            return await self.draft.decide(domain)
        if _live(state, self._clock()) is not None:
            return await super()._decide(domain, state)
        draft = self.draft.known(domain)
        asked = None if draft else asyncio.ensure_future(self.draft.decide(domain))
        try:
            sts = await super()._decide(domain, state)
            if sts.policy is not None:
                return sts
            return of_dialects(sts, draft or await asked)  # type: ignore[misc]  # one is there
        finally:
            if asked is not None:
                asked.cancel()  # the look goes on

    def _in_force(self, domain: str) -> Decision | None:
        found = super()._in_force(domain) if self._rfc8461 else None
        return found or self.draft.in_force(domain)

    async def recall(self, domain: str) -> Decision | None:
        """As `Resolver.recall`, of both dialects."""
        await self.draft.read(domain)
        return await super().recall(domain)

    async def refresh(self, domain: str) -> None:
        """As `Resolver.refresh`, by the key of either dialect."""
        if domain.startswith(PREFIX):
            await self.draft.refresh(domain.removeprefix(PREFIX))
        elif self._rfc8461:
            await super().refresh(domain)
        else:
            now = self._clock()
            await self._keeper.postpone(domain, now + self.settings.refresh_interval, now)

    async def renew(self, domain: str, *, force: bool = False) -> Renewal:
        """As `Resolver.renew`: that dialect's whose policy was fetched, RFC 8461's first."""
        renewal = await super().renew(domain, force=force) if self._rfc8461 else None
        if renewal is not None and renewal.result == "fetched":
            return renewal
        other = await self.draft.renew(domain, force=force)
        return other if renewal is None or other.result == "fetched" else renewal

    async def purge(self, domain: str, before: float) -> bool:
        """As `Resolver.purge`, of both dialects."""
        lasting = await super().purge(domain, before)
        return await self.draft.purge(domain, before) and lasting

    async def learn(self, stored: Stored) -> None:
        """As `Resolver.learn`, of either dialect."""
        if stored.domain.startswith(PREFIX):
            await self.draft.learn(stored)
        else:
            await super().learn(stored)

    async def kept(self, domain: str) -> list[Stored]:
        """As `Resolver.kept`, of both dialects."""
        return [*await super().kept(domain), *await super().kept(f"{PREFIX}{domain}")]

    def clock_set(self, seconds: float) -> None:
        """As `Resolver.clock_set`, of both dialects."""
        super().clock_set(seconds)
        self.draft.clock_set(seconds)

    def _keep_again(self) -> None:
        super()._keep_again()
        self.draft.keep_again()

    def failed(self, domain: str) -> None:
        """Mail to a domain met with a failure: see `DraftCache.failed`."""
        self.draft.failed(domain)

    def upkeep(self, domain: str) -> Upkeep | None:
        """As `Resolver.upkeep`, by the key of either dialect."""
        if domain.startswith(PREFIX):
            return self.draft.upkeep(domain.removeprefix(PREFIX))
        return super().upkeep(domain)

    @property
    def running(self) -> int:
        """Discoveries, proofs and checks under way."""
        return super().running + len(self.draft.running)

    async def close(self) -> None:
        """End what still runs."""
        await self.draft.close()
        await super().close()
