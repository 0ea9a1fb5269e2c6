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

from smtp_sts.lab.scenarios import MOVES, SCENARIOS, Outcome, Scenario
from smtp_sts.lab.sender import ANSWER_LIMIT, AskError, Delivery, Sender, ask
from smtp_sts.lab.world import World
from smtp_sts.policy import policy_host, record_name

START_LIMIT: Final = 10.0
RECHECK_LIMIT: Final = 4.0
STOP_LIMIT: Final = 5.0
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

    @property
    def right(self) -> bool:
        """Whether both came out as they must, and in time (law 6)."""
        wanted = self.scenario
        return (
            self.protected == wanted.protected
            and self.unprotected == wanted.unprotected
            and self.waited < ANSWER_LIMIT
        )


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
            await ask(socket, ".ready.example")
        except AskError:
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
    if scenario.cached:
        await alice.send(f"before@{domain}")
    fetched = world.policy_hosts.handshakes[policy_host(domain)]
    asked = world.names.queries[record_name(domain), "TXT"]
    for move in scenario.moves:
        await MOVES[move](world, domain)
    if scenario.recheck:
        await _until_rechecked(world, domain, asked, fetched if _refetches(scenario) else -1)
    with_it = await alice.send(f"with@{domain}")
    without = await Sender(*common).send(f"without@{domain}")
    return Result(
        scenario,
        _outcome(world, f"with@{domain}", with_it),
        _outcome(world, f"without@{domain}", without),
        with_it.reply,
        with_it.waited,
        with_it.story,
    )


def _refetches(scenario: Scenario) -> bool:
    return "change-id" in scenario.moves


async def _until_rechecked(world: World, domain: str, asked: int, fetched: int) -> None:
    """Wait until the daemon has met the attack, as far as it looks within the limit."""
    key = (record_name(domain), "TXT")
    for _ in range(int(RECHECK_LIMIT / 0.05)):
        if (
            world.names.queries[key] > asked
            and world.policy_hosts.handshakes[policy_host(domain)] > fetched
        ):
            await asyncio.sleep(0.1)  # the answer is on its way
            return
        await asyncio.sleep(0.05)


def _outcome(world: World, recipient: str, delivery: Delivery) -> Outcome:
    if world.messages("mallory", recipient):
        return "mallory"
    if not world.messages("bob", recipient):
        return "deferred"
    return "verified" if delivery.tls == "verified" else "delivered"
