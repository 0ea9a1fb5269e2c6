"""The score: any policy daemon, played with in namespaces of the lab's own.

Promises: the daemon is started by the command given, asked where its operator says, and gone
afterwards with all that it started. `run` must itself be run inside (`apart.enter`).
Must not: favour this daemon: it is scored by the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from smtp_sts.config import Address, UnixAddress
from smtp_sts.lab import apart
from smtp_sts.lab.play import (
    PATIENCE,
    PROFILE,
    TTL,
    Result,
    in_turn,
    known_to_ours,
    play_in,
    settings,
)
from smtp_sts.lab.scenarios import Scenario
from smtp_sts.lab.subject import Subject, ours
from smtp_sts.lab.world import APART, World


async def run(
    scenarios: Sequence[Scenario],
    command: str = "",
    socketmap: tuple[Address, str] | None = None,
    *,
    patience: float = PATIENCE,
    done: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Play scenarios with the daemon that the shell starts by `command`; with ours if it is empty.

    Raises SubjectError, ApartError, OSError.
    """
    apart.prepare()
    features = set() if command else known_to_ours(scenarios)

    async def play(some: Sequence[Scenario]) -> list[Result]:
        async with World(ttl=TTL, place=APART) as world:
            with apart.lead_in(world) as trust:
                environment = {**trust, "LAB_HOME": str(world.home)}
                await world.receive("alice.example", "mx.alice.example")
                address, map_name = socketmap or (UnixAddress(str(world.socket_path)), PROFILE)
                if command:
                    words = ["/bin/sh", "-c", command]
                else:
                    words = ours(
                        world.config_toml(
                            policy=settings(scenarios), network={"allow_private_addresses": False}
                        )
                    )
                log = world.home / "daemon.log"
                subject = Subject(words, address, map_name, log, environment)
                subject.features = features  # seen in one world, it is known in the next
                return await play_in(world, subject, some, patience=patience, done=done)

    return await in_turn(scenarios, play)
