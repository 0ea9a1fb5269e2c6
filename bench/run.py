"""The benchmark: this daemon and postfix-mta-sts-resolver, same run, same DNS and policy host.

Beside them stands a server in C that knows one reply and nothing else (`responder.c`): what it
reaches is what this machine's kernel and the load generator leave for any daemon.

Promises: rounds alternate between all of them, medians are reported, everything started is ended.
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
ROUNDS = 5
COLD = 500
HELD = 100_000
# name: connections, requests in flight on each, the ratio to reach
WARM = {
    "1 connection": (1, 1, 4.0),
    "32 connections": (32, 1, 10.0),
    "128 connections": (128, 1, 11.0),
    "32 connections, 16 in flight": (32, 16, 18.0),
}
#: By a unix socket too, where nothing is to be reached: connections, requests in flight.
UNIX = {
    "1 connection, unix socket": (1, 1),
    "32 connections, unix socket": (32, 1),
    "128 connections, unix socket": (128, 1),
}
COLD_NAME, COLD_GOAL = "cold domains", 1.7
OURS, REFERENCE_NAME, UVLOOP = "smtp-sts", "reference", "reference, uvloop"
#: The server in C, by its number of processes.
BARE = {"C, 1 process": 1, "C, 2 processes": 2}
PORTS = {OURS: 8461, REFERENCE_NAME: 8462, UVLOOP: 8463, "C, 1 process": 8464,
         "C, 2 processes": 8465}  # fmt: skip


def install() -> None:
    """The load generator, the server in C, and the reference in a venv of its own."""
    OUT.mkdir(exist_ok=True)
    for source, program in (("socketmap_load.c", "load"), ("responder.c", "responder")):
        subprocess.run(["cc", "-O2", "-o", OUT / program, HERE / source], check=True)
    pins = HERE / "reference.txt"
    mark = OUT / "reference" / "installed"
    if not mark.exists() or mark.read_text() != pins.read_text():
        subprocess.run([sys.executable, "-P", "-m", "venv", OUT / "reference"], check=True)
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


def ask(port: int, key: str, profile: str = "postfix") -> bytes:
    """One reply, for one key."""
    request = f"{profile} {key}".encode()
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


def load_command(
    port: int, keys: Path, count: int, depth: int, seconds: float, host: str = "127.0.0.1"
) -> list[str]:
    profile = "postfix-tlsrpt" if port == PORTS[OURS] else "postfix"
    numbers = [str(count), str(depth), str(seconds)]
    return [str(OUT / "load"), host, str(port), profile, str(keys), *numbers]


def load(
    port: int, keys: Path, count: int, depth: int, seconds: float, host: str = "127.0.0.1"
) -> dict[str, float]:
    command = load_command(port, keys, count, depth, seconds, host)
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
        f'[policy]\nlisten = ["127.0.0.1:8461", "unix:{folder}/{OURS}"]\nworkers = 2\n'
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
        [Stored(f"d{n}.bench", "1", body, now, now + 604800, now + 86400, now) for n in range(HELD)]
    )
    store.close()
    keys = write_keys(folder / "held.keys", (f"d{n}.bench" for n in range(HELD)))
    command = [str(SMTP_STS), "--config", our_config(folder, "held", dns, https), "serve"]
    with running(command, folder / "held.log") as pid:
        ready = await_reply(8461, "d1.bench")
        answers = load(8461, keys, 50, 1, 0)
        return {"ready": ready, "answers": answers, "workers": memory(pid)}


def version_seconds() -> float:
    times = []
    for _ in range(5):
        start = time.monotonic()
        subprocess.run([SMTP_STS, "--version"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.monotonic() - start)
    return statistics.median(times)


def ready_network(folder: Path) -> None:
    """A loopback of our own, whose TCP is not what this machine happens to be set to."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # Not the machine's: some pace, which costs a timer for each reply. This one may always be set.
    Path("/proc/sys/net/ipv4/tcp_congestion_control").write_text("reno")
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    subprocess.run(["mount", "--bind", folder / "resolv.conf", "/etc/resolv.conf"], check=True)


def start_reference(folder: Path, daemons: contextlib.ExitStack) -> None:
    """Thrice: as pip installs it, with uvloop (its optional extra), and on a unix socket."""
    env = {"SSL_CERT_FILE": str(folder / "ca.pem")}
    tcp = "host: 127.0.0.1\nport: {port}\n"
    for name, options, where in (
        (REFERENCE_NAME, ["--disable-uvloop"], tcp),
        (UVLOOP, [], tcp),
        (f"{REFERENCE_NAME}-unix", ["--disable-uvloop"], f"path: {folder}/{REFERENCE_NAME}\n"),
    ):
        port = PORTS.get(name, 0)
        file = folder / f"{port}.yml"
        # Its defaults, but for the TLSRPT attributes.
        file.write_text(
            f"{where.format(port=port)}cache:\n  type: internal\n  options:\n"
            "    cache_size: 10000\ndefault_zone:\n  timeout: 4\n  tlsrpt: true\n"
        )
        command = [str(REFERENCE / "mta-sts-daemon"), *options, "-c", str(file)]
        daemons.enter_context(running(command, folder / f"{port}.log", env))


