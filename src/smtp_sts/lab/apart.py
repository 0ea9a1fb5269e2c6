"""Namespaces of one's own, in which any daemon finds the lab where it looks for the Internet.

Promises: inside, DNS is on 127.0.0.1:53, HTTPS on 443, SMTP on 25, resolv.conf and the system's CA
file lead into the lab, nothing leads out, and no process outlives the play. Needs Linux, util-linux
and iproute2, and root or user namespaces. Must not: change anything outside.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from smtp_sts.lab.world import APART, World

#: Where systems keep the CA certificates that they trust.
CA_FILES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
#: What names the CA file to programs that do not read the system's.
CA_VARIABLES: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


class ApartError(Exception):
    """No namespaces can be had; the message says why."""


def enter(command: Sequence[str]) -> list[str]:
    """The command that runs another one in namespaces of its own. Raises ApartError."""
    # A process namespace, so that everything ends with its first process.
    unshare = ["unshare", "-n", "-m", "-p", "-f", "--kill-child", "--mount-proc"]
    seen = ""
    for some in (unshare, [unshare[0], "-r", *unshare[1:]]):
        try:
            done = subprocess.run(
                [*some, "true"], check=False, capture_output=True, text=True, timeout=20
            )
        except FileNotFoundError:
            raise ApartError("unshare is missing: apt-get install util-linux") from None
        if done.returncode == 0:
            return [*some, *command]
        seen = done.stderr.strip()
    raise ApartError(f"no namespaces can be made here, root is needed: {seen}")


def inside_of(command: Sequence[str]) -> int:
    """Run this command again, inside, with `--inside`; its exit status. Raises ApartError.

    The command inside has to end when its standard input does: then it ends whatever befalls us.
    Its temporary files lie in one directory, which is gone afterwards, whatever befell it.
    """
    with tempfile.TemporaryDirectory(prefix="sts-") as home:
        process = subprocess.Popen(
            enter([*command, "--inside"]),
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us alone
            env={**os.environ, "TMPDIR": home},
        )

        def stop(number: int, frame: FrameType | None) -> None:
            if process.stdin:
                process.stdin.close()

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, stop) for number in numbers}
        try:
            return process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            sys.stdout.flush()


def prepare() -> None:
    """Make the network of the namespaces that this process is in. Raises ApartError."""
    for command in (
        ["ip", "link", "set", "lo", "up"],
        ["ip", "route", "add", "local", f"{APART.network}.0.0/16", "dev", "lo"],
    ):
        _run(command)


@contextlib.contextmanager
def lead_in(world: World) -> Iterator[dict[str, str]]:
    """Make names and trust of this machine those of the world; the environment for a daemon."""
    resolv = world.home / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.1\noptions trust-ad\n", encoding="ascii")
    # Without a resolv.conf, 127.0.0.1 is asked anyway: resolv.conf(5).
    wanted = {"/etc/resolv.conf": resolv, **dict.fromkeys(CA_FILES, world.ca_file)}
    with contextlib.ExitStack() as stack:
        for path, ours in wanted.items():
            if Path(path).exists():
                place = str(Path(path).resolve())
                _run(["mount", "--bind", str(ours), place])
                stack.callback(_run, ["umount", "--lazy", place])
        yield dict.fromkeys(CA_VARIABLES, str(world.ca_file))


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        raise ApartError(f"{command[0]} is missing: apt-get install iproute2 mount") from None
    if done.returncode:
        raise ApartError(f"{' '.join(command)}: {done.stderr.strip()}")
