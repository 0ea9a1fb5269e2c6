"""What mallory does, as data: each scenario, and what must come of it with and without protection.

Promises: a scenario is independent of every other one (a domain of its own); its attack is a list
of mallory's moves, and a move is one change of the world. Must not: start anything.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

from smtp_sts.lab.authority import Variant
from smtp_sts.lab.policyhost import Page
from smtp_sts.lab.world import World
from smtp_sts.policy import policy_host, record_name

#: `verified`: bob alone read it, over TLS verified for an allowed MX host; `delivered`: bob alone
#: read it; `mallory`: mallory read it; `deferred`: nobody did, alice tries again later.
Outcome = Literal["verified", "delivered", "mallory", "deferred"]

MALLORY_HOST: Final = "mx.mallory.example"

Move = Callable[[World, str], Awaitable[None]]


async def _strip_starttls(world: World, domain: str) -> None:
    receiver = world.receivers[f"mx.{domain}"]
    receiver.owner, receiver.starttls = "mallory", False


def _impersonate(variant: Variant) -> Move:
    async def move(world: World, domain: str) -> None:
        receiver = world.receivers[f"mx.{domain}"]
        receiver.owner, receiver.certificate = "mallory", variant

    return move


async def _forge_mx(world: World, domain: str) -> None:
    (await world.receiver(MALLORY_HOST)).owner = "mallory"
    world.names.put(domain, "MX", f"5 {MALLORY_HOST}.")


async def _block_record(world: World, domain: str) -> None:
    world.names.spoil(record_name(domain), "servfail")


async def _erase_record(world: World, domain: str) -> None:
    world.names.drop(record_name(domain), "TXT")


async def _change_id(world: World, domain: str) -> None:
    world.names.put(record_name(domain), "TXT", '"v=STSv1; id=mallory;"')


async def _policy_error(world: World, domain: str) -> None:
    _turn(world, domain, status=500)


async def _policy_certificate(world: World, domain: str) -> None:
    # What mallory would like alice to believe: no policy any more.
    _turn(
        world,
        domain,
        certificate="other-name",
        body=b"version: STSv1\r\nmode: none\r\nmax_age: 86400\r\n",
    )


async def _policy_silence(world: World, domain: str) -> None:
    _turn(world, domain, manner="silence")


def _turn(world: World, domain: str, **changes: object) -> None:
    host = policy_host(domain)
    page: Page = world.policy_hosts.pages[host]
    world.policy_hosts.pages[host] = replace(page, **changes)  # type: ignore[arg-type]


#: mallory's moves by name.
MOVES: Final[dict[str, Move]] = {
    "strip-starttls": _strip_starttls,
    "other-name": _impersonate("other-name"),
    "self-signed": _impersonate("self-signed"),
    "expired": _impersonate("expired"),
    "forge-mx": _forge_mx,
    "block-record": _block_record,
    "erase-record": _erase_record,
    "change-id": _change_id,
    "policy-500": _policy_error,
    "policy-certificate": _policy_certificate,
    "policy-silence": _policy_silence,
}


@dataclass(frozen=True)
class Scenario:
    """One row of the lab's table."""

    name: str
    does: str
    """What mallory does, for people."""
    rule: str
    """The rule that is shown: a section of RFC 8461."""
    protected: Outcome
    unprotected: Outcome
    mode: str = ""
    """The mode of the policy that bob publishes; empty for a domain without one."""
    moves: tuple[str, ...] = ()
    cached: bool = False
    """Whether alice had delivered before, so that the policy is cached."""
    recheck: bool = False
    """Whether the daemon is given time to see the attack in its background work."""


SCENARIOS: Final = (
    Scenario(
        "honest", "nothing: an honest delivery", "section 5.1", "verified", "delivered", "enforce"
    ),
    Scenario(
        "strip",
        "strips STARTTLS",
        "section 4.2",
        "deferred",
        "mallory",
        "enforce",
        ("strip-starttls",),
    ),
    Scenario(
        "other-name",
        "presents a valid certificate for another name",
        "section 4.2",
        "deferred",
        "mallory",
        "enforce",
        ("other-name",),
    ),
    Scenario(
        "self-signed",
        "presents a self-signed certificate",
        "section 4.2",
        "deferred",
        "mallory",
        "enforce",
        ("self-signed",),
    ),
    Scenario(
        "expired",
        "presents an expired certificate",
        "section 4.2",
        "deferred",
        "mallory",
        "enforce",
        ("expired",),
    ),
    Scenario(
        "forge-mx",
        "forges the MX to her own host, with a valid certificate",
        "section 4.1",
        "deferred",
        "mallory",
        "enforce",
        ("forge-mx",),
    ),
    Scenario(
        "block-record",
        "blocks the cached policy's TXT record, strips STARTTLS",
        "section 5.1",
        "deferred",
        "mallory",
        "enforce",
        ("block-record", "strip-starttls"),
        cached=True,
        recheck=True,
    ),
    Scenario(
        "erase-record",
        "erases the cached policy's TXT record, forges the MX",
        "section 5.1",
        "deferred",
        "mallory",
        "enforce",
        ("erase-record", "forge-mx"),
        cached=True,
        recheck=True,
    ),
    Scenario(
        "policy-500",
        "changes the id, makes the policy host fail, strips STARTTLS",
        "section 5.1",
        "deferred",
        "mallory",
        "enforce",
        ("policy-500", "change-id", "strip-starttls"),
        cached=True,
        recheck=True,
    ),
    Scenario(
        "policy-certificate",
        "changes the id, is the policy host with a wrong certificate",
        "section 3.3",
        "deferred",
        "mallory",
        "enforce",
        ("policy-certificate", "change-id", "strip-starttls"),
        cached=True,
        recheck=True,
    ),
    Scenario(
        "policy-silence",
        "changes the id, silences the policy host, forges the MX",
        "section 5.1",
        "deferred",
        "mallory",
        "enforce",
        ("policy-silence", "change-id", "forge-mx"),
        cached=True,
        recheck=True,
    ),
    Scenario(
        "testing",
        "presents another name; the policy is only testing",
        "section 5",
        "mallory",
        "mallory",
        "testing",
        ("other-name",),
    ),
    Scenario(
        "testing-honest",
        "nothing: the policy is testing",
        "section 5",
        "delivered",
        "delivered",
        "testing",
    ),
    Scenario("none", "nothing: the policy is none", "section 5", "delivered", "delivered", "none"),
    Scenario("no-policy", "nothing: there is no policy", "section 5.1", "delivered", "delivered"),
    Scenario(
        "unknown-silent",
        "silences the policy host of a domain not yet cached",
        "section 5.1",
        "delivered",
        "delivered",
        "enforce",
        ("policy-silence",),
    ),
)
