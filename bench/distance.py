"""First answers where the Internet is not next door: the resolver 20 ms away, policy hosts 40 ms.

Two network namespaces are joined by tun devices; every packet between them waits on its way, those
of UDP 10 ms and those of TCP 20 ms in each direction, so that handshakes cost what they cost. The
world is the lab's: a resolver that has validated (its AD bit is trusted here), policy hosts, and
domains that have a policy, a policy and DANE, or neither. Must not: talk to anything outside.
Usage: distance.py [--domains N]; as root, or where user namespaces are allowed.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import errno
import fcntl
import os
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from smtp_sts.config import UnixAddress
from smtp_sts.lab.apart import enter
from smtp_sts.lab.authority import Authority
from smtp_sts.lab.names import Names
from smtp_sts.lab.policyhost import Page, PolicyHosts
from smtp_sts.lab.world import policy_text
from smtp_sts.mta.client import ask

RESOLVER, HOST, MX_HOST = "45.45.0.53", "45.45.0.1", "45.45.0.25"
#: One way, seconds.
UDP_DELAY, TCP_DELAY = 0.010, 0.020
KINDS = {
    "no policy, not signed": ("none", False),
    "policy, not signed": ("sts", False),
    "policy, signed, no TLSA": ("sts", True),
    "policy and DANE": ("dane", True),
    "DANE alone": ("only", True),
}
GOAL_MS = 250


def domains(kind: str, number: int) -> list[str]:
    slug = "".join(c for c in kind if c.isalpha())
    return [f"d{n}.{slug.lower()}" for n in range(number)]


async def world(home: Path, number: int) -> None:
    """The far side: names and policy hosts."""
    authority, names = Authority(home), Names(3600)
    hosts = PolicyHosts(authority, 443)
    for kind, (what, signed) in KINDS.items():
        for domain in domains(kind, number):
            names.sign(domain, signed=signed)
            names.put(domain, "MX", f"10 mx.{domain}.")
            names.put(f"mx.{domain}", "A", MX_HOST)
            if what in ("dane", "only"):
                names.put(f"_25._tcp.mx.{domain}", "TLSA", f"3 1 1 {'00' * 32}")
            if what in ("sts", "dane"):
                names.put(f"_mta-sts.{domain}", "TXT", '"v=STSv1; id=1;"')
                names.put(f"mta-sts.{domain}", "A", HOST)
                page = Page(policy_text("enforce", [f"mx.{domain}"], 604800))
                hosts.pages[f"mta-sts.{domain}"] = page
                authority.server_context(f"mta-sts.{domain}")
    await names.start(RESOLVER, 53)
    await hosts.start(HOST)
    print("ready", flush=True)
    await asyncio.Event().wait()


def tun(name: str) -> int:
    """A network device whose packets we carry."""
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, 0x400454CA, struct.pack("16sH", name.encode(), 0x1001))
    return device


def carry(one: int, other: int) -> None:
    """Carry packets between two devices, each after its delay."""
    waiting: dict[float, collections.deque[tuple[float, int, bytes]]] = {
        UDP_DELAY: collections.deque(), TCP_DELAY: collections.deque(),
    }  # fmt: skip
    while True:
        now = time.monotonic()
        for queue in waiting.values():
            while queue and queue[0][0] <= now:
                _, device, packet = queue.popleft()
                os.write(device, packet)
        first = min((queue[0][0] for queue in waiting.values() if queue), default=now + 1)
        ready, _, _ = select.select([one, other], [], [], max(0.0, first - time.monotonic()))
        for device in ready:
            try:
                packet = os.read(device, 65536)
            except OSError as error:
                if error.errno == errno.EBADFD:  # the devices go with their namespace, at the end
                    return
                raise
            delay = UDP_DELAY if packet[9:10] == b"\x11" else TCP_DELAY
            waiting[delay].append(
                (time.monotonic() + delay, other if device == one else one, packet)
            )


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def config_of(home: Path) -> Path:
    file = home / "daemon.toml"
    file.write_text(
        f'[policy]\nlisten = "unix:{home}/policy.sock"\nworkers = 2\n'
        f'[dns]\nnameservers = ["{RESOLVER}"]\ntrust_ad = true\n'
        f'[network]\nca_file = "{home}/ca.pem"\n'
        f'[store]\nurl = "sqlite:///{home}/s.db"\n[control]\nsocket = ""\n[log]\nlevel = "error"\n'
    )
    return file


async def measure(home: Path, number: int) -> None:
    address = UnixAddress(f"{home}/policy.sock")

    async def timed(domain: str) -> tuple[float, str]:
        begun = time.monotonic()
        reply = await ask(address, "postfix", domain)
        return 1000 * (time.monotonic() - begun), reply

    for _ in range(5):
        await ask(address, "postfix", "warm.up.example")
    print(f"first answers, ms (at most {GOAL_MS} wanted){'median':>14}{'worst':>8}")
    half = number // 2
    for kind in KINDS:
        names = domains(kind, number)
        alone = [await timed(domain) for domain in names[:half]]
        together = await asyncio.gather(*map(timed, names[half:]))
        for how, seen in (("one at a time", alone), (f"{number - half} at once", together)):
            times = [milliseconds for milliseconds, _ in seen]
            words = {" ".join(reply.split()[:2]) for _, reply in seen}
            print(f"{kind:26}{how:16}{statistics.median(times):8.0f}{max(times):8.0f}  {words}")


def inside(number: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        near, far = tun("near"), tun("far")
        command = ["unshare", "-n", sys.executable, __file__, "--world", name]
        command += ["--domains", str(number)]
        distant = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert distant.stdin is not None
        assert distant.stdout is not None
        time.sleep(0.5)  # until unshare has made the namespace
        run("ip", "link", "set", "far", "netns", str(distant.pid))
        there = ("nsenter", "-n", "-t", str(distant.pid))
        run("ip", "link", "set", "lo", "up")
        run("ip", "address", "add", "10.9.0.1/24", "dev", "near")
        run("ip", "link", "set", "near", "up")
        run("ip", "route", "add", "45.45.0.0/16", "via", "10.9.0.2")
        run(*there, "ip", "link", "set", "lo", "up")
        run(*there, "ip", "address", "add", "10.9.0.2/24", "dev", "far")
        run(*there, "ip", "link", "set", "far", "up")
        run(*there, "ip", "route", "add", "local", "45.45.0.0/16", "dev", "lo")
        distant.stdin.write(b"go\n")
        distant.stdin.flush()
        assert distant.stdout.readline() == b"ready\n"
        threading.Thread(target=carry, args=(near, far), daemon=True).start()
        command = [
            sys.executable,
            "-P",
            "-m",
            "smtp_sts",
            "--config",
            str(config_of(home)),
            "serve",
        ]
        daemon = subprocess.Popen(command)
        try:
            while not (home / "policy.sock").exists():
                time.sleep(0.05)
            asyncio.run(measure(home, number))
        finally:
            daemon.terminate()
            daemon.wait()
            distant.kill()
            distant.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--domains", type=int, default=100, help="of each kind")
    parser.add_argument("--world", help=argparse.SUPPRESS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.world:
        sys.stdin.readline()
        asyncio.run(world(Path(options.world), options.domains))
    elif options.inside:
        inside(options.domains)
    else:
        command = [sys.executable, __file__, "--inside", "--domains", str(options.domains)]
        sys.exit(subprocess.run(enter(command), check=False).returncode)


if __name__ == "__main__":
    main()
