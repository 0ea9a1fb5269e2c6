"""What a domain costs that nobody has asked for yet: CPU over all processes, and the rate.

    python -m bench.cold                         this daemon and the reference
    python -m bench.cold --other BIN/smtp-sts    and another build of this daemon, side by side

CPU counts where the rate is the machine's mood. Promises: rounds alternate; each daemon is asked
for the same names, each once; medians are printed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import run

#: Domains of a round, and rounds; the first one warms up and is not counted.
COLD, ROUNDS = 400, 6
OTHER, OTHER_PORT = "other", 8466


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its children, seconds."""
    total = 0.0
    with contextlib.suppress(FileNotFoundError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        total += sum(cpu_seconds(int(child)) for child in children)
    return total


def measure(folder: Path, other: str, *, alone: bool) -> dict[str, list[tuple[float, float]]]:
    """Name of a daemon -> for each round the CPU of a domain (seconds) and the rate a second."""
    dns, https = (5353, 8443) if alone else (53, 443)
    if not alone:
        run.ready_network(folder)
    found: dict[str, list[tuple[float, float]]] = {}
    with contextlib.ExitStack() as stack:
        size = str(COLD * (ROUNDS + 1))
        world = [sys.executable, str(run.HERE / "world.py"), str(dns), str(https), size]
        stack.enter_context(run.running([*world, str(folder)], folder / "world.log"))
        while "ready" not in (folder / "world.log").read_text():
            time.sleep(0.05)
        ours = [str(run.SMTP_STS), "--config", run.our_config(folder, "main", dns, https), "serve"]
        daemons = {run.OURS: (8461, stack.enter_context(run.running(ours, folder / "ours.log")))}
        if other:
            text = Path(run.our_config(folder, "other", dns, https)).read_text()
            file = folder / "other.toml"
            file.write_text(text.replace("8461", str(OTHER_PORT)).replace('/smtp-sts"', '/o"'))
            command = [other, "--config", str(file), "serve"]
            pid = stack.enter_context(run.running(command, folder / "other.log"))
            daemons[OTHER] = (OTHER_PORT, pid)
        if not alone:
            env = {"SSL_CERT_FILE": str(folder / "ca.pem")}
            config = folder / "reference.yml"
            config.write_text("host: 127.0.0.1\nport: 8462\ndefault_zone:\n  timeout: 4\n")
            command = [str(run.REFERENCE / "mta-sts-daemon"), "-c", str(config)]
            pid = stack.enter_context(run.running(command, folder / "reference.log", env))
            daemons[run.UVLOOP] = (8462, pid)
        for port, _ in daemons.values():
            run.await_reply(port, "d0.bench")
        for turn in range(ROUNDS):
            first = COLD * (turn + 1)
            names = (f"d{n}.bench" for n in range(first, first + COLD))
            keys = run.write_keys(folder / "cold", names)
            for name, (port, pid) in daemons.items():
                before = cpu_seconds(pid)
                rate = run.load(port, keys, 50, 1, 0)["rate"]
                time.sleep(0.3)  # what is done behind the answers counts
                cost = (cpu_seconds(pid) - before) / COLD
                if turn:
                    found.setdefault(name, []).append((cost, rate))
    return found


def main() -> None:
    """Measure, and print a line for each daemon."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", default="", help="another build's smtp-sts, beside this one")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--alone", action="store_true", help="without the reference")
    options = parser.parse_args()
    if not options.inside:
        run.install()
        around = None if options.alone else run.namespaces()
        extra = ["--inside"] if around else ["--inside", "--alone"]
        command = [*(around or []), sys.executable, "-m", "bench.cold", *sys.argv[1:], *extra]
        sys.exit(subprocess.run(command, check=False, cwd=run.HERE.parent).returncode)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.other, alone=options.alone)
    print(f"{'a domain nobody has asked for':32}{'CPU ms':>10}{'lowest':>10}{'a second':>12}")
    for name, rounds in found.items():
        costs = [1000 * cost for cost, _ in rounds]
        rate = statistics.median(rate for _, rate in rounds)
        print(f"{name:32}{statistics.median(costs):10.2f}{min(costs):10.2f}{rate:12.0f}")


if __name__ == "__main__":
    main()
