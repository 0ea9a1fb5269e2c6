"""What the first draft costs: `[policy] dialects` with RFC 8461 alone, and with both, in one run.

Promises: rounds alternate between the two daemons, medians are printed, everything started is
ended. Needs what `run.py` needs: run.namespaces of its own, and `cc`.
Usage: dialects.py [--seconds N]
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
from collections.abc import Iterator
from pathlib import Path

import run  # type: ignore[import-not-found]  # beside this file

ROUNDS = 3
HERE = Path(__file__).resolve().parent


def names(first: int, below: str) -> Iterator[str]:
    return (f"d{n}.{below}" for n in range(first, first + run.COLD))


def measure(folder: Path, seconds: float) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    rates: dict[str, list[float]] = {}
    size = str(run.COLD * (ROUNDS + 1))
    world = [sys.executable, str(HERE / "world.py"), "5353", "8443", size, str(folder)]
    with run.running(world, folder / "world.log"):
        while "ready" not in (folder / "world.log").read_text():
            time.sleep(0.05)
        for turn in range(ROUNDS):
            for kind in ("rfc8461 alone", "both"):
                file = Path(run.our_config(folder, f"{kind[:4]}{turn}", 5353, 8443))
                if kind == "both":
                    text = file.read_text().replace(
                        "workers = 2", 'workers = 2\ndialects = ["rfc8461", "draft00"]'
                    )
                    file.write_text(text)
                with contextlib.ExitStack() as stack:
                    command = [str(run.SMTP_STS), "--config", str(file), "serve"]
                    stack.enter_context(run.running(command, folder / "daemon.log"))
                    run.await_reply(8461, "d0.bench")
                    for below in ("bench", "draft"):
                        if kind != "both" and below.startswith("draft"):
                            continue
                        keys = run.write_keys(folder / "keys", names(1, below))
                        cold = run.load(8461, keys, 50, 1, 0)["rate"]
                        rates.setdefault(f"{kind}, {below}, cold", []).append(cold)
                        warm = run.load(8461, keys, 32, 1, seconds)["rate"]
                        rates.setdefault(f"{kind}, {below}, cached", []).append(warm)
    for what, found in rates.items():
        print(f"{what:45}{statistics.median(found):10.0f}/s   {min(found):.0f} to {max(found):.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each warm measurement")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        run.install()
        around = run.namespaces()
        if around is None:
            sys.exit("no namespaces here: root is needed")
        os.execvp(around[0], [*around, sys.executable, __file__, *sys.argv[1:], "--inside"])
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options.seconds)


if __name__ == "__main__":
    main()
