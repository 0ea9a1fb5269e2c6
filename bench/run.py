"""The benchmark: this daemon and postfix-mta-sts-resolver, same run, same DNS and policy host.

Promises: rounds alternate between the two, medians are reported, everything started is ended.
Must not: talk to anything but loopback once the reference is installed. As root (or where user
namespaces are allowed) it runs in namespaces of its own; elsewhere this daemon is measured alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from smtp_sts.store import Stored, open_store

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
REFERENCE = OUT / "reference" / "bin"
SMTP_STS = Path(sys.executable).parent / "smtp-sts"
ROUNDS = 3
COLD = 500
HELD = 100_000
# name: connections, requests in flight on each, the ratio to reach
WARM = {
    "1 connection": (1, 1, 4.0),
    "32 connections": (32, 1, 10.0),
    "128 connections": (128, 1, 11.0),
    "32 connections, 16 in flight": (32, 16, 18.0),
}
COLD_NAME, COLD_GOAL = "cold domains", 1.7


def install() -> None:
    """The load generator, and the reference in a venv of its own."""
    OUT.mkdir(exist_ok=True)
    source, program = HERE / "socketmap_load.c", OUT / "load"
    subprocess.run(["cc", "-O2", "-o", program, source], check=True)
    pins = HERE / "reference.txt"
    mark = OUT / "reference" / "installed"
    if not mark.exists() or mark.read_text() != pins.read_text():
        subprocess.run([sys.executable, "-m", "venv", OUT / "reference"], check=True)
        subprocess.run([REFERENCE / "pip", "install", "-q", "-r", pins], check=True)
        mark.write_text(pins.read_text())


def namespaces() -> list[str] | None:
    """The command that runs another in namespaces of its own, where this machine lets us."""
    command = ["unshare", "-n", "-m", "-p", "-f", "--kill-child", "--mount-proc"]
    for some in (command, [*command[:1], "-r", *command[1:]]):
        with contextlib.suppress(FileNotFoundError):
            if subprocess.run([*some, "true"], check=False, stderr=subprocess.DEVNULL).returncode:
                continue
            return some
    return None


@contextlib.contextmanager
def running(command: list[str], log: Path, env: dict[str, str] | None = None) -> Iterator[int]:
    """A process, its log in a file; ended on the way out."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **(env or {})}
        )
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ask(port: int, key: str) -> bytes:
    """One reply, for one key."""
    request = f"postfix {key}".encode()
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(b"%d:%b," % (len(request), request))
        return sock.recv(65536)


def await_reply(port: int, key: str, limit: float = 15.0) -> float:
    """Seconds until the daemon first answered."""
    start = time.monotonic()
    while time.monotonic() < start + limit:
        with contextlib.suppress(OSError):
            if ask(port, key):
                return time.monotonic() - start
        time.sleep(0.005)
    raise SystemExit(f"nothing answers on port {port}")


def load_command(port: int, keys: Path, count: int, depth: int, seconds: float) -> list[str]:
    profile = "postfix-tlsrpt" if port == 8461 else "postfix"
    numbers = [str(count), str(depth), str(seconds)]
    return [str(OUT / "load"), "127.0.0.1", str(port), profile, str(keys), *numbers]


def load(port: int, keys: Path, count: int, depth: int, seconds: float) -> dict[str, float]:
    command = load_command(port, keys, count, depth, seconds)
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(text)
    if result["ok"] != result["done"]:
        print(f"not all answers were OK: {result}", file=sys.stderr)
    return result


def write_keys(path: Path, names: Iterator[str]) -> Path:
    path.write_text("".join(f"{name}\n" for name in names))
    return path


def our_config(folder: Path, store: str, dns: int, https: int) -> str:
    file = folder / f"{store}.toml"
    file.write_text(
        f'[policy]\nlisten = "127.0.0.1:8461"\nworkers = 2\n'
        f'[dns]\nnameservers = ["127.0.0.1:{dns}"]\n'
        f'[network]\nhttps_port = {https}\nca_file = "{folder}/ca.pem"\n'
        f"allow_private_addresses = true\n"
        f'[store]\nurl = "sqlite:///{folder}/{store}.db"\n'
        f'[control]\nsocket = ""\n[log]\nlevel = "error"\n'
    )
    return str(file)


def memory(parent: int) -> list[dict[str, float]]:
    """RSS and PSS in MB of each child of a process."""
    found = []
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        lines = Path(f"/proc/{child}/smaps_rollup").read_text().splitlines()[1:]
        sizes = {line.split()[0]: int(line.split()[1]) for line in lines}
        found.append({"rss": sizes["Rss:"] / 1024, "pss": sizes["Pss:"] / 1024})
    return found


def held(folder: Path, dns: int, https: int) -> dict[str, object]:
    """A store of 100,000 policies: seconds to the first answer, memory after all were asked for."""
    body = "version: STSv1\r\nmode: enforce\r\nmx: mx.bench.example\r\nmax_age: 604800\r\n"
    now = time.time()
    store = open_store(f"sqlite:///{folder}/held.db")
    store.put(
        [
            Stored(f"d{n}.bench.example", "1", body, now, now + 604800, now + 86400, now)
            for n in range(HELD)
        ]
    )
    store.close()
    keys = write_keys(folder / "held.keys", (f"d{n}.bench.example" for n in range(HELD)))
    command = [str(SMTP_STS), "--config", our_config(folder, "held", dns, https), "serve"]
    with running(command, folder / "held.log") as pid:
        ready = await_reply(8461, "d1.bench.example")
        answers = load(8461, keys, 50, 1, 0)
        return {"ready": ready, "answers": answers, "workers": memory(pid)}