def measure(folder: Path, alone: bool, seconds: float) -> dict[str, object]:
    dns, https = (5353, 8443) if alone else (53, 443)
    names = [OURS] if alone else [OURS, REFERENCE_NAME, UVLOOP]
    if not alone:
        ready_network(folder)
    rates: dict[str, dict[str, list[float]]] = {}
    warm = write_keys(folder / "warm", (f"d{n}.bench" for n in range(COLD)))
    silent = write_keys(folder / "silent", (f"s{n}.silent" for n in range(200)))
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
            start_reference(folder, daemons)
        for name in names:
            await_reply(PORTS[name], "d0.bench")
        reply = ask(PORTS[OURS], "d0.bench", "postfix-tlsrpt").decode()
        for name, processes in BARE.items():
            command = [str(OUT / "responder"), str(PORTS[name]), str(processes), reply]
            daemons.enter_context(running(command, folder / "responder.log"))
            await_reply(PORTS[name], "d0.bench")
        for turn in range(ROUNDS):
            first = COLD * (turn + 1)
            new = (f"d{n}.bench" for n in range(first, first + COLD))
            cold = write_keys(folder / "cold", new)
            for what, (count, depth, _) in WARM.items():
                for name in [*names, *BARE]:
                    # Each time anew: the reference looks at a cached policy's record every minute.
                    load(PORTS[name], warm, 50, 1, 0)
                    rate = load(PORTS[name], warm, count, depth, seconds)["rate"]
                    rates.setdefault(what, {}).setdefault(name, []).append(rate)
            for what, (count, depth) in UNIX.items():
                for name in names[:2]:
                    path = str(folder / name)
                    load(PORTS[name], warm, 50, 1, 0, path)
                    rate = load(PORTS[name], warm, count, depth, seconds, path)["rate"]
                    rates.setdefault(what, {}).setdefault(name, []).append(rate)
            for name in names:
                rate = load(PORTS[name], cold, 50, 1, 0)["rate"]
                rates.setdefault(COLD_NAME, {}).setdefault(name, []).append(rate)
        asker = subprocess.Popen(load_command(8461, silent, 200, 1, 0), stdout=subprocess.DEVNULL)
        time.sleep(0.2)
        beside = load(8461, warm, 32, 1, 3)
        asker.wait()
        daemons.close()
        full = held(folder, dns, https)
    return {
        "rates": {w: {n: statistics.median(r) for n, r in by.items()} for w, by in rates.items()},
        "ratios": {w: ratios(by) for w, by in rates.items()},
        "p99_ms_beside_200_silent": beside["p99"] / 1000,
        "held_100000": full,
        "version_seconds": version_seconds(),
    }


def ratios(by: dict[str, list[float]]) -> dict[str, float]:
    """Of our rate to those of the reference, and to the better one of the server in C.

    Medians over the rounds: what is compared was measured within seconds.
    """
    others = {name: by[name] for name in (REFERENCE_NAME, UVLOOP) if name in by}
    if bare := [by[name] for name in BARE if name in by]:
        others["ceiling"] = [max(rates) for rates in zip(*bare, strict=True)]
    return {
        name: statistics.median(a / b for a, b in zip(by[OURS], rates, strict=True))
        for name, rates in others.items()
    }


def show(result: dict[str, object]) -> None:
    rates, ratios = result["rates"], result["ratios"]
    assert isinstance(rates, dict)
    assert isinstance(ratios, dict)
    goals = {**{what: goal for what, (_, _, goal) in WARM.items()}, COLD_NAME: COLD_GOAL}
    columns = [OURS, REFERENCE_NAME, UVLOOP, *BARE]
    print(f"{'answers a second':30}" + "".join(f"{name:>19}" for name in columns))
    for what, by in rates.items():
        cells = [f"{by[name]:.0f}" if name in by else "-" for name in columns]
        print(f"{what:30}" + "".join(f"{cell:>19}" for cell in cells))
    heads = ["to reference", "goal", "to uvloop form", "of ceiling in C"]
    print(f"\n{'ratio of smtp-sts':30}" + "".join(f"{head:>19}" for head in heads))
    for what, to in ratios.items():
        cells = [f"{to[n]:.1f}x" if n in to else "-" for n in (REFERENCE_NAME, UVLOOP)]
        share = f"{to['ceiling']:.0%}" if "ceiling" in to else "-"
        cells = [cells[0], f"{goals[what]:.1f}x" if what in goals else "-", cells[1], share]
        print(f"{what:30}" + "".join(f"{cell:>19}" for cell in cells))
    if REFERENCE_NAME not in rates[COLD_NAME]:
        print("No namespaces here (root needed): the reference was not measured.")
    print()
    for name in ("p99_ms_beside_200_silent", "held_100000", "version_seconds"):
        print(f"{name}: {json.dumps(result[name])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each warm measurement")
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
