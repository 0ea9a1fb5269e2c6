"""The real back end: alice's mail goes out by a real Postfix, Exim or Sendmail, by real DNS.

Promises: the same scenarios as on loopback, with unbound, NSD and a signed root (`onpath.py`), a
mail server as Debian packages it (`mtas/`) and addresses of their own; what a mail server cannot do
is said, not played. `run` must itself be run inside (`apart.enter`), as root on Debian.
Must not: obey the daemon's replies: that is the mail server's part.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from smtp_sts.config import UnixAddress
from smtp_sts.lab import apart, machine
from smtp_sts.lab.mtas import exim, postfix, sendmail
from smtp_sts.lab.mtas.base import Seen
from smtp_sts.lab.onpath import OnPath
from smtp_sts.lab.play import PROFILE, TTL, Ask, Result, in_turn, known_to_ours, play_in, settings
from smtp_sts.lab.scenarios import Feature, Scenario
from smtp_sts.lab.sender import Delivery, Tls
from smtp_sts.lab.subject import Subject, answer_of, ours
from smtp_sts.lab.world import APART, World
from smtp_sts.mta import netstring
from smtp_sts.mta.client import ClientError

#: How long a mail server may take to try a message, seconds: it waits for DNS and for hosts.
TRY_LIMIT: Final = 45.0
#: So many scenarios play at once, one begun so long after another (seconds): each of them keeps
#: many processes busy, and two cores must be enough.
_AT_ONCE: Final = 14
_BETWEEN: Final = 0.1
_SOCKETMAP: Final = 8461
_LINE: Final = 8462
#: Sendmail's own default for FEATURE(`sts').
_SENDMAIL: Final = 5461
_ROUTES: Final = 8463
_OWN_DANE: Final = "looks for TLSA records by itself, and waits where it gets none that it can use"
_ONE_LABEL: Final = "takes a wildcard for one label, as RFC 8461 has it"
_COMMON_NAME: Final = "takes the common name of a certificate that has no other names"
_NO_RELAY: Final = "asked about the domains of recipients alone, not about relays (docs/{}.md)"


class Server(Protocol):
    """A mail server: takes messages, and tells what it has logged of them."""

    @property
    def lacks(self) -> Mapping[Feature, str]:
        """What it cannot do, and why."""

    def submit(self, recipient: str, via: str, *, naked: bool) -> None:
        """Give it a message; by a relay, or without the daemon's protection."""

    def seen(self, recipient: str) -> Seen | None:
        """What became of the first attempt; None before there is one."""


@dataclass
class Routes:
    """The transport table of alice's Postfix, asked by socketmap for each recipient."""

    _known: dict[str, str] = field(default_factory=dict)

    def put(self, recipient: str, transport: str) -> None:
        """Lead one recipient elsewhere than others; `transport` as transport(5) has it."""
        self._known[recipient] = transport

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer on one connection until it ends."""
        data = b""
        try:
            while chunk := await reader.read(4096):
                data += chunk
                while (found := netstring.parse(data)) is not None:
                    request, used = found
                    data = data[used:]
                    known = self._known.get(request.decode("utf-8", "replace").partition(" ")[2])
                    writer.write(
                        netstring.encode(f"OK {known}".encode() if known else b"NOTFOUND ")
                    )
                await writer.drain()
        except (OSError, netstring.NetstringError):
            return
        finally:
            writer.close()


class _Postfix:
    def __init__(self, made: postfix.Postfix, routes: Routes) -> None:
        self._made, self._routes = made, routes
        self.lacks: dict[Feature, str] = {
            "san": _COMMON_NAME,
        }
        if made.version == "3.7":
            self.lacks["tlsrpt"] = "knows mx_host_pattern and TLS reports from 3.10 on"

    def submit(self, recipient: str, via: str, *, naked: bool) -> None:
        if naked or via:
            self._routes.put(recipient, f"{'naked' if naked else 'smtp'}:{via}")
        self._made.submit(recipient)

    def seen(self, recipient: str) -> Seen | None:
        return self._made.seen(recipient)


@contextmanager
def _run_postfix(version: str, root: Path, ca_file: Path, routes: Routes) -> Iterator[Server]:
    made = postfix.Postfix(version, root)
    made.furnish(ca_file)
    # Each message is tried once, whatever became of others to the same host; alice receives none.
    more = f"""\
