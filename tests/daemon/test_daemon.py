"""The daemon as an operator runs it: real processes, real sockets, signals, and `kill -9`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
import zlib
from pathlib import Path

import pytest

from smtp_sts.config import EXAMPLE, Config, ConfigError, UnixAddress, parse
from smtp_sts.lab.policyhost import Page
from smtp_sts.lab.world import World
from smtp_sts.mta.client import ask
from smtp_sts.store import open_store

from .process import COMMAND, daemon, until, workers_of

HOST = "mta-sts.bob.example"
SECURE = "OK secure match=mx.bob.example servername=hostname"


def test_policies_survive_kill_9_and_an_attack_after_it() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            config = world.config_toml(policy={"workers": 2, "listen": f"unix:{world.socket_path}"})
            address = UnixAddress(str(world.socket_path))
            with daemon(config, world.socket_path) as process:
                assert await ask(address, "postfix", "bob.example") == SECURE
                pids = [*workers_of(process), process.pid]
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
                process.wait(5)
            world.names.spoil("_mta-sts.bob.example", "nxdomain")
            world.policy_hosts.pages[HOST] = Page(b"", status=404)
            with daemon(config, world.socket_path):
                assert await ask(address, "postfix", "bob.example") == SECURE

    asyncio.run(play())


def test_one_fetch_however_many_workers_are_asked() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            config = world.config_toml(policy={"workers": 4, "listen": f"unix:{world.socket_path}"})
            address = UnixAddress(str(world.socket_path))
            with daemon(config, world.socket_path):
                got = await asyncio.gather(
                    *(ask(address, "postfix", "bob.example") for _ in range(40))
                )
            assert set(got) == {SECURE}
            assert world.policy_hosts.fetches[HOST] == 1

    asyncio.run(play())


def test_law_6_and_7_a_dead_worker_is_replaced() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            config = world.config_toml(policy={"workers": 2, "listen": f"unix:{world.socket_path}"})
            with daemon(config, world.socket_path) as process:
                until(lambda: len(workers_of(process)) == 2)
                first = workers_of(process)
                os.kill(first[0], signal.SIGKILL)
                until(lambda: len(set(workers_of(process)) - {first[0]}) == 2)
                second = set(workers_of(process))
                os.kill(first[1], signal.SIGKILL)  # now only the new one is there to answer
                until(lambda: first[1] not in workers_of(process))
                address = UnixAddress(str(world.socket_path))
                assert await ask(address, "postfix", "bob.example") == SECURE
                assert second - {first[1]} <= set(workers_of(process))

    asyncio.run(play())


def test_the_workers_of_a_supervisor_that_was_killed_end() -> None:
    async def play() -> None:
        async with World() as world:
            config = world.config_toml(policy={"workers": 2, "listen": f"unix:{world.socket_path}"})
            with daemon(config, world.socket_path) as process:
                until(lambda: len(workers_of(process)) == 2)
                pids = workers_of(process)
                process.kill()
                process.wait(5)
                until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids))

    asyncio.run(play())


def test_sighup_takes_a_good_configuration_and_refuses_a_bad_one() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            first, second = world.socket_path, world.home / "second.sock"
            config = world.config_toml(policy={"workers": 1, "listen": f"unix:{first}"})
            with daemon(config, first) as process:
                reader, writer = await asyncio.open_unix_connection(str(first))
                writer.write(b"19:postfix bob.example,")
                assert (await reader.readuntil(b"hostname,")).decode().endswith(f"{SECURE},")
                world.config_toml(
                    policy={"workers": 2, "listen": [f"unix:{first}", f"unix:{second}"]}
                )
                process.send_signal(signal.SIGHUP)
                until(second.exists)
                assert await ask(UnixAddress(str(second)), "postfix", "bob.example") == SECURE
                # The connection of before goes on: Postfix takes a close for an error.
                writer.write(b"19:postfix bob.example,")
                assert (await reader.readuntil(b"hostname,")).decode().endswith(f"{SECURE},")
                writer.close()
                config.write_text("[polcy]\n")
                process.send_signal(signal.SIGHUP)
                await asyncio.sleep(0.3)
                assert await ask(UnixAddress(str(second)), "postfix", "bob.example") == SECURE
                process.terminate()
                began = time.monotonic()
                _, log = process.communicate(timeout=10)
                assert time.monotonic() - began < 3
                assert process.returncode == 0
                assert "did you mean" in log
                assert not first.exists()
                assert not second.exists()

    asyncio.run(play())


def test_socket_activation_and_readiness() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            config = world.config_toml()
            handed, told = world.home / "handed.sock", world.home / "notify.sock"
            with (
                socket.socket(socket.AF_UNIX) as listener,
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices,
            ):
                listener.bind(str(handed))
                listener.listen()
                notices.bind(str(told))
                notices.settimeout(10)
                script = f"exec 3<&{listener.fileno()}; export LISTEN_PID=$$ LISTEN_FDS=1; exec"
                command = " ".join([script, *COMMAND, "--config", str(config), "serve"])
                process = subprocess.Popen(
                    ["/bin/bash", "-c", command],
                    pass_fds=[listener.fileno()],
                    env={**os.environ, "NOTIFY_SOCKET": str(told)},
                )
                try:
                    assert await asyncio.to_thread(notices.recv, 100) == b"READY=1"
                    address = UnixAddress(str(handed))
                    assert await ask(address, "postfix", "bob.example") == SECURE
                finally:
                    process.terminate()
                    assert process.wait(10) == 0

    asyncio.run(play())


def test_the_mode_of_a_unix_socket() -> None:
    async def play() -> None:
        async with World() as world:
            path = world.socket_path
            config = world.config_toml(policy={"listen": f"unix:{path}", "socket_mode": "0620"})
            with daemon(config, path):
                assert path.stat().st_mode & 0o777 == 0o620

    asyncio.run(play())


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=30)


def test_query_explains_itself_and_asks_a_server() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example", mx=["*.bob.example"], id="7")
            config = str(world.config_toml())
            told = await asyncio.to_thread(
                run, "--config", config, "query", "bob.example", "--json"
            )
            assert told.returncode == 0, told.stderr
            data = json.loads(told.stdout)
            assert data["outcome"] == "enforce"
            assert data["policy"] == {
                "version": "STSv1",
                "mode": "enforce",
                "mx": ["*.bob.example"],
                "max_age": 86400,
                "id": "7",
                "dialect": "rfc8461",
            }
            assert data["replies"]["postfix"] == "OK secure match=.bob.example servername=hostname"
            with daemon(Path(config), world.socket_path):
                server = f"unix:{world.socket_path}"
                for source in ("network", "cache"):
                    told = await asyncio.to_thread(
                        run, "query", "bob.example", "--json", "--server", server
                    )
                    assert json.loads(told.stdout)["from"] == source
            plain = await asyncio.to_thread(run, "--config", config, "query", "bob.example")
            assert "\x1b" not in plain.stdout
            assert "issued by" in plain.stdout
            world.policy_hosts.pages[HOST] = Page(b"", certificate="expired")
            bad = await asyncio.to_thread(run, "--config", config, "query", "bob.example")
            assert bad.returncode == 1
            assert "has expired" in bad.stdout

    asyncio.run(play())


def test_query_of_garbage_and_of_nobody(tmp_path: Path) -> None:
    assert run("query", "a}b").returncode == 2
    nobody = run("query", "bob.example", "--server", f"unix:{tmp_path}/nobody")
    assert nobody.returncode == 3
    assert "cannot be reached" in nobody.stderr


def test_the_example_holds_the_defaults() -> None:
    assert parse(EXAMPLE) == Config()
    assert run("config", "example").stdout == EXAMPLE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[polcy]\n", ["line 1", 'did you mean "policy"']),
        ("[policy]\n\nworker = 1\n", ["line 3", 'did you mean "workers"']),
        ('[policy]\nworkers = "2"\n', ["line 2", "policy.workers", "int"]),
        ("[policy]\nanswer_timeout = 9\n", ["line 2", "policy.answer_timeout"]),
        ('[policy]\nlisten = "nonsense"\n', ["line 2", "host:port"]),
        ('[policy]\nsocket_mode = "rw"\n', ["line 2", "octal"]),
        ('[policy]\nsocket_group = "no-such"\n', ["socket_group", "no-such"]),
        ('[policy]\ndialects = ["rfc8641"]\n', ["line 2", "rfc8641", "did you mean 'rfc8461'"]),
        ("[policy]\ndialects = []\n", ["line 2", "policy.dialects", "at least one"]),
        ('[dns]\nnameservers = ["dns.example"]\n', ["line 2", "nameservers"]),
        ('[network]\nca_file = "/no/such"\n', ["ca_file", "/no/such"]),
        ('[store]\nurl = "redis://x"\n', ["line 2", "sqlite:///"]),
        ("[policy\n", ["not valid TOML"]),
        ("\xff", ["not UTF-8"]),
    ],
)
def test_a_bad_configuration_names_place_and_remedy(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(text.encode("latin-1"))
    # What no answer depends on keeps no daemon from starting: test_starting.py.
    starts = any(word in text for word in ("ca_file", "socket_group"))
    for command in (["config", "check"],) if starts else (["config", "check"], ["serve"]):
        told = run("--config", str(path), *command)
        assert told.returncode == 2
        assert all(word in told.stderr for word in words), told.stderr
        assert "Traceback" not in told.stderr


def test_config_check_makes_no_store_for_who_makes_it_owns_it(tmp_path: Path) -> None:
    """Run by root before the first start, it would leave a file that the daemon cannot write to."""
    path, store = tmp_path / "c.toml", tmp_path / "s.db"
    path.write_text(f'[store]\nurl = "sqlite:///{store}"\n[overrides]\n"a.example" = {{}}\n')
    told = run("--config", str(path), "config", "check")
    assert told.returncode == 0, told.stderr
    assert f"{store}, not there yet: the daemon makes it" in told.stdout
    assert "warning:       overrides: 'a.example' says nothing" in told.stdout
    assert list(tmp_path.iterdir()) == [path]
    open_store(f"sqlite:///{store}").close()
    assert f"{store}, 0 policies" in run("--config", str(path), "config", "check").stdout
    store.write_bytes(b"garbage" * 1000)
    told = run("--config", str(path), "config", "check")
    assert (told.returncode, "not a database" in told.stderr) == (2, True), told


def test_a_configuration_error_is_a_value_error() -> None:
    with pytest.raises(ConfigError):
        parse("x = 1")


def test_an_address_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        path = tmp_path / "c.toml"
        path.write_text(
            f'[policy]\nlisten = "127.0.0.1:{port}"\n[store]\nurl = "sqlite:///{tmp_path}/s.db"\n'
        )
        told = run("--config", str(path), "serve")
        assert told.returncode == 2
        assert f"cannot listen on 127.0.0.1:{port}" in told.stderr


def test_law_1_a_worker_that_hangs_does_not_let_mail_out_unprotected() -> None:
    """Its domains are decided by the one that is asked, from the store."""

    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            config = world.config_toml(policy={"workers": 2, "recheck_interval": 1})
            address = UnixAddress(str(world.socket_path))
            with daemon(config, world.socket_path) as process:
                assert await ask(address, "postfix", "bob.example") == SECURE
                # Whichever of the two owns the domain: one of them hangs, then the other.
                for pid in workers_of(process):
                    os.kill(pid, signal.SIGSTOP)
                    try:
                        for port in (pid, pid + 1):
                            began = time.monotonic()
                            reply = await _ask_the_living(address, f"bob.example:{port}")
                            assert reply == SECURE
                            assert time.monotonic() - began < 5  # law 6
                    finally:
                        os.kill(pid, signal.SIGCONT)

    asyncio.run(play())


def test_law_1_who_stands_in_and_whom_it_stands_in_for_know_what_the_other_has_found() -> None:
    async def play() -> None:
        async with World() as world:
            address = UnixAddress(str(world.socket_path))

            async def publish(number: int) -> str:
                mx = f"mx{number}.bob.example"
                await world.publish("bob.example", id=str(number), mx=[mx])
                return SECURE.replace("mx.bob.example", mx)

            def block() -> None:
                world.names.spoil("_mta-sts.bob.example", "nxdomain")
                world.policy_hosts.pages[HOST] = Page(b"", status=404)

            async def until_told(wanted: str) -> None:
                end = time.monotonic() + 12
                while (got := await _ask_the_living(address, "bob.example")) != wanted:
                    assert time.monotonic() < end, got
                    await asyncio.sleep(0.2)

            first = await publish(1)
            config = world.config_toml(policy={"workers": 2, "recheck_interval": 1})
            with daemon(config, world.socket_path) as process:
                until(lambda: len(workers_of(process)) == 2)
                owner = workers_of(process)[zlib.crc32(b"bob.example") % 2]
                assert await ask(address, "postfix", "bob.example") == first
                os.kill(owner, signal.SIGSTOP)
                try:
                    second = await publish(2)
                    await until_told(second)
                    block()
                finally:
                    os.kill(owner, signal.SIGCONT)
                await asyncio.sleep(2)
                for port in range(10):  # whichever worker takes it
                    assert await ask(address, "postfix", f"bob.example:{port + 1}") == second
                world.names.mend("_mta-sts.bob.example")
                third = await publish(3)
                await until_told(third)
                block()
                os.kill(owner, signal.SIGSTOP)
                try:
                    for port in range(4):
                        assert await _ask_the_living(address, f"bob.example:{port + 50}") == third
                finally:
                    os.kill(owner, signal.SIGCONT)

    asyncio.run(play())


async def _ask_the_living(address: UnixAddress, key: str) -> str:
    """A connection that the stopped worker would have to take waits; another one does not."""
    asked = [asyncio.create_task(ask(address, "postfix", key)) for _ in range(3)]
    try:
        done, _ = await asyncio.wait(asked, timeout=8, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
