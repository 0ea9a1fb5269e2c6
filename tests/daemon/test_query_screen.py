"""What `smtp-sts query` shows to a person: what is, why, and what becomes of mail."""

from __future__ import annotations

import asyncio
import subprocess

import pytest

from smtp_sts.lab.policyhost import Page
from smtp_sts.lab.world import World, policy_text

from .process import COMMAND

DOMAIN = "bob.example"
HOST = f"mta-sts.{DOMAIN}"
PAIR = ["mx.bob.example", "mx2.bob.example"]


async def arrange(world: World, case: str) -> None:
    """bob.example, and what is peculiar about it."""
    names, tlsa = world.names, "_{}._tcp.mx.bob.example"
    mode = case if case in ("testing", "none") else "enforce"
    await world.publish(DOMAIN, mode, hosts=PAIR if case in ("partial", "uncovered") else ())
    tlsa = tlsa.format(world.smtp_port)
    if case in ("dane", "partial", "unusable"):
        names.sign(DOMAIN)
        data = "1 1 1" if case == "unusable" else "3 1 1"
        names.put(tlsa, "TLSA", f"{data} {'ab' * 32}")
    if case == "uncovered":
        page = policy_text("enforce", ["mx.bob.example"], 86400)
        world.policy_hosts.pages[HOST] = Page(page)
    elif case == "all uncovered":
        page = policy_text("enforce", ["mx.else.example"], 86400)
        world.policy_hosts.pages[HOST] = Page(page)
    elif case == "long":
        page = policy_text("enforce", [f"mx{n}.bob.example" for n in range(500)], 86400)
        world.policy_hosts.pages[HOST] = Page(page)
    elif case == "no record":
        names.drop(f"_mta-sts.{DOMAIN}", "TXT")
    elif case == "broken":
        world.policy_hosts.pages[HOST] = Page(b"", status=500)
    elif case == "bogus":
        names.drop(f"_mta-sts.{DOMAIN}", "TXT")
        names.sign(DOMAIN)
        names.put(DOMAIN, "DS", f"1 13 2 {'ab' * 32}")
        names.spoil(DOMAIN, "servfail", "MX")


@pytest.mark.parametrize(
    ("case", "status", "wanted"),
    [
        ("enforce", 0, ["MX               ok      the policy names mx.bob.example",
                        "so               mail goes only to MX hosts that the policy names"]),
        ("testing", 0, ["outcome          testing", "so               mail goes as if there"]),
        ("none", 0, ["outcome          none", "has taken its own back"]),
        ("no record", 0, ["record                   no TXT record", "mail goes as ever"]),
        ("broken", 1, ["fetch            FAILED  mta-sts.bob.example at 127.0.0.1 answers with "
                       "status 500", "a daemon that holds a policy goes on with it"]),
        ("uncovered", 0, ["no pattern of the policy matches mx2.bob.example; mail never goes"]),
        ("all uncovered", 0, ["no pattern of the policy matches mx.bob.example; all mail waits"]),
        ("dane", 0, ["mx.bob.example: usable at mx.bob.example: 3 1 1 abab",
                     "whose certificate is the one of their TLSA records"]),
        ("partial", 0, ["no TLSA record at _", "usable TLSA records of every MX host would make"]),
        ("unusable", 0, ["none of the records is usable",
                         "usages 0 and 1 are not for SMTP, publish 3 1 1"]),
        ("bogus", 3, ["bob.example is signed, and its MX records cannot be had", "SERVFAIL",
                      "so               mail of an MTA that does DANE waits until this can be "]),
        ("long", 0, ["mx19.bob.example and 480 more", "bytes; whole with --json)"]),
    ],
)  # fmt: skip
def test_a_person_is_told(case: str, status: int, wanted: list[str]) -> None:
    async def play() -> subprocess.CompletedProcess[str]:
        async with World() as world:
            await arrange(world, case)
            command = [*COMMAND, "--config", str(world.config_toml()), "query", DOMAIN]
            return await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, timeout=30
            )

    done = asyncio.run(play())
    for text in wanted:
        assert text in done.stdout, done.stdout
    assert done.returncode == status
    assert len(done.stdout) < 6000
