"""The play: the real daemon started in the lab's world, every scenario played, results as data.

Promises: scenarios play at once, each on a domain of its own, alice with protection first and then
without; the daemon and the files are gone afterwards, also when cancelled. Must not: judge by
anything but who has read the message, and how it came.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from smtp_sts.config import UnixAddress
from smtp_sts.lab.scenarios import MOVES, SCENARIOS, Outcome, Scenario
from smtp_sts.lab.sender import Delivery, Sender
from smtp_sts.lab.world import World
from smtp_sts.mta.client import ClientError, ask
from smtp_sts.policy import policy_host, record_name

START_LIMIT: Final = 10.0
RECHECK_LIMIT: Final = 4.0
STOP_LIMIT: Final = 5.0
#: The longest a daemon's answer may take (law 6).
ANSWER_LIMIT: Final = 5.0
#: The daemon's own background work, made quick enough to watch, seconds.
QUICK: Final = {"recheck_interval": 1.0, "retry_interval": 1.0}


class PlayError(Exception):
    """The lab could not be played; the message says why."""


@dataclass(frozen=True)
class Result:
    """What came of one scenario."""

    scenario: Scenario
    protected: Outcome
    unprotected: Outcome
    reply: str
    waited: float
    """How long the daemon's answer took, seconds."""
    story: tuple[str, ...]
    """What alice's protected delivery met, a line for each MX host."""

    troubles: tuple[str, ...]
    """Why it did not come out right; empty where it did."""

    @property
    def right(self) -> bool:
        """Whether everything came out as it must, and in time."""
        return not self.troubles


@asynccontextmanager
async def daemon(config: Path, socket: Path) -> AsyncIterator[None]:
    """Run `smtp-sts serve` until left; ready when its socket answers. Raises PlayError."""
    log = config.with_suffix(".log")
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "smtp_sts", "--config", str(config), "serve"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is ours to handle; we end the daemon
            env={**os.environ, "NOTIFY_SOCKET": "", "LISTEN_FDS": ""},
        )
    try:
        await _until_it_answers(process, socket, log)
        yield
    finally:
        await _stop(process)


async def _until_it_answers(process: asyncio.subprocess.Process, socket: Path, log: Path) -> None:
    for _ in range(int(START_LIMIT / 0.05)):
        if process.returncode is not None:
            break
        try:
            # No question to DNS: a parent-domain key has no policy.
            await ask(UnixAddress(str(socket)), "postfix", ".ready.example")
        except ClientError:
            await asyncio.sleep(0.05)
        else:
            return
    said = "\n  ".join(_last_lines(log)) or "nothing"
    raise PlayError(f"the daemon did not start; it said:\n  {said}")


def _last_lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_LIMIT):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def play(
    scenarios: Sequence[Scenario] = SCENARIOS,
    *,
    profile: str = "postfix-tlsrpt",
    done: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Play scenarios through the real daemon; `done` hears of each result. Raises PlayError."""
    async with World() as world:
        # One receiver before the configuration, which names the port of all.
        await world.receive("alice.example", "mx.alice.example")
        config = world.config_toml(policy=QUICK)
        async with daemon(config, world.socket_path):
            return await play_in(world, world.socket_path, scenarios, profile=profile, done=done)


async def play_in(
    world: World,
    socket: Path,
    scenarios: Sequence[Scenario] = SCENARIOS,
    *,
    profile: str = "postfix-tlsrpt",
    done: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Play scenarios in a world against whatever answers on `socket`."""

    async def one(scenario: Scenario) -> Result:
        result = await _play_one(world, socket, profile, scenario)
        done(result)
        return result

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(scenario)) for scenario in scenarios]
    return [task.result() for task in tasks]


async def _play_one(world: World, socket: Path, profile: str, scenario: Scenario) -> Result:
    domain = f"{scenario.name}.bob.example"
    if scenario.mode:
        await world.publish(domain, scenario.mode)
    else:
        await world.receive(domain, f"mx.{domain}")
    common = (world.names.address, world.smtp_port, world.ca_file)
    alice = Sender(*common, socket=socket, profile=profile)
    troubles: list[str] = []
    if scenario.cached and (await alice.send(f"before@{domain}")).tls != "verified":
        troubles.append("the delivery before the attack was not verified")
    fetched = world.policy_hosts.handshakes[policy_host(domain)]
    asked = world.names.queries[record_name(domain), "TXT"]
    for move in scenario.moves:
        await MOVES[move](world, domain)
    if scenario.recheck:
        expected = fetched + 1 if "change-id" in scenario.moves else fetched
        troubles += await _watch_recheck(
            world, socket, profile, domain, asked=asked + 1, fetched=expected
        )
    with_it = await alice.send(f"with@{domain}")
    without = await Sender(*common).send(f"without@{domain}")
    protected = _outcome(world, f"with@{domain}", with_it)
    unprotected = _outcome(world, f"without@{domain}", without)
    if protected != scenario.protected:
        troubles.append(f"with protection it must be {scenario.protected}")
    if unprotected != scenario.unprotected:
        troubles.append(f"without it must be {scenario.unprotected}")
    if scenario.protected != "deferred" and not with_it.delivered:
        troubles.extend(with_it.story)
    if with_it.waited >= ANSWER_LIMIT:  # law 6
        troubles.append(f"the daemon answered after {with_it.waited:.1f} s")
    return Result(
        scenario,
        protected,
        unprotected,
        with_it.reply,
        with_it.waited,
        with_it.story,
        tuple(troubles),
    )


async def _watch_recheck(
    world: World, socket: Path, profile: str, domain: str, *, asked: int, fetched: int
) -> list[str]:
    """Keep asking for a cached domain until the daemon has met the attack; what was wrong.

    The daemon looks at domains in use, so it is used; every answer must hold on to the policy.
    """
    key = (record_name(domain), "TXT")
    for _ in range(int(RECHECK_LIMIT / 0.1)):
        met = (
            world.names.queries[key] >= asked
            and world.policy_hosts.handshakes[policy_host(domain)] >= fetched
        )
        await asyncio.sleep(0.1)  # also for an answer that is on its way
        try:
            reply = await ask(UnixAddress(str(socket)), profile, domain)
        except ClientError as error:
            return [str(error)]
        if not reply.startswith("OK secure "):  # law 1
            return [f"the cached policy was given up: {reply}"]
        if met:
            return []
    return ["the daemon did not look at the domain again"]


def _outcome(world: World, recipient: str, delivery: Delivery) -> Outcome:
    if world.messages("mallory", recipient):
        return "mallory"
    if not world.messages("bob", recipient):
        return "deferred"
    return "verified" if delivery.tls == "verified" else "delivered"
