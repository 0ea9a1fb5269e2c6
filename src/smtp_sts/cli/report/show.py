"""`smtp-sts report show FILE`: any TLS report, for people."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from smtp_sts.tlsrpt import Enclosed, PolicyResult

#: Failures that are printed of one policy, and of all; lines of policy text; policies. --json has
#: all that was read.
MAX_ROWS = 50
MAX_ALL_ROWS = 300
MAX_LINES = 300
MAX_POLICIES = 100
#: Characters of one cell of a table, and of one line.
MAX_CELL = 150
MAX_LINE = 300
_COLUMNS = ("result", "from", "to", "EHLO", "reason")


@click.command()
@click.argument("file", type=click.File("rb"))
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, made regular.")
def show(file: Any, as_json: bool) -> None:
    """Show the TLS report in FILE: JSON, XML of the first draft, gzip, ZIP or a whole mail; "-" for
    standard input.

    Status 0 where no session failed, 1 where some did, 2 where FILE holds no report.
    """
    from smtp_sts.tlsrpt import TlsrptError, open_report
    from smtp_sts.tlsrpt.bounds import MAX_MAIL

    try:
        enclosed = open_report(file.read(MAX_MAIL + 1))
    except TlsrptError as error:
        click.echo(f"smtp-sts: {_line(str(file.name))}: {error} ({error.slug})", err=True)
        sys.exit(2)
    except OSError as error:
        click.echo(f"smtp-sts: {error}", err=True)
        sys.exit(2)
    if as_json:
        from smtp_sts.cli.printing import to_json

        click.echo(to_json(_as_json(enclosed)))
    else:
        print_report(enclosed)
    sys.exit(1 if enclosed.read.report.failed or enclosed.read.left_out.failed else 0)


def _as_json(enclosed: Enclosed) -> dict[str, Any]:
    import msgspec

    return {
        "report": enclosed.read.report.plain(),
        "draft": None if enclosed.draft is None else enclosed.draft.plain(),
        "oddities": enclosed.read.oddities,
        "left_out": msgspec.structs.asdict(enclosed.read.left_out),
        "mail": {
            "domain": enclosed.domain,
            "submitter": enclosed.submitter,
            "from": enclosed.sender,
            "subject": enclosed.subject,
            "message_id": enclosed.message_id,
            "file_name": enclosed.file_name,
        },
    }


def print_report(enclosed: Enclosed) -> None:
    """Print a report for people."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    found = enclosed.read.report

    def row(name: str, text: str, style: str = "") -> None:
        console.print(Text(f"{name:<17}", style="bold"), Text(_line(text), style=style), sep="")

    row("from", f"{found.organization_name or '?'}, {found.contact_info or 'no contact'}")
    if enclosed.submitter and enclosed.submitter != found.submitter:
        row("submitter", f"{enclosed.submitter} (of the mail; the report says otherwise)")
    draft = enclosed.draft
    if draft is not None:
        row("form", "XML of the first draft (draft-margolis-smtp-sts-00)")
        if draft.extra_contact:
            row("contact", draft.extra_contact)
    row("report id", (found.report_id if draft is None else draft.report_id) or "?")
    row("begins", f"{found.start:%Y-%m-%d %H:%M:%S} UTC")
    row("ends", f"{found.end:%Y-%m-%d %H:%M:%S} UTC")
    if draft is None:
        row("sessions", f"{found.successful:,} as the policy asks for, {found.failed:,} failed")
    else:
        row("failures", f"{found.failed:,}; this form tells of no others, and may count one twice")
    # What failed comes first, where not all can be printed.
    policies = sorted(found.policies, key=lambda result: not result.failed)
    if len(policies) <= MAX_POLICIES:
        policies = list(found.policies)
    room = _Room(MAX_ALL_ROWS, MAX_LINES)
    for result in policies[:MAX_POLICIES]:
        console.print()
        _print_policy(console, result, room, drafted=draft is not None)
    if len(policies) > MAX_POLICIES:
        console.print()
        console.print(Text(f"and {len(policies) - MAX_POLICIES:,} more policies; see --json"))
    _print_meanings(console, enclosed)
    if enclosed.read.oddities:
        console.print()
        norm = "RFC 8460" if draft is None else "the draft"
        console.print(Text(f"not as {norm} has it", style="bold"))
        for oddity in enclosed.read.oddities:
            console.print(Text(f"  {_line(oddity)}"))
    if left := enclosed.read.left_out.sentences():
        console.print()
        console.print(Text("too much to read, so left out", style="bold"))
        for sentence in left:
            console.print(Text(f"  {sentence}"))


