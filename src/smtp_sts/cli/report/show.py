"""`smtp-sts report show FILE`: any TLS report, for people."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from smtp_sts.tlsrpt import Enclosed, Opened, PolicyResult

#: Failures that are printed of one policy, and of all; lines of policy text; policies. --json has
#: all that was read.
MAX_ROWS = 50
MAX_ALL_ROWS = 300
MAX_LINES = 300
MAX_POLICIES = 100
#: Characters of one cell of a table, and of one line.
MAX_CELL = 150
MAX_LINE = 300
#: A result type that is no longer is not broken; of longer ones the other columns take their room.
MAX_UNBROKEN = 30
_COLUMNS = ("result", "from", "to", "EHLO", "reason")


@click.command()
@click.argument("file", type=click.File("rb"))
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, made regular.")
def show(file: Any, as_json: bool) -> None:
    """Show the TLS report in FILE: JSON, XML of the first draft, gzip, ZIP or a whole mail; "-" for
    standard input. Of a mail or an mbox with several reports all are shown.

    Status 0 where no session failed, 1 where some did, 2 where FILE holds no report.
    """
    from datetime import UTC, datetime

    from smtp_sts.tlsrpt import TlsrptError, open_reports
    from smtp_sts.tlsrpt.bounds import MAX_MAIL

    try:
        opened = open_reports(file.read(MAX_MAIL + 1), datetime.now(UTC))
    except TlsrptError as error:
        click.echo(f"smtp-sts: {_line(str(file.name))}: {error} ({error.slug})", err=True)
        sys.exit(2)
    except OSError as error:
        click.echo(f"smtp-sts: {error}", err=True)
        sys.exit(2)
    if as_json:
        from smtp_sts.cli.printing import to_json

        first, *others = map(_as_json, opened.reports)
        click.echo(to_json({**first, "more": others, "unread": opened.unread}))
    else:
        _print_all(opened)
    sys.exit(1 if any(map(_has_failures, opened.reports)) else 0)


def _has_failures(enclosed: Enclosed) -> bool:
    """Details too: some that report on testing mode count no session as failed."""
    read = enclosed.read
    details = (f.failed_session_count for p in read.report.policies for f in p.failures)
    left = read.left_out
    return bool(read.report.failed or any(details) or left.failed or left.failed_sessions)


def _print_all(opened: Opened) -> None:
    seen: list[Enclosed] = []
    for number, enclosed in enumerate(opened.reports, 1):
        if len(opened.reports) > 1:
            same = next((i for i, o in enumerate(seen, 1) if _is_same(o, enclosed)), 0)
            again = f": the same as report {same}" if same else ""
            click.echo(f"{chr(10) if seen else ''}report {number} of {len(opened.reports)}{again}")
        seen.append(enclosed)
        print_report(enclosed)
    if opened.unread:
        click.echo("\nnot read")
    for sentence in opened.unread:
        click.echo(f"  {_line(sentence)}")


def _is_same(one: Enclosed, other: Enclosed) -> bool:
    return one.read.report == other.read.report


def _as_json(enclosed: Enclosed) -> dict[str, Any]:
    import msgspec

    from smtp_sts.tlsrpt.sessions import sessions_of

    return {
        "report": enclosed.read.report.plain(),
        "draft": None if enclosed.draft is None else enclosed.draft.plain(),
        "sessions": msgspec.structs.asdict(
            sessions_of(enclosed.read.report.policies, enclosed.domain)
        ),
        "oddities": enclosed.read.oddities,
        "left_out": msgspec.structs.asdict(enclosed.read.left_out),
        "mail": {
            "domain": enclosed.domain,
            "submitter": enclosed.submitter,
            "from": enclosed.sender,
            "subject": enclosed.subject,
            "message_id": enclosed.message_id,
            "file_name": enclosed.file_name,
            "forwarded_by": enclosed.forwarded_by,
        },
    }


def print_report(enclosed: Enclosed) -> None:
    """Print a report for people."""
    from rich.text import Text

    from smtp_sts.cli.printing import wide_console
    from smtp_sts.tlsrpt.sessions import sessions_of

    console = wide_console()
    found = enclosed.read.report

    def row(name: str, text: str, style: str = "") -> None:
        console.print(Text(f"{name:<17}", style="bold"), Text(_line(text), style=style), sep="")

    row("from", f"{found.organization_name or '?'}, {found.contact_info or 'no contact'}")
    if enclosed.forwarded_by:
        row("sent by", f"{enclosed.sender or '?'}; passed on by {enclosed.forwarded_by}")
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
        sessions = sessions_of(found.policies, enclosed.domain)
        text = f"{sessions.successful:,} as the policy asks for, {sessions.failed:,} failed"
        if sessions.twice:
            text += "; a session may stand under policies of DANE and of MTA-STS: not added up"
        row("sessions", text)
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
        longest = max(len(row[index]) for row in rows)
        whole = index == 0 and longest <= MAX_UNBROKEN
        table.add_column(_COLUMNS[index], overflow="fold", no_wrap=whole)
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
