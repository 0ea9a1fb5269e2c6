"""A sender with counts of yesterday, the domains that asked for them, and their receivers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from smtp_sts.config import Config, load
from smtp_sts.lab.world import World
from smtp_sts.reporting.deliver import Clock, Courier
from smtp_sts.store import StoreError, clock_watch
from smtp_sts.store.database import open_database
from smtp_sts.store.outbox import DeliveryStatus, ReportStatus, open_outbox
from smtp_sts.store.past import LOOK_SECONDS, Watch, seen
from smtp_sts.store.tallies import Tally, open_tallies
from smtp_sts.tlsrpt import AppliedPolicy, Failure, PolicyResult

from .receivers import HttpsReceiver, MailReceiver

DAY = 86400
CONTACT = "tlsrpt@alice.example"
KEY = rsa.generate_private_key(65537, 2048).private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
)


def result(domain: str, good: int = 7, bad: int = 3) -> PolicyResult:
    policy = AppliedPolicy("sts", domain, ("version: STSv1", "mode: enforce"), (f"mx.{domain}",))
    return PolicyResult(policy, good, bad, (Failure("certificate-expired", bad),) if bad else ())


@dataclass
class Movable:
    """A clock that stands still until it is moved; it can also be set, and then only one hand."""

    now: float
    past: float = 1000.0
    url: str = ""
    watch: Watch | None = None

    def move(self, seconds: float) -> None:
        """Time passes, and the daemon looks at the clock all the while."""
        until = self.past + seconds
        self._look()
        while seconds > 0 and self.past < until:
            step = min(LOOK_SECONDS, until - self.past)
            self.now += step
            self.past += step
            self._look()
        if seconds < 0:
            self.now += seconds
            self.past += seconds
        database = open_database(self.url, clock_watch.metadata)
        with suppress(StoreError), database.begin() as connection:  # as with a full disk
            if self.watch is not None:
                clock_watch.keep(connection, self.watch, self.now - self.past)
        database.close()

    def _look(self) -> None:
        self.watch = seen(self.watch, clock_watch.boot_id(), self.past, self.now)

    def set(self, seconds: float) -> None:
        self.now += seconds

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now, lambda: self.past)


@dataclass
class PostOffice:
    """`async with` it; the day that ended is `day`, and the clock stands at its midnight."""

    home: Path
    url: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    day: int = 20_544

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self.url = self.url or f"sqlite:///{self.home}/s.db"
            self.world = await stack.enter_async_context(World())
            self.https = HttpsReceiver(self.world.authority)
            await self.https.start()
            stack.push_async_callback(self.https.close)
            self.world.names.put(self.https.name, "A", "127.0.0.1")
            self.mta = MailReceiver()
            await self.mta.start()
            stack.push_async_callback(self.mta.close)
            (self.home / "key").write_bytes(KEY)
            self.clock = Movable(float((self.day + 1) * DAY), url=self.url)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    def config_file(self) -> Path:
        told = {
            "enabled": True,
            "organization": "Alice",
            "contact": CONTACT,
            "mail": f"smtp:127.0.0.1:{self.mta.port}",
            "dkim_selector": "s1",
            "dkim_key": str(self.home / "key"),
            "spread": 0,
            **self.settings,
        }
        return self.world.config_toml(
            tls_reports=told, store={"url": self.url}, network=self.network
        )

    def config(self) -> Config:
        return load(str(self.config_file()))

    def count(self, *domains: str, day: int | None = None, record: str = "") -> None:
        """Sessions of a day to these domains."""
        tallies = open_tallies(self.url)
        which = self.day if day is None else day
        tallies.add([Tally(which, name, record, result(name)) for name in domains])
        tallies.close()

    def ask(self, domain: str, rua: str) -> None:
        """The domain's `_smtp._tls` record, in strings of 250 bytes."""
        text = f"v=TLSRPTv1; rua={rua}"
        pieces = [text[n : n + 250] for n in range(0, len(text), 250)]
        self.world.names.put(f"_smtp._tls.{domain}", "TXT", " ".join(f'"{p}"' for p in pieces))

    def courier(self) -> Courier:
        return Courier(self.config(), clock=self.clock.clock)

    async def while_delivering(self, until: Any, *, seconds: float = 90.0) -> Courier:
        """Let the loop run until something holds."""
        courier = self.courier()
        task = asyncio.create_task(courier.run(0.05))
        try:
            end = time.monotonic() + seconds
            while not until():
                assert not task.done(), task
                assert time.monotonic() < end, (self.deliveries(), self.reports())
                await asyncio.sleep(0.02)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await courier.close()
        return courier

    def deliveries(self) -> list[DeliveryStatus]:
        outbox = open_outbox(self.url)
        try:
            return outbox.deliveries(0, now=self.clock.now)
        finally:
            outbox.close()

    def reports(self) -> list[ReportStatus]:
        outbox = open_outbox(self.url)
        try:
            return outbox.reports(0)
        finally:
            outbox.close()

    def states(self) -> list[tuple[str, str, str]]:
        """Domain, URI and state of each delivery."""
        return [(d.domain, d.uri, d.state) for d in self.deliveries()]

    def settled(self) -> bool:
        """Whether reports are known, and nothing of any is under way."""
        found = self.reports()
        return bool(found) and all(r.settled_at is not None for r in found)


async def until(holds: Callable[[], bool], *, seconds: float = 90.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came about"
        await asyncio.sleep(0.02)
