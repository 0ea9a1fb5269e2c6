"""The stage of one scenario: what bob publishes and mallory changes, done to the world.

Promises: a step of a scenario is one change of the world, on names below its own domain (and hosts
of mallory's), and has taken effect when it returns. Must not: ask or judge the daemon.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import dns.exception
import dns.rrset

from smtp_sts.lab.policyhost import Page
from smtp_sts.lab.scenarios import (
    Crowd,
    Dns,
    MxHost,
    Owns,
    PolicyHost,
    Publication,
    Scenario,
    ScenarioError,
    Step,
    Withdraws,
)
from smtp_sts.lab.world import World, policy_text
from smtp_sts.policy import draft_record_name, policy_host, record_name

MALLORY_HOST: Final = "mx.mallory.example"
_FIELDS: Final = re.compile(r"\{(domain|port|web|closed|ca|spki)(?::([a-z0-9.-]+))?\}")
_PAGE: Final = ("status", "content_type", "location", "manner", "certificate", "chunked", "length",
                "tls")  # fmt: skip
_HOST: Final = ("starttls", "certificate", "certificate_name", "needs_sni", "tls", "refuses")


class Stage:
    """One scenario's part of the world."""

    def __init__(self, world: World, domain: str) -> None:
        self.world = world
        self.domain = domain
        #: the domain has a policy of the first draft
        self._draft = False

    def fill(self, text: str) -> str:
        """A text of the declarations with its fields filled in."""
        return _FIELDS.sub(self._field, text)

    def _field(self, found: re.Match[str]) -> str:
        world, name = self.world, found[1]
        if name == "spki":
            host = f"{found[2] or 'mx'}.{self.domain}"
            return world.authority.key_digest(host, variant=world.receivers[host].certificate)
        return {
            "domain": self.domain,
            "port": str(world.smtp_port),
            "web": world.place.web[0],
            "closed": world.place.closed,
            "ca": world.authority.own_key_digest,
        }[name]

    def looks(self) -> tuple[int, int]:
        """How often the domain's record, and its policy host's address, were asked for."""
        queries = self.world.names.queries
        if self._draft:
            proofs = self.world.policy_hosts.handshakes[self.domain]
            return queries[draft_record_name(self.domain), "TXT"], proofs
        host = policy_host(self.domain)
        return (
            queries[record_name(self.domain), "TXT"],
            queries[host, "A"] + self.world.policy_hosts.handshakes[host],
        )

    def fetches(self, at: str = "") -> int:
        """How often the policy host was connected to."""
        return self.world.policy_hosts.handshakes[policy_host(self._at(at))]

    def crowd(self, count: int) -> list[str]:
        """The domains of mallory's crowd: each an organisation's, and none of them bob's."""
        label = self.domain.partition(".")[0]
        return [f"n{number}-{label}.example" for number in range(count)]

    def delegate(self, scenario: Scenario) -> None:
        """Make the zones of the scenario's names."""
        self.world.names.delegate(self.domain, signed=scenario.world.signed)
        for step in scenario.steps:
            if isinstance(step, Owns):
                zone = self.fill(step.host).partition(".")[2]
                self.world.names.delegate(zone, signed=True)

    async def publish(self, what: Publication) -> None:
        """Make the domain what a publication says."""
        world, domain = self.world, self._at(what.at)
        hosts = [self.fill(host) for host in what.hosts]
        patterns = [self.fill(pattern) for pattern in what.mx]
        if what.mode:
            await world.publish(
                domain, what.mode, mx=patterns, hosts=hosts, max_age=what.max_age, id=what.id
            )
        else:
            await world.receive(domain, *hosts)
        if what.draft:
            self._draft = True
            world.publish_draft(domain, self.fill(what.draft))
        for host in map(self.fill, what.tlsa):
            self._tlsa(host)
        await world.names.settle()

    def _tlsa(self, host: str) -> None:
        world = self.world
        digest = world.authority.key_digest(host, variant=world.receivers[host].certificate)
        world.names.put(f"_{world.smtp_port}._tcp.{host}", "TLSA", f"3 1 1 {digest}")

    async def change(self, step: Step) -> None:
        """Do what bob or mallory does in a step."""
        if isinstance(step, Publication):
            await self.publish(step)
        elif isinstance(step, Withdraws):
            self.world.names.drop(record_name(self.domain), "TXT")
            self.world.policy_hosts.pages[policy_host(self.domain)] = Page(status=404)
        elif isinstance(step, Dns):
            await self._dns(step)
        elif isinstance(step, PolicyHost):
            self._policy_host(step)
        elif isinstance(step, MxHost):
            self._mx_host(step)
        elif isinstance(step, Owns):
            await self._own(self.fill(step.host))
        elif isinstance(step, Crowd):
            for name in self.crowd(step.count):
                await self.world.publish(name, hosts=[f"mx.{self.domain}"])
                self.world.policy_hosts.pages[policy_host(name)] = Page(manner="silence")
                place = self.world.place
                at = place.costly if step.costly else place.silent
                self.world.names.put(policy_host(name), "A", at)
        else:
            raise TypeError(f"{step} changes nothing in the world")
        await self.world.names.settle()

    async def _dns(self, step: Dns) -> None:
        names, name = self.world.names, self.fill(step.name)
        if step.defect:
            names.spoil(name, step.defect, step.type)
        else:
            records = [self.fill(record) for record in step.records]
            _check(name, step.type, records)
            if step.type == "MX" and any(MALLORY_HOST in record for record in records):
                (await self.world.receiver(MALLORY_HOST)).owner = "mallory"
                await names.settle()
            if step.who == "mallory":
                await names.forge(name, step.type, *records)
            elif records:
                names.put(name, step.type, *records)
            else:
                names.drop(name, step.type)

    def _policy_host(self, step: PolicyHost) -> None:
        host = self.fill(step.host) or policy_host(self._at(step.at))
        page = self.world.policy_hosts.pages.get(host, Page())
        changes: dict[str, Any] = {
            name: value for name in _PAGE if (value := getattr(step, name)) is not None
        }
        body = page.body
        if step.mode:
            others = (f"mx{number}.{step.others}.example" for number in range(step.others))
            hosts = [*map(self.fill, step.mx), *others]
            body = policy_text(step.mode, hosts, step.max_age)
        if step.body is not None:
            body = self.fill(step.body).encode()
        if step.filling:
            body += b"x-comment: %b\r\n" % (b"x" * 100) * (step.filling // 113)
        if "location" in changes:
            changes["location"] = self.fill(changes["location"])
        self.world.policy_hosts.pages[host] = replace(page, body=body, **changes)

    def _mx_host(self, step: MxHost) -> None:
        receiver = self.world.receivers[self.fill(step.host)]
        if step.who == "mallory" and not step.refuses:
            receiver.owner = "mallory"
        for name in _HOST:
            if (value := getattr(step, name)) is not None:
                setattr(receiver, name, value)

    async def _own(self, host: str) -> None:
        (await self.world.receiver(host)).owner = "mallory"
        self._tlsa(host)

    def _at(self, below: str) -> str:
        return f"{below}.{self.domain}" if below else self.domain


def _check(name: str, rrtype: str, records: Sequence[str]) -> None:
    try:
        if records:
            dns.rrset.from_text_list(f"{name}.", 0, "IN", rrtype, records)
    except dns.exception.DNSException as error:
        told = " | ".join(records)
        raise ScenarioError(f"{name} {rrtype} {told}: no such record can be: {error}") from None
