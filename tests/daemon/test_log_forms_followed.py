"""A log is followed in whatever form it has, and one that tells nothing is said to, once."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta, timezone

from click.testing import CliRunner

from smtp_sts.cli import main
from smtp_sts.lab.world import World
from smtp_sts.store.tallies import open_tallies

from .process import daemon, told
from .test_tls_results import configured, counted, play, session, soon, store_of


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


def _exim(at: float, hours: int, message: int) -> bytes:
    stamp = datetime.fromtimestamp(at, timezone(timedelta(hours=hours)))
    return (
        f"{stamp:%Y-%m-%d %H:%M:%S} 1xWlKK-00000000{message}YO-00EX => x@bob.example R=r T=t "
        'H=mx.bob.example [192.0.2.2] X=TLS1.3:A:256 CV=yes C="250"\n'
    ).encode()


def test_the_day_of_a_session_is_right_where_exim_logs_in_another_zone() -> None:
    """`timezone` of Exim; its log names none."""

    async def scene(world: World) -> None:
        log = world.home / "mainlog"
        now = time.time()
        # there it is another day by now
        hours = 13 if datetime.fromtimestamp(now, UTC).hour >= 12 else -12
        log.write_bytes(_exim(now, hours, 1))
        config = configured(world, log=f"exim:{log}")
        with daemon(config, world.socket_path) as process:
            await asyncio.sleep(2)
            with log.open("ab") as out:
                out.write(_exim(time.time(), hours, 2))
            await soon(lambda: counted(world) == (1, 0))
            told(process)
        with log.open("ab") as out:  # while the daemon is away
            out.write(_exim(time.time(), hours, 3))
        with daemon(config, world.socket_path):
            await soon(lambda: counted(world) == (2, 0))
        tallies = open_tallies(store_of(world))
        assert list(tallies.days()) == [int(now // 86400)]
        tallies.close()

    play(scene)
