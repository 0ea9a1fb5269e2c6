"""The lab's small Internet: what is published can be looked up, fetched and delivered to."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from pathlib import Path

import dns.asyncquery
import dns.exception
import dns.message
import dns.rcode
import pytest

from smtp_sts import config
from smtp_sts.lab.authority import Variant
from smtp_sts.lab.policyhost import Page
from smtp_sts.lab.world import World


async def ask(world: World, name: str, rrtype: str) -> dns.message.Message:
    host, port = world.names.address
    query = dns.message.make_query(name, rrtype)
    answer, _ = await dns.asyncquery.udp_with_fallback(query, host, port=port, timeout=0.5)
    return answer


async def fetch(world: World, host: str, path: str = "/.well-known/mta-sts.txt") -> bytes:
    context = ssl.create_default_context(cafile=str(world.ca_file))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # Python 3.13 has it by default
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", world.https_port, ssl=context, server_hostname=host
    )
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        return await reader.read()
    finally:
        writer.close()


def test_published_domain_has_record_policy_and_mx() -> None:
    async def scene() -> None:
        async with World() as world:
            await world.publish("bob.example", mx=["*.bob.example"], id="a1")
            txt = await ask(world, "_mta-sts.bob.example", "TXT")
            assert '"v=STSv1; id=a1;"' in txt.answer[0].to_text()
            mx = await ask(world, "BOB.example", "MX")
            assert mx.answer[0][0].to_text().lower() == "10 mx.bob.example."
            response = await fetch(world, "mta-sts.bob.example")
            assert response.startswith(b"HTTP/1.1 200 ")
            assert response.endswith(b"\r\nmx: *.bob.example\r\nmax_age: 86400\r\n")
            assert world.policy_hosts.fetches["mta-sts.bob.example"] == 1

    asyncio.run(scene())


def test_names_follow_aliases_and_have_the_defects_they_are_told() -> None:
    async def scene() -> None:
        async with World() as world:
            names = world.names
            names.put("real.example", "TXT", '"x"')
            names.put("alias.example", "CNAME", "real.example.")
            names.put("long.example", "TXT", *(f'"{n:0200}"' for n in range(20)))
            answer = await ask(world, "alias.example", "TXT")
            assert [str(rrset.rdtype.name) for rrset in answer.answer] == ["CNAME", "TXT"]
            assert (await ask(world, "gone.example", "TXT")).rcode() == dns.rcode.NXDOMAIN
            assert (await ask(world, "real.example", "A")).rcode() == dns.rcode.NOERROR
            assert len((await ask(world, "long.example", "TXT")).answer[0]) == 20
            names.spoil("real.example", "servfail")
            assert (await ask(world, "real.example", "TXT")).rcode() == dns.rcode.SERVFAIL
            names.spoil("real.example", "truncated")
            assert (await ask(world, "real.example", "TXT")).answer
            names.spoil("real.example", "timeout")
            with pytest.raises(dns.exception.Timeout):
                await ask(world, "real.example", "TXT")
            names.mend("real.example")
            assert (await ask(world, "real.example", "TXT")).answer

    asyncio.run(scene())


@pytest.mark.parametrize("variant", ["expired", "not-yet", "self-signed", "other-name"])
def test_bad_certificates_are_refused(variant: Variant) -> None:
    async def scene() -> None:
        async with World() as world:
            await world.publish("bob.example")
            world.policy_hosts.pages["mta-sts.bob.example"] = Page(certificate=variant)
            with pytest.raises(ssl.SSLCertVerificationError):
                await fetch(world, "mta-sts.bob.example")

    asyncio.run(scene())


def test_receivers_keep_what_they_see_and_strip_starttls_when_told() -> None:
    def deliver(world: World, address: str, tls: bool) -> None:
        context = ssl.create_default_context(cafile=str(world.ca_file))
        with smtplib.SMTP(address, world.smtp_port, timeout=5) as client:
            client._host = "mx.bob.example"  # type: ignore[attr-defined]
            if tls:
                client.starttls(context=context)
            client.sendmail("alice@alice.example", ["bob@bob.example"], b"Subject: hi\r\n\r\nx\r\n")

    async def scene() -> None:
        async with World() as world:
            await world.publish("bob.example", hosts=["mx.bob.example", "mx2.bob.example"])
            receiver = world.receivers["mx.bob.example"]
            assert receiver.address != world.receivers["mx2.bob.example"].address
            await asyncio.to_thread(deliver, world, receiver.address, True)
            (message,) = world.messages("bob", "bob@bob.example")
            assert message.over_tls
            receiver.starttls = False
            receiver.owner = "mallory"
            with pytest.raises(smtplib.SMTPNotSupportedError):
                await asyncio.to_thread(deliver, world, receiver.address, True)
            await asyncio.to_thread(deliver, world, receiver.address, False)
            (message,) = world.messages("mallory", "bob@bob.example")
            assert not message.over_tls

    asyncio.run(scene())


def test_configuration_is_one_the_daemon_takes_and_nothing_is_left_behind() -> None:
    async def scene() -> Path:
        async with World() as world:
            await world.publish("bob.example")
            world.policy_hosts.pages["mta-sts.bob.example"] = Page(b"abc", manner="drip")
            silent = asyncio.create_task(fetch(world, "mta-sts.bob.example"))
            await asyncio.sleep(0.1)
            assert world.policy_hosts.fetches["mta-sts.bob.example"] == 1
            path = world.config_toml(policy={"workers": 1}, log={"level": "debug"})
            loaded = config.load(str(path))
            assert loaded.policy.workers == 1
            assert loaded.network.allow_private_addresses
            assert config.nameservers(loaded) == [world.names.address]
        await asyncio.gather(silent, return_exceptions=True)
        return path

    path = asyncio.run(scene())
    assert not path.parent.exists()
