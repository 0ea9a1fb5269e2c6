"""DANE before STS, and STS where it must be: a real daemon beside real unbound and NSD."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from smtp_sts.lab.machine import Process, directory, missing, process, run

from .cannot import cannot
from .signed import signed_dns

pytestmark = pytest.mark.real

TLSA: Final = f"TLSA 3 1 1 {'ab' * 32}"


def policy(domain: str) -> str:
    """The names of a policy, in the zone of its domain or above it."""
    return f'_mta-sts.{domain} 300 TXT "v=STSv1; id=1;"\nmta-sts.{domain} 300 A 127.0.0.1\n'


RECORDS: Final = {
    "example": f"""\
{policy("both")}both 300 MX 10 mx.both
mx.both 300 A 192.0.2.25
_25._tcp.mx.both 300 {TLSA}
{policy("mixed")}mixed 300 MX 10 mx.both
mixed 300 MX 20 mx.mixed
mx.mixed 300 A 192.0.2.25
dane 300 MX 10 mx.both
{policy("broken")}broken 300 MX 10 mx.forged
lost 300 MX 10 mx.forged
""",
    "host.example": f"mx 300 A 192.0.2.66\n_25._tcp.mx 300 {TLSA}\n",
    # The attack: the domain is not signed, and its MX, forged, is mallory's signed host.
    "unsigned.example": policy("unsigned.example.") + "@ 300 MX 10 mx.host.example.\n",
    "forged.example": f"mx 300 A 192.0.2.25\n_25._tcp.mx 300 {TLSA}\n",
    "stripped.example": "@ 300 MX 10 mx\n",
}
SECURE: Final = "OK secure match=mx.{} servername=hostname"
DANE: Final = "OK dane-only"
#: domain -> the `postfix-dane` reply, the `sts` reply
WANT: Final = {
    "unsigned.example": (SECURE, SECURE),
    "both.example": (DANE, SECURE),
    "mixed.example": (SECURE, SECURE),
    "dane.example": (DANE, "NOTFOUND "),
    "broken.example": (SECURE, SECURE),
    "lost.example": ("TEMP the DANE state of {} cannot be determined", "NOTFOUND "),
    "forged.example": ("TEMP the DANE state of {} cannot be determined", "NOTFOUND "),
    "lame-unsigned.example": ("NOTFOUND ", "NOTFOUND "),
}
POLICIES: Final = """
import asyncio, sys
from pathlib import Path
from smtp_sts.lab.authority import Authority
from smtp_sts.lab.policyhost import Page, PolicyHosts
from smtp_sts.lab.world import policy_text

async def main():
    hosts = PolicyHosts(Authority(Path(sys.argv[1])))
    for domain in sys.argv[2:]:
        hosts.pages[f"mta-sts.{domain}"] = Page(policy_text("enforce", [f"mx.{domain}"], 86400))
    await hosts.start()
    written = Path(sys.argv[1], "port.new")
    written.write_text(str(hosts.port))
    written.rename(Path(sys.argv[1], "port"))  # who waits for it never sees it empty
    await asyncio.Event().wait()

asyncio.run(main())
"""


class Scene:
    """A namespace with a signed DNS and policy hosts, and the daemon that is asked."""

    def __init__(self, space: str, home: Path) -> None:
        self.space = space
        self.home = home
        self.socket = home / "policy.sock"
        with_policy = [name for name, replies in WANT.items() if replies[1] == SECURE]
        self.hosts = Process(
            space,
            [sys.executable, "-P", "-c", POLICIES, str(home), *with_policy],
            home / "hosts.log",
        )
        self.hosts.ready((home / "port").exists, "policy hosts")
        (home / "smtp-sts.toml").write_text(
            f'[policy]\nlisten = "unix:{self.socket}"\nworkers = 2\n'
            '[dns]\nnameservers = ["127.0.0.1"]\n'
            f"[network]\nhttps_port = {(home / 'port').read_text()}\n"
            f'ca_file = "{home / "ca.pem"}"\nallow_private_addresses = true\n'
            f'[store]\nurl = "sqlite:///{home / "policies.db"}"\n'
        )

    @contextlib.contextmanager
    def daemon(self) -> Iterator[None]:
        command = [
            sys.executable,
            "-P",
            "-m",
            "smtp_sts",
            "--config",
            str(self.home / "smtp-sts.toml"),
        ]
        with process(self.space, [*command, "serve"], self.home / "daemon.log") as started:
            started.ready(self._listens, "smtp-sts")
            yield

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def ask(self, domain: str) -> dict[str, Any]:
        """Its decision; a DNS that is silent for long has been waited for."""
        command = [sys.executable, "-P", "-m", "smtp_sts", "query", "--json", domain]
        until = time.monotonic() + 15
        while True:
            said = run("ip", "netns", "exec", self.space, *command, "--server",
                       f"unix:{self.socket}", check=False)  # fmt: skip
            data: dict[str, Any] = json.loads(said)
            known = any(step["name"] in ("DANE", "TLSA") for step in data["steps"])
            if known or time.monotonic() > until:
                return data
            time.sleep(1)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    if reason := missing():
        cannot(reason)
    with signed_dns(RECORDS) as space, directory() as home:
        made = Scene(space, home)
        try:
            yield made
        finally:
            made.hosts.stop()


def test_dane_and_sts_as_the_laws_have_it_from_the_network_and_from_the_cache(scene: Scene) -> None:
    want = {name: tuple(r.format(name) for r in replies) for name, replies in WANT.items()}
    with scene.daemon():
        first = {name: scene.ask(name)["replies"] for name in WANT}
    assert {name: (r["postfix-dane"], r["sts"]) for name, r in first.items()} == want
    scene.hosts.stop()  # law 1: and no policy host can be reached any more
    with scene.daemon():
        second = {name: scene.ask(name) for name in WANT}
    for name, data in second.items():
        replies = data["replies"]
        assert (replies["postfix-dane"], replies["sts"]) == want[name], data
        assert replies["postfix"] == want[name][1]  # who does not ask for DANE: STS alone
        assert data["from"] == "cache" or data["policy"] is None
    attacked = second["unsigned.example"]
    assert attacked["outcome"] == "enforce"
    assert "not signed" in attacked["steps"][-1]["text"]
