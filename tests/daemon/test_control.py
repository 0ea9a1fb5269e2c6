"""The control socket of a running daemon, byte by byte, and that nobody else gets at it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from smtp_sts.config import ConfigError, UnixAddress, parse
from smtp_sts.lab.policyhost import Page
from smtp_sts.lab.world import World, policy_text
from smtp_sts.mta.client import ask

from .process import COMMAND, daemon, told, until, workers_of

HOST = "mta-sts.bob.example"
SECURE = "OK secure match=mx.bob.example servername=hostname"
DOMAIN = "bob.example"


async def say(path: Path, request: bytes, *, eof: bool = False) -> list[dict[str, Any]]:
    """What the control socket answers to these bytes."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(request)
    if eof:
        writer.write_eof()
    async with asyncio.timeout(15):
        answer = await reader.read()
    writer.close()
    return [json.loads(line) for line in answer.splitlines()]


async def command(path: Path, name: str, *domains: str, **more: object) -> list[dict[str, Any]]:
    request = json.dumps({"command": name, "domains": domains, **more}).encode() + b"\n"
    return await say(path, request)


BAD = [
    (b"\n", "one line of JSON"),
    (b"purge bob.example\n", "one line of JSON"),
    (b"[]\n", "one line of JSON"),
    (b'{"command": "list"}', "line end"),
    (b'{"command": 7}\n', "$.command"),
    (b'{"command": "list", "domain": "x"}\n', "domain"),
    (b'{"command": "purg"}\n', "did you mean 'purge'?"),
    (b'{"command": "\\u001b[2J"}\n', "unknown command '\\x1b[2J'"),
    (b'{"command": "show"}\n', "show takes one domain"),
    (b'{"command": "purge"}\n', "1 to 100 domains"),
    (b'{"command": "purge", "domains": ["a b"]}\n', "'a b' is no domain"),
    (json.dumps({"command": "purge", "domains": ["a.example"] * 101}).encode() + b"\n", "101"),
    (b'{"command": "list", "domains": ["' + b"x" * 70_000 + b'"]}\n', "at most 65536 bytes"),
    (b"\xff\xfe\n", "one line of JSON"),
]


def test_law_7_a_bad_request_gets_a_clear_error_and_the_daemon_goes_on() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish(DOMAIN)
            with daemon(world.config_toml(), world.socket_path) as process:
                for request, says in BAD:
                    answers = await say(world.control_path, request, eof=True)
                    assert len(answers) == 1, (request[:40], answers)
                    assert says in answers[0]["error"], (request[:40], answers)
                assert await command(world.control_path, "list") == [{"end": True}]
                assert process.poll() is None
                log = told(process)
            assert f"control-errors {len(BAD)}" in log, log
            assert "Traceback" not in log, log

    asyncio.run(play())


def test_a_client_that_sends_nothing_is_told_so_and_many_do_not_lock_out_the_mtas() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish(DOMAIN)
            with daemon(world.config_toml(policy={"workers": 1}), world.socket_path):
                path = str(world.control_path)
                idle = [await asyncio.open_unix_connection(path) for _ in range(16)]
                assert "16 others" in (await command(world.control_path, "list"))[0]["error"]
                address = UnixAddress(str(world.socket_path))
                assert await ask(address, "postfix", DOMAIN) == SECURE
                async with asyncio.timeout(8):
                    for reader, writer in idle:
                        assert b"no request within" in await reader.read()
                        writer.close()
                assert (await command(world.control_path, "list"))[-1] == {"end": True}

    asyncio.run(play())


def test_a_control_command_from_the_network_is_no_netstring_or_not_found() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def play() -> None:
        async with World() as world:
            await world.publish(DOMAIN)
            listen = [f"unix:{world.socket_path}", f"127.0.0.1:{port}"]
            with daemon(world.config_toml(policy={"listen": listen}), world.socket_path) as process:
                assert await ask(UnixAddress(str(world.socket_path)), "postfix", DOMAIN) == SECURE
                purge = b'{"command": "purge", "domains": ["bob.example"]}\n'
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(purge)
                assert await reader.read() == b""  # no netstring: the connection ends
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"%d:%b," % (len(purge), purge))
                async with asyncio.timeout(5):
                    assert await reader.readexactly(12) == b"9:NOTFOUND ,"
                writer.close()
                kept = await command(world.control_path, "list")
                assert kept[0]["data"]["stored"]["domain"] == DOMAIN
                assert tcp_ports(process.pid) == {port}

    asyncio.run(play())


