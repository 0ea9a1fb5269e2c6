"""The small Internet put together: names, an authority, policy hosts and receivers.

Promises: `async with World()` starts it all and leaves nothing behind; a domain is one call of
`publish`; everything mallory can do to it is a change of its parts. Must not: need root or a
network.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from smtp_sts.lab.authority import Authority
from smtp_sts.lab.costly import CostlyHost
from smtp_sts.lab.names import NEGATIVE_TTL, TTL, Names
from smtp_sts.lab.policyhost import Page, PolicyHosts
from smtp_sts.lab.receiver import Message, Receiver
from smtp_sts.policy import draft_record_name, policy_host, record_name

_URL: Final = re.compile(r"https://([^/;\s]+)(/[^;\s]*)")


def policy_text(mode: str, mx: Sequence[str], max_age: int) -> bytes:
    """A policy document; nothing is checked, so that it can be a bad one."""
    lines = ["version: STSv1", f"mode: {mode}", *(f"mx: {p}" for p in mx), f"max_age: {max_age}"]
    return "".join(f"{line}\r\n" for line in lines).encode()


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@dataclass(frozen=True)
class Place:
    """Where a world stands: addresses and ports, 0 for free ones. DNS is always on 127.0.0.1."""

    #: the first two bytes of the MX hosts' addresses
    network: str
    #: the addresses of the policy hosts; names lead to the first
    web: tuple[str, ...]
    #: an address where nobody listens
    closed: str
    #: those of mallory's policy hosts, in a network of their own: who makes others compute
    costly: str
    #: and who never answers
    silent: str
    dns_port: int = 0
    https_port: int = 0
    smtp_port: int = 0
    #: MX hosts listen there too, where it is not 0: relays do
    submission_port: int = 0


#: On a machine's own loopback, beside whatever else runs there.
LOOPBACK: Final = Place("127.0", ("127.0.0.1",), "127.0.0.9", "127.0.66.8", "127.0.66.9")
#: In network namespaces of its own (`apart.py`): any daemon can play, on the ports that it knows.
#: The addresses are the Internet's, so that nobody takes them for private ones.
APART: Final = Place(
    "45.45",
    ("45.45.0.1", "127.0.0.1"),
    "45.45.0.9",
    "45.45.66.8",
    "45.45.66.9",
    53,
    443,
    25,
    587,
)


class World:
    """The lab's Internet; an asynchronous context manager."""

    names: Names
    authority: Authority
    policy_hosts: PolicyHosts

    def __init__(
        self,
        *,
        ttl: int = TTL,
        place: Place | None = None,
        names: Callable[[Path, int, int], Names] = lambda home, *ttls: Names(*ttls),
    ) -> None:
        """Nothing runs before `async with`; `ttl` is that of every DNS answer, seconds.

        `names` makes the names, from a directory and the times to live.
        """
        self._ttl = ttl
        self._make_names = names
        self.place = place or LOOPBACK
        #: MX host name -> its receiver.
        self.receivers: dict[str, Receiver] = {}
        self.smtp_port = self.place.smtp_port
        self._numbers = itertools.count(1)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start the servers. Raises OSError."""
        async with AsyncExitStack() as stack:
            home = stack.enter_context(tempfile.TemporaryDirectory(prefix="sts-lab-"))
            self.home = Path(home)
            self.authority = Authority(self.home)
            self.names = self._make_names(self.home, self._ttl, min(self._ttl, NEGATIVE_TTL))
            stack.push_async_callback(self.names.close)
            await self.names.start(port=self.place.dns_port)
            self.policy_hosts = PolicyHosts(self.authority, self.place.https_port)
            stack.push_async_callback(self.policy_hosts.close)
            await self.policy_hosts.start(*self.place.web, self.place.silent)
            loop = asyncio.get_running_loop()
            costly = await loop.create_server(CostlyHost, self.place.costly, self.https_port)
            stack.callback(costly.close)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the servers and delete the files."""
        await self._stack.aclose()

    @property
    def https_port(self) -> int:
        """The port of every policy host."""
        return self.policy_hosts.port

    @property
    def ca_file(self) -> Path:
        """What everybody in the lab trusts."""
        return self.authority.ca_file

    @property
    def socket_path(self) -> Path:
        """The unix socket on which the configured daemon listens."""
        return self.home / "policy.sock"

    @property
    def control_path(self) -> Path:
        """The unix socket on which the configured daemon takes control commands."""
        return self.home / "control.sock"

    async def publish(
        self,
        domain: str,
        mode: str = "enforce",
        *,
        mx: Sequence[str] = (),
        hosts: Sequence[str] = (),
        max_age: int = 86400,
        id: str = "1",  # the name of the field
    ) -> None:
        """Make a domain with a policy, and MX `hosts` (default `mx.<domain>`) that receive.

        `mx` are the policy's patterns, by default the hosts. Published again, it is replaced.
        """
        hosts = hosts or [f"mx.{domain}"]
        await self.receive(domain, *hosts)
        self.names.put(record_name(domain), "TXT", f'"v=STSv1; id={id};"')
        self.names.put(policy_host(domain), "A", self.place.web[0])
        self.policy_hosts.pages[policy_host(domain)] = Page(policy_text(mode, mx or hosts, max_age))

    def publish_draft(self, domain: str, text: str) -> None:
        """Give a domain the record `text` of the first draft, and the same at the URL in it."""
        pieces = (text[start : start + 255] for start in range(0, len(text), 255))
        self.names.put(draft_record_name(domain), "TXT", " ".join(f'"{p}"' for p in pieces))
        if url := _URL.search(text):
            self.names.put(url[1], "A", self.place.web[0])
            self.policy_hosts.pages[url[1]] = Page(text.encode(), path=url[2])

    async def receive(self, domain: str, *hosts: str) -> None:
        """Make a domain that has MX `hosts`, in order of preference, and no policy."""
        for host in hosts:
            await self.receiver(host)
        self.names.put(domain, "MX", *(f"{10 * n} {host}." for n, host in enumerate(hosts, 1)))

    async def receiver(self, host: str) -> Receiver:
        """The receiver of that name, started on an address of its own if it is a new one."""
        if host not in self.receivers:
            number = next(self._numbers)
            address = f"{self.place.network}.{1 + number // 250}.{1 + number % 250}"
            receiver = Receiver(self.authority, host, address)
            await receiver.start(self.smtp_port, self.place.submission_port)
            self._stack.push_async_callback(receiver.close)
            self.smtp_port = receiver.port
            self.receivers[host] = receiver
            self.names.put(host, "A", address)
        return self.receivers[host]

    def messages(self, owner: str, recipient: str) -> list[Message]:
        """The messages to `recipient` that `owner` ("bob", "mallory") has read."""
        return [
            message
            for receiver in self.receivers.values()
            for message in receiver.messages
            if message.owner == owner and recipient in message.recipients
        ]

    def config_toml(self, **overrides: Mapping[str, object]) -> Path:
        """Write the configuration of a daemon in this world; overrides are by section."""
        sections: dict[str, dict[str, object]] = {
            "policy": {"listen": f"unix:{self.socket_path}"},
            "dns": {"nameservers": ["{}:{}".format(*self.names.address)]},
            "network": {
                "https_port": self.https_port,
                "smtp_port": self.smtp_port or 25,
                "ca_file": str(self.ca_file),
                "allow_private_addresses": True,
            },
            "store": {"url": f"sqlite:///{self.home / 'policies.db'}"},
            "control": {"socket": str(self.control_path)},
        }
        for section, values in overrides.items():
            sections.setdefault(section, {}).update(values)
        text = "\n".join(
            f"[{section}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())
            for section, values in sections.items()
        )
        path = self.home / "smtp-sts.toml"
        path.write_text(text, encoding="utf-8")
        return path
