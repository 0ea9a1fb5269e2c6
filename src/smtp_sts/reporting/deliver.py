"""Reports sent: each day's, to each domain that asks, until they arrive or a day has passed.

    await keep_delivering(config)    # until it is cancelled

Promises:
* The report of a day goes out once it is over, at a time of its own (`schedule`), one for each
  domain, whatever number of machines share the store: who sends has claimed it in the outbox.
* A crash at any moment loses nothing: what was not recorded as delivered is sent again. Between the
  receiver's answer and our record lies a commit. Who dies within it leaves a delivery that nobody
  knows the end of; it is sent again, with the same report-id, Message-ID and file name, by which
  receivers drop duplicates (RFC 8460 section 5.3). A report that arrives twice is a nuisance; one
  that does not is lost.
* What was answered and cannot be written down (a full disk) is kept in mind and written when that
  is possible; meanwhile it is not sent again.
* Nothing ends it but its cancelling; then it ends within `GRACE_SECONDS`, and what was answered by
  then is recorded.
* A host that gives no answer is left in peace for a while, and does not keep others waiting.
Must not: count sessions, or send anything of a day that is not over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Final, Literal, TypeVar

import msgspec

from smtp_sts.config import Config, ConfigError, nameservers
from smtp_sts.net.dns import Dns
from smtp_sts.net.https import tls_context
from smtp_sts.net.post import post_contexts
from smtp_sts.net.resolv_conf import ResolvConf
from smtp_sts.policy.organisation import organisational_domain
from smtp_sts.reporting import schedule
from smtp_sts.reporting.attempt import ATTEMPT_SECONDS, Attempt, attempt
from smtp_sts.reporting.compile import day_of
from smtp_sts.reporting.day import results_of
from smtp_sts.reporting.dkim import record_faults
from smtp_sts.reporting.honest import Checked
from smtp_sts.reporting.making import Proposal, propose
from smtp_sts.reporting.schedule import DAY
from smtp_sts.reporting.settings import Settings, read_settings
from smtp_sts.reporting.third_parties import ThirdParties
from smtp_sts.store import StoreError
from smtp_sts.store.clock_watch import Clock as WatchedClock
from smtp_sts.store.outbox import LEASE_SECONDS, Delivery, Outbox, Pending, open_outbox
from smtp_sts.store.past import LOOK_SECONDS, past
from smtp_sts.store.tallies import Tallies, open_tallies

#: Attempts under way at once: a silent host holds one for a minute. Of them mails, and posts to the
#: hosts of one organisation (and one to a host).
AT_ONCE: Final = 128
OF_ORGANISATION: Final = AT_ONCE // 16
MAILS_AT_ONCE: Final = 4
#: Hosts that are passed over in one go, at most.
MAX_CROWDED: Final = 500
#: Reports that are made at once.
MADE_AT_ONCE: Final = 8
#: A host that gave no answer is left alone so long at first, and at most (seconds).
REST_SECONDS: Final = 60.0
MAX_REST_SECONDS: Final = 3600.0
#: How long before the end of this the loop looks again, whatever it waits for (seconds).
POLL_SECONDS: Final = 30.0
#: Settings that cannot be used (a key that cannot be read) are looked at again so often (seconds).
SETTINGS_SECONDS: Final = 60.0
#: How often days are looked through for reports to plan, and for what can be forgotten (seconds).
PLAN_SECONDS: Final = 600.0
FORGET_SECONDS: Final = 3600.0
#: After a jump of the clock nothing is made for so long: it may jump back (seconds).
JUMP_SECONDS: Final = 60.0
HOLD_SECONDS: Final = 900.0
#: Counts and bytes are kept so long after all is settled (seconds); what became of it, and counts
#: that nobody sent, so many days.
KEEP_SECONDS: Final = 86400.0
KEEP_STATES_DAYS: Final = 14
KEEP_COUNTS_DAYS: Final = 35
#: Given up is what was tried for a day by the time of day, and at least so long by a clock that
#: nobody sets (seconds). Until then there is a try this often.
TRIED_SECONDS: Final = 43200.0
AGAIN_SECONDS: Final = 3600.0
#: What is under way when the end comes may go on for so long.
GRACE_SECONDS: Final = 2.0
#: Between attempts to write down what was answered, at most (seconds).
RECORD_SECONDS: Final = 30.0
#: The host that stands for our own MTA.
MTA: Final = ""

assert ATTEMPT_SECONDS < LEASE_SECONDS

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Clock(msgspec.Struct, frozen=True):
    """The time of day, which may be set, and one that cannot (both seconds; a suspended machine is
    not one whose clock was set)."""

    wall: Callable[[], float] = time.time
    steady: Callable[[], float] = partial(time.clock_gettime, time.CLOCK_BOOTTIME)

    @property
    def watched(self) -> WatchedClock:
        """As the store looks at it."""
        return WatchedClock(self.wall, self.steady)


async def keep_delivering(
    config: Config,
    *,
    dns: Dns | None = None,
    clock: Clock | None = None,
    counts: Counter[str] | None = None,
    poll: float = POLL_SECONDS,
) -> None:
    """Send reports until cancelled.

    Where `[tls_reports] deliver` is false nothing is sent, but what is old is still forgotten; so
    it is where the settings cannot be used (a key that cannot be read), which are looked at again.
    `counts` counts what happened, by the words of `Courier.counts`.
    """
    clock = clock or Clock()
    trouble = ""
    while config.tls_reports.deliver:
        try:
            courier = Courier(config, dns=dns, clock=clock, counts=counts)
        except (ConfigError, OSError) as error:
            if str(error) != trouble:
                trouble = str(error)
                _log.error("TLS reports cannot be sent, and wait: %s", trouble)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SETTINGS_SECONDS):
                    await _keep_forgetting(config.store.url, clock)
            continue
        if trouble:
            _log.info("TLS reports are sent now")
        try:
            await courier.run(poll)
        finally:
            await courier.close()
    await _keep_forgetting(config.store.url, clock)


def _forget(
    tallies: Tallies, outbox: Outbox, clock: Clock, silent: Collection[str] = ()
) -> list[tuple[str, str]]:
    """Delete what nobody needs any more; domain and URI of what is given up, since its time is over
    and its host is one of `silent`. Only what is certainly old goes (`store/past.py`)."""
    now = clock.wall()
    watch = outbox.look_at_clock(clock.watched).watch
    expired: list[tuple[str, str]] = []
    over = min(now, past(watch, TRIED_SECONDS) + schedule.RETRY_SECONDS)
    while some := outbox.expire(silent, over, now):
        expired += some
    sure = min(now, past(watch))
    settled: dict[int, set[str]] = {}
    for day, domain in outbox.settled(sure - KEEP_SECONDS):
        settled.setdefault(day, set()).add(domain)
    for day in tallies.days():
        counted = set(tallies.domains(day)) if day < now // DAY else set()
        gone = counted if day < sure // DAY - KEEP_COUNTS_DAYS else settled.get(day, set())
        for domain in sorted(counted & gone):
            tallies.forget(day, domain)
    outbox.forget_bodies(sure - KEEP_SECONDS)
    outbox.forget(sure // DAY - KEEP_STATES_DAYS)
    return expired


async def _keep_forgetting(url: str, clock: Clock) -> None:
    """Where nothing is sent: counts do not pile up."""

    def work(*, forgets: bool) -> None:
        tallies = open_tallies(url)
        try:
            outbox = open_outbox(url)
            try:
                if forgets:
                    _forget(tallies, outbox, clock)
                else:
                    outbox.look_at_clock(clock.watched)
            finally:
                outbox.close()
        finally:
            tallies.close()

    again = float("-inf")
    while True:
        forgets = time.monotonic() >= again
        try:
            await asyncio.to_thread(work, forgets=forgets)
        except StoreError as error:
            _log.error("old TLS results are not forgotten: %s", error)
        if forgets:
            again = time.monotonic() + FORGET_SECONDS
        await asyncio.sleep(LOOK_SECONDS)


def _tell_of_clock(set_by: float | None) -> None:
    what = "this machine was started" if set_by is None else f"the clock was set by {set_by:+.0f} s"
    _log.warning(
        "%s: no TLS report is made for %.0f s, in case the clock is wrong", what, HOLD_SECONDS,
        extra={"fields": {"event": "tls-report-clock", "seconds": set_by}},
    )  # fmt: skip


async def _settle(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Let them end by themselves for a while, then end them."""
    if tasks:
        await asyncio.wait(tasks, timeout=GRACE_SECONDS)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Courier:
    """Makes reports and delivers them. Of one event loop; the store is used in threads."""

    def __init__(
        self,
        config: Config,
        *,
        dns: Dns | None = None,
        clock: Clock | None = None,
        counts: Counter[str] | None = None,
    ) -> None:
        """Raises ConfigError, and OSError for a CA file that cannot be read."""
        self._settings: Settings = read_settings(config)
        self._url = config.store.url
        #: followed, where the name servers are its
        self._resolv_conf = None if dns or config.dns.nameservers else ResolvConf()
        self._dns = dns or Dns(
            nameservers(config), timeout=config.dns.timeout, trust_ad=config.dns.trust_ad
        )
        if file := self._resolv_conf:
            self._dns.use(file.servers, trust_ad=file.trust_ad)
        self._contexts = post_contexts(tls_context(config.network.ca_file))
        self._clock = clock or Clock()
        self._holder = f"{socket.gethostname()[:30]}:{os.getpid()}:{os.urandom(6).hex()}"
        self._outbox: Outbox | None = None
        self._tallies: Tallies | None = None
        self._store_lock = asyncio.Lock()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._recordings: set[asyncio.Task[None]] = set()
        self._hosts: Counter[str] = Counter()
        #: host -> until when it is left alone (monotonic), and for how long
        self._resting: dict[str, tuple[float, float]] = {}
        #: planned, unwanted, made, delivered, failed, given-up
        self.counts: Counter[str] = Counter() if counts is None else counts
        #: is told what happens: a word, the domain, the URI or "", and the details
        self.on_event: Callable[[str, str, str, str], None] | None = None
        self._wake = asyncio.Event()
        self._third_parties = ThirdParties()

    # The store

    async def _with_store(self, work: Callable[[Tallies, Outbox], T]) -> T:
        """Run in a thread, one at a time, and to its end also where the caller is cancelled."""

        def run() -> T:
            if self._tallies is None:
                self._tallies = open_tallies(self._url)
            if self._outbox is None:
                self._outbox = open_outbox(self._url)
            return work(self._tallies, self._outbox)

        async def alone() -> T:
            async with self._store_lock:
                try:
                    return await asyncio.to_thread(run)
                except StoreError as error:
                    if error.lost:
                        self._let_go()
                    raise

        return await asyncio.shield(asyncio.ensure_future(alone()))

    def _let_go(self) -> None:
        for opened in (self._tallies, self._outbox):
            if opened is not None:
                opened.close()
        self._tallies = self._outbox = None

    async def close(self) -> None:
        """Give the store back; it is opened again where it is needed."""
        async with self._store_lock:
            self._let_go()

    # Going on by itself

    async def run(self, poll: float = POLL_SECONDS) -> None:
        """Deliver until cancelled; looks again every `poll` seconds at least."""
        background = [asyncio.create_task(self._warn_of_key())]
        trouble = 0.0
        told = ""
        planned = forgot = looked = float("-inf")
        today = -1
        before = self._clock.wall(), self._clock.steady()
        hold = float("-inf")
        try:
            while True:
                self._wake.clear()
                if (file := self._resolv_conf) is not None and file.changed():
                    self._dns.use(file.servers, trust_ad=file.trust_ad)
                now, steady = self._clock.wall(), self._clock.steady()
                jump = (now - before[0]) - (steady - before[1])
                before = now, steady
                if abs(jump) > JUMP_SECONDS:
                    hold = steady + HOLD_SECONDS
                    _tell_of_clock(jump)
                try:
                    if steady - looked >= LOOK_SECONDS:
                        set_by = await self._look_at_clock()
                        # It may have been set while we were away.
                        if looked < 0 and (set_by is None or abs(set_by) > JUMP_SECONDS):
                            hold = steady + HOLD_SECONDS
                            _tell_of_clock(set_by)
                        looked = steady
                    if told:
                        under_way = set(self._tasks)
                        await self._with_store(
                            lambda _, outbox, ids=under_way: outbox.release_lost(  # type: ignore[misc]
                                self._holder, ids
                            )
                        )
                    held = steady < hold
                    if not held:
                        if steady - planned >= PLAN_SECONDS or int(now // DAY) != today:
                            await self._plan(now)
                            planned, today = steady, int(now // DAY)
                        await self._make(now)
                    await self._begin(now)
                    if steady - forgot >= FORGET_SECONDS:
                        await self._forget()
                        forgot = steady
                    wait = await self._until_next(now, poll, held=held)
                    if told:
                        _log.warning("the store is back; TLS reports go on")
                    trouble, told = 0.0, ""
                except StoreError as error:
                    if str(error) != told:
                        told = str(error)
                        _log.error("TLS reports wait: %s", error)
                    trouble = wait = min(max(2 * trouble, 1.0), RECORD_SECONDS)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
        finally:
            await self._end(background)

    async def _until_next(self, now: float, poll: float, *, held: bool) -> float:
        if held:
            return poll
        busy = self._busy()
        due = await self._with_store(lambda _, outbox: outbox.next_due(busy))
        if due is None or len(self._tasks) >= AT_ONCE:
            return poll
        return min(max(due - now, 0.05), poll)

    async def _end(self, background: Sequence[asyncio.Task[None]]) -> None:
        for task in background:
            task.cancel()
        await _settle(list(self._tasks.values()))
        await _settle(list(self._recordings))
        await asyncio.gather(*background, return_exceptions=True)

    async def _warn_of_key(self) -> None:
        """Section 3: receivers ignore what is signed with a key that is not for reports."""
        if self._settings.signer is None:
            return
        for fault in await record_faults(self._settings.signer, self._dns):
            _log.warning(
                "not every receiver will take reports by mail: %s", fault,
                extra={"fields": {"event": "tls-report-key", "detail": fault}},
            )  # fmt: skip

    # Planning

    async def _plan(self, now: float) -> None:
        today = int(now // DAY)

        def work(tallies: Tallies, outbox: Outbox) -> int:
            new = 0
            for day in tallies.days():
                if today - schedule.LATE_DAYS <= day < today:
                    new += self._plan_day(tallies, outbox, day, ())
            return new

        self.counts["planned"] += await self._with_store(work)

    def _plan_day(
        self, tallies: Tallies, outbox: Outbox, day: int, domains: Collection[str]
    ) -> int:
        counted = set(tallies.domains(day)) - outbox.planned(day)
        if domains:
            counted &= set(domains)
        submitter, spread = self._settings.sender.submitter, self._settings.spread
        return outbox.plan(
            day, {name: schedule.send_at(day, name, submitter, spread) for name in counted}
        )

    # Making

    async def _make(self, now: float, day: int | None = None, domains: Collection[str] = ()) -> int:
        """Make some of the reports whose time has come; how many there were."""

        def claim(_: Tallies, outbox: Outbox) -> list[Pending]:
            return outbox.claim_reports(now, self._holder, MADE_AT_ONCE, day=day, domains=domains)

        pending = await self._with_store(claim)
        await asyncio.gather(*(self._make_one(one) for one in pending))
        return len(pending)

    async def _make_one(self, pending: Pending) -> None:
        try:
            proposal = await self.propose(pending.day, pending.domain)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - one domain's must not keep back all others'
            _log.error("%s: its TLS report cannot be made", pending.domain, exc_info=error)
            proposal = Proposal("later", f"internal error: {type(error).__name__}")
        now = self._clock.wall()
        await self._with_store(partial(self._take, pending, proposal, now))

    def _take(
        self, pending: Pending, proposal: Proposal, now: float, _: Tallies, outbox: Outbox
    ) -> None:
        """Write down what is to become of a report."""
        day, domain, holder = pending.day, pending.domain, self._holder
        if proposal.verdict == "send":
            destinations = self._third_parties.admit(
                int(now // DAY), domain, proposal.destinations, len(proposal.parts)
            )
            if outbox.make(
                pending, holder, proposal.parts, destinations, now=now,
                give_up_at=now + schedule.RETRY_SECONDS, why=proposal.why,
            ):  # fmt: skip
                self.counts["made"] += 1
                if proposal.left_out:
                    self.counts["left-out-sessions"] += proposal.left_out
                    self._tell(logging.INFO, "made", day, domain, "", proposal.why)
                for to in destinations:
                    if to.skipped:
                        self._tell(logging.INFO, "skipped", day, domain, to.uri, to.skipped)
            return
        last = pending.send_at + schedule.RETRY_SECONDS
        tried = pending.tries and now >= last and self._is_old(outbox, pending.send_at)
        if proposal.verdict == "later" and not tried:
            end = max(last, now + 1) if now < last or not pending.tries else now + AGAIN_SECONDS
            again = schedule.retry_at(now, pending.tries + 1, end, domain)
            outbox.put_off_report(pending, holder, again, proposal.why)
            return
        unwanted = proposal.verdict == "nobody"
        state: Literal["unwanted", "given-up"] = "unwanted" if unwanted else "given-up"
        if outbox.drop(pending, holder, state, proposal.why, now=now):
            self.counts[state] += 1
            level = logging.DEBUG if unwanted else logging.WARNING
            self._tell(level, state, day, domain, "", proposal.why)

    async def propose(self, day: int, domain: str) -> Proposal:
        """What would be sent now of a UTC day to a domain, and where. Raises StoreError."""

        def read(tallies: Tallies, _: Outbox) -> tuple[str, Checked, str]:
            found = results_of(tallies, day, domain, check_testing=self._settings.check_testing)
            return tallies.record(day, domain), found, tallies.instance()

        seen, checked, instance = await self._with_store(read)
        sender = msgspec.structs.replace(self._settings.sender, instance=instance)
        settings = msgspec.structs.replace(self._settings, sender=sender)
        proposal = await propose(day, domain, settings, self._dns, seen, checked.results)
        if not checked.left_out:
            return proposal
        why = "; ".join(filter(None, (proposal.why, checked.note)))
        return msgspec.structs.replace(proposal, why=why, left_out=checked.left_out)

    # Delivering

    def _busy(self) -> set[str]:
        """Hosts that are to be left alone now."""
        steady = self._clock.steady()
        busy = {host for host, (until, _) in self._resting.items() if until > steady}
        busy |= {host for host, count in self._hosts.items() if count and host != MTA}
        if self._hosts[MTA] >= MAILS_AT_ONCE:
            busy.add(MTA)
        return busy

    async def _begin(
        self, now: float, day: int | None = None, domains: Collection[str] = ()
    ) -> None:
        """Claim what is due, and begin to send it."""

        def claim(free: int, busy: set[str], _: Tallies, outbox: Outbox) -> list[Delivery]:
            return outbox.claim(now, self._holder, free, busy=busy, day=day, domains=domains)

        def release(surplus: list[Delivery], _: Tallies, outbox: Outbox) -> None:
            outbox.release(surplus, self._holder)

        crowded: set[str] = set()
        while (free := AT_ONCE - len(self._tasks)) > 0:
            claimed = await self._with_store(partial(claim, free, self._busy() | crowded))
            surplus = []
            for delivery in claimed:
                # One that is under way: its claim ran out while its end cannot be written down.
                if delivery.host in self._busy() or self._is_crowded(delivery.host):
                    surplus.append(delivery)
                    crowded.add(delivery.host)
                elif delivery.id not in self._tasks:
                    self._start(delivery)
            if surplus:
                await self._with_store(partial(release, surplus))
            if not claimed or len(crowded) > MAX_CROWDED:
                return

    def _is_crowded(self, host: str) -> bool:
        """Whether the hosts of one organisation have all the places that it gets."""
        if host == MTA:
            return False
        whose = organisational_domain(host)
        busy = (name for name, count in self._hosts.items() if count and name != MTA)
        return sum(organisational_domain(name) == whose for name in busy) >= OF_ORGANISATION

    def _start(self, delivery: Delivery) -> None:
        self._hosts[delivery.host] += 1
        task = asyncio.create_task(self._send(delivery))
        self._tasks[delivery.id] = task

        def ended(task: asyncio.Task[None]) -> None:
            del self._tasks[delivery.id]
            self._hosts[delivery.host] -= 1
            self._wake.set()
            if not task.cancelled() and (error := task.exception()):
                _log.error("%s: a delivery failed", delivery.domain, exc_info=error)

        task.add_done_callback(ended)

    async def _send(self, delivery: Delivery) -> None:
        try:
            came = await attempt(delivery, self._settings, self._dns, self._contexts)
        except asyncio.CancelledError:
            # Nobody knows whether it arrived: as after a crash, but the claim need not run out.
            now = self._clock.wall()
            with contextlib.suppress(StoreError):
                await self._with_store(
                    lambda _, outbox: outbox.put_off(delivery, self._holder, now, "interrupted")
                )
            raise
        except Exception as error:  # noqa: BLE001 - else no try counts, and it never ends
            _log.error("%s: an attempt broke", delivery.domain, exc_info=error)
            came = Attempt(False, f"internal error: {type(error).__name__}")
        self._rest(delivery.host, silent=came.silent)
        recording = asyncio.create_task(self._record(delivery, came, self._clock.wall()))
        self._recordings.add(recording)
        recording.add_done_callback(self._recordings.discard)
        await asyncio.shield(recording)

    def _rest(self, host: str, *, silent: bool) -> None:
        if not silent:
            self._resting.pop(host, None)
            return
        _, last = self._resting.get(host, (0.0, REST_SECONDS / 2))
        rest = min(last * 2, MAX_REST_SECONDS)
        self._resting[host] = self._clock.steady() + rest, rest

    async def _record(self, delivery: Delivery, came: Attempt, now: float) -> None:
        """Write down what came of it, however long that takes: it must not be sent again."""
        tries = delivery.tries + 1

        def work(_: Tallies, outbox: Outbox) -> Literal["delivered", "given-up", "failed"]:
            end = delivery.give_up_at
            if came.accepted:
                outbox.settle(delivery, "delivered", came.answer, now=now)
                return "delivered"
            begun = end - schedule.RETRY_SECONDS
            if came.hopeless or (now >= end and self._is_old(outbox, begun)):
                outbox.settle(delivery, "given-up", came.answer, now=now)
                return "given-up"
            end = end if now < end else now + AGAIN_SECONDS
            again = schedule.retry_at(now, tries, end, delivery.uri, ask=came.wait)
            outbox.put_off(delivery, self._holder, again, came.answer)
            return "failed"

        wait = 0.0
        while True:
            try:
                word = await self._with_store(work)
                break
            except StoreError as error:
                if not wait:
                    what = "delivered" if came.accepted else "failed"
                    self._tell(
                        logging.ERROR, f"{what}, which cannot be written down", delivery.day,
                        delivery.domain, delivery.uri, f"{came.answer}; {error}",
                    )  # fmt: skip
                wait = min(2 * wait + 0.5, RECORD_SECONDS)
                await asyncio.sleep(wait)
        self.counts[word] += 1
        level = logging.WARNING if word == "given-up" else logging.INFO
        answer = f"{came.answer} (attempt {tries})" if tries > 1 else came.answer
        self._tell(level, word, delivery.day, delivery.domain, delivery.uri, answer)

    def _is_old(self, outbox: Outbox, since: float) -> bool:
        """Whether it was tried for long by a clock that nobody sets, too; in the store's thread."""
        watch = outbox.glance_at_clock(self._clock.watched)
        return since <= past(watch, TRIED_SECONDS)

    def _tell(self, level: int, word: str, day: int, domain: str, uri: str, detail: str) -> None:
        if self.on_event is not None:
            self.on_event(word, domain, uri, detail)
        date = f"{day_of(day):%Y-%m-%d}"
        _log.log(
            level, "%s: TLS report of %s%s: %s: %s", domain, date, f" to {uri}" if uri else "",
            word, detail,
            extra={"fields": {
                "event": "tls-report", "domain": domain, "day": date, "uri": uri, "outcome": word,
                "detail": detail,
            }},
        )  # fmt: skip

    # Forgetting

    async def _look_at_clock(self) -> float | None:
        """By how much the clock seems to be set since the last look; None where nobody knows."""
        clock = self._clock.watched
        return (await self._with_store(lambda _, outbox: outbox.look_at_clock(clock))).set_by

    async def _forget(self) -> None:
        steady = self._clock.steady()
        silent = [host for host, (until, _) in self._resting.items() if until > steady]

        expired = await self._with_store(
            lambda tallies, outbox: _forget(tallies, outbox, self._clock, silent)
        )
        for domain, uri in expired:
            self.counts["given-up"] += 1
            _log.warning("%s: TLS report to %s: given-up: its host answered nobody", domain, uri)

    # At an operator's word

    async def counted(self, day: int) -> list[str]:
        """The domains that something was counted of on a day. Raises StoreError."""
        return sorted(await self._with_store(lambda tallies, _: tallies.domains(day)))

    async def settled(self, day: int) -> set[str]:
        """The domains whose report of a day is made already, or not to be. Raises StoreError."""
        found = await self._with_store(lambda _, outbox: outbox.reports(day, day))
        return {report.domain for report in found if report.state != "waiting"}

    async def send_day(self, day: int, domains: Collection[str] = ()) -> None:
        """Send now what is not settled of a day that is over, without waiting for its time: each
        delivery once. What is being sent by another is left to them. What came of it stands in the
        outbox. Raises StoreError, and ValueError for a day that is not over.
        """
        now = self._clock.wall()
        if day >= int(now // DAY):
            raise ValueError("the day is not over")

        def hasten(tallies: Tallies, outbox: Outbox) -> None:
            self._plan_day(tallies, outbox, day, domains)
            outbox.hasten(day, domains, now)

        await self._with_store(hasten)
        while await self._make(now, day, domains):
            continue
        # What was made just now is due since.
        now = self._clock.wall()
        while True:
            await self._begin(now, day, domains)
            if not self._tasks:
                return
            await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