def tcp_ports(pid: int) -> set[int]:
    """The ports on which a process and its children listen."""
    wanted = {str(pid), *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    found = {str(link.readlink()) for one in wanted for link in Path(f"/proc/{one}/fd").iterdir()}
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in found:  # LISTEN
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('socket = "127.0.0.1:8465"', "absolute path of a unix socket"),
        ('socket = "control.sock"', "absolute path of a unix socket"),
        (f'socket = "/{"x" * 107}"', "1 to 107 bytes"),
        ('mode = "0666"', "control.mode"),
        ('sockett = ""', 'did you mean "socket"?'),
    ],
)
def test_what_cannot_be_a_control_socket_is_refused(line: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(f"[control]\n{line}\n", "file")
    assert "file, line 2: " in str(refused.value)
    assert says in str(refused.value)


@pytest.mark.parametrize("mode", ["0600", "0660"])
def test_the_control_socket_has_its_mode_and_owner_and_goes_with_the_daemon(mode: str) -> None:
    async def play() -> None:
        async with World() as world:
            control = {"mode": mode, **({"group": "daemon"} if os.getuid() == 0 else {})}
            with daemon(world.config_toml(control=control), world.socket_path) as process:
                found = world.control_path.stat()
                assert stat.S_IMODE(found.st_mode) == int(mode, 8)
                if os.getuid() == 0:
                    import grp

                    assert found.st_gid == grp.getgrnam("daemon").gr_gid
                told(process)
            assert not world.control_path.exists()

    asyncio.run(play())


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_a_control_socket_that_systemd_hands_over_is_taken_unless_it_is_a_port(
    family: socket.AddressFamily,
) -> None:
    async def play() -> None:
        async with World() as world, asyncio.timeout(20):
            config = world.config_toml(control={"socket": ""})
            handed = world.home / "handed.sock"
            with socket.socket(family) as listener:
                listener.bind(str(handed) if family == socket.AF_UNIX else ("127.0.0.1", 0))
                listener.listen()
                words = f"exec 3<&{listener.fileno()}; export LISTEN_PID=$$ LISTEN_FDS=1"
                serve = " ".join([*COMMAND, "--config", str(config), "serve"])
                process = await asyncio.create_subprocess_exec(
                    "/bin/bash", "-c", f"{words} LISTEN_FDNAMES=control; exec {serve}",
                    pass_fds=[listener.fileno()], stderr=asyncio.subprocess.PIPE,
                )  # fmt: skip
                try:
                    if family == socket.AF_UNIX:
                        assert await command(handed, "list") == [{"end": True}]
                    else:
                        assert await process.wait() == 2
                finally:
                    if process.returncode is None:
                        process.terminate()
                    _, said = await process.communicate()
                assert (b"is no unix socket" in said) == (family == socket.AF_INET), said

    asyncio.run(play())


def test_two_daemons_do_not_take_the_control_socket_from_each_other() -> None:
    async def play() -> None:
        async with World() as world:
            first = world.config_toml()
            with daemon(first, world.socket_path):
                other = world.home / "other.sock"
                text = first.read_text().replace(str(world.socket_path), str(other))
                second = world.home / "second.toml"
                second.write_text(text)
                with daemon(second, other) as process:
                    log = told(process)
                assert "another process serves it" in log, log
                assert await command(world.control_path, "list") == [{"end": True}]

    asyncio.run(play())


def test_law_4_without_a_control_socket_the_daemon_serves_all_the_same() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish(DOMAIN)
            for path, says in (("", ""), (f"{world.home}/no/such/folder/c.sock", "control.socket")):
                config = world.config_toml(control={"socket": path})
                with daemon(config, world.socket_path) as process:
                    address = UnixAddress(str(world.socket_path))
                    assert await ask(address, "postfix", DOMAIN) == SECURE
                    log = told(process)
                assert ("no control socket" in log) == bool(says), log
                assert says in log, log

    asyncio.run(play())


def test_purge_is_taken_in_by_every_worker_and_those_of_before_a_reload() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish(DOMAIN)
            config = world.config_toml(policy={"workers": 2})
            with daemon(config, world.socket_path) as process:
                # Connections to all workers, which all have the reply ready.
                links = [
                    await asyncio.open_unix_connection(str(world.socket_path)) for _ in range(8)
                ]
                for _ in range(2):
                    assert {await over(link) for link in links} == {SECURE}
                process.send_signal(signal.SIGHUP)
                await asyncio.to_thread(until, lambda: len(workers_of(process)) > 2)
                new = [await asyncio.open_unix_connection(str(world.socket_path)) for _ in range(8)]
                for _ in range(2):
                    assert {await over(link) for link in new} == {SECURE}
                # The domain has withdrawn its policy, without the word of a policy host.
                world.names.spoil(f"_mta-sts.{DOMAIN}", "nxdomain")
                world.policy_hosts.pages[HOST] = Page(b"", status=404)
                assert {await over(link) for link in links + new} == {SECURE}  # law 1
                answers = await command(world.control_path, "purge", DOMAIN)
                assert answers[-1] == {"end": True}
                assert answers[0]["data"]["stored"]["domain"] == DOMAIN
                assert answers[0]["data"]["lasting"] is True
                assert answers[0]["data"]["deaf"] == 0
                assert {await over(link) for link in links + new} == {"NOTFOUND "}
                assert await command(world.control_path, "list") == [{"end": True}]
                log = told(process)
            assert f"{DOMAIN}: purge asked for by user {os.getuid()}" in log, log

    asyncio.run(play())


async def over(link: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> str:
    reader, writer = link
    writer.write(b"19:postfix bob.example,")
    async with asyncio.timeout(5):
        length = int((await reader.readuntil(b":"))[:-1])
        return (await reader.readexactly(length + 1))[:-1].decode()


def test_refresh_fetches_at_once_but_waits_after_a_failure_unless_it_is_forced() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish(DOMAIN)
            with daemon(world.config_toml(policy={"workers": 2}), world.socket_path):
                address = UnixAddress(str(world.socket_path))
                assert await ask(address, "postfix", DOMAIN) == SECURE

                async def refresh(**more: object) -> dict[str, Any]:
                    answers = await command(world.control_path, "refresh", DOMAIN, **more)
                    assert answers[1:] == [{"end": True}], answers
                    data: dict[str, Any] = answers[0]["data"]
                    return data

                # The id is the same: only an operator's word, or the daily refresh, fetches it.
                good = policy_text("enforce", ["mx2.bob.example"], 86400)
                world.policy_hosts.pages[HOST] = Page(good)
                done = await refresh()
                assert done["renewal"]["result"] == "fetched"
                assert done["decision"]["policy"]["mx"] == ["mx2.bob.example"]
                assert await ask(address, "postfix", DOMAIN) == SECURE.replace("mx.", "mx2.")

                world.policy_hosts.pages[HOST] = Page(b"", status=404)
                failed = await refresh()
                assert failed["renewal"]["result"] == "failed"
                assert failed["renewal"]["reason"] == "sts-policy-fetch-error"
                assert failed["decision"]["outcome"] == "enforce"  # law 1
                fetches = world.policy_hosts.fetches[HOST]
                world.policy_hosts.pages[HOST] = Page(good)
                waits = await refresh()
                assert waits["renewal"]["result"] == "waits"
                assert waits["renewal"]["retry_at"] == pytest.approx(failed["renewal"]["retry_at"])
                assert world.policy_hosts.fetches[HOST] == fetches  # RFC 8461 section 3.3
                assert (await refresh(force=True))["renewal"]["result"] == "fetched"
                assert world.policy_hosts.fetches[HOST] == fetches + 1

    asyncio.run(play())


def test_refresh_finds_a_policy_before_the_memory_of_its_absence_is_over() -> None:
    async def play() -> None:
        async with World() as world:
            await world.receive("new.example", "mx.new.example")
            with daemon(world.config_toml(), world.socket_path):
                address = UnixAddress(str(world.socket_path))
                assert await ask(address, "postfix", "new.example") == "NOTFOUND "
                await world.publish("new.example")
                assert await ask(address, "postfix", "new.example") == "NOTFOUND "
                (done, _) = await command(world.control_path, "refresh", "new.example")
                assert done["data"]["renewal"]["result"] == "fetched"
                assert (await ask(address, "postfix", "new.example")).startswith("OK secure")

    asyncio.run(play())


def test_show_knows_the_last_failure_and_the_replies() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish(DOMAIN)
            with daemon(world.config_toml(policy={"workers": 2}), world.socket_path):
                address = UnixAddress(str(world.socket_path))
                assert await command(world.control_path, "show", DOMAIN) == [{"end": True}]
                await ask(address, "postfix", DOMAIN)
                world.policy_hosts.pages[HOST] = Page(b"", status=404)
                await command(world.control_path, "refresh", DOMAIN)
                shown = (await command(world.control_path, "show", f"[{DOMAIN}]:25"))[0]["data"]
                assert shown["upkeep"]["failures"] == 1
                assert shown["upkeep"]["failure"] == "sts-policy-fetch-error"
                assert "404" in shown["upkeep"]["detail"]
                assert shown["decision"]["replies"]["postfix"] == SECURE
                assert shown["stored"]["expires_at"] > shown["stored"]["fetched_at"]
                (row, _) = await command(world.control_path, "list")
                assert row["data"]["upkeep"]["failures"] == 1

    asyncio.run(play())
