"""Somebody else on the daemon's port, run as a program in alice's namespace.

    python impostor.py PORT KIND [FILE]

Promises: `up` is printed once it listens; every connection is treated by KIND: `answer` writes the
bytes of FILE to each request and keeps the connection, `once` does so and closes, `close` and
`reset` end it without a word when a request has come, `hang` says nothing at all. Must not: be
imported for its server; tests use `impostor()`.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from smtp_sts.lab.machine import process

if TYPE_CHECKING:
    from .world import World

#: What is no answer of the daemon's in any protocol that an MTA asks it by.
NO_ANSWERS = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    b"220 mail.alice.example ESMTP\r\n",
    b"\xff\xfe\x80" * 64,
)


@contextlib.contextmanager
def away(world: World) -> Iterator[None]:
    """smtp-sts is down."""
    world.stop_daemon()
    try:
        yield
    finally:
        world.start_daemon()


@contextlib.contextmanager
def impostor(world: World, port: int, kind: str, answer: bytes = b"") -> Iterator[None]:
    """Stand on `port` of alice's while smtp-sts is away; `kind` "refused" is nobody."""
    if kind == "refused":
        yield
        return
    file = world.home / "impostor.answer"
    file.write_bytes(answer)
    log = world.home / "impostor.log"
    log.unlink(missing_ok=True)
    command = [sys.executable, __file__, str(port), kind, str(file)]
    with process(world.alice, command, log) as running:
        running.ready(lambda: "up" in log.read_text(), "the impostor")
        yield


def _serve(connection: socket.socket, kind: str, answer: bytes) -> None:
    with connection, contextlib.suppress(OSError):
        while connection.recv(65536):
            if kind == "hang":
                threading.Event().wait()
            if kind == "reset":
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            if kind in ("answer", "once"):
                connection.sendall(answer)
            if kind != "answer":
                return


def main() -> None:
    """Serve until ended."""
    port, kind, file = sys.argv[1:]
    answer = Path(file).read_bytes()
    with socket.create_server(("127.0.0.1", int(port))) as server:
        print("up", flush=True)
        while True:
            connection, _ = server.accept()
            what = (connection, kind, answer)
            threading.Thread(target=_serve, args=what, daemon=True).start()


if __name__ == "__main__":
    main()
