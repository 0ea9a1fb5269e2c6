"""Strangers who name a third party as the destination of reports."""

from __future__ import annotations

import asyncio
from pathlib import Path

from smtp_sts.reporting.third_parties import DELIVERIES_A_DAY, ThirdParties
from smtp_sts.store.outbox import Planned

from .post_office import PostOffice

VICTIM = Planned("mailto:postmaster@victim.example", "")


def test_names_below_a_domain_send_no_more_than_one_share_to_a_third_party() -> None:
    third = ThirdParties()
    found = [third.admit(1, f"d{n}.eve.example", [VICTIM], 1)[0].skipped for n in range(100)]
    assert found[:DELIVERIES_A_DAY] == [""] * DELIVERIES_A_DAY
    assert all("victim.example gets no more" in why for why in found[DELIVERIES_A_DAY:])
    # another host of the victim's is the victim; the next day is another
    host = Planned("https://mx.victim.example/", "mx.victim.example")
    assert third.admit(1, "eve.example", [host], 1)[0].skipped
    assert not third.admit(2, "eve.example", [host], 1)[0].skipped


def test_who_reads_reports_for_many_gets_those_of_all() -> None:
    third = ThirdParties()
    assert not any(third.admit(1, f"d{n}.example", [VICTIM], 1)[0].skipped for n in range(500))
    own = Planned("mailto:a@reports.big.example", "")
    assert not any(third.admit(1, f"d{n}.big.example", [own], 1)[0].skipped for n in range(500))


def test_law_5_a_stranger_has_few_mails_sent_to_somebody_else(tmp_path: Path) -> None:
    domains = [f"d{n}.mallory.example" for n in range(70)]

    async def scene() -> None:
        async with PostOffice(tmp_path) as office:
            office.count("bob.example", *domains)
            for domain in (*domains, "bob.example"):
                office.ask(domain, "mailto:tls@victim.test")
            await office.while_delivering(office.settled)
            assert len(office.mta.mails) == DELIVERIES_A_DAY + 1  # and bob's
            skipped = [d for d in office.deliveries() if d.state == "skipped"]
            assert len(skipped) == 70 - DELIVERIES_A_DAY
            assert all("deliveries a day" in d.answer for d in skipped)

    asyncio.run(scene())


def test_silent_destinations_of_strangers_keep_nobody_waiting(tmp_path: Path) -> None:
    names = [f"r.m{n}.example" for n in range(80)] + [f"r{n}.mallory.example" for n in range(60)]

    async def scene() -> None:
        async with PostOffice(tmp_path) as office:
            met = 0

            async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                nonlocal met
                met += 1
                await reader.read()
                writer.close()

            server = await asyncio.start_server(silent, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            office.count(*names, "zoe.example")
            for name in names:
                office.world.names.put(name, "A", "127.0.0.1")
                office.ask(name, f"https://{name}:{port}/")
            office.ask("zoe.example", "mailto:tls@zoe.example")
            began = asyncio.get_running_loop().time()
            await office.while_delivering(lambda: bool(office.mta.mails) and met >= 80, seconds=30)
            assert asyncio.get_running_loop().time() - began < 30
            server.close()

    asyncio.run(scene())
