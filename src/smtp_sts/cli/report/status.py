"""`smtp-sts report status`: what was collected today, what waits, what was delivered and where."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from rich.console import Console

    from smtp_sts.config import Config
    from smtp_sts.reporting.overview import Collected, Done, Overview, Waiting

#: Entries of a list that are printed, of all domains and of one; --json has more.
MAX_ROWS = 8
MAX_OWN_ROWS = 100
#: Domains with failures that are printed.
MAX_WORST = 5


@click.command()
@click.argument("domain", required=False, default="")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status(config_path: str | None, domain: str, as_json: bool) -> None:
    """What was collected today, what waits to be sent, and what was delivered in the last week and
    where; of all domains, or of DOMAIN.

    Status 1 where a report was given up in the last week, 3 where the store cannot be read.
    """
    from smtp_sts.config import ConfigError, load
    from smtp_sts.policy.nexthop import policy_domain
    from smtp_sts.reporting.overview import overview
    from smtp_sts.store import StoreError
    from smtp_sts.store.outbox import open_outbox
    from smtp_sts.store.tallies import open_tallies_to_read

    try:
        config = load(config_path)
        name = policy_domain(domain) if domain else ""
    except (ConfigError, ValueError) as error:
        _fail(str(error), 2)
    try:
        tallies = open_tallies_to_read(config.store.url)
        outbox = open_outbox(config.store.url)
        checked = config.tls_reports.check_testing
        found = overview(tallies, outbox, time.time(), name, check_testing=checked)
        outbox.close()
        tallies.close()
    except StoreError as error:
        _fail(str(error), 3)
    if as_json:
        from smtp_sts.cli.printing import to_json

        click.echo(to_json(found))
    else:
        _print(found, config, name)
    sys.exit(1 if any(entry.state == "given-up" for entry in found.failed) else 0)


def _fail(message: str, status: int) -> NoReturn:
    click.echo(f"smtp-sts: {message}", err=True)
    sys.exit(status)


def _print(found: Overview, config: Config, domain: str) -> None:
    from rich.text import Text

    from smtp_sts.cli.printing import wide_console

    console = wide_console()

    def head(name: str, text: str, style: str = "") -> None:
        console.print(Text(f"{name:<11}", style="bold"), Text(text, style=style), sep="")

    head("store", found.store)
    section = config.tls_reports
    if not section.enabled:
        head("collecting", "off: [tls_reports] enabled is false", "yellow")
    elif not section.deliver:
        head("sending", "off: [tls_reports] deliver is false", "yellow")
    if domain:
        head("domain", domain)
    _print_today(console, found.today, found.at)
    _print_days(console, found)
    lists = (
        ("waits", found.counts["waiting"], [_waiting(w) for w in found.waiting]),
        ("not delivered", found.counts["failed"], [_done(d) for d in found.failed]),
        ("delivered", found.counts["delivered"], [_done(d) for d in found.delivered]),
    )
    for name, count, lines in lists:
        _print_list(console, name, count, lines[: MAX_OWN_ROWS if domain else MAX_ROWS])


def _print_today(console: Console, today: Collected, now: float) -> None:
    from rich.text import Text

    sessions = today.successful + today.failed
    console.print()
    console.print(
        Text("today", style="bold"),
        Text(f"      {today.day}, {_moment(now)[11:]} UTC: {sessions:,} sessions with "
             f"{today.domains:,} {'domain' if today.domains == 1 else 'domains'}, "),
        Text(f"{today.failed:,} failed", style="red" if today.failed else ""),
        sep="",
    )  # fmt: skip
    for source, counted in today.sources.items():
        kind, _, host = source.partition(":")
        name = {"daemon": "the daemon on", "import": "import-log, logs of"}.get(kind, kind)
        console.print(Text(f"           {counted:,} counted by {name} {host}"))
    for host, lines in today.unread.items():
        console.print(
            Text(f"           {lines:,} lines of logs could not be read for certain on {host}: "
                 "smtp-sts report import-log --dry-run FILE says more", style="yellow")
        )  # fmt: skip
    for worst in today.worst[:MAX_WORST]:
        results = ", ".join(f"{name} {n:,}" for name, n in worst.results.items())
        of = worst.successful + worst.failed
        console.print(
            Text(f"           {worst.domain}: {worst.failed:,} of {of:,} failed: "
                 f"{results or 'for reasons that the log does not tell'}")
        )  # fmt: skip


def _print_days(console: Console, found: Overview) -> None:
    from rich.table import Table
    from rich.text import Text

    if not found.days:
        console.print()
        console.print(Text("nothing was collected yet"))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("day (UTC)")
    for column in ("domains", "good", "failed"):
        table.add_column(column, justify="right")
    table.add_column("reports")
    for day in reversed(found.days):
        reports = ", ".join(f"{number:,} {fate}" for fate, number in sorted(day.reports.items()))
        if not reports:
            reports = "the day goes on" if day.day == found.today.day else "none planned yet"
        table.add_row(
            day.day, f"{day.domains:,}", f"{day.successful:,}", f"{day.failed:,}", Text(reports)
        )
    console.print()
    console.print(table, soft_wrap=False)


def _print_list(console: Console, name: str, count: int, lines: list[str]) -> None:
    from rich.text import Text

    if not count:
        return
    console.print()
    console.print(Text(f"{name} ({count:,})", style="bold"))
    for line in lines:
        console.print(Text(f"  {line}"))
    if count > len(lines):
        console.print(Text(f"  and {count - len(lines):,} more; name a domain, or --json"))


def _waiting(entry: Waiting) -> str:
    what = f"{entry.day} {entry.domain}"
    if not entry.to:
        why = f": {_line(entry.why)}" if entry.why else ""
        return f"{_moment(entry.at)}  {what} is made{why}"
    when = "now             " if entry.sending else _moment(entry.at)
    tries = f" (try {entry.tries + 1}): {_line(entry.why)}" if entry.tries else ""
    return f"{when}  {what} -> {_line(entry.to)}{tries}"


def _done(entry: Done) -> str:
    to = f" -> {_line(entry.to)}" if entry.to else ""
    state = "skipped, " if entry.state == "skipped" else ""
    return f"{_moment(entry.at)}  {entry.day} {entry.domain}{to}: {state}{_line(entry.answer)}"


def _moment(at: float | None) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}" if at is not None else " " * 16


def _line(text: str) -> str:
    """A stranger's text as one line that a terminal prints and does not obey (law 5)."""
    from smtp_sts.tlsrpt.names import clean

    return clean(text, 300)
