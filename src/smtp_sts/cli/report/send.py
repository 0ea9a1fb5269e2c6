"""`smtp-sts report send`: a day's reports, now; or what would be sent, and where to."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from smtp_sts.config import Config
    from smtp_sts.reporting.deliver import Courier
    from smtp_sts.reporting.making import Proposal

#: Domains that are looked up at once for --dry-run.
AT_ONCE = 8


@click.command()
@click.argument("domains", metavar="[DOMAIN]...", nargs=-1)
@click.option("--day", type=click.DateTime(["%Y-%m-%d"]), help="UTC day; yesterday if left out.")
@click.option("--dry-run", is_flag=True, help="Send and write nothing; print what would be sent.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def send(
    config_path: str | None,
    domains: tuple[str, ...],
    day: datetime | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Send the reports of a day that is over, without waiting for their time: to all domains that
    ask for them, or to DOMAINs.

    Each delivery is tried once; what fails is due again as ever, by the daemon or by this command.
    What was delivered before, or is just being sent by the daemon, is left alone.

    Status 0 where all was (or would be) delivered, 1 where something was not, 3 where the store
    cannot be used.
    """
    from datetime import UTC

    from smtp_sts.config import ConfigError, load
    from smtp_sts.policy.nexthop import policy_domain
    from smtp_sts.reporting.deliver import Courier
    from smtp_sts.reporting.schedule import DAY
    from smtp_sts.store import StoreError

    today = int(time.time() // DAY)
    number = today - 1 if day is None else int(day.replace(tzinfo=UTC).timestamp() // DAY)
    if number >= today:
        _fail("--day: the day is not over; report preview shows what is counted so far", 2)
    try:
        config = load(config_path)
        names = sorted({policy_domain(domain) for domain in domains})
        courier = Courier(config)
    except (ConfigError, ValueError) as error:
        _fail(str(error), 2)
    except OSError as error:
        _fail(f"network.ca_file: {error}", 2)
    if not as_json:
        courier.on_event = _event
    try:
        if dry_run:
            status = asyncio.run(_try(courier, number, names, as_json))
        else:
            status = asyncio.run(_send(courier, config, number, names, as_json))
    except StoreError as error:
        _fail(str(error), 3)
    sys.exit(status)


def _fail(message: str, status: int) -> NoReturn:
    click.echo(f"smtp-sts: {message}", err=True)
    sys.exit(status)


def _event(word: str, domain: str, uri: str, detail: str) -> None:
    from smtp_sts.cli.printing import one_line

    click.echo(one_line(f"{domain}: {word}{f' {uri}' if uri else ''}: {detail}"))


def _print_json(data: Any) -> None:
    from smtp_sts.cli.printing import to_json

    click.echo(to_json(data))


async def _send(
    courier: Courier, config: Config, day: int, domains: Sequence[str], as_json: bool
) -> int:
    from smtp_sts.reporting.compile import day_of
    from smtp_sts.store.outbox import open_outbox

    try:
        await courier.send_day(day, domains)
    finally:
        await courier.close()
    outbox = open_outbox(config.store.url)
    reports = [r for r in outbox.reports(day, day) if not domains or r.domain in domains]
    deliveries = [d for d in outbox.deliveries(day, day) if not domains or d.domain in domains]
    outbox.close()
    waiting = sum(r.state == "waiting" for r in reports)
    states = dict.fromkeys(("delivered", "due", "given-up", "skipped"), 0)
    for delivery in deliveries:
        states[delivery.state] += 1
    if as_json:
        _print_json(
            {
                "day": f"{day_of(day):%Y-%m-%d}",
                "reports": [
                    {"domain": r.domain, "state": r.state, "why": r.why} for r in reports
                ],
                "deliveries": [
                    {
                        "domain": d.domain, "part": d.part, "uri": d.uri, "state": d.state,
                        "tries": d.tries, "answer": d.answer,
                    }
                    for d in deliveries
                ],
            }
        )  # fmt: skip
    elif not reports:
        click.echo(f"nothing was counted on {day_of(day):%Y-%m-%d}")
    else:
        unwanted = sum(r.state == "unwanted" for r in reports)
        click.echo(
            f"{day_of(day):%Y-%m-%d}: {states['delivered']} delivered, "
            f"{states['due'] + waiting} due again later, {states['given-up']} given up, "
            f"{states['skipped']} skipped, {unwanted} not wanted"
        )
    missed = states["due"] + states["given-up"] + waiting
    missed += sum(r.state == "given-up" for r in reports)
    return 1 if missed else 0


async def _try(courier: Courier, day: int, domains: Sequence[str], as_json: bool) -> int:
    from smtp_sts.reporting.compile import day_of

    proposals: dict[str, Proposal] = {}
    free = asyncio.Semaphore(AT_ONCE)

    async def look(domain: str) -> None:
        async with free:
            proposals[domain] = proposal = await courier.propose(day, domain)
        if not as_json:
            _print(domain, proposal)

    try:
        counted = await courier.counted(day)
        known = await courier.settled(day)
        wanted = [name for name in counted if not domains or name in domains]
        await asyncio.gather(*(look(name) for name in wanted if name not in known))
    finally:
        await courier.close()
    if as_json:
        _print_json(
            {
                "day": f"{day_of(day):%Y-%m-%d}",
                "already": sorted(set(wanted) & known),
                "reports": [
                    {
                        "domain": name,
                        "verdict": found.verdict,
                        "why": found.why,
                        "parts": [
                            {"report_id": p.report_id, "bytes": len(p.body)} for p in found.parts
                        ],
                        "destinations": [
                            {"uri": to.uri, "skipped": to.skipped} for to in found.destinations
                        ],
                    }
                    for name, found in sorted(proposals.items())
                ],
            }
        )
    else:
        if gone := set(wanted) & known:
            click.echo(f"sent, or not to be sent, already: {', '.join(sorted(gone))}")
        if not wanted:
            click.echo(f"nothing was counted on {day_of(day):%Y-%m-%d}")
    return 1 if any(p.verdict in ("later", "unfit") for p in proposals.values()) else 0


def _print(domain: str, proposal: Proposal) -> None:
    from smtp_sts.cli.printing import one_line

    if proposal.verdict != "send":
        words = {"nobody": "no report", "later": "not now", "unfit": "no valid report"}
        click.echo(one_line(f"{domain}: {words[proposal.verdict]}: {proposal.why}"))
        return
    size = sum(len(part.body) for part in proposal.parts)
    parts = f"{len(proposal.parts)} parts, " if len(proposal.parts) > 1 else ""
    why = f"; {one_line(proposal.why)}" if proposal.why else ""
    click.echo(f"{domain}: {parts}{size:,} bytes{why}")
    for to in proposal.destinations:
        click.echo(one_line(f"  {to.uri}{f': not sent: {to.skipped}' if to.skipped else ''}"))
