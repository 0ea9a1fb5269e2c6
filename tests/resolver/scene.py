"""A resolver in a small Internet, with a clock that can be moved, and that can be restarted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from smtp_sts.config import PolicySection
from smtp_sts.lab.world import World
from smtp_sts.net.dns import Dns
from smtp_sts.net.https import tls_context
from smtp_sts.policy import Dialect
from smtp_sts.resolver import Decision, Keeper, Reach, Resolver
from smtp_sts.resolver.overrides import Rules

HOST = "mta-sts.bob.example"
TXT = "_mta-sts.bob.example"


class Clock:
    """Wall time that a test can move, seconds."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """A world, and a resolver in it that can be restarted."""

    #: what is waited for at most, seconds
    dns_timeout = 0.5
    fetch_timeout = 1.0

    def __init__(
        self, world: World, store: Path, settings: PolicySection, dialects: tuple[Dialect, ...] = ()
    ) -> None:
        self.world = world
        self.clock = Clock()
        self.counts: dict[str, int] = {}
        self._store = store
        self._settings = settings
        self.rules: Rules = {}
        self.trust_ad: bool | None = None
        self._dialects = dialects
        self.start()

    def start(self) -> None:
        reach = Reach(
            Dns([self.world.names.address], timeout=self.dns_timeout, trust_ad=self.trust_ad),
            tls_context(str(self.world.ca_file)),
            self.world.https_port,
            allow_private=True,
            fetch_timeout=self.fetch_timeout,
        )
        self.keeper = Keeper(f"sqlite:///{self._store}", self.counts)
        self.resolver = Resolver(
            self._settings,
            reach,
            self.keeper,
            self.counts,
            rules=self.rules,
            clock=self.clock,
            smtp_port=self.world.smtp_port if self._dialects else 25,
            dialects=self._dialects or ("rfc8461",),
        )

    async def stop(self) -> None:
        await self.resolver.close()
        await self.keeper.close()

    async def restart(self) -> None:
        await self.stop()
        self.start()

    async def decide(self) -> Decision:
        return await self.resolver.decide("bob.example")

    async def recheck(self) -> None:
        """Ask when a recheck is due, and wait until it is done."""
        self.clock.now += self._settings.recheck_interval
        await self.decide()
        await self.settled()

    async def settled(self) -> None:
        """Wait until nothing is looked up behind an answer."""
        await self.resolver.until_idle()

    @property
    def fetches(self) -> int:
        return self.world.policy_hosts.fetches[HOST]


@asynccontextmanager
async def scene(
    tmp_path: Path,
    answer_timeout: float = 4.0,
    *,
    dane: bool = True,
    dialects: tuple[Dialect, ...] = (),
) -> AsyncIterator[Scene]:
    async with World() as world:
        await world.receive("alice.example", "mx.alice.example")  # so that the port is known
        settings = PolicySection(answer_timeout=answer_timeout, dane=dane)
        made = Scene(world, tmp_path / "s.db", settings, dialects)
        try:
            yield made
        finally:
            await made.stop()
