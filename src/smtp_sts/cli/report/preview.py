"""`smtp-sts report preview DOMAIN`: the report that would go, or went."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from datetime import datetime


@click.command()
@click.argument("domain")
@click.option("--day", type=click.DateTime(["%Y-%m-%d"]), help="UTC day; today if left out.")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON that goes, a part a line.")
@click.pass_obj
def preview(config_path: str | None, domain: str, day: datetime | None, as_json: bool) -> None:
    """The report of a day to DOMAIN: what would go of what is counted so far, or, once it was made,
    the very report.

    Status 1 where there is nothing to report, 3 where the store cannot be read.
    """
    from datetime import UTC

    from smtp_sts.cli.printing import safe_json
    from smtp_sts.config import ConfigError, load
    from smtp_sts.policy.nexthop import policy_domain
    from smtp_sts.reporting.aggregate import DAY
    from smtp_sts.reporting.compile import Sender
    from smtp_sts.reporting.overview import date_of, preview_of
    from smtp_sts.store import StoreError
    from smtp_sts.store.outbox import open_outbox
    from smtp_sts.store.tallies import open_tallies_to_read
    from smtp_sts.tlsrpt import TlsrptError, open_report

    moment = time.time() if day is None else day.replace(tzinfo=UTC).timestamp()
    number = int(moment // DAY)
    try:
        config = load(config_path)
        section = config.tls_reports
        sender = Sender(section.organization, section.contact)
        name = policy_domain(domain)
    except TlsrptError as error:
        _fail(f"[tls_reports] {error}", 2)
    except (ConfigError, ValueError) as error:
        _fail(str(error), 2)
    try:
        tallies = open_tallies_to_read(config.store.url)
        outbox = open_outbox(config.store.url)
        found = preview_of(
            tallies, outbox, number, name, sender, check_testing=section.check_testing
        )
        days = tallies.days_of(name) if not found.parts else []
        outbox.close()
        tallies.close()
    except StoreError as error:
        _fail(str(error), 3)
    if not found.parts and found.note:
        _fail(f"nothing to report to {name} of {date_of(number)}: {found.note}", 1)
    if not found.parts:
        others = ", ".join(map(date_of, days[-10:]))
        hint = f"; sessions were counted on {others} (--day)" if others else ""
        _fail(f"nothing was counted of {name} on {date_of(number)}{hint}", 1)
    for index, part in enumerate(found.parts):
        if as_json:
            click.echo(safe_json(part.decode()))
            continue
        if index:
            click.echo()
        else:
            click.echo(found.told)
            click.echo()
        from smtp_sts.cli.report.show import print_report

        print_report(open_report(part))


def _fail(message: str, status: int) -> NoReturn:
    click.echo(f"smtp-sts: {message}", err=True)
    sys.exit(status)
