"""How many TLS results are lost on their way into a collector: ours, tlsrpt-collectd, and a loop in
C that does nothing else.

    .venv/bin/python bench/datagrams.py [--seconds N] [--rounds N] [--subject NAME] [--json]

One run measures all of them in turn, each with a queue of its own length (net.unix.max_dgram_qlen,
in a network namespace of its own; root needed), while the sender in C keeps its pace without
waiting, as libtlsrpt does; then how fast each takes what a sender that waits gives it.
tlsrpt-collectd is installed into bench/out, pinned in reference-tlsrpt.txt. Where `chrt` is
allowed, all measured processes run before others of the machine (SCHED_FIFO), so that its other
work counts less.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from reports import datagram  # type: ignore[import-not-found]  # beside this file
from smtp_sts.store.tallies import open_tallies

HERE = Path(__file__).parent
OUT = HERE / "out"
REFERENCE = OUT / "reference-tlsrpt" / "bin"
RATE = 10_000
#: Different datagrams that are sent in turn.
DIFFERENT = 1000


class Lost:
    """One run: what a sender gave and a subject got."""

    def __init__(self, sent: int, lost: int, seconds: float, counted: int) -> None:
        self.sent = sent
        self.lost = lost
        self.seconds = seconds
        self.counted = counted


def install() -> None:
    """Sender, bare loop, and tlsrpt-reporter in a venv of its own."""
    OUT.mkdir(exist_ok=True)
    for name in ("datagram_load", "datagram_sink"):
        subprocess.run(["cc", "-O2", "-o", OUT / name, HERE / f"{name}.c"], check=True)
    pins, mark = HERE / "reference-tlsrpt.txt", OUT / "reference-tlsrpt" / "installed"
    if not mark.exists() or mark.read_text() != pins.read_text():
        subprocess.run([sys.executable, "-P", "-m", "venv", OUT / "reference-tlsrpt"], check=True)
        pip = str(REFERENCE / "pip")
        subprocess.run([pip, "install", "-q", "-r", str(pins)], check=True)
        mark.write_text(pins.read_text())


def first() -> list[str]:
    """What makes a process run before others, where that is allowed."""
    command = ["chrt", "-f", "5"]
    with contextlib.suppress(FileNotFoundError):
        if not subprocess.run(
            [*command, "true"], check=False, stderr=subprocess.DEVNULL
        ).returncode:
            return command
    return []


def bare(folder: Path) -> tuple[list[str], Callable[[str], int]]:
    """The loop in C, and what it says at its end."""
    return [str(OUT / "datagram_sink"), str(folder / "tlsrpt.sock")], int


def ours(folder: Path) -> tuple[list[str], Callable[[str], int]]:
    """`smtp-sts serve`, and what is in its store."""
    config = folder / "c.toml"
    config.write_text(
        f'[policy]\nlisten = "unix:{folder}/policy.sock"\nworkers = 1\n'
        f'[dns]\nnameservers = ["127.0.0.1:9"]\n'
        f'[store]\nurl = "sqlite:///{folder}/s.db"\n[control]\nsocket = ""\n'
        f"[tls_reports]\nenabled = true\ndeliver = false\ncheck_testing = false\n"
        f'organization = "A"\ncontact = "tls@a.example"\nsocket = "{folder}/tlsrpt.sock"\n'
        f'[log]\nlevel = "warning"\n'
    )

    def counted(_said: str) -> int:
        tallies = open_tallies(f"sqlite:///{folder}/s.db")
        found = sum(total.successful + total.failed for total in tallies.totals().values())
        tallies.close()
        return found

    return [
        str(Path(sys.executable).parent / "smtp-sts"),
        "--config",
        str(config),
        "serve",
    ], counted


def reference(folder: Path) -> tuple[list[str], Callable[[str], int]]:
    """tlsrpt-collectd as it comes, and what is in its store."""
    options = {
        "storage": f"sqlite:///{folder}/collectd.sqlite", "socketname": folder / "tlsrpt.sock",
        "socketuser": "root", "socketgroup": "root", "socketmode": "0666",
        "pidfilename": "", "logfilename": folder / "collectd.log", "log_level": "warning",
        "dump_path_for_invalid_datagram": folder / "invalid",
    }  # fmt: skip

    def counted(_said: str) -> int:
        with contextlib.closing(sqlite3.connect(folder / "collectd.sqlite")) as store:
            query = "SELECT coalesce(sum(cntrtotal), 0) FROM finalresults"
            return int(store.execute(query).fetchone()[0])

    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return [str(REFERENCE / "tlsrpt-collectd"), *arguments], counted


SUBJECTS = {"bare loop in C": bare, "smtp-sts": ours, "tlsrpt-collectd": reference}


@contextlib.contextmanager
def receiving(command: list[str], folder: Path, queue: int) -> Iterator[Callable[[], str]]:
    """A subject that has made its socket; what is given ends it and tells what it printed."""
    script = 'echo "$0" > /proc/sys/net/unix/max_dgram_qlen && ip link set lo up && exec "$@"'
    outer = ["unshare", "-n", "sh", "-c", script, str(queue)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*outer, *first(), *command], stdout=subprocess.PIPE, stderr=log, text=True
        )

    def end() -> str:
        process.send_signal(signal.SIGTERM)
        return process.communicate(timeout=60)[0]

    try:
        limit = time.monotonic() + 20
        while not (folder / "tlsrpt.sock").exists():
            if process.poll() is not None or time.monotonic() > limit:
                raise SystemExit(f"{command[0]}: no socket\n{(folder / 'log').read_text()}")
            time.sleep(0.05)
        time.sleep(1.0)  # what a start still does
        yield end
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def once(name: str, queue: int, rate: int, seconds: float) -> Lost:
    """One subject, one queue, one pace (0: a sender that waits)."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        folder.chmod(0o755)
        made = folder / "datagrams"
        made.write_bytes(b"".join(datagram(n) + b"\n" for n in range(DIFFERENT)))
        command, counted = SUBJECTS[name](folder)
        with receiving(command, folder, queue) as end:
            sender = [str(OUT / "datagram_load"), str(folder / "tlsrpt.sock"), str(made)]
            said = subprocess.run(
                [*first(), *sender, str(rate), str(seconds)],
                check=True, capture_output=True, text=True,
            ).stdout  # fmt: skip
            time.sleep(2.0)  # what was received is written
            got = counted(end())
        sent, lost, took = said.split()
        return Lost(int(sent), int(lost), float(took), got)


