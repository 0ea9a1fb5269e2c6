"""Whose MX hosts we look at ourselves, when, and what becomes of it.

* Domains in testing mode of which sessions were counted: at their hosts (`mx_check.check`); what
  was seen is kept with the counts of that day, for `honest` to weigh.
* Domains in use in testing mode, whatever was counted: mail servers say nothing of mail that goes
  there without TLS. Where no host offers it, our looks are the failures.
* Domains in use whose policy is enforced: at the names alone. An MX host that the policy does not
  name is skipped by Postfix without a word to the collector (RFC 8461 section 4.1), so this failure
  is ours to count: one for each time that the domain is noted as in use, four times a day at most.

* Domains in use whose policy could not be fetched anew while the cached one still applies: that is
  a failure of its own, of the type of the fetch, as often.

Promises: bounded work however many domains there are, what is beyond is counted; deliveries and
what is counted never wait for it; trouble of a host or of the store is counted, and ends nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

import msgspec

from smtp_sts.policy.pattern import matches
from smtp_sts.reporting.aggregate import DAY
from smtp_sts.reporting.honest import is_testing
from smtp_sts.reporting.matching import applied
from smtp_sts.reporting.mx_check import LOOK_AGAIN, MAX_HOSTS, MxCheck, MxChecker
from smtp_sts.resolver.decision import Decision
from smtp_sts.store.checks import Check
from smtp_sts.store.tallies import Tally
from smtp_sts.tlsrpt import RESULTS, AppliedPolicy, Failure, PolicyResult
from smtp_sts.tlsrpt.results import CHECKED, GENERAL_FAILURE, MX_MISMATCH

#: Domains that are looked at at the same time, that wait for it, and that are remembered.
DOMAINS_AT_ONCE: Final = 64
MAX_WAITING: Final = 10_000
REMEMBERED: Final = 100_000
#: How often the domains in use are gone through, seconds.
USE_SECONDS: Final = 3600.0
#: Of uses longer ago nothing is made up for, where we did not run (seconds).
MAX_BACK: Final = 6 * 3600.0
#: The result type of RFC 8460 section 4.3.1.
NO_STARTTLS: Final = "starttls-not-supported"

_log = logging.getLogger(__name__)


class TestingLooks:
    """Looks at the MX hosts of domains in testing mode; `keep` has it written."""

    __test__ = False  # no test of pytest's

    def __init__(
        self,
        checker: MxChecker,
        keep: Callable[[int, str, Sequence[Check]], Awaitable[None]],
        counts: Counter[str],
    ) -> None:
        self._checker = checker
        self._keep = keep
        self._counts = counts
        self._waiting: asyncio.Queue[tuple[int, str]] = asyncio.Queue(MAX_WAITING)
        #: day and domain -> when it may be looked at again (of the monotonic clock)
        self._again: OrderedDict[tuple[int, str], float] = OrderedDict()

    def take(self, batch: Iterable[Tally]) -> None:
        """Note whom to look at, of what was counted."""
        now = time.monotonic()
        for tally in batch:
            if not is_testing(tally.result.policy) or not tally.result.successful:
                continue
            key = (tally.day, tally.domain)
            if now < self._again.get(key, 0.0):
                continue
            try:
                self._waiting.put_nowait(key)
            except asyncio.QueueFull:
                self._counts["tls-looks-refused"] += 1
                continue
            self._again[key] = now + LOOK_AGAIN
            self._again.move_to_end(key)
            if len(self._again) > REMEMBERED:
                self._again.popitem(last=False)

    async def run(self) -> None:
        """For as long as we live."""
        async with asyncio.TaskGroup() as group:
            for _ in range(DOMAINS_AT_ONCE):
                group.create_task(self._serve())

    async def _serve(self) -> None:
        while True:
            day, domain = await self._waiting.get()
            check = await self._checker.check(domain)
            if not check.seen:
                self._counts["tls-looks-unseen"] += 1
                _log.info("%s: in testing mode, and not to be looked at: %s", domain, check.text)
                self._again[day, domain] = time.monotonic() + LOOK_AGAIN / 6
                continue
            self._counts["tls-looks"] += 1
            await self._keep(day, domain, seen(check))


def seen(check: MxCheck) -> list[Check]:
    """The looks that tell something, as they last."""
    return [
        Check(found.host, found.address, found.result_type, found.text, found.helo)
        for found in check.seen
    ]


class Mark(Protocol):
    """Up to when (seconds since the epoch) the domains in use were gone through."""

    async def read(self) -> float:
        """0.0 where they never were."""

    async def write(self, at: float) -> None:
        """Note it."""


class UseLooks:
    """Looks at the domains in use for what no mail server tells."""

    def __init__(
        self,
        checker: MxChecker,
        in_use: Callable[[float], AsyncIterator[str]],
        decision: Callable[[str], Awaitable[Decision | None]],
        record: Callable[[str], Awaitable[str | None]],
        add: Callable[[Sequence[Tally]], Awaitable[None]],
        counts: Counter[str],
        *,
        testing: bool = True,
        names: bool = True,
    ) -> None:
        """`in_use` gives the domains noted as in use since a time (seconds since the epoch);
        `record` a domain's `_smtp._tls` record, None where it has none; `add` has it written.
        `testing` and `names` say whom to look at: those in testing mode, those enforced."""
        self._checker = checker
        self._in_use = in_use
        self._decision = decision
        self._record = record
        self._add = add
        self._counts = counts
        self._testing = testing
        self._names = names

    async def run(self, mark: Mark, wait: float = USE_SECONDS) -> None:
        """For as long as we live, every `wait` seconds; `mark` lasts over restarts and reloads."""
        while True:
            started = time.time()
            before = await mark.read() or started - wait
            await self.once(min(started, max(before, started - MAX_BACK)))
            await mark.write(started)
            await asyncio.sleep(wait)

    async def once(self, since: float) -> None:
        """Go through the domains in use since a time."""
        places = asyncio.Semaphore(DOMAINS_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            async for domain in self._in_use(since):
                await places.acquire()
                task = group.create_task(self._look(domain))
                task.add_done_callback(lambda _: places.release())

    async def _look(self, domain: str) -> None:
        record = await self._record(domain)
        if record is None:
            return  # nobody wants to know
        decision = await self._decision(domain)
        if decision is None or decision.draft is not None:
            return
        day = int(time.time() // DAY)
        if (failed := not_refreshed(domain, decision, day)) is not None:
            self._counts["tls-own-failures"] += 1
            await self._add([msgspec.structs.replace(failed, record=record)])
        tally = None
        if self._testing and decision.outcome == "testing":
            tally = unencrypted(domain, decision, await self._checker.check(domain), day)
        elif self._names and decision.outcome == "enforce":
            hosts = [host for _, host in (await self._checker.hosts(domain)).hosts]
            tally = outside(domain, decision, hosts, day)
        if tally is not None:
            self._counts["tls-own-failures"] += tally.result.failed
            await self._add([Tally(day, domain, record, tally.result)])


def unencrypted(domain: str, decision: Decision, check: MxCheck, day: int) -> Tally | None:
    """A failure for each look, where no host that mail goes to offers TLS; else None."""
    looks = seen(check)
    if not looks or any(look.result_type != NO_STARTTLS for look in looks):
        return None
    failures = tuple(
        Failure(
            NO_STARTTLS, 1, receiving_mx_hostname=look.host, receiving_mx_helo=look.helo,
            receiving_ip=look.address, failure_reason_code=CHECKED + look.reason,
        )
        for look in looks
    )  # fmt: skip
    return Tally(day, domain, "", PolicyResult(applied(domain, decision), 0, len(looks), failures))


def not_refreshed(domain: str, decision: Decision, day: int) -> Tally | None:
    """A failure where the policy in force could not be fetched anew: its owner is to hear of it
    before it expires (RFC 8461 section 6), and who took it back (mode none) is not; else None."""
    policy, fault = decision.policy, decision.refresh_fault
    if policy is None or policy.mode == "none" or fault not in RESULTS:
        return None
    failure = Failure(fault, 1, failure_reason_code=CHECKED + decision.refresh_detail)
    cached = AppliedPolicy("sts", decision.policy_domain, policy.lines(), policy.mx)
    return Tally(day, domain, "", PolicyResult(cached, 0, 1, (failure,)))


def outside(domain: str, decision: Decision | None, hosts: Sequence[str], day: int) -> Tally | None:
    """A failure for each MX host that an enforced policy does not name, of the `MAX_HOSTS` best;
    None where there is none.

    `validation-failure` with the reason, the type for what no other covers (RFC 8460 section
    4.3.3): `certificate-host-mismatch` is of a certificate, and nobody has looked at one.
    """
    policy = applied(domain, decision)
    failures = tuple(
        Failure(
            GENERAL_FAILURE, 1, receiving_mx_hostname=host,
            failure_reason_code=CHECKED + MX_MISMATCH,
        )
        for host in hosts[:MAX_HOSTS]
        if not any(matches(pattern, host) for pattern in policy.mx_host)
    )  # fmt: skip
    if not failures:
        return None
    return Tally(day, domain, "", PolicyResult(policy, 0, len(failures), failures))
