"""Where the daemon listens: by systemd, by its configuration, and where an address is taken."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from smtp_sts.config import Address, TcpAddress, UnixAddress
from smtp_sts.daemon.sockets import covers
from smtp_sts.lab.world import World
from smtp_sts.mta.client import ask

from .process import COMMAND, told, until

SECURE = "OK secure match=mx.bob.example servername=hostname"
HAND_OVER = """
import os, sys
count, names, *command = sys.argv[1:]
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=count, LISTEN_FDNAMES=names)
os.execv(command[0], command)
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def activated(config: Path, handed: Mapping[str, socket.socket]) -> Iterator[subprocess.Popen[str]]:
    """The daemon as systemd starts it; `handed` is FileDescriptorName= -> socket."""
    serve = [*COMMAND, "--config", str(config), "serve"]
    names = ":".join(handed)
    # Descriptors from 3 on, in order.
    moves = " ".join(f"{3 + n}<&{s.fileno()}" for n, s in enumerate(handed.values()))
    words = [sys.executable, "-P", "-c", HAND_OVER, str(len(handed)), names, *serve]
    process = subprocess.Popen(
        ["/bin/bash", "-c", f'exec "$@" {moves}', "bash", *words],
        pass_fds=[s.fileno() for s in handed.values()], stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=10)


def listening_at(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


async def line(path: Path, question: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(question)
    try:
        return await reader.read()
    finally:
        writer.close()


async def answers(address: Address, domain: str = "bob.example") -> str:
    """The reply, once somebody listens there."""
    async with asyncio.timeout(15):
        while True:
            try:
                return await ask(address, "postfix", domain)
            except Exception:  # noqa: BLE001 - it has not started
                await asyncio.sleep(0.05)


def test_what_systemd_does_not_hand_over_the_daemon_opens_itself() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            home, own, metrics = world.home, world.socket_path, free_port()
            config = world.config_toml(
                policy={
                    "listen": [f"unix:{home}/handed", f"unix:{own}"],
                    "listen_line": f"unix:{home}/line", "listen_http": f"unix:{home}/http",
                },
                metrics={"listen": f"127.0.0.1:{metrics}"},
            )  # fmt: skip
            with (
                listening_at(home / "handed") as handed,
                activated(config, {"socketmap": handed}) as process,
            ):
                assert await answers(UnixAddress(str(own))) == SECURE
                assert await ask(UnixAddress(f"{home}/handed"), "postfix", "bob.example") == SECURE
                assert await line(home / "line", b"bob.example\n") == b"enforce mx.bob.example\n"
                with socket.create_connection(("127.0.0.1", metrics), 5) as link:
                    link.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    assert link.recv(15) == b"HTTP/1.1 200 OK"
                # A reload keeps what systemd holds, and takes what the configuration has now.
                config.write_text(config.read_text().replace(f"{home}/line", f"{home}/other"))
                process.send_signal(signal.SIGHUP)
                until((home / "other").exists)
                assert await line(home / "other", b"bob.example\n") == b"enforce mx.bob.example\n"
                assert not (home / "line").exists()
                assert await ask(UnixAddress(f"{home}/handed"), "postfix", "bob.example") == SECURE
                log = told(process)
            assert f"unix:{home}/handed (systemd)" in log
            assert not (home / "other").exists()  # ours is gone with us
            assert (home / "handed").exists()  # systemd's is not ours to remove

    asyncio.run(play())


def test_what_cannot_be_opened_is_said_and_tried_again_and_mtas_are_answered_meanwhile() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            port, taken = free_port(), socket.create_server(("127.0.0.1", 0))
            busy = taken.getsockname()[1]
            config = world.config_toml(
                policy={
                    "listen": [f"unix:{world.socket_path}", f"127.0.0.1:{busy}"],
                    "listen_http": f"127.0.0.1:{port}", "listen_line": f"unix:{world.home}/none/x",
                },
                metrics={"listen": f"127.0.0.1:{busy + 1 if busy < 65535 else busy - 1}"},
            )  # fmt: skip
            process = subprocess.Popen(
                [*COMMAND, "--config", str(config), "serve"], stderr=subprocess.PIPE, text=True
            )
            try:
                assert await answers(UnixAddress(str(world.socket_path))) == SECURE
                taken.close()
                (world.home / "none").mkdir()
                assert await answers(TcpAddress("127.0.0.1", busy)) == SECURE
                got = await line(world.home / "none" / "x", b"bob.example\n")
                assert got == b"enforce mx.bob.example\n"
            finally:
                log = await asyncio.to_thread(told, process)
            assert f"nobody is answered on 127.0.0.1:{busy} (socketmap): cannot listen" in log
            assert f"listening on 127.0.0.1:{busy} (socketmap) now" in log
            assert f"nobody is answered on unix:{world.home}/none/x (line)" in log

    asyncio.run(play())


def test_where_mtas_can_be_answered_nowhere_it_does_not_start() -> None:
    async def play() -> None:
        async with World() as world:
            with socket.create_server(("127.0.0.1", 0)) as taken:
                port = taken.getsockname()[1]
                config = world.config_toml(
                    policy={"listen": f"127.0.0.1:{port}"},
                    metrics={"listen": f"127.0.0.1:{free_port()}"},
                )
                done = subprocess.run(
                    [*COMMAND, "--config", str(config), "serve"],
                    capture_output=True, text=True, timeout=20,
                )  # fmt: skip
            assert done.returncode == 2
            assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr

    asyncio.run(play())


def test_what_systemd_speaks_otherwise_is_an_error_that_says_so() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            home = world.home
            config = world.config_toml(
                policy={"listen": f"unix:{world.socket_path}", "listen_line": f"unix:{home}/handed"}
            )
            with (
                listening_at(home / "handed") as handed,
                listening_at(home / "typo") as typo,
                activated(config, {"socketmap": handed, "tcp_table": typo}) as process,
            ):
                assert await answers(UnixAddress(str(world.socket_path))) == SECURE
                log = told(process)
            assert f"systemd hands over unix:{home}/handed for socketmap, and the" in log
            assert "FileDescriptorName=tcp_table of" in log
            assert "is no protocol" in log

    asyncio.run(play())


@pytest.mark.parametrize(
    ("bound", "wanted", "covered"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", False),
        ("::", "127.0.0.1", True),
        ("::", "::1", True),
        ("::1", "127.0.0.1", False),
        ("0.0.0.0", "::1", False),
    ],
)
def test_what_a_socket_covers(bound: str, wanted: str, covered: bool) -> None:
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with ExitStack() as stack:
        sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            sock.bind((bound, 0))
        except OSError:
            pytest.skip(f"{bound} cannot be bound here")
        port = sock.getsockname()[1]
        assert covers(sock, TcpAddress(wanted, port)) is covered
        assert not covers(sock, TcpAddress(wanted, port - 1))
        assert not covers(sock, UnixAddress("/run/x"))