transport_maps = socketmap:inet:127.0.0.1:{_ROUTES}:transport
smtp_connection_cache_on_demand = no
default_destination_concurrency_failed_cohort_limit = 1000
minimal_backoff_time = 1h
master_service_disable = inet
"""
    services = (
        "naked unix - - y - - smtp\n  -o smtp_tls_policy_maps=\n  -o smtp_tls_security_level=may\n"
    )
    policy_maps = f"socketmap:inet:127.0.0.1:{_SOCKETMAP}:{made.profile}"
    made.configure(policy_maps, more=more, services=services)
    with made.running():
        yield _Postfix(made, routes)


class _Others:
    """Exim or Sendmail: a message is tried while it is given."""

    def __init__(self, made: exim.Exim | sendmail.Sendmail, lacks: Mapping[Feature, str]) -> None:
        self._made, self.lacks = made, lacks

    def submit(self, recipient: str, via: str, *, naked: bool) -> None:
        self._made.submit(recipient, naked=naked)

    def seen(self, recipient: str) -> Seen | None:
        return self._made.seen(recipient)


@contextmanager
def _run_exim(version: str, root: Path, ca_file: Path, _routes: Routes) -> Iterator[Server]:
    made = exim.Exim(version, root)
    made.furnish(ca_file)
    made.configure(naked=True)
    yield _Others(
        made,
        {
            "relay": _NO_RELAY.format("exim"),
            "own-dane": _OWN_DANE,
            "san": _COMMON_NAME,
            "deep-wildcard": _ONE_LABEL,
        },
    )


@contextmanager
def _run_sendmail(version: str, root: Path, ca_file: Path, _routes: Routes) -> Iterator[Server]:
    made = sendmail.Sendmail(version, root)
    made.furnish(ca_file)
    with made.logging():
        made.configure()
        made.configure_naked()
        lacks: dict[Feature, str] = {
            "relay": _NO_RELAY.format("sendmail"),
            "deep-wildcard": _ONE_LABEL,
        }
        if version == "8.17":
            lacks["dane"] = "is compiled without DANE in Debian 12"
        else:
            lacks["own-dane"] = _OWN_DANE
        yield _Others(made, lacks)


@dataclass(frozen=True)
class Kind:
    """A mail server that can play alice's."""

    version: str
    #: the suite of Debian that has it, and the name of `machine.root_file_systems`
    suite: str
    package: str
    running: Callable[[str, Path, Path, Routes], AbstractContextManager[Server]]
    profile: str = PROFILE

    @property
    def is_there(self) -> bool:
        """Whether its root file system has been made already."""
        name = f"rootfs-{self.suite}-{self.package}".removesuffix("-")
        return (machine.cache() / name).exists()

    def root_file_system(self) -> Path:
        """Its root file system, made where there is none yet. Raises CannotBuild."""
        return machine.root_file_systems(self.package)[self.suite]


MTAS: Final = {
    **{
        f"postfix-{version}": Kind(version, suite, "", _run_postfix, postfix.profile(version))
        for version, suite in reversed(postfix.SUITES.items())
    },
    **{
        f"exim-{version}": Kind(version, suite, "exim", _run_exim)
        for version, suite in reversed(exim.SUITES.items())
    },
    **{
        f"sendmail-{version}": Kind(version, suite, "sendmail", _run_sendmail)
        for version, suite in reversed(sendmail.SUITES.items())
    },
}
DEFAULT: Final = "postfix-3.10"


class RealSender:
    """alice's mail server where `sender.Sender` stands on loopback."""

    def __init__(self, server: Server, workers: ThreadPoolExecutor, ask: Ask | None) -> None:
        """Without `ask` it sends with no daemon at all."""
        self._server, self._workers, self._ask = server, workers, ask

    async def send(self, recipient: str, *, via: str = "") -> Delivery:
        """As `Sender.send`; the reply is asked for before the mail server does so for itself."""
        loop = asyncio.get_running_loop()
        reply, waited = "", 0.0
        if self._ask:
            began = loop.time()
            try:
                reply = await self._ask(via or recipient.rpartition("@")[2])
            except ClientError as error:
                return Delivery(False, "", "none", "", loop.time() - began, (str(error),))
            waited = loop.time() - began

        def submit() -> None:
            self._server.submit(recipient, via, naked=self._ask is None)

        await loop.run_in_executor(self._workers, submit)
        limit = loop.time() + TRY_LIMIT
        while (seen := self._server.seen(recipient)) is None:
            if loop.time() > limit:
                story = f"the mail server logged nothing of it within {TRY_LIMIT:g} s"
                return Delivery(False, "", "none", reply, waited, (story,))
            await asyncio.sleep(0.05)
        # Some verify what nobody asked them to: then they would have taken anything.
        unasked = seen.tls == "verified" and (not reply or answer_of(reply) == "open")
        tls: Tls = "unverified" if unasked else seen.tls
        return Delivery(seen.delivered, "", tls, reply, waited, (seen.line,))


@asynccontextmanager
async def _listening(routes: Routes) -> AsyncIterator[None]:
    server = await asyncio.start_server(routes.answer, "127.0.0.1", _ROUTES)
    try:
        yield
    finally:
        server.close()


async def run(
    scenarios: Sequence[Scenario],
    mta: str = DEFAULT,
    *,
    done: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Play scenarios with this daemon and one of `MTAS`.

    Raises SubjectError, ApartError, MachineError, OSError.
    """
    kind = MTAS[mta]
    lower = kind.root_file_system()
    apart.prepare()

    async def play(some: Sequence[Scenario]) -> list[Result]:
        routes = Routes()
        async with World(ttl=TTL, place=APART, names=OnPath) as world, _listening(routes):
            await world.receive("alice.example", "mx.alice.example")
            ports = (f"127.0.0.1:{_SOCKETMAP}", f"127.0.0.1:{_SENDMAIL}")
            listen = [f"unix:{world.socket_path}", *ports]
            config = world.config_toml(
                policy={
                    **settings(scenarios), "listen": listen, "listen_line": f"127.0.0.1:{_LINE}",
                },
                network={"allow_private_addresses": False},
            )  # fmt: skip
            address = UnixAddress(str(world.socket_path))
            log = world.home / "daemon.log"
            with (
                apart.lead_in(world) as environment,
                machine.writable(lower, world.home) as root,
                kind.running(kind.version, root, world.ca_file, routes) as server,
                ThreadPoolExecutor(_AT_ONCE) as workers,
            ):
                subject = Subject(ours(config), address, kind.profile, log, environment)
                subject.features |= known_to_ours(scenarios)
                return await play_in(
                    world,
                    subject,
                    some,
                    watch=True,
                    done=done,
                    senders=lambda ask: RealSender(server, workers, ask),
                    lacks={name: f"{mta} {why}" for name, why in server.lacks.items()},
                    between=_BETWEEN,
                    at_once=_AT_ONCE,
                )

    return await in_turn(scenarios, play)
