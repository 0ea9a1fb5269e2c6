"""The reporter's own looks at MX hosts: which there are by the configuration, and with what.

Promises: as `reporting.looks`; nothing here keeps counts or deliveries waiting.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Final, Protocol

from smtp_sts.config import Config, log_sources
from smtp_sts.policy.pattern import is_host_name
from smtp_sts.reporting.looks import TestingLooks, UseLooks
from smtp_sts.reporting.mx_check import MxChecker
from smtp_sts.resolver.decision import Decision
from smtp_sts.resolver.reach import Reach
from smtp_sts.store import Stored, StoreError, open_to_read, pages
from smtp_sts.store.checks import Check
from smtp_sts.store.tallies import Tally

#: By which name the store knows how far the domains in use were gone through.
_READER: Final = "own-looks"


class Keeper(Protocol):
    """Who has it written."""

    async def add(self, batch: Sequence[Tally], marks: dict[str, str]) -> None:
        """What is to be counted."""

    async def mark(self, reader: str) -> str:
        """How far a reader has come, "" where it was never here."""

    async def keep(self, day: int, domain: str, checks: Sequence[Check]) -> None:
        """What was seen."""


class Looking:
    """Our own looks, as far as the configuration asks for them."""

    def __init__(
        self,
        config: Config,
        reach: Reach,
        decision: Callable[[str], Awaitable[Decision | None]],
        record: Callable[[str], Awaitable[str | None]],
        keeper: Keeper,
        counts: Counter[str],
    ) -> None:
        self._url = config.store.url
        self._mark = _Mark(keeper)
        self._counts = counts
        section, network = config.tls_reports, config.network

        async def add(batch: Sequence[Tally]) -> None:
            await keeper.add(batch, {})

        checker = MxChecker(
            reach.dns,
            reach.context,
            own_name=_own_name(section.contact),
            port=network.smtp_port,
            allow_private=network.allow_private_addresses,
        )
        self._testing = (
            TestingLooks(checker, keeper.keep, counts) if section.check_testing else None
        )
        # Postfix before 3.10 connects to hosts outside the policy, and its log tells.
        names = bool(section.socket) or any(log.kind == "exim" for log in log_sources(config))
        self._use = UseLooks(
            checker, self._in_use, decision, record, add, counts,
            testing=section.check_testing, names=names,
        )  # fmt: skip

    def take(self, batch: Iterable[Tally]) -> None:
        """Note whom to look at, of what was counted."""
        if self._testing is not None:
            self._testing.take(batch)

    async def run(self) -> None:
        """For as long as we live."""
        running = [self._use.run(self._mark)]
        if self._testing is not None:
            running.append(self._testing.run())
        await asyncio.gather(*running)

    async def _in_use(self, since: float) -> AsyncIterator[str]:
        """The domains whose policy was noted as in use since, read piece by piece."""
        reading = pages(partial(_page, self._url))
        try:
            while page := await asyncio.to_thread(next, reading, None):
                for stored in page:
                    if stored.used_at > since:
                        yield stored.domain
        except StoreError:
            self._counts["tls-store-errors"] += 1


class _Mark:
    """Where the domains in use were last gone through: in the store, for all daemons that use it,
    so that neither a reload nor a fleet counts a use twice."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    async def read(self) -> float:
        """Seconds since the epoch; 0.0 where it never was, or somebody else wrote it."""
        try:
            return float(await self._keeper.mark(_READER))
        except ValueError:
            return 0.0

    async def write(self, at: float) -> None:
        """Note it."""
        await self._keeper.add((), {_READER: f"{at:.3f}"})


def _page(url: str, after: str, limit: int) -> list[Stored]:
    """A page; the store is open only while it is read, for looks take their time between."""
    store = open_to_read(url)
    try:
        return store.page(after, limit)
    finally:
        store.close()


def _own_name(contact: str) -> str:
    """What we call ourselves in EHLO: our host, or where that has no full name, who reports."""
    name = socket.gethostname().lower()
    if not is_host_name(name):
        name = contact.rpartition("@")[2].lower()
    return name if is_host_name(name) else "localhost"
