"""Background refresh of 100,000 policies that are all due, as after a long stop, beside look-ups.

What is seen: how many are refreshed in a second, and the 99th percentile of cached answers
meanwhile (32 connections, one request in flight each, as fast as they can), beside that with
nothing due. One policy host in ten never says a word. Must not: leave loopback.
Usage: refresh.py [--seconds N]; as root, or where user namespaces are allowed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import run  # type: ignore[import-not-found]  # beside this file
from smtp_sts.store import Stored, open_store

DUE = 100_000
SILENT_EACH = 10
ASKED = 500
DAY = 86400.0


def fill(url: str, *, due: bool) -> None:
    body = "version: STSv1\r\nmode: enforce\r\nmx: mx.bench.example\r\nmax_age: 604800\r\n"
    now = time.time()
    refresh_at = now - DAY if due else now + DAY
    store = open_store(url)
    store.put(
        [
            Stored(
                f"d{n}.bench" if n % SILENT_EACH else f"d{n}.silent",
                "1", body, now - 2 * DAY, now + 5 * DAY, refresh_at + n / 1000, now,
            )
            for n in range(DUE)
        ]
    )  # fmt: skip
    store.close()


def refreshed(url: str, since: float) -> int:
    store = open_store(url)
    behind, found = "", 0
    while rows := store.page(behind, 5000):
        behind = rows[-1].domain
        found += sum(row.fetched_at > since for row in rows)
    store.close()
    return found


def measure(folder: Path, seconds: float) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    names = (f"d{n}.bench" for n in range(ASKED + 60) if n % SILENT_EACH)
    keys = run.write_keys(folder / "keys", names)
    with ExitStack() as stack:
        world = [sys.executable, str(run.HERE / "world.py"), "53", "443", str(DUE), str(folder)]
        stack.enter_context(run.running(world, folder / "world.log"))
        while "ready" not in (folder / "world.log").read_text():
            time.sleep(0.1)
        for name, due in (("nothing due", False), ("100,000 due", True)):
            store = "due" if due else "idle"
            url = f"sqlite:///{folder}/{store}.db"
            fill(url, due=due)
            command = [str(run.SMTP_STS), "--config", run.our_config(folder, store, 53, 443)]
            began = time.time()
            with run.running([*command, "serve"], folder / "ours.log"):
                run.await_reply(8461, "d1.bench")
                run.load(8461, keys, 50, 1, 0)
                time.sleep(1)
                idle_before, at = refreshed(url, began), time.time()
                time.sleep(seconds)
                idle = (refreshed(url, began) - idle_before) / (time.time() - at)
                before, at = refreshed(url, began), time.time()
                seen = run.load(8461, keys, 32, 1, seconds)
                rate = (refreshed(url, began) - before) / (time.time() - at)
            print(
                f"{name:12} p99 {seen['p99'] / 1000:6.2f} ms, {seen['rate']:8.0f} answers/s, "
                f"{idle:5.1f} refreshed/s before the load and {rate:5.1f} beside it",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        with tempfile.TemporaryDirectory() as name:
            measure(Path(name), options.seconds)
        return
    run.OUT.mkdir(exist_ok=True)
    source = run.HERE / "socketmap_load.c"
    subprocess.run(["cc", "-O2", "-o", run.OUT / "load", source], check=True)
    around = run.namespaces()
    if around is None:
        sys.exit("no namespaces can be made here: root is needed")
    command = [*around, sys.executable, __file__, "--inside", "--seconds", str(options.seconds)]
    sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
