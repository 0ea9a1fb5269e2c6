"""Law 4: what may be wrong with configuration and machine while MTAs are answered; and reload."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from smtp_sts.config import ConfigError, UnixAddress
from smtp_sts.daemon import starting
from smtp_sts.daemon.reloading import ReloadError
from smtp_sts.daemon.reloading import ask as ask_to_reload
from smtp_sts.lab.world import World
from smtp_sts.mta.client import ask

from .process import COMMAND, daemon, told, until, workers_of

SECURE = "OK secure match=mx.bob.example servername=hostname"
REPORTS: Mapping[str, object] = {
    "enabled": True, "organization": "alice", "contact": "tls@alice.example", "dkim_selector": "s",
}  # fmt: skip

Sections = dict[str, Mapping[str, object]]
#: what is wrong -> the sections that it is in, and what the log says of it
FAULTS: dict[str, tuple[Sections, str]] = {
    "no key": ({"tls_reports": {**REPORTS, "dkim_key": "{home}/absent"}}, "dkim_key"),
    "a key that is none": ({"tls_reports": {**REPORTS, "dkim_key": "{home}/junk"}}, "dkim_key"),
    "a key without its selector": (
        {"tls_reports": {**REPORTS, "dkim_selector": "", "dkim_key": "{home}/junk"}}, "selector",
    ),
    "no contact": ({"tls_reports": {**REPORTS, "contact": "", "dkim_selector": ""}}, "contact"),
    "a transport that is none": ({"tls_reports": {**REPORTS, "mail": "uucp:bob"}}, "uucp:bob"),
    "no program for mail": ({"tls_reports": {**REPORTS, "mail": "sendmail:/none"}}, "/none"),
    "a log that is none": ({"tls_reports": {**REPORTS, "log": "mail.log"}}, "is no log"),
    "a log that is a folder": (
        {"tls_reports": {**REPORTS, "dkim_selector": "", "log": "postfix:{home}"}}, "directory",
    ),
    "a socket in no place": (
        {"tls_reports": {**REPORTS, "dkim_selector": "", "socket": "{home}/junk/s"}}, "TLS results",
    ),
    "a socket that is no path": ({"tls_reports": {**REPORTS, "socket": "s"}}, "absolute path"),
    "nobody to own the socket": (
        {"tls_reports": {**REPORTS, "socket": "{home}/s", "socket_owner": "nobody-here"}}, "user",
    ),
    "a key word that is none": ({"tls_reports": {**REPORTS, "spraed": 1}}, "spread"),
    "metrics nowhere": ({"metrics": {"listen": "nowhere"}}, "metrics.listen"),
    "a control socket that is no path": ({"control": {"socket": "here"}}, "control.socket"),
    "a log level that is none": ({"log": {"level": "loud"}}, "log.level"),
    "CAs that are none": ({"network": {"ca_file": "{home}/junk"}}, "network.ca_file"),
    "a store that no library reads": (
        {"store": {"url": "postgresql://a@b:port/sts"}}, "store.url",
    ),
}  # fmt: skip


def written(sections: Sections, home: Path) -> Sections:
    return {
        name: {
            key: value.replace("{home}", str(home)) if isinstance(value, str) else value
            for key, value in section.items()
        }
        for name, section in sections.items()
    }


@pytest.mark.parametrize("fault", FAULTS)
def test_law_4_no_fault_of_reports_metrics_or_machine_keeps_mtas_without_answers(
    fault: str,
) -> None:
    sections, said = FAULTS[fault]

    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            (world.home / "junk").write_text("not a key")
            config = world.config_toml(**written(sections, world.home))
            with daemon(config, world.socket_path) as process:
                reply = await ask(UnixAddress(str(world.socket_path)), "postfix", "bob.example")
                # Where no CA is believed no policy can be had: unknown domains are let through.
                unknown = "NOTFOUND " if "CAs" in fault else SECURE
                assert reply == unknown
                if "folder" in fault:
                    await asyncio.sleep(0.5)
                log = told(process)
            assert said in log, log
            assert "Traceback" not in log
            done = subprocess.run(
                [*COMMAND, "--config", str(config), "config", "check"],
                capture_output=True, text=True, timeout=20,
            )  # fmt: skip
            if fault not in ("a log that is a folder", "a socket in no place"):
                assert done.returncode == 2, done.stdout
                assert said in done.stderr

    asyncio.run(play())


def test_kept_policies_are_enforced_where_no_ca_can_be_read() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            address = UnixAddress(str(world.socket_path))
            with daemon(world.config_toml(), world.socket_path):
                assert await ask(address, "postfix", "bob.example") == SECURE
            world.ca_file.write_text("gone")
            with daemon(world.config_toml(), world.socket_path):
                assert await ask(address, "postfix", "bob.example") == SECURE

    asyncio.run(play())


@pytest.mark.parametrize(
    "text",
    ["[policy]\nlisten = 7\n", "[overrides]\n'a..b' = { off = true }\n", "no TOML", "[pol]\n"],
)
def test_what_no_answer_can_be_given_without_is_refused(tmp_path: Path, text: str) -> None:
    config = tmp_path / "smtp-sts.toml"
    config.write_text(text)
    with pytest.raises(ConfigError):
        starting.to_start(str(config))


def reload(config: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "--config", str(config), "reload", *more],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_reload_says_what_came_of_it() -> None:
    async def play() -> None:
        async with World() as world:
            await world.publish("bob.example")
            address = UnixAddress(str(world.socket_path))
            config = world.config_toml(policy={"workers": 1})
            with daemon(config, world.socket_path) as process:
                until(lambda: len(workers_of(process)) == 1)
                world.config_toml(policy={"workers": 2})
                done = reload(config)
                assert (done.returncode, done.stdout) == (0, "configuration taken\n"), done.stderr
                until(lambda: len(workers_of(process)) >= 2)
                good = config.read_text()
                for fault, said in (
                    ("[tls_reports]\nenabled = true\n", "tls_reports.organization"),
                    (f'[metrics]\nlisten = "unix:{world.home}/none/m"\n', "cannot listen on"),
                    ("[policy", "not valid TOML"),
                ):
                    config.write_text(good + fault)
                    done = reload(config, "--pid", str(process.pid))
                    assert done.returncode == 2, done.stdout
                    assert said in done.stderr
                    assert "going on with the one before" in done.stderr
                    assert await ask(address, "postfix", "bob.example") == SECURE
                config.write_text(good)
                assert reload(config).returncode == 0
                assert await ask(address, "postfix", "bob.example") == SECURE
            # Nobody to ask.
            done = reload(config)
            assert (done.returncode, "no daemon is found" in done.stderr) == (3, True)
            done = reload(config, "--pid", str(os.getpid()))
            assert (done.returncode, "cannot be asked" in done.stderr) == (3, True)

    asyncio.run(play())


def test_another_process_that_takes_the_name_is_not_believed() -> None:
    pid = os.getppid()
    with socket.socket(socket.AF_UNIX) as squatter:
        squatter.bind(f"\0smtp-sts-reload-{pid}")
        squatter.listen()
        with pytest.raises(ReloadError, match="another process answers"):
            ask_to_reload(pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_another_user_is_not_served() -> None:
    async def play() -> None:
        async with World() as world:
            config = world.config_toml()
            with daemon(config, world.socket_path) as process:
                until(lambda: workers_of(process))
                child = os.fork()
                if child == 0:
                    os.setuid(65534)
                    with socket.socket(socket.AF_UNIX) as sock:
                        sock.settimeout(10)
                        sock.connect(f"\0smtp-sts-reload-{process.pid}")
                        os._exit(len(sock.recv(100)))
                _, status = await asyncio.to_thread(os.waitpid, child, 0)
                assert status == 0  # the connection ended without a word
                await asyncio.sleep(0.3)
                assert "configuration taken" not in await asyncio.to_thread(told, process)

    asyncio.run(play())
