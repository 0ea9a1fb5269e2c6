"""The daemon as a process of its own, for a test that talks to it and watches it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

COMMAND = [sys.executable, "-P", "-m", "smtp_sts"]


@contextmanager
def daemon(
    config: Path, path: Path, environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*COMMAND, "--config", str(config), "serve"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        until = time.monotonic() + 10
        while time.monotonic() < until and process.poll() is None:
            with socket.socket(socket.AF_UNIX) as probe:
                # The first worker comes when all sockets are there.
                if probe.connect_ex(str(path)) == 0 and workers_of(process):
                    break
            time.sleep(0.02)
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=10)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def until(what: Callable[[], object], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def told(process: subprocess.Popen[str]) -> str:
    """End a daemon; what it has logged."""
    process.terminate()
    return process.communicate(timeout=10)[1]