class _Room:
    """How much more of a report is printed: rows of failures, lines of policies."""

    def __init__(self, rows: int, lines: int) -> None:
        self.rows = rows
        self.lines = lines


def _print_policy(console: Console, result: PolicyResult, room: _Room, *, drafted: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    policy = result.policy
    style = "red" if result.failed else "green"
    title = f"{policy.policy_domain or '(domain not named)'}: {policy.policy_type or '?'}"
    counts = f"{result.failed:,} failed"
    if not drafted:
        counts = f"{result.successful:,} good, {counts}"
    console.print(Text(_line(title), style="bold"), Text(f"  {counts}", style=style), sep="")
    for name, lines in (("policy", policy.policy_string), ("mx", policy.mx_host)):
        shown_lines = lines[: room.lines]
        room.lines -= len(shown_lines)
        for number, text in enumerate(shown_lines):
            console.print(Text(f"  {name if number == 0 else '':<15}{_line(text)}"))
        if len(lines) > len(shown_lines):
            console.print(Text(f"  and {len(lines) - len(shown_lines):,} more lines of {name}"))
    if not result.failures:
        return
    ordered = sorted(result.failures, key=lambda f: -f.failed_session_count)
    number_of_rows = min(MAX_ROWS, room.rows)
    room.rows -= min(len(ordered), number_of_rows)
    rows = [
        (
            _cell(failure.result_type),
            _cell(failure.sending_mta_ip),
            "\n".join(
                filter(None, map(_cell, (failure.receiving_mx_hostname, failure.receiving_ip)))
            ),
            _cell(failure.receiving_mx_helo),
            _cell(f"{failure.failure_reason_code} {failure.additional_information}"),
        )
        for failure in ordered[:number_of_rows]
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("  sessions", justify="right")
    # A column that nobody has filled takes no room.
    shown = [index for index in range(len(_COLUMNS)) if any(row[index] for row in rows)]
    for index in shown:
        table.add_column(_COLUMNS[index], overflow="fold", no_wrap=index == 0)
    for failure, row in zip(ordered, rows, strict=False):
        table.add_row(f"{failure.failed_session_count:,}", *(Text(row[i]) for i in shown))
    console.print(table, soft_wrap=False)
    if len(ordered) > number_of_rows:
        more = f"  and {len(ordered) - number_of_rows:,} more; --json prints them all"
        console.print(Text(more))


def _print_meanings(console: Console, enclosed: Enclosed) -> None:
    from rich.text import Text

    from smtp_sts.tlsrpt import DRAFT_RESULTS, RESULTS

    failures = [f for p in enclosed.read.report.policies for f in p.failures]
    seen = {f.result_type for f in failures}
    for name in (name for name in RESULTS if name in seen):
        console.print()
        console.print(Text(name, style="bold"))
        _print_prose(console, RESULTS[name].meaning)
        _print_prose(console, RESULTS[name].advice)
    # types that only the first draft has stand as reasons
    reasons = {f.failure_reason_code for f in failures} if enclosed.draft is not None else set()
    for name in (name for name in DRAFT_RESULTS if name in reasons):
        console.print()
        console.print(Text(name, style="bold"))
        _print_prose(console, DRAFT_RESULTS[name].meaning)


def _print_prose(console: Console, text: str) -> None:
    from rich.padding import Padding
    from rich.text import Text

    console.print(Padding(Text(text), (0, 0, 0, 2), expand=False), soft_wrap=False)


def _line(text: str) -> str:
    """A stranger's text as one line that a terminal prints and does not obey (law 5)."""
    from smtp_sts.cli.printing import one_line

    return one_line(text.strip(), MAX_LINE)


def _cell(text: str) -> str:
    from smtp_sts.cli.printing import one_line

    return one_line(text.strip(), MAX_CELL)
