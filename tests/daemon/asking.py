"""Asks a daemon for domains whose answer is known, from a process of its own, and times it.

`python asking.py SOCKET SECONDS CONNECTIONS DOMAIN...` prints one line of JSON: how many were
asked, which answers were wrong, the 99th percentile and the longest wait (seconds), and, as the
machine's share of that, by how much the 99th percentile of short sleeps of ours was too long. Every
domain is asked for at least once; right is `expected`.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def expected(domain: str) -> str:
    """What is right for a kept enforce policy with one MX host, mx.DOMAIN."""
    return f"OK secure match=mx.{domain} servername=hostname"


@contextmanager
def asking(
    path: Path, domains: Sequence[str], seconds: float, connections: int = 4
) -> Iterator[dict[str, Any]]:
    """Asks while the block runs, and waits for its end; then the figures are there."""
    command = [sys.executable, __file__, str(path), str(seconds), str(connections), *domains]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = {}
    try:
        yield figures
        figures.update(json.loads(process.communicate(timeout=seconds + 60)[0]))
    finally:
        process.kill()
        process.communicate()


def prompt(figures: dict[str, Any]) -> bool:
    """Whether the answers came as law 6 wants them: 99 of 100 within 50 ms, and what this machine
    takes to wake anybody at all; none after 5 s."""
    return bool(figures["p99"] < 0.05 + figures["machine"] and figures["longest"] < 5)


def _ask(sock: socket.socket, domain: str) -> str:
    request = f"postfix {domain}".encode()
    sock.sendall(b"%d:%b," % (len(request), request))
    data = sock.recv(65536)
    while not data.endswith(b","):
        data += sock.recv(65536)
    return data.partition(b":")[2][:-1].decode()


def main() -> None:
    path, seconds, connections = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    domains = sys.argv[4:]
    waits: list[float] = []
    wrong: list[str] = []
    until = time.monotonic() + seconds

    def serve(mine: list[str]) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            once = False
            while not once or time.monotonic() < until:
                for domain in mine:
                    began = time.monotonic()
                    found = _ask(sock, domain)
                    waits.append(time.monotonic() - began)
                    if found != expected(domain):
                        wrong.append(f"{domain}: {found}")
                    if once and time.monotonic() > until:
                        break
                    time.sleep(0.002)
                once = True

    late: list[float] = []

    def sleep() -> None:
        while time.monotonic() < until:
            began = time.monotonic()
            time.sleep(0.002)
            late.append(time.monotonic() - began - 0.002)

    threads = [
        threading.Thread(target=serve, args=(domains[n::connections],)) for n in range(connections)
    ]
    threads.append(threading.Thread(target=sleep))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    waits.sort()
    p99 = waits[len(waits) * 99 // 100]
    machine = sorted(late)[len(late) * 99 // 100]
    figures = {
        "asked": len(waits), "wrong": wrong[:20], "p99": p99, "longest": waits[-1],
        "machine": machine,
    }  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
