"""Policies of the first draft and what becomes of mail: outcomes out of a log and out of datagrams.

A failure is counted under the record's text, so that its report goes to the record's rua, and has
the daemon look for another policy before it is final (section 3.5 step 4).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path

from smtp_sts.config import UnixAddress
from smtp_sts.lab.world import World
from smtp_sts.mta.client import ClientError, ask, explain
from smtp_sts.policy import Policy
from smtp_sts.reporting.matching import applied
from smtp_sts.resolver.decision import Decision, Draft

from .process import daemon
from .test_tls_results import results, send, session, soon, store_of

DOMAIN = "bob.example"
URL = f"https://{DOMAIN}/sts"
RECORD = (
    f"v=STS1; to=true; mx=mx.{DOMAIN}; a=webpki:{URL}; c=webpki; e=86400; rua=mailto:r@{DOMAIN}"
)
SECURE = f"OK secure match=mx.{DOMAIN} servername=hostname"


async def met(world: World) -> UnixAddress:
    """Wait until the daemon has proven bob's policy and enforces it."""
    address = UnixAddress(str(world.socket_path))
    end = asyncio.get_running_loop().time() + 30
    found = None
    while not found or not (found["authenticated"] and found["applied"]):
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.05)
        with contextlib.suppress(ClientError):  # it is still on its way
            found = (await explain(address, DOMAIN))["policy"]
    assert await ask(address, "postfix", DOMAIN) == SECURE
    return address


async def becomes(address: UnixAddress, reply: str) -> None:
    end = asyncio.get_running_loop().time() + 30
    while await ask(address, "postfix", DOMAIN) != reply:
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.1)


def configured(world: World, **section: object) -> Path:
    # No recheck for five minutes: only the failure brings the look about.
    return world.config_toml(
        policy={"dialects": ["rfc8461", "draft00"]},
        store={"url": store_of(world)},
        tls_reports={"enabled": True, "deliver": False, **section},
    )


def test_a_failure_in_a_log_is_counted_and_brings_about_a_look_for_another_policy() -> None:
    async def play() -> None:
        async with World() as world:
            await world.receive(DOMAIN, f"mx.{DOMAIN}")
            world.publish_draft(DOMAIN, RECORD)
            log = world.home / "mail.log"
            log.touch()
            with daemon(configured(world, log=f"postfix:{log}"), world.socket_path):
                address = await met(world)
                await asyncio.sleep(2)  # until the log is followed
                world.publish_draft(DOMAIN, RECORD.replace("true", "false"))
                with log.open("ab") as out:
                    out.write(session(time.time(), "Untrusted", "4XA"))
                await soon(lambda: any(r.failed for r in results(world)))
                await becomes(address, "NOTFOUND ")
                (result,) = results(world)
                # No `_smtp._tls` record is there: the policy itself asks for reports.
                assert result.policy.policy_string == (RECORD,)

    asyncio.run(play())


def test_a_failure_in_a_datagram_brings_about_a_look_for_another_policy() -> None:
    async def play() -> None:
        async with World() as world:
            await world.receive(DOMAIN, f"mx.{DOMAIN}")
            world.publish_draft(DOMAIN, RECORD)
            path = world.home / "tlsrpt.sock"
            with daemon(configured(world, socket=str(path)), world.socket_path):
                address = await met(world)
                world.publish_draft(DOMAIN, RECORD.replace("true", "false"))
                policy = {
                    "policy-type": 2, "policy-domain": DOMAIN, "policy-string": [RECORD],
                    "mx-host": [f"mx.{DOMAIN}"], "t": 0, "f": 1,
                    "failure-details": [{"c": 201, "n": f"mx.{DOMAIN}", "r": "192.0.2.2"}],
                }  # fmt: skip
                await soon(path.exists)
                record = f"v=TLSRPTv1; rua=mailto:r@{DOMAIN}"
                send(path, json.dumps({"d": DOMAIN, "pr": record, "policies": [policy]}).encode())
                await becomes(address, "NOTFOUND ")

    asyncio.run(play())


def test_the_policy_that_was_applied_is_told_by_its_text() -> None:
    draft = Draft("v=STS1; to=true", "tlsa", "", authenticated=True, applied=True)
    policy = Policy("enforce", ("mx.bob.example",), 99, "STS1")
    decision = Decision(DOMAIN, "dane", "tlsa-required", policy=policy, draft=draft)
    found = applied(DOMAIN, decision)
    assert (found.policy_type, found.policy_string) == ("sts", ("v=STS1; to=true",))
    by_dane = Decision(DOMAIN, "dane", "tlsa-usable", policy=policy, draft=draft)
    assert applied(DOMAIN, by_dane).policy_type == "tlsa"
