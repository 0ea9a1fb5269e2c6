"""What the daemon itself knows of sessions is in the report of the day: our looks, our fetches."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from smtp_sts.cli import main
from smtp_sts.config import UnixAddress
from smtp_sts.lab.world import World
from smtp_sts.mta.client import ask

from .process import daemon
from .test_tls_results import configured, results, send, soon

RECORD = "v=TLSRPTv1; rua=mailto:r@bob.example"


def _datagram(domain: str, kind: int, *lines: str) -> bytes:
    policy: dict[str, Any] = {"policy-type": kind, "policy-domain": domain, "t": 0, "f": 0}
    if lines:
        policy |= {"policy-string": lines, "mx-host": [f"mx.{domain}"]}
    return json.dumps({"d": domain, "pr": RECORD, "policies": [policy]}).encode()


def _preview(config: Path, domain: str) -> dict[str, Any]:
    run = CliRunner().invoke(main, ["--config", str(config), "report", "preview", domain, "--json"])
    return json.loads(run.output) if run.exit_code == 0 else {"told": run.output}


def _played(world: World, **section: object) -> Path:
    who = {"organization": "Alice", "contact": "tls@alice.example"}
    return configured(world, socket=str(world.home / "tlsrpt.sock"), **who, **section)


def test_testing_mode_is_reported_as_the_mx_host_is() -> None:
    async def scene() -> None:
        async with World() as world:
            for domain in ("bob.example", "good.example"):
                await world.publish(domain, mode="testing")
            world.receivers["mx.bob.example"].certificate = "other-name"
            config = _played(world)
            told = _datagram("bob.example", 2, "version: STSv1", "mode: testing")
            with daemon(config, world.socket_path):
                await soon((world.home / "tlsrpt.sock").exists, 60)
                send(world.home / "tlsrpt.sock", told, told)
                send(world.home / "tlsrpt.sock", told.replace(b"bob.", b"good."))
                # a reply profile for any Postfix does not tell it of a policy in testing mode
                await ask(UnixAddress(str(world.socket_path)), "postfix", "bob.example")
                send(world.home / "tlsrpt.sock", _datagram("bob.example", 9))
                await soon(lambda: "policies" in _preview(config, "bob.example"), 60)
                await soon(lambda: "policies" in _preview(config, "good.example"), 60)
                await soon(lambda: sum(r.successful for r in results(world)) == 3, 60)
            good, bad = _preview(config, "good.example"), _preview(config, "bob.example")
            assert good["policies"][0]["summary"] == {
                "total-successful-session-count": 1, "total-failure-session-count": 0,
            }  # fmt: skip
            assert sum(p["summary"]["total-failure-session-count"] for p in bad["policies"]) == 3
            for policy in bad["policies"]:
                assert policy["policy"]["policy-type"] == "sts"
                assert policy["summary"]["total-successful-session-count"] == 0
                (failure,) = policy["failure-details"]
                assert failure["result-type"] == "certificate-host-mismatch"
                assert failure["failure-reason-code"].startswith("sender-check: ")

    asyncio.run(scene())


def test_a_policy_that_cannot_be_fetched_is_the_failure_of_the_sessions() -> None:
    async def scene() -> None:
        async with World() as world:
            await world.publish("bob.example")
            world.policy_hosts.pages.clear()
            config = _played(world)
            with daemon(config, world.socket_path):
                await ask(UnixAddress(str(world.socket_path)), "postfix", "bob.example")
                await soon((world.home / "tlsrpt.sock").exists, 60)
                send(world.home / "tlsrpt.sock", _datagram("bob.example", 9))
                await soon(lambda: bool(results(world)), 60)
            (result,) = results(world)
            assert (result.successful, result.failed, result.policy.policy_type) == (0, 1, "sts")
            assert [f.result_type for f in result.failures] == ["sts-policy-fetch-error"]

    asyncio.run(scene())
