"""A PostgreSQL server of our own for a test: its own data, socket and port, and it can be stopped,
frozen and started again. The system's clusters are not touched."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..real.cannot import cannot

ROLE = "fleet"
PASSWORD = "p@ss/w:rd%"


def _programs() -> Path:
    # Debian keeps them out of PATH, one folder a version.
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name))
    if not found:
        cannot("PostgreSQL is not installed (apt-get install postgresql)")
    return found[-1]


class Cluster:
    """One server; `url` names a database by its unix socket, `tcp_url` by TCP."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = _free_port()
        self.programs = _programs()
        # PostgreSQL does not run as root.
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._user = {"user": "postgres", "group": "postgres", "extra_groups": []}
            shutil.chown(home, "postgres", "postgres")
        secret = home / "password"
        secret.write_text(f"{PASSWORD}\n")
        secret.chmod(0o644)
        self._run("initdb", "-A", "scram-sha-256", "-U", "admin", "-N", "-E", "UTF8",
                  "--locale=C", f"--pwfile={secret}", "-D", str(home / "data"))  # fmt: skip
        self._process: subprocess.Popen[Any] | None = None

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [self.programs / program, *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd="/", timeout=30,
            env={**os.environ, "PGPASSWORD": PASSWORD}, **self._user,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    def start(self) -> None:
        options = {
            "port": self.port, "unix_socket_directories": self.home,
            "listen_addresses": "127.0.0.1", "fsync": "off", "max_connections": 30,
            "shared_buffers": "4MB", "max_wal_senders": 0, "wal_level": "minimal",
        }  # fmt: skip
        command = [str(self.programs / "postgres"), "-D", str(self.home / "data")]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", **self._user
            )
        end = time.monotonic() + 15
        while True:
            ready = str(self.programs / "pg_isready")
            probe = [ready, "-q", "-h", str(self.home), "-p", str(self.port)]
            if subprocess.run(probe).returncode == 0:
                return
            assert self._process.poll() is None, (self.home / "log").read_text()
            assert time.monotonic() < end, (self.home / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """At once, as `systemctl stop` with clients does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(15)
            self._process = None

    def processes(self) -> list[int]:
        assert self._process is not None
        path = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [self._process.pid, *map(int, path.read_text().split())]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Every process of it is there and does nothing."""
        pids = self.processes()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def sql(self, statement: str, database: str = "postgres") -> list[str]:
        """What a statement says as the administrator, a row a string."""
        where = ["-h", str(self.home), "-p", str(self.port), "-U", "admin", "-d", database]
        return self._run("psql", *where, "-XAtq", "-c", statement).splitlines()

    def database(self, name: str) -> None:
        """A database that belongs to `ROLE`."""
        self.sql(f'CREATE DATABASE "{name}" OWNER {ROLE} TEMPLATE template0')

    def url(self, database: str, *, user: str = ROLE) -> str:
        place = f"host={quote(str(self.home), safe='')}&port={self.port}"
        return f"postgresql://{user}:{quote(PASSWORD, safe='')}@/{database}?{place}"

    def tcp_url(self, database: str, port: int) -> str:
        return f"postgresql://{ROLE}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/{database}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A server that runs, with `ROLE` and no database of ours."""
    with tempfile.TemporaryDirectory(prefix="sts-pg-") as home:
        made = Cluster(Path(home))
        try:
            made.start()
            made.sql(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")
            yield made
        finally:
            made.stop()
