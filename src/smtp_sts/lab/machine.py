"""What the machine lends to real mail servers: root file systems, mounts, namespaces, processes.

Promises: `missing()` says in one sentence why this machine cannot run them; root file systems are
made once by debootstrap and apt and only renamed into the cache when complete; whatever a context
manager here makes (mounts, namespaces, processes, directories) is gone when it ends, whatever
happened.
Must not: touch the network configuration of the machine itself, or write to a cached root.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Final

PACKAGES: Final = {
    "bookworm": "postfix,ca-certificates",
    "trixie": "postfix,ca-certificates,libtlsrpt0",
    "sid": "postfix,ca-certificates,libtlsrpt0",
}
#: What changes every day: of Postfix 3.11 and whatever comes after it.
NEWEST: Final = "sid"
#: The suites that other MTAs are taken from.
OTHER_SUITES: Final = ("bookworm", "trixie")
#: MTAs that take Postfix's place in a copy of such a root, and their packages.
OTHER_MTAS: Final = {
    "exim": ("exim4-daemon-light",),
    "sendmail": ("sendmail-bin", "sendmail-cf", "sensible-mda"),
}
#: Programs that are needed, and the Debian packages that have them.
TOOLS: Final = {
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "ss": "iproute2",
    "unbound": "unbound",
    "nsd": "nsd",
    "mount": "mount",
    "chroot": "coreutils",
    "unshare": "util-linux",
}


class MachineError(RuntimeError):
    """A command of the machine's has failed; the message says which, and what it said."""


class CannotBuild(MachineError):
    """A root file system is not cached and could not be made here."""


def run(*command: str | Path, check: bool = True, timeout: float = 60.0, text: str = "") -> str:
    """Run a command with `text` as its input; its output, or MachineError with what it said."""
    done = subprocess.run(
        command, check=False, input=text, capture_output=True, text=True, timeout=timeout
    )
    if check and done.returncode:
        words = " ".join(map(str, command))
        raise MachineError(f"{words}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def missing() -> str | None:
    """Why this machine cannot run real mail servers; None where it can."""
    if os.geteuid() != 0:
        return "real mail servers need root (namespaces, chroot, mounts)"
    if "/usr/sbin" not in os.environ["PATH"].split(":"):  # su without - leaves it out
        os.environ["PATH"] += ":/usr/sbin:/sbin"
    if not Path("/etc/debian_version").exists():
        return "real mail servers are taken from Debian, and this is no Debian machine"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        listed = dict.fromkeys(TOOLS[tool] for tool in absent)
        return f"not installed: {', '.join(absent)} (apt-get install {' '.join(listed)})"
    probe = f"sts{os.getpid()}probe"
    try:
        run("ip", "netns", "add", probe)
    except MachineError as error:
        return f"no network namespaces here: {error}"
    run("ip", "netns", "del", probe)
    return None


def cache() -> Path:
    """Where root file systems are kept between runs: $SMTP_STS_CACHE or /var/cache."""
    return Path(os.environ.get("SMTP_STS_CACHE") or "/var/cache/smtp-sts-tests")


def _debootstrap(suite: str, root: Path, output: IO[str]) -> None:
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES[suite]}", suite]
    _quietly([*command, root], output)


def _replace_mta(base: Path, mta: str, root: Path, output: IO[str]) -> None:
    """Copy a root and let apt put another MTA there; debootstrap cannot order Exim's packages."""
    _quietly(["cp", "-a", "--reflink=auto", f"{base}/.", root], output)
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    # Debian's way to say that nothing is started, for there is no init in a chroot that forbids it.
    forbid = root / "usr/sbin/policy-rc.d"
    forbid.write_text("#!/bin/sh\nexit 101\n")
    forbid.chmod(0o755)
    # Processes of its own: what a package's script stops or starts in spite of that is not ours.
    inside = ["unshare", "--pid", "--fork", "--kill-child", f"--root={root}", "--mount-proc"]
    _quietly([*inside, "apt-get", "update", "-qq"], output)
    install = ["apt-get", "install", "-qq", "--no-install-recommends", *OTHER_MTAS[mta]]
    _quietly([*inside, *install], output)
    forbid.unlink()
    shutil.rmtree(root / "var/lib/apt/lists")


def _quietly(command: Sequence[str | Path], output: IO[str]) -> None:
    subprocess.run(
        command,
        check=True,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        timeout=900,
    )