def version_seconds() -> float:
    times = []
    for _ in range(5):
        start = time.monotonic()
        subprocess.run([SMTP_STS, "--version"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.monotonic() - start)
    return statistics.median(times)


def measure(folder: Path, alone: bool, seconds: float) -> dict[str, object]:
    dns, https = (5353, 8443) if alone else (53, 443)
    ports = {"smtp-sts": 8461}
    if not alone:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        subprocess.run(["mount", "--bind", folder / "resolv.conf", "/etc/resolv.conf"], check=True)
        ports["reference"] = 8462
    (folder / "reference.yml").write_text(
        "host: 127.0.0.1\nport: 8462\ncache:\n  type: internal\n  options:\n"
        "    cache_size: 10000\ndefault_zone:\n  timeout: 4\n  tlsrpt: true\n"
    )
    rates: dict[str, dict[str, list[float]]] = {}
    warm = write_keys(folder / "warm", (f"d{n}.bench.example" for n in range(COLD)))
    silent = write_keys(folder / "silent", (f"s{n}.silent.example" for n in range(200)))
    with contextlib.ExitStack() as stack:
        size = str(COLD * (ROUNDS + 1))
        world = [sys.executable, str(HERE / "world.py"), str(dns), str(https), size, str(folder)]
        stack.enter_context(running(world, folder / "world.log"))
        for _ in range(200):
            if "ready" in (folder / "world.log").read_text():
                break
            time.sleep(0.05)
        ours = [str(SMTP_STS), "--config", our_config(folder, "main", dns, https), "serve"]
        daemons = stack.enter_context(contextlib.ExitStack())
        daemons.enter_context(running(ours, folder / "ours.log"))
        if not alone:
            command = [str(REFERENCE / "mta-sts-daemon"), "-c", str(folder / "reference.yml")]
            env = {"SSL_CERT_FILE": str(folder / "ca.pem")}
            daemons.enter_context(running(command, folder / "reference.log", env))
        for port in ports.values():
            await_reply(port, "d0.bench.example")
            load(port, warm, 50, 1, 0)
        for turn in range(ROUNDS):
            first = COLD * (turn + 1)
            names = (f"d{n}.bench.example" for n in range(first, first + COLD))
            cold = write_keys(folder / "cold", names)
            for name, port in ports.items():
                for what, (count, depth, _) in WARM.items():
                    rate = load(port, warm, count, depth, seconds)["rate"]
                    rates.setdefault(what, {}).setdefault(name, []).append(rate)
                rate = load(port, cold, 50, 1, 0)["rate"]
                rates.setdefault(COLD_NAME, {}).setdefault(name, []).append(rate)
        asker = subprocess.Popen(load_command(8461, silent, 200, 1, 0), stdout=subprocess.DEVNULL)
        time.sleep(0.2)
        beside = load(8461, warm, 32, 1, 3)
        asker.wait()
        daemons.close()
        full = held(folder, dns, https)
    medians = {w: {n: statistics.median(r) for n, r in by.items()} for w, by in rates.items()}
    return {
        "rates": medians,
        "ratios": {w: m["smtp-sts"] / m["reference"] for w, m in medians.items() if not alone},
        "p99_ms_beside_200_silent": beside["p99"] / 1000,
        "held_100000": full,
        "version_seconds": version_seconds(),
    }


def show(result: dict[str, object]) -> None:
    rates, ratios = result["rates"], result["ratios"]
    assert isinstance(rates, dict)
    assert isinstance(ratios, dict)
    goals = {**{what: goal for what, (_, _, goal) in WARM.items()}, COLD_NAME: COLD_GOAL}
    print(f"{'answers a second':30}{'smtp-sts':>12}{'reference':>12}{'ratio':>8}{'goal':>8}")
    for what, by in rates.items():
        other = f"{by['reference']:.0f}" if "reference" in by else "-"
        ratio = f"{ratios[what]:.1f}x" if what in ratios else "-"
        print(f"{what:30}{by['smtp-sts']:12.0f}{other:>12}{ratio:>8}{goals[what]:>7}x")
    if not ratios:
        print("No namespaces here (root needed): the reference was not measured.")
    for name in ("p99_ms_beside_200_silent", "held_100000", "version_seconds"):
        print(f"{name}: {json.dumps(result[name])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each warm measurement")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--alone", action="store_true", help="measure this daemon only")
    options = parser.parse_args()
    if not options.inside:
        install()
        around = None if options.alone else namespaces()
        extra = ["--inside"] if around else ["--inside", "--alone"]
        sys.exit(
            subprocess.run(
                [*(around or []), sys.executable, __file__, *sys.argv[1:], *extra], check=False
            ).returncode
        )
    with tempfile.TemporaryDirectory() as name:
        result = measure(Path(name), options.alone, options.seconds)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


if __name__ == "__main__":
    main()
