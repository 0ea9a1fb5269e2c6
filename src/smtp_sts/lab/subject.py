"""The daemon under test: any policy daemon that speaks socketmap, started, killed and asked.

Promises: what the daemon answers, or a `SubjectError` that tells what was seen: that it never
listens, ends midway (with its last words), or does not speak socketmap; it is gone afterwards, with
all that it started. Must not: know whose daemon it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from smtp_sts.config import Address, parse_address
from smtp_sts.lab.python import OURSELVES
from smtp_sts.lab.scenarios import Answer, Feature
from smtp_sts.mta.client import ClientError, ask

START_LIMIT: Final = 15.0
STOP_LIMIT: Final = 5.0
#: No question to DNS: a parent-domain key has no policy.
READY_KEY: Final = ".ready.example"
T = TypeVar("T")


class SubjectError(Exception):
    """The daemon cannot be played with; the message says what was seen."""


def parse_socketmap(text: str) -> tuple[Address, str]:
    """`inet:host:port:map` or `unix:path:map`, as Postfix writes it. Raises ValueError."""
    address, colon, map_name = text.removeprefix("socketmap:").rpartition(":")
    if not colon or not map_name or not address.startswith(("inet:", "unix:")):
        raise ValueError(f"{text!r}: write inet:host:port:map or unix:/path:map")
    return parse_address(address), map_name


def answer_of(reply: str) -> Answer:
    """What a reply comes to for Postfix."""
    status, _, text = reply.partition(" ")
    if status == "NOTFOUND":
        return "open"
    level = text.split(" ", 1)[0]
    if status != "OK" or not text.strip():
        return "wait"
    if level in ("none", "may", "encrypt"):
        return "open"
    if level in ("dane", "dane-only"):
        return "dane"
    return "secure" if level in ("secure", "verify") and " match=" in text else "wait"


class Subject:
    """One daemon; an asynchronous context manager that has it running."""

    def __init__(
        self,
        command: Sequence[str],
        address: Address,
        map_name: str,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`command` must stay in the foreground; what it says goes to the file `log`."""
        self.address = address
        self.map_name = map_name
        #: what its replies have shown that it can do
        self.features: set[Feature] = set()
        self._command = command
        self._environment = {**os.environ, "NOTIFY_SOCKET": "", "LISTEN_FDS": ""}
        self._environment.update(environment or {})
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Subject:
        """Start it. Raises SubjectError."""
        if await self._answers():
            raise SubjectError(f"{self.address}: something else answers there already")
        try:
            await self._start()
        except BaseException:
            await self._stop(signal.SIGKILL)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """End it, and whatever it has started."""
        await self._stop(signal.SIGTERM)

    async def restart(self, environment: Mapping[str, str] | None = None) -> None:
        """Kill it and start it again, with more in its environment. Raises SubjectError."""
        self._raise_if_ended()
        self._environment.update(environment or {})
        await self._stop(signal.SIGKILL)
        await self._start()

    def has_loaded(self, library: Path) -> bool:
        """Whether a process of it has loaded a library."""
        assert self._process
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                session = path.read_text().rpartition(")")[2].split()[3]
                if int(session) == self._process.pid:
                    found.append(library.name in (path.parent / "maps").read_text())
            except OSError:  # it has just ended
                continue
        return any(found)

    async def ask(self, key: str) -> str:
        """The reply to one question. Raises ClientError, or SubjectError: the daemon has ended."""
        try:
            reply = await ask(self.address, self.map_name, key)
        except ClientError:
            await asyncio.sleep(0.1)  # its end is seen after its socket's
            self._raise_if_ended()
            raise
        if reply.startswith("OK dane"):
            self.features.add("dane")
        if " policy_type=sts" in reply:
            self.features.add("tlsrpt")
        return reply

    async def during(self, work: Awaitable[T]) -> T:
        """Do `work`, but raise SubjectError as soon as the daemon ends by itself."""
        task = asyncio.ensure_future(work)
        watch = asyncio.ensure_future(self._ended())
        try:
            await asyncio.wait([task, watch], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await watch
            return await task
        finally:
            for one in (task, watch):
                one.cancel()
            await asyncio.gather(task, watch, return_exceptions=True)

    async def _ended(self) -> None:
        while True:
            self._raise_if_ended()
            await asyncio.sleep(0.1)

    async def _start(self) -> None:
        with self._log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is ours to handle; we end the daemon
                env=self._environment,
            )
        try:
            async with asyncio.timeout(START_LIMIT):
                while not await self._answers():
                    self._raise_if_ended("before it answered")
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise SubjectError(
                f"the daemon does not answer on {self.address} after {START_LIMIT:g} s"
                f"{self._last_words()}"
            ) from None

    async def _answers(self) -> bool:
        try:
            await ask(self.address, self.map_name, READY_KEY)
        except ClientError as error:
            if isinstance(error.__context__, OSError):  # nobody there, or nobody yet
                return False
            raise SubjectError(f"the daemon answers garbage: {error}{self._last_words()}") from None
        return True

    def _raise_if_ended(self, when: str = "midway") -> None:
        process = self._process
        if process is not None and process.returncode is not None:
            status = process.returncode
            by = f"by signal {-status}" if status < 0 else f"with status {status}"
            hint = "" if status else " (it must stay in the foreground)"
            raise SubjectError(f"the daemon ended {when}, {by}{hint}{self._last_words()}")

    def _last_words(self) -> str:
        if not self._log.exists():
            return ""
        text = self._log.read_text(encoding="utf-8", errors="replace").strip()
        lines = "".join(f"\n  {line}" for line in text.splitlines()[-5:])
        return f"; it said:{lines}" if lines else "; it said nothing"

    async def _stop(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        _signal(process.pid, how)
        try:
            async with asyncio.timeout(STOP_LIMIT):
                await process.wait()
        except TimeoutError:
            _signal(process.pid, signal.SIGKILL)
            await process.wait()
        _signal(process.pid, signal.SIGKILL)  # what it has left behind in its session


def _signal(group: int, how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, how)


def ours(config: Path) -> list[str]:
    """The command that starts this daemon."""
    return [*OURSELVES, "--config", str(config), "serve"]
