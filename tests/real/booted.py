"""A Debian machine that has booted its own systemd, for the tests of our units: systemd-nspawn.

Promises: what `booted` makes (the container, mounts, directories) is gone when it ends. Must not:
touch the systemd, or the network, of the machine it runs on.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from smtp_sts.lab.machine import CannotBuild, cache, directory, run, writable

SUITE: Final = "bookworm"
PACKAGES: Final = "systemd,systemd-sysv,dbus,python3-venv,ca-certificates,postfix"
TOOLS: Final = ("systemd-nspawn", "nsenter", "debootstrap")


def absent() -> list[str]:
    """The tools that are not installed here."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def root_file_system() -> Path:
    """A cached root with systemd, made where it is missing. Raises CannotBuild."""
    home = cache()
    home.mkdir(parents=True, exist_ok=True)
    final = home / f"rootfs-{SUITE}-systemd"
    with (home / "lock-systemd").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if final.exists():
            return final
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-systemd-", dir=home))
        unfinished.chmod(0o755)
        try:
            packages = f"--include={PACKAGES}"
            run("debootstrap", "--variant=minbase", packages, SUITE, unfinished, timeout=900)
            shutil.rmtree(unfinished / "var/cache/apt/archives", ignore_errors=True)
            unfinished.rename(final)
        except (RuntimeError, subprocess.SubprocessError, OSError) as error:
            raise CannotBuild(f"no root file system with systemd: {error}") from None
        finally:
            if unfinished.exists():
                for inner in ("proc", "sys"):
                    run("umount", "-R", "-l", unfinished / inner, check=False)
                shutil.rmtree(unfinished, ignore_errors=True)
    return final


class Booted:
    """A running container: `root` from the outside, commands on the inside."""

    def __init__(self, root: Path, leader: int) -> None:
        """`leader` is its process 1, as the machine outside counts."""
        self.root = root
        self._enter = ["nsenter", "-t", str(leader), "-m", "-u", "-i", "-n", "-p", "-r", "-w"]
        self._enter += ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"]

    def run(self, *command: str, check: bool = True, text: str = "") -> str:
        """Its output; RuntimeError where it fails."""
        return run(*self._enter, *command, check=check, text=text, timeout=120)

    def start(self, *command: str) -> subprocess.Popen[str]:
        """A process inside, with its output in a pipe."""
        return subprocess.Popen(
            [*self._enter, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def until(self, what: str, *command: str, seconds: float = 20.0) -> str:
        """Repeat a command until its output holds `what`."""
        end = time.monotonic() + seconds
        while what not in (said := self.run(*command, check=False)):
            if time.monotonic() > end:
                raise RuntimeError(f"{' '.join(command)} never said {what!r}:\n{said}")
            time.sleep(0.1)
        return said


@contextlib.contextmanager
def booted(lower: Path, bind: Path) -> Iterator[Booted]:
    """Boot a container over a root; `bind` is seen inside as /given, read-only."""
    with directory() as home, writable(lower, home) as root, (home / "console").open("w") as log:
        command = [
            "systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit",
            "--private-network", f"--machine=sts{home.name[-8:].replace('_', 'x')}",
            "--directory", str(root), f"--bind-ro={bind}:/given", "--console=pipe",
        ]  # fmt: skip
        nspawn = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            machine = Booted(root, _leader(nspawn, home / "console"))
            machine.until("running", "systemctl", "is-system-running", seconds=60)
            yield machine
        finally:
            nspawn.terminate()  # an orderly power-off
            try:
                nspawn.wait(20)
            except subprocess.TimeoutExpired:
                nspawn.kill()
                nspawn.wait()


def _leader(nspawn: subprocess.Popen[bytes], console: Path) -> int:
    children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children")
    end = time.monotonic() + 20
    while time.monotonic() < end and nspawn.poll() is None:
        for pid in children.read_text().split():
            if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                return int(pid)
        time.sleep(0.1)
    raise CannotBuild(f"no systemd boots here: {console.read_text(errors='replace')[-1000:]}")
