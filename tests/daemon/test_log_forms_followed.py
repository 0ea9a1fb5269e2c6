"""A log is followed in whatever form it has, and one that tells nothing is said to, once."""

from __future__ import annotations

import asyncio
import json
import time

from click.testing import CliRunner

from smtp_sts.cli import main
from smtp_sts.lab.world import World

from .process import daemon, told
from .test_tls_results import configured, counted, play, session, soon


def _lines(block: bytes) -> list[str]:
    return block.decode().splitlines()


def _docker(block: bytes) -> bytes:
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime())}.123456789Z"
    return b"".join(
        json.dumps({"log": line + "\n", "stream": "stdout", "time": stamp}).encode() + b"\n"
        for line in _lines(block)
    )


def _mailcow(block: bytes) -> bytes:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    return b"".join(f"{stamp} host postfix[8]: {line}\r\n".encode() for line in _lines(block))


def test_a_log_is_followed_in_whatever_form_and_in_several() -> None:
    async def scene(world: World) -> None:
        log = world.home / "mail.log"
        log.touch()
        config = configured(world, log=f"postfix:{log}")
        with daemon(config, world.socket_path) as process:
            await asyncio.sleep(2)  # what is there before it begins is not its business
            with log.open("ab") as out:
                out.write(_docker(session(time.time(), "Verified", "4XA")))
            await soon(lambda: counted(world) == (1, 0))
            with log.open("ab") as out:
                out.write(_mailcow(session(time.time(), "Verified", "4XB", 8)))
                out.write(session(time.time(), "Verified", "4XC", 9))
            await soon(lambda: counted(world) == (3, 0))
            assert "understood" not in told(process)
        config.write_text(config.read_text().replace("enabled = true", "enabled = false"))
        command = ["--config", str(config), "report"]
        again = CliRunner().invoke(main, [*command, "import-log", str(log)])
        assert "3 sessions of" in again.output  # by the name in its lines, "alice"
        assert counted(world) == (3, 0)

    play(scene)


def test_law_7_a_log_that_tells_nothing_is_said_to_do_so_once() -> None:
    async def scene(world: World) -> None:
        log, silent = world.home / "mail.log", world.home / "silent.log"
        log.touch()
        silent.touch()
        config = configured(world, log=[f"postfix:{log}", f"postfix:{silent}"])
        with daemon(config, world.socket_path) as process:
            await asyncio.sleep(2)
            with log.open("ab") as out:
                out.write(b"what is this\n" * 50)
            with silent.open("ab") as out:
                for number in range(50):
                    lines = session(time.time() + number, "Verified", f"4X{number}").splitlines()
                    out.write(lines[-1] + b"\n")
            await asyncio.sleep(3)
            said = told(process)
        assert said.count("of 50 lines 0 were understood, and 'what is this' was not") == 1
        assert said.count("set smtp_tls_loglevel = 1 in main.cf") == 1
        assert counted(world) == (0, 0)
        shown = CliRunner().invoke(main, ["--config", str(config), "report", "status"])
        assert "50 lines of logs could not be read for certain on" in shown.output

    play(scene)
