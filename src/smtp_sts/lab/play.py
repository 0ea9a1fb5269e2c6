"""The play: a daemon in the lab's world, scenario after scenario, results as data.

Promises: scenarios play at the same time, at most `AT_ONCE` in one world, each on a domain of its
own; those that restart the daemon or move its clock do it together, in a world of their own or
after the others; daemon and files are gone afterwards, also when cancelled. Must not: judge by
anything but what the daemon answers, who has read a message and how it came, and how often policy
hosts were asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, Protocol

from smtp_sts.config import UnixAddress
from smtp_sts.lab import clock as clocks
from smtp_sts.lab.clock import Clock
from smtp_sts.lab.moves import Stage
from smtp_sts.lab.scenarios import (
    Answer,
    Asks,
    Consequence,
    Counts,
    Crowd,
    Feature,
    LooksAgain,
    Outcome,
    Passes,
    Restarts,
    Scenario,
    Sends,
    Step,
)
from smtp_sts.lab.sender import Delivery, Sender
from smtp_sts.lab.subject import Subject, SubjectError, answer_of, ours
from smtp_sts.lab.world import World
from smtp_sts.mta.client import ClientError
from smtp_sts.policy import DIALECTS

AT_ONCE: Final = 40
#: One scenario begins so long after another, that the lab itself keeps up (seconds).
_BETWEEN: Final = 0.05
#: How long a daemon has to look at a domain again that is asked for all the while, seconds.
PATIENCE: Final = 8.0
#: How long what the daemon has begun to look at may take to come to an end, seconds.
_SETTLE: Final = 0.3
#: And where others restart the daemon or move its clock as soon as all stand still.
_SETTLE_LATE: Final = 1.5
_EVERY: Final = 0.1
_DAY: Final = 86400.0
#: DNS answers may be kept so long; short, so that changes are seen (seconds).
TTL: Final = 1
#: The daemon's own background work, made quick enough to watch, seconds.
QUICK: Final = {"recheck_interval": 1.0, "retry_interval": 2.0, "negative_ttl": 2.0}
#: What Postfix is told where it can tell wildcards and reports, and does DANE.
PROFILE: Final = "postfix-dane-tlsrpt"

Verdict = Literal["right", "wrong", "not supported"]
#: Gives the daemon's reply to a next hop.
Ask = Callable[[str], Awaitable[str]]


class Sending(Protocol):
    """What sends alice's mail: `sender.Sender`, or a real mail server."""

    async def send(self, recipient: str, *, via: str = "") -> Delivery:
        """Deliver one message, or defer it."""
        ...


@dataclass(frozen=True)
class Trouble:
    """One thing that did not come out as it must, and what it does to alice's mail."""

    consequence: Consequence
    text: str


@dataclass
class Result:
    """What came of one scenario."""

    scenario: Scenario
    #: of the last message: with the daemon, and without
    protected: Outcome | None = None
    unprotected: Outcome | None = None
    reply: str = ""
    #: the longest that an answer took, seconds
    waited: float = 0.0
    #: what happened, a line each
    story: list[str] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    verdict: Verdict = "right"
    #: why it is not supported
    reason: str = ""

    @property
    def right(self) -> bool:
        """Whether everything came out as it must, and in time."""
        return self.verdict == "right"


