"""A fleet with one store sends one report a day to each domain, whoever of it dies."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from pathlib import Path

from ..reporting.post_office import PostOffice, until
from .cluster import Cluster


def test_a_fleet_sends_each_report_once(server: Cluster, database: str, tmp_path: Path) -> None:
    async def scene() -> None:
        async with PostOffice(tmp_path, url=server.url(database)) as office:
            domains = [f"d{n}.example" for n in range(40)]
            office.count(*domains)
            for domain in domains:
                office.ask(domain, f"mailto:r@{domain}")
            fleet = [office.courier() for _ in range(3)]
            tasks = [asyncio.create_task(one.run(0.05)) for one in fleet]
            await until(lambda: len(office.reports()) == 40 and office.settled())
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task
            for one in fleet:
                await one.close()
            assert Counter(m.rcpt_tos[0] for m in office.mta.mails) == {
                f"r@{domain}": 1 for domain in domains
            }
            assert sum(one.counts["delivered"] for one in fleet) == 40

    asyncio.run(scene())


def test_a_database_that_goes_away_for_a_while_loses_and_doubles_nothing(
    server: Cluster, database: str, tmp_path: Path
) -> None:
    async def scene() -> None:
        async with PostOffice(tmp_path, url=server.url(database)) as office:
            domains = [f"d{n}.example" for n in range(20)]
            office.count(*domains)
            for domain in domains:
                office.ask(domain, f"mailto:r@{domain}")
            courier = office.courier()
            task = asyncio.create_task(courier.run(0.05))
            await until(lambda: len(office.mta.mails) >= 3)
            with server.frozen():
                await asyncio.sleep(4)  # longer than is waited for an answer
            await until(lambda: len(office.reports()) == 20 and office.settled())
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await courier.close()
            assert Counter(m.rcpt_tos[0] for m in office.mta.mails) == {
                f"r@{domain}": 1 for domain in domains
            }

    asyncio.run(scene())