def main() -> None:
    """Measure all, print what was seen."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0, help="of the run that is to be long")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--subject", action="append", choices=list(SUBJECTS))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if os.geteuid():
        raise SystemExit("root is needed, for net.unix.max_dgram_qlen")
    install()
    subjects = given.subject or list(SUBJECTS)
    runs = [
        (f"queue of 512, {RATE:,}/s for {given.seconds:g} s", 512, RATE, given.seconds, 1),
        (f"queue of 10, {RATE:,}/s for 10 s", 10, RATE, 10.0, given.rounds),
        ("queue of 10, 1,000/s for 10 s", 10, 1000, 10.0, given.rounds),
        ("queue of 512, a sender that waits, 5 s", 512, 0, 5.0, given.rounds),
        ("queue of 10, a sender that waits, 5 s", 10, 0, 5.0, given.rounds),
    ]
    found: dict[str, dict[str, dict[str, float]]] = {}
    for title, queue, rate, seconds, rounds in runs:
        seen: dict[str, list[Lost]] = {name: [] for name in subjects}
        for _ in range(rounds):  # in turn, so that the machine's other work meets all of them
            for name in subjects:
                seen[name].append(once(name, queue, rate, seconds))
        found[title] = {name: _figures(lost, rate) for name, lost in seen.items()}
        if not given.json:
            print(title)
            for name, figures in found[title].items():
                print(f"  {name:18}" + ", ".join(f"{k} {v:,.10g}" for k, v in figures.items()))
    if given.json:
        print(json.dumps(found, indent=2))


def _figures(seen: list[Lost], rate: int) -> dict[str, float]:
    missing = [one.sent - one.lost - one.counted for one in seen]
    figures: dict[str, float] = {"missing after receipt": sum(missing)}
    if rate:
        shares = [100 * one.lost / one.sent for one in seen]
        figures["lost %"] = round(statistics.median(shares), 3)
        figures["least %"], figures["most %"] = round(min(shares), 3), round(max(shares), 3)
    else:
        figures["a second"] = round(statistics.median(one.sent / one.seconds for one in seen))
    return figures


if __name__ == "__main__":
    main()
