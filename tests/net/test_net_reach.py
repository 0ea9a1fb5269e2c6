"""DNS questions and policy fetches against a world of real sockets (RFC 8461 section 3.3)."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import socket
import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any, cast

import dns.message
import dns.rcode
import pytest

from smtp_sts.lab.names import NEGATIVE_TTL, Defect, Names
from smtp_sts.lab.policyhost import Page
from smtp_sts.lab.world import World, policy_text
from smtp_sts.net import dnswire, https
from smtp_sts.net.addresses import is_public
from smtp_sts.net.dns import Answer, Dns
from smtp_sts.net.failure import CAUSES, NetFailure
from smtp_sts.net.https import Fetched, fetch_policy, tls_context
from smtp_sts.policy import MAX_SIZE

HOST = "mta-sts.bob.example"
Run = Callable[[Coroutine[Any, Any, Any]], Any]
BODY = policy_text("enforce", ["mx.bob.example"], 86400)


async def fetch(world: World, *, allow_private: bool = True, timeout: float = 5.0) -> Fetched:
    return await fetch_policy(
        "bob.example",
        dns=Dns([world.names.address]),
        context=tls_context(str(world.ca_file)),
        port=world.https_port,
        allow_private=allow_private,
        timeout=timeout,
    )


def test_a_policy_is_fetched_with_its_certificate(run: Run) -> None:
    async def scene() -> None:
        async with World() as world:
            await world.publish("bob.example")
            fetched = await fetch(world)
            assert fetched.body == BODY
            assert fetched.address == "127.0.0.1"
            assert fetched.certificate["subject_names"] == [HOST]
            assert fetched.tls_version.startswith("TLSv1.")

    run(scene())


@pytest.mark.parametrize(
    ("page", "slug"),
    [
        (Page(BODY, status=500), "http-status"),
        (Page(BODY, status=404), "http-status"),
        (Page(BODY, status=204), "http-status"),
        (Page(BODY, status=301, location="https://mta-sts.bob.example/"), "http-redirect"),
        (
            Page(BODY, status=302, location=f"https://{HOST}/.well-known/mta-sts.txt"),
            "http-redirect",
        ),
        (Page(BODY, status=304), "http-redirect"),
        (Page(BODY, status=308, location="http://127.0.0.1/"), "http-redirect"),
        (Page(BODY, content_type="text/html"), "media-type"),
        (Page(BODY, content_type=""), "media-type"),
        (Page(b"x" * 70_000), "body-too-large"),
        (Page(content_type=f"text/plain; x={'y' * 100_000}"), "http-protocol"),
        (Page(gzip.compress(BODY), coding="gzip"), "content-coding"),
        (Page(BODY, coding="identity, br"), "content-coding"),
        (Page(BODY, manner="huge"), "body-too-large"),
        (Page(b"x" * 70_000, manner="to-end"), "body-too-large"),
        (Page(BODY, manner="to-end-unsaid"), "body-truncated"),
        (Page(BODY, length=len(BODY) + 1, manner="to-end"), "body-truncated"),
        (Page(BODY, manner="huge", chunked=True), "body-too-large"),
        (Page(BODY, length=10**9), "body-too-large"),
        (Page(BODY, length=10**9, manner="huge"), "body-too-large"),
        (Page(BODY, manner="cut"), "body-truncated"),
        (Page(BODY, manner="cut", chunked=True), "body-truncated"),
        (Page(b"", manner="cut", chunked=True), "body-truncated"),
        (Page(b"", length=1), "body-truncated"),
        (Page(BODY, manner="silence"), "fetch-timeout"),
        (Page(BODY, manner="drip"), "fetch-timeout"),
        (Page(BODY, manner="drip", chunked=True), "fetch-timeout"),
        (Page(BODY, manner="close"), "tcp-closed"),
        (Page(BODY, certificate="expired"), "certificate-expired"),
        (Page(BODY, certificate="not-yet"), "certificate-not-yet-valid"),
        (Page(BODY, certificate="self-signed"), "certificate-self-signed"),
        (Page(BODY, certificate="other-name"), "certificate-name-mismatch"),
        (Page(BODY, certificate="common-name"), "certificate-name-mismatch"),
        (Page(BODY, certificate="stranger"), "certificate-unknown-issuer"),
    ],
)
def test_a_failed_fetch_keeps_its_cause(run: Run, page: Page, slug: str) -> None:
    async def scene() -> None:
        async with World() as world:
            await world.publish("bob.example")
            world.policy_hosts.pages[HOST] = page
            loop = asyncio.get_running_loop()
            began = loop.time()
            tracemalloc.start()
            with pytest.raises(NetFailure) as caught:
                await fetch(world, timeout=1.0)
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert caught.value.slug == slug, caught.value
            assert HOST in caught.value.sentence
            assert loop.time() - began < (1.5 if slug == "fetch-timeout" else 1.0)
            assert most < 8_000_000  # the server's buffers among it
            assert world.policy_hosts.handshakes[HOST] == 1  # no second attempt, no redirect

    run(scene())


@pytest.mark.parametrize(
    "page",
    [
        Page(BODY, chunked=True),
        Page(b"x" * MAX_SIZE),
        Page(b"x" * MAX_SIZE, chunked=True),
        Page(BODY, certificate="wildcard"),
        Page(BODY, coding="identity"),
        Page(BODY, manner="to-end"),  # RFC 9112 section 9.8
        Page(b"x" * MAX_SIZE, manner="to-end"),
    ],
)
def test_a_whole_policy_is_taken_however_it_comes(run: Run, page: Page) -> None:
    async def scene() -> None:
        async with World() as world:
            await world.publish("bob.example")
            world.policy_hosts.pages[HOST] = page
            fetched = await fetch(world)
            assert fetched.body == page.body
            name = "*.bob.example" if page.certificate == "wildcard" else HOST
            assert fetched.certificate["subject_names"] == [name]

    run(scene())


def test_a_coding_that_was_not_asked_for_is_named(run: Run) -> None:
    async def scene() -> None:
        async with World() as world:
            await world.publish("bob.example")
            world.policy_hosts.pages[HOST] = Page(gzip.compress(BODY), coding="gzip")
            with pytest.raises(NetFailure, match="content coding gzip"):
                await fetch(world)
            assert b"accept-encoding: identity\r\n" in world.policy_hosts.heads[HOST].lower()

    run(scene())


def test_law_1_a_body_without_a_length_is_whole_only_where_close_notify_ends_it(run: Run) -> None:
    async def scene() -> None:
        async with World() as world:
            await world.publish("bob.example")
            world.policy_hosts.pages[HOST] = Page(BODY, manner="to-end-unsaid")
            with pytest.raises(NetFailure, match="no close_notify"):
                await fetch(world)

    run(scene())


@pytest.mark.parametrize("content_type", ["text/plain", "Text/Plain; charset=utf-8; x=y"])
def test_text_plain_with_any_parameters(run: Run, content_type: str) -> None:
    async def scene() -> None:
        async with World() as world:
            await world.publish("bob.example")
            world.policy_hosts.pages[HOST] = Page(BODY, content_type=content_type)
            assert (await fetch(world)).body == BODY

    run(scene())


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["127.0.0.1", "10.0.0.1", "169.254.169.254", "fe80::1"],
    ],
)
def test_law_5_private_addresses_are_not_connected_to(run: Run, addresses: list[str]) -> None:
    async def scene() -> None:
        async with World() as world:
            await world.publish("bob.example")
            for rrtype, colons in (("A", False), ("AAAA", True)):
                world.names.put(HOST, rrtype, *(a for a in addresses if (":" in a) == colons))
            with pytest.raises(NetFailure) as caught:
                await fetch(world, allow_private=False)
            assert caught.value.slug == "private-address"
            assert not world.policy_hosts.handshakes[HOST]

    run(scene())


def test_every_address_is_tried(run: Run) -> None:
    async def scene() -> None:
        async with World() as world:
            await world.publish("bob.example")
            world.names.put(HOST, "A", "127.9.9.9", "127.0.0.1")  # nobody at the first
            assert (await fetch(world)).address == "127.0.0.1"
            world.names.put(HOST, "A", "127.9.9.9")
            with pytest.raises(NetFailure) as caught:
                await fetch(world)
            assert caught.value.slug == "tcp-refused"
            world.names.drop(HOST, "A")
            with pytest.raises(NetFailure) as caught:
                await fetch(world)
            assert caught.value.slug == "policy-host-not-found"

    run(scene())


def test_ipv6_is_asked_for_where_no_ipv4_address_serves(run: Run) -> None:
    # The way of IPv6 to a host that has IPv4 alone; Python 3.13 writes it otherwise than 3.11.
    mapped = str(ipaddress.IPv6Address("::ffff:7f00:1"))

    async def scene() -> None:
        async with World() as world:
            await world.publish("bob.example")
            world.names.put(HOST, "AAAA", mapped)
            assert (await fetch(world)).address == "127.0.0.1"
            for nobody in (["127.9.9.9"], []):
                world.names.put(HOST, "A", *nobody)
                assert (await fetch(world)).address == mapped, nobody
            world.names.spoil(HOST, "servfail", "A")
            assert (await fetch(world)).address == mapped
            world.names.spoil(HOST, "servfail")
            with pytest.raises(NetFailure) as caught:
                await fetch(world)
            assert caught.value.slug == "policy-host-dns-error"

    run(scene())


@pytest.mark.parametrize(
    ("defect", "slug"),
    [
        ("servfail", "dns-servfail"),
        ("refused", "dns-refused"),
        ("timeout", "dns-timeout"),
        ("cut", "dns-malformed"),
    ],
)
def test_a_failed_question_keeps_its_cause(run: Run, defect: Defect, slug: str) -> None:
    async def scene() -> None:
        async with World() as world:
            world.names.put("a.example", "TXT", '"x"')
            world.names.spoil("a.example", defect)
            with pytest.raises(NetFailure) as caught:
                await Dns([world.names.address], timeout=0.5).txt("a.example")
            assert caught.value.slug == slug

    run(scene())


def test_truncation_leads_to_tcp_and_absence_is_an_answer(run: Run) -> None:
    async def scene() -> None:
        async with World() as world:
            long = " ".join(f'"{"x" * 250}"' for _ in range(20))
            world.names.put("a.example", "TXT", long)
            world.names.put("b.example", "CNAME", "a.example.")
            world.names.spoil("a.example", "truncated")
            client = Dns([world.names.address])
            assert (await client.txt("a.example")).records == (b"x" * 5000,)
            assert (await client.txt("b.example")).name == "a.example"
            absent = await client.txt("absent.example")
            assert (absent.nxdomain, absent.ttl) == (True, NEGATIVE_TTL)
            assert (await client.addresses("a.example")) == []

    run(scene())


@pytest.mark.parametrize("length", [1, 2, 3, 4, 8])
def test_a_loop_of_cnames_is_named(run: Run, length: int) -> None:
    async def scene() -> None:
        names = [f"n{i}.example" for i in range(length)]
        async with World() as world:
            for name, target in zip(names, [*names[1:], names[0]], strict=True):
                world.names.put(name, "CNAME", f"{target}.")
            with pytest.raises(NetFailure) as caught:
                await Dns([world.names.address], timeout=2).txt(names[0])
            assert caught.value.slug == "dns-cname-loop"

    run(scene())


class Piecemeal(Names):
    """A resolver that leaves out where a CNAME leads after `links` of them."""

    links = 99

    def answer(self, query: bytes, *, udp: bool) -> bytes | None:
        whole = super().answer(query, udp=udp)
        assert whole is not None
        reply = dns.message.from_wire(whole)
        del reply.answer[self.links :]
        reply.set_rcode(dns.rcode.NOERROR)
        return reply.to_wire()


@pytest.mark.parametrize("links", [1, 3, 99])
@pytest.mark.parametrize("length", [1, 8, 9, 11, 12])
def test_eleven_cnames_in_a_row_are_followed(run: Run, length: int, links: int) -> None:
    """As BIND does, however many of them stand in one answer."""

    async def scene() -> None:
        names = Piecemeal()
        names.links = links
        await names.start()
        try:
            for index in range(length):
                names.put(f"n{index}.example", "CNAME", f"n{index + 1}.example.")
            names.put(f"n{length}.example", "TXT", '"x"')
            client = Dns([names.address])
            if length > 11:
                with pytest.raises(NetFailure) as caught:
                    await client.txt("n0.example")
                assert caught.value.slug == "dns-cname-loop"
            else:
                assert (await client.txt("n0.example")).records == (b"x",)
        finally:
            await names.close()

    run(scene())


def test_the_next_resolver_is_asked_where_one_fails(run: Run) -> None:
    async def scene() -> Answer:
        async with World() as world:
            world.names.put("a.example", "TXT", '"x"')
            dead = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            dead.bind(("127.0.0.1", 0))
            address = dead.getsockname()
            dead.close()
            return await Dns([address, world.names.address]).txt("a.example")

    assert run(scene()).records == (b"x",)


class _Forger(asyncio.DatagramProtocol):
    """A resolver's true answer, after false ones of its own and of mallory's socket."""

    def __init__(self, mallory: socket.socket) -> None:
        self._mallory = mallory

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        end = 12 + len(dnswire.encode_name("a.example")) + 4
        head = b"\x81\x80\0\1\0\1\0\0\0\0" + data[12:end]
        record = b"\xc0\x0c\0\x10\0\1\0\0\0\x3c\0\2\1"
        self._mallory.sendto(data[:2] + head + record + b"m", addr)
        wrong = (int.from_bytes(data[:2], "big") ^ 1).to_bytes(2, "big")
        self._transport.sendto(wrong + head + record + b"m", addr)
        self._transport.sendto(data[:2] + head + record + b"b", addr)


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2"])
def test_a_forged_answer_is_not_taken(run: Run, source: str) -> None:
    """A wrong id, and a true id from a wrong source, must not end the wait for the true answer."""

    async def scene() -> Answer:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mallory:
            mallory.bind((source, 0))
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: _Forger(mallory), local_addr=("127.0.0.1", 0)
            )
            try:
                address = transport.get_extra_info("sockname")
                return await Dns([address], timeout=2).txt("a.example")
            finally:
                transport.close()

    assert run(scene()).records == (b"b",)


@pytest.mark.parametrize(
    ("address", "public"),
    [("8.8.8.8", True), ("2606:4700::1111", True), ("127.0.0.1", False), ("10.0.0.1", False),
     ("192.168.1.1", False), ("172.16.0.1", False), ("169.254.1.1", False), ("0.0.0.0", False),
     ("100.64.0.1", False), ("224.0.0.1", False), ("255.255.255.255", False), ("::", False),
     ("::1", False), ("fe80::1", False), ("fc00::1", False), ("ff02::1", False),
     ("::ffff:127.0.0.1", False), ("2002:7f00:1::", False), ("64:ff9b::7f00:1", False),
        ("fec0::1", False), ("192.88.99.1", False),
     ("192.0.2.1", False), ("nonsense", False)],
)  # fmt: skip
def test_law_5_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_every_cause_has_a_result_type() -> None:
    assert set(CAUSES.values()) == {"dns-error", "sts-policy-fetch-error", "sts-webpki-invalid"}
    assert NetFailure("http-status", "a\nb\x1b[31m").sentence == "a?b?[31m"


def test_law_6_one_silent_network_takes_no_more_than_its_share_of_the_connections(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Domains of as many owners as there are places, all with policy hosts that never say a word,
    in one network: who lives elsewhere is fetched from at once, and the rest is told why not."""
    monkeypatch.setattr(https, "CONNECTIONS", 20)
    monkeypatch.setattr(https, "PLACE_SECONDS", 0.3)

    async def scene() -> None:
        async with World() as world:
            await world.publish("bob.example")
            open_now: list[asyncio.StreamWriter] = []
            silent = await asyncio.start_server(
                lambda _, writer: open_now.append(writer), "127.66.6.1", world.https_port
            )
            for n in range(40):
                world.names.put(f"mta-sts.s{n}.example", "A", "127.66.6.1")

            async def never(n: int) -> NetFailure:
                with pytest.raises(NetFailure) as caught:
                    await fetch_policy(
                        f"s{n}.example", dns=dns, context=context, port=world.https_port,
                        allow_private=True, timeout=1.0,
                    )  # fmt: skip
                return caught.value

            dns = Dns([world.names.address])
            context = tls_context(str(world.ca_file))
            waiting = asyncio.gather(*(never(n) for n in range(40)))
            try:
                await asyncio.sleep(0.2)
                assert len(open_now) == 2
                async with asyncio.timeout(1):
                    assert (await fetch(world)).body == BODY
                failures = await waiting
                busy = [f for f in failures if "connections to its network are busy" in f.sentence]
                assert len(busy) == 38
                assert {f.slug for f in busy} == {"tcp-timeout"}
            finally:
                for writer in open_now:
                    writer.close()
                silent.close()

    run(scene())


def test_law_6_one_stranger_in_a_network_leaves_its_others_their_share(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of one owner, whose policy hosts never say a word, at the provider where bob's is."""
    monkeypatch.setattr(https, "CONNECTIONS", 100)

    async def scene() -> None:
        async with World() as world:
            await world.publish("bob.example")
            domains = [f"s{n}.eve.example" for n in range(20)]
            for domain in domains:
                await world.publish(domain)
                world.policy_hosts.pages[f"mta-sts.{domain}"] = Page(manner="silence")
            dns = Dns([world.names.address])
            context = tls_context(str(world.ca_file))
            waiting = [
                asyncio.ensure_future(
                    fetch_policy(
                        domain, dns=dns, context=context, port=world.https_port, allow_private=True
                    )
                )
                for domain in domains
            ]
            try:
                await asyncio.sleep(0.3)
                async with asyncio.timeout(1):
                    assert (await fetch(world)).body == BODY
            finally:
                for one in waiting:
                    one.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)

    run(scene())