def _build(final: Path, make: Callable[[Path, IO[str]], None]) -> None:
    """Have `make` fill a directory, and give it its name when that is done."""
    name = final.name.removeprefix("rootfs-")
    unfinished = Path(tempfile.mkdtemp(prefix=f"unfinished-{name}-", dir=final.parent))
    log = final.parent / f"{name}.log"
    unfinished.chmod(0o755)
    try:
        with log.open("w") as output:
            make(unfinished, output)
        shutil.rmtree(unfinished / "var/cache/apt/archives", ignore_errors=True)
        unfinished.rename(final)
    except (subprocess.SubprocessError, OSError) as error:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
        raise CannotBuild(f"no root file system {final.name}: {error}\n{tail}") from None
    finally:
        if unfinished.exists():  # an interrupted debootstrap leaves /proc and /sys mounted in it
            for inner in ("proc", "sys"):
                run("umount", "-R", "-l", unfinished / inner, check=False)
            shutil.rmtree(unfinished, ignore_errors=True)


def root_file_systems(mta: str = "") -> dict[str, Path]:
    """Suite -> cached root file system with Postfix, or with another MTA (of `OTHER_MTAS`).

    Those that are missing are made, side by side. Raises CannotBuild where that fails (no network,
    no space); where it fails for sid alone, which changes every day, sid is left out.
    """
    home = cache()
    home.mkdir(parents=True, exist_ok=True)
    bases = {suite: home / f"rootfs-{suite}" for suite in (OTHER_SUITES if mta else PACKAGES)}
    roots = {suite: home / f"rootfs-{suite}-{mta}" for suite in bases} if mta else bases
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with ThreadPoolExecutor(max_workers=len(roots)) as builders:
            jobs = {
                suite: builders.submit(_build, base, partial(_debootstrap, suite))
                for suite, base in bases.items()
                if not base.exists() and not roots[suite].exists()
            }
            for suite, job in jobs.items():
                try:
                    job.result()
                except CannotBuild:
                    if suite != NEWEST:
                        raise
                    del roots[suite]
            others = [
                builders.submit(_build, root, partial(_replace_mta, bases[suite], mta))
                for suite, root in roots.items()
                if not root.exists()
            ]
            for job in others:
                job.result()
    return roots


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """A short-named temporary directory (unix socket paths below it must fit in 107 bytes)."""
    made = Path(tempfile.mkdtemp(prefix="sts-", dir="/tmp"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def writable(lower: Path, home: Path) -> Iterator[Path]:
    """A root that can be written to over a cached one: an overlay, or a copy where that fails."""
    root, upper = home / "root", home / "upper"
    root.mkdir()
    upper.mkdir()
    mounted: list[Path] = []
    try:
        # On a tmpfs of its own, for an overlay cannot stand on another overlay (containers).
        run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", upper)
        mounted.append(upper)
        (upper / "changes").mkdir()
        (upper / "work").mkdir()
        layers = f"lowerdir={lower},upperdir={upper}/changes,workdir={upper}/work"
        run("mount", "-t", "overlay", "overlay", "-o", layers, root)
        mounted.append(root)
    except MachineError:
        run("cp", "-a", "--reflink=auto", f"{lower}/.", root, timeout=300)
    try:
        yield root
    finally:
        for mount in reversed(mounted):
            run("umount", "-l", mount)


@contextlib.contextmanager
def namespace(name: str) -> Iterator[str]:
    """A network namespace; what still runs in it at the end is ended first."""
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        for signum in (signal.SIGTERM, signal.SIGKILL):
            pids = [int(pid) for pid in run("ip", "netns", "pids", name, check=False).split()]
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signum)
            if pids:
                time.sleep(0.2)
        run("ip", "netns", "del", name)


class Process:
    """A process in a network namespace, its output in a file."""

    def __init__(self, space: str, command: Sequence[str | Path], log: Path) -> None:
        """Start `command` in namespace `space`; both output streams are appended to `log`."""
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", space, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
            )

    def ready(self, condition: Callable[[], bool], what: str, timeout: float = 15.0) -> None:
        """Wait for `condition`; MachineError with the log where the process ends or is late."""
        deadline = time.monotonic() + timeout
        while not condition():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self.log.read_text(errors="replace")[-3000:]
                raise MachineError(f"{what} is not ready (exit {self._process.poll()}):\n{said}")
            time.sleep(0.05)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL where that has not ended it within 5 seconds."""
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL to it and its children, as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def process(space: str, command: Sequence[str | Path], log: Path) -> Iterator[Process]:
    """A `Process` that is stopped at the end."""
    started = Process(space, command, log)
    try:
        yield started
    finally:
        started.stop()


def listening(space: str, port: int, kind: str) -> bool:
    """Whether somebody listens on `port` in the namespace; `kind` is "tcp" or "udp"."""
    found = run("ip", "netns", "exec", space, "ss", "-Hln", f"--{kind}", f"sport = :{port}")
    return bool(found.strip())
