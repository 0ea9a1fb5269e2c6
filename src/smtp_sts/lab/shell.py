"""The world left standing: what `smtp-sts lab shell` shows, and scenarios played step by step.

Promises: lines to paste that work from another terminal on the same machine; the next step happens
when it is asked for. Must not: read from or write to a terminal.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from smtp_sts.config import TcpAddress, UnixAddress
from smtp_sts.lab import clock as clocks
from smtp_sts.lab.clock import Clock
from smtp_sts.lab.moves import Stage
from smtp_sts.lab.play import PATIENCE, PROFILE, TTL, Player, Standstill, settings
from smtp_sts.lab.scenarios import Scenario
from smtp_sts.lab.story import tell_step
from smtp_sts.lab.subject import Subject, SubjectError, ours
from smtp_sts.lab.world import World
from smtp_sts.policy import policy_host, policy_url, record_name


@dataclass
class Standing:
    """A world that stands, and the steps that have not happened yet."""

    world: World
    subject: Subject
    listen: TcpAddress
    players: list[Player] = field(default_factory=list)
    _done: int = 0

    def lines(self) -> list[str]:
        """What to paste into a shell, with a comment before each."""
        world = self.world
        host, port = world.names.address
        config = world.home / "smtp-sts.toml"
        found = []
        for player in self.players:
            domain = player.result.scenario.domain
            receiver = world.receivers.get(f"mx.{domain}")
            found += [
                f"# {domain}: what the daemon answers, and why",
                f"smtp-sts --config {config} query --server {self.listen} {domain}",
                f"postmap -q {domain} socketmap:inet:{self.listen}:{PROFILE}",
                "# its record, its policy, its MX host",
                f"dig @{host} -p {port} {record_name(domain)} TXT",
                f"curl --cacert {world.ca_file} --resolve "
                f"{policy_host(domain)}:{world.https_port}:{world.place.web[0]} "
                + policy_url(domain).replace(
                    policy_host(domain), f"{policy_host(domain)}:{world.https_port}"
                ),
            ]
            if receiver:
                found.append(
                    f"openssl s_client -starttls smtp -CAfile {world.ca_file} "
                    f"-connect {receiver.address}:{receiver.port} -servername {receiver.host}"
                )
        return [*found, "# what the daemon says", f"tail -f {world.home / 'daemon.log'}"]

    async def next(self) -> str | None:
        """Do the next step; what was done and seen, or None where all has been done."""
        left = self._done
        for player in self.players:
            scenario = player.result.scenario
            if left < len(scenario.steps):
                step = scenario.steps[left]
                self._done += 1
                before = len(player.result.story), len(player.result.troubles)
                await player.step(step)
                seen = player.result.story[before[0] :]
                wrong = [f"WRONG: {t.text}" for t in player.result.troubles[before[1] :]]
                told = tell_step(step).replace("{domain}", scenario.domain)
                return "\n    ".join([f"{scenario.name} {left + 1}. {told}", *seen, *wrong])
            left -= len(scenario.steps)
        return None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@asynccontextmanager
async def standing(scenarios: Sequence[Scenario]) -> AsyncIterator[Standing]:
    """The world of some scenarios, none of their steps done. Raises SubjectError, OSError."""
    async with World(ttl=TTL) as world:
        await world.receive("alice.example", "mx.alice.example")
        world.names.sign("example")
        unix, listen = UnixAddress(str(world.socket_path)), TcpAddress("127.0.0.1", _free_port())
        private = not all(scenario.public_only for scenario in scenarios)
        config = world.config_toml(
            policy={**settings(scenarios), "listen": [str(unix), str(listen)]},
            network={"allow_private_addresses": private},
        )
        library = clocks.library() if any(scenario.ages for scenario in scenarios) else None
        clock = Clock(world.home, library) if library else None
        environment = clock.environment if clock else {}
        subject = Subject(ours(config), unix, PROFILE, world.home / "daemon.log", environment)
        async with subject:
            made = Standing(world, subject, listen)
            for scenario in scenarios:
                if scenario.ages and clock is None:
                    raise SubjectError(clocks.MISSING)
                still = Standstill(subject, clock, 1)
                Stage(world, scenario.domain).delegate(scenario)
                player = Player(world, subject, scenario, still, patience=PATIENCE, watch=True)
                await player.begin()
                made.players.append(player)
            try:
                yield made
            finally:
                for player in made.players:
                    await player.end()