async def play(
    scenarios: Sequence[Scenario],
    *,
    profile: str = PROFILE,
    done: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Play scenarios through this daemon; `done` hears of each. Raises SubjectError, OSError."""
    rest, late = apart_in_time([s for s in scenarios if not s.public_only])
    drafts = [s for s in rest if "draft00" in s.needs]
    others = [s for s in scenarios if s not in late and s not in drafts]

    async def lane(*worlds: Sequence[Scenario]) -> list[Result]:
        return [result for some in worlds for result in await _play(some, profile, done)]

    try:
        async with asyncio.TaskGroup() as group:  # two, for more would be in each other's way
            lanes = [group.create_task(lane(others)), group.create_task(lane(late, drafts))]
    except BaseExceptionGroup as troubles:
        raise _first(troubles) from None
    return _in_order([result for one in lanes for result in one.result()], scenarios)


async def _play(
    scenarios: Sequence[Scenario], profile: str, done: Callable[[Result], None]
) -> list[Result]:
    """Play scenarios in one world."""
    drafts = [s for s in scenarios if "draft00" in s.needs]
    open_ones = [s for s in scenarios if not s.public_only and s not in drafts]
    shut_ones = [s for s in scenarios if s.public_only]
    found: list[Result] = []
    if not scenarios:
        return found
    async with World(ttl=TTL) as world:
        # One receiver before the configuration, which names the port of all.
        await world.receive("alice.example", "mx.alice.example")
        for chosen, private in ((open_ones, True), (shut_ones, False), (drafts, True)):
            if chosen:
                config = world.config_toml(
                    policy=settings(chosen), network={"allow_private_addresses": private}
                )
                subject = Subject(
                    ours(config),
                    UnixAddress(str(world.socket_path)),
                    profile,
                    world.home / "daemon.log",
                )
                subject.features |= known_to_ours(chosen)
                found += await play_in(world, subject, chosen, watch=True, done=done)
    return found


def apart_in_time(scenarios: Sequence[Scenario]) -> tuple[list[Scenario], list[Scenario]]:
    """Those for one world, and those that restart the daemon or move its clock, for another.

    For what the first leave to be refreshed would fill the lab while the others wait.
    """
    late = [scenario for scenario in scenarios if _late(scenario)]
    return [scenario for scenario in scenarios if scenario not in late], late


async def in_turn(
    scenarios: Sequence[Scenario], work: Callable[[Sequence[Scenario]], Awaitable[list[Result]]]
) -> list[Result]:
    """Have `work` play scenarios in one world, then those for another."""
    found = [result for some in apart_in_time(scenarios) if some for result in await work(some)]
    return _in_order(found, scenarios)


def settings(scenarios: Sequence[Scenario]) -> dict[str, object]:
    """`[policy]` of a daemon of ours that shall play scenarios."""
    drafts = any("draft00" in scenario.needs for scenario in scenarios)
    return {**QUICK, "dialects": list(DIALECTS)} if drafts else dict(QUICK)


def known_to_ours(scenarios: Sequence[Scenario]) -> set[Feature]:
    """What a daemon of ours with these `settings` can do, though no reply shows it."""
    return {name for s in scenarios for name in s.needs if name == "draft00"}


async def play_in(
    world: World,
    subject: Subject,
    scenarios: Sequence[Scenario],
    *,
    patience: float = PATIENCE,
    watch: bool = False,
    done: Callable[[Result], None] = lambda result: None,
    senders: Callable[[Ask | None], Sending] | None = None,
    lacks: Mapping[Feature, str] = MappingProxyType({}),
    between: float = _BETWEEN,
    at_once: int = AT_ONCE,
) -> list[Result]:
    """Play scenarios in a world with a daemon that is not started yet.

    Where it is told to `watch`, a daemon that does not look again when it must has failed; of
    others it is only noted. `senders` makes what sends alice's mail, with the daemon and without;
    what it `lacks` is not played. One scenario begins `between` seconds after
    another, and at most `at_once` play. Raises SubjectError.
    """
    left_out = [_left_out(scenario, lacks) for scenario in scenarios if scenario.uses & set(lacks)]
    for result in left_out:
        done(result)
    every, scenarios = scenarios, [s for s in scenarios if not s.uses & set(lacks)]
    places = asyncio.Semaphore(at_once)

    async def one(scenario: Scenario, still: Standstill) -> Result:
        player = Player(
            world, subject, scenario, still, patience=patience, watch=watch, senders=senders
        )
        if _late(scenario):  # they wait for each other, so each needs a place
            try:
                result = await player.play()
            finally:
                still.leave()
        else:
            async with places:
                result = await player.play()
        _support(result, subject)
        done(result)
        return result

    async def batch(chosen: Sequence[Scenario], clock: Clock | None = None) -> list[Result]:
        still = Standstill(subject, clock, len(chosen))
        try:
            async with asyncio.TaskGroup() as group:
                tasks = []
                for scenario in sorted(chosen, key=_length, reverse=True):
                    tasks.append(group.create_task(one(scenario, still)))
                    await asyncio.sleep(between)
        except BaseExceptionGroup as troubles:
            raise _first(troubles) from None
        return [task.result() for task in tasks]

    for zone in ("example", "bob.example"):
        world.names.delegate(zone, signed=True)
    for scenario in scenarios:
        Stage(world, scenario.domain).delegate(scenario)
    await world.names.settle()
    async with subject:
        found = await subject.during(batch([s for s in scenarios if not _late(s)]))
        late, clock = [s for s in scenarios if _late(s)], None
        if any(scenario.ages for scenario in late):
            clock, why = await _movable(world, subject)
            for scenario in late if clock is None else ():
                if scenario.ages:
                    left_out.append(Result(scenario, verdict="not supported", reason=why))
                    done(left_out[-1])
            late = [s for s in late if clock is not None or not s.ages]
        found += await subject.during(batch(late, clock))
    for result in found:
        _support(result, subject)
    return _in_order([*left_out, *found], every)


def _late(scenario: Scenario) -> bool:
    """Whether it does what all others would notice."""
    return scenario.restarts or scenario.ages


async def _movable(world: World, subject: Subject) -> tuple[Clock | None, str]:
    """The daemon restarted with a clock that can be moved; or why it has none."""
    library = clocks.library()
    if library is None:
        return None, clocks.MISSING
    clock = Clock(world.home, library)
    await subject.restart(clock.environment)
    if not subject.has_loaded(library):
        return None, "its clock cannot be moved: it does not take its time from the C library"
    return clock, ""


def _left_out(scenario: Scenario, lacks: Mapping[Feature, str]) -> Result:
    reason = "; ".join(lacks[name] for name in sorted(scenario.uses & set(lacks)))
    return Result(scenario, verdict="not supported", reason=reason)


def _in_order(found: Sequence[Result], scenarios: Sequence[Scenario]) -> list[Result]:
    order = {scenario.name: number for number, scenario in enumerate(scenarios)}
    return sorted(found, key=lambda result: order[result.scenario.name])


def _length(scenario: Scenario) -> float:
    """How long a scenario waits, seconds: those that take long begin first."""
    return sum(step.seconds for step in scenario.steps if isinstance(step, Passes))


def _first(troubles: BaseExceptionGroup[BaseException]) -> BaseException:
    """The cause among the failures of tasks that ended each other."""
    matched = troubles.subgroup(SubjectError)
    found: BaseException = matched or troubles
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _support(result: Result, subject: Subject) -> None:
    """The verdict; final once all that the daemon can do has been seen."""
    if not result.troubles:
        result.verdict = "right"
    elif missing := set(result.scenario.needs) - subject.features:
        result.verdict = "not supported"
        result.reason = f"the daemon never answers with {' or '.join(sorted(missing))}"
    else:
        result.verdict = "wrong"


class Standstill:
    """Scenarios wait here until all do: then the daemon is restarted, or its clock is moved.

    Restarts come first, once for all who want one; then time passes, as far as the first one wants
    it. So each sees its own time go by, and none is restarted in the middle of something.
    """

    def __init__(self, subject: Subject, clock: Clock | None, count: int) -> None:
        """So many scenarios are on their way."""
        self._subject, self._clock = subject, clock
        self._moving = count
        self._now = 0.0
        self._restarts: list[asyncio.Future[None]] = []
        self._waits: list[tuple[float, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def restart(self) -> None:
        """Return when the daemon has been restarted. Raises SubjectError."""
        self._restarts.append(asyncio.get_running_loop().create_future())
        await self._wait(self._restarts[-1])

    async def pass_by(self, seconds: float) -> None:
        """Return when the daemon's clock has been moved on by so much. Raises SubjectError."""
        self._waits.append((self._now + seconds, asyncio.get_running_loop().create_future()))
        await self._wait(self._waits[-1][1])

    def leave(self) -> None:
        """One scenario less is on its way."""
        self._moving -= 1
        self._look()

    async def _wait(self, until: asyncio.Future[None]) -> None:
        self._moving -= 1
        self._look()
        await until

    def _look(self) -> None:
        if self._moving == 0 and (self._restarts or self._waits):
            self._task = asyncio.ensure_future(self._go_on())

    async def _go_on(self) -> None:
        if self._restarts:
            woken, self._restarts = self._restarts, []
            try:
                await self._subject.restart()
            except SubjectError as error:
                for future in woken:
                    future.set_exception(error)
                return
        else:
            assert self._clock
            then = min(at for at, _ in self._waits)
            self._clock.move(then - self._now)
            self._now = then
            woken = [future for at, future in self._waits if at <= then]
            self._waits = [(at, future) for at, future in self._waits if at > then]
        self._moving += len(woken)
        for future in woken:
            if not future.done():
                future.set_result(None)


class Player:
    """One scenario on its way."""

    def __init__(
        self,
        world: World,
        subject: Subject,
        scenario: Scenario,
        still: Standstill,
        *,
        patience: float,
        watch: bool,
        senders: Callable[[Ask | None], Sending] | None = None,
    ) -> None:
        self._world, self._subject = world, subject
        self._still = still
        # What is due after days is looked for every few seconds, so there it takes longer.
        self._patience, self._watch = patience * (2 if scenario.ages else 1), watch
        self._settle = _SETTLE_LATE if _late(scenario) else _SETTLE
        self._stage = Stage(world, scenario.domain)
        self.result = Result(scenario)
        self._number = 0

        def on_loopback(ask: Ask | None) -> Sending:
            return Sender(world.names.address, world.smtp_port, world.ca_file, ask=ask)

        senders = senders or on_loopback
        self._alice, self._naked = senders(self._ask), senders(None)
        self._crowd: list[asyncio.Task[str]] = []

    async def play(self) -> Result:
        """Everything, from the world to the last step. Raises SubjectError."""
        try:
            await self.begin()
            for step in self.result.scenario.steps:
                await self.step(step)
        finally:
            await self.end()
        return self.result

    async def begin(self) -> None:
        """Put up what bob publishes."""
        await self._stage.publish(self.result.scenario.world)

    async def end(self) -> None:
        """Wait for nothing more."""
        for task in self._crowd:
            task.cancel()
        await asyncio.gather(*self._crowd, return_exceptions=True)

    async def step(self, step: Step) -> None:
        """Do one step, and judge what comes of it. Raises SubjectError."""
        if isinstance(step, Sends):
            await self._send(step)
        elif isinstance(step, Asks):
            await self._question(step)
        elif isinstance(step, LooksAgain):
            await self._look_again(step)
        elif isinstance(step, Restarts):
            await self._still.restart()
        elif isinstance(step, Passes):
            await self._pass(step)
        elif isinstance(step, Counts):
            self._count(step)
        else:
            await self._stage.change(step)
            if isinstance(step, Crowd):
                names = self._stage.crowd(step.count)
                self._crowd = [asyncio.create_task(self._subject.ask(name)) for name in names]
                await asyncio.sleep(_SETTLE)

    def _wrong(self, consequence: Consequence, text: str) -> None:
        self.result.troubles.append(Trouble(consequence, text))

    async def _ask(self, key: str) -> str:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            reply = await self._subject.ask(key)
        finally:
            self.result.waited = max(self.result.waited, loop.time() - began)
        self.result.reply = reply
        return reply

    async def _send(self, step: Sends) -> None:
        self._number += 1
        fill = self._stage.fill
        domain = f"{step.at}.{self._stage.domain}" if step.at else self._stage.domain
        recipient = f"with-{self._number}@{domain}"
        with_it = await self._alice.send(recipient, via=fill(step.via))
        outcome = self._outcome(recipient, with_it)
        result = self.result
        result.protected = outcome
        result.story += [f"alice is told {with_it.reply or 'nothing'}", *with_it.story]
        answer = answer_of(with_it.reply)
        if outcome != step.outcome:
            consequence = step.costs or _cost(step.outcome, outcome, answer)
            met = f" ({'; '.join(with_it.story)})" if with_it.story else ""
            self._wrong(consequence, f"message {self._number} must be {_WORDS[step.outcome]}, "
                        f"but is {_WORDS[outcome]}{met}")  # fmt: skip
        elif step.answer and answer != step.answer:
            self._unlike(step.answer, with_it.reply, step.costs)
        if with_it.waited > step.within:  # law 6
            self._wrong("delay", f"the daemon answered after {with_it.waited:.1f} s")
        if step.without:
            recipient = f"without-{self._number}@{domain}"
            without = await self._naked.send(recipient, via=fill(step.via))
            result.unprotected = self._outcome(recipient, without)
            result.story += [f"without the daemon: {line}" for line in without.story]
            if result.unprotected != step.without:  # then the attack is none
                raise SubjectError(
                    f"the lab is broken: in {result.scenario.name} the message without protection "
                    f"is {_WORDS[result.unprotected]}, not {_WORDS[step.without]}: "
                    + "; ".join(without.story)
                )

    def _outcome(self, recipient: str, delivery: Delivery) -> Outcome:
        if self._world.messages("mallory", recipient):
            return "mallory"
        if not self._world.messages("bob", recipient):
            return "deferred"
        return "verified" if delivery.tls == "verified" else "delivered"

    async def _question(self, step: Asks) -> None:
        key = self._stage.fill(step.key)
        loop = asyncio.get_running_loop()
        began = loop.time()
        asked = [self._ask(key) for _ in range(step.times)]
        replies = await asyncio.gather(*asked, return_exceptions=True)
        took = loop.time() - began
        for text in dict.fromkeys(map(str, replies)):
            self.result.story.append(f"alice's MTA asks for {key!r} and is told {text[:300]}")
        for reply in replies:
            if isinstance(reply, ClientError):
                return self._wrong("delay", f"no answer for {key!r}: {reply}")
            if isinstance(reply, BaseException):
                raise reply
            self._weigh(step, reply)
        if took > step.within:
            self._wrong("delay", f"the answer came after {took:.1f} s")
        return None

    def _weigh(self, step: Asks, reply: str) -> None:
        fill = self._stage.fill
        for text in map(fill, step.lacks):
            if text in reply:
                return self._wrong(step.costs or "bypass", f"the reply has {text!r}: {reply[:300]}")
        if answer_of(reply) != step.answer:
            return self._unlike(step.answer, reply, step.costs)
        for text in map(fill, step.has):
            if text.lower() not in reply.lower():  # names of hosts have no case
                self._wrong(step.costs or "lost mail", f"the reply lacks {text!r}: {reply[:300]}")
        words = ("policy_type=sts", "policy_domain=", "mx_host_pattern=", "policy_string =")
        missing = [word for word in words if word not in reply]
        if step.report and missing:
            self._wrong("missing report", f"the reply lacks {', '.join(missing)}: {reply[:300]}")
        return None

    def _unlike(self, wanted: Answer, reply: str, costs: Consequence | None) -> None:
        consequence = costs or _cost_of_answer(wanted, answer_of(reply))
        self._wrong(consequence, f"the answer must be {wanted}, but is: {reply[:300]}")

    async def _look_again(self, step: LooksAgain) -> None:
        """Ask until the daemon has met what was changed; judge every answer."""
        loop = asyncio.get_running_loop()
        before = self._stage.looks()
        limit = loop.time() + self._patience
        reply, last = "", False
        while True:
            looked = self._stage.looks()
            met = looked[0] > before[0] and (not step.fetch or looked[1] > before[1])
            if met and not last and not step.until:
                await asyncio.sleep(self._settle)  # for the answer that is on its way
            try:
                reply = await self._ask(self._stage.domain)
            except ClientError as error:
                return self._wrong("delay", str(error))
            answer = answer_of(reply)
            if step.answer and answer != step.answer:
                self.result.story.append(f"alice's MTA is told {reply[:300]}")
                return self._unlike(step.answer, reply, step.costs)
            if step.until:
                if answer == step.until and self._stage.fill(step.has) in reply:
                    return None
            elif met and last:
                return None
            if loop.time() > limit:
                break
            last = met
            await asyncio.sleep(_EVERY)
        if step.until:
            return self._unlike(step.until, reply, step.costs)
        note = f"the daemon did not look at the domain again within {self._patience:g} s"
        self.result.story.append(note)
        if self._watch:
            self._wrong("bypass", note)
        return None

    async def _pass(self, step: Passes) -> None:
        if step.days:
            return await self._still.pass_by(step.days * _DAY)
        loop = asyncio.get_running_loop()
        until = loop.time() + step.seconds
        while step.in_use and loop.time() + 0.5 < until:
            await asyncio.sleep(0.5)
            try:
                await self._ask(self._stage.domain)
            except ClientError as error:
                return self._wrong("delay", str(error))
        await asyncio.sleep(max(0.0, until - loop.time()))
        return None

    def _count(self, step: Counts) -> None:
        fetched = self._stage.fetches(step.at)
        if not step.least <= fetched <= step.most:
            wanted = str(step.most) if step.least == step.most else f"{step.least} to {step.most}"
            self._wrong(
                step.costs, f"the policy host was connected to {fetched} times, not {wanted}"
            )


_WORDS: Final[dict[Outcome, str]] = {
    "verified": "delivered over verified TLS",
    "delivered": "delivered, unverified",
    "mallory": "read by mallory",
    "deferred": "waiting",
}


def _cost(wanted: Outcome, got: Outcome, answer: Answer) -> Consequence:
    """What it does that a message fared so and not as it must."""
    if got == "deferred":  # it is tried again, in vain where the daemon insists on what is not
        return "delay" if answer == "wait" else "lost mail"
    if got == "verified":
        return "lost mail" if wanted in ("delivered", "mallory") else "bypass"
    return "bypass"


def _cost_of_answer(wanted: Answer, got: Answer) -> Consequence:
    if got == "wait":
        return "delay"
    return "lost mail" if wanted == "open" or (wanted, got) == ("dane", "secure") else "bypass"
