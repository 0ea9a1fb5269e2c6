"""`smtp-sts report convert FILE`: a report of RFC 8460 into the first draft's form, and back."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from smtp_sts.tlsrpt import DraftReport


@click.command()
@click.argument("file", type=click.File("rb"))
@click.option(
    "--to",
    "form",
    type=click.Choice(("json", "xml")),
    help="The form to write; without it, the one that FILE does not have.",
)
@click.option("--policy", "number", type=click.IntRange(1), help="Which of several, from 1.")
def convert(file: Any, form: str | None, number: int | None) -> None:
    """Write the TLS report in FILE ("-" for standard input) in the other form to standard output.

    json is that of RFC 8460, xml that of draft-margolis-smtp-sts-00. What cannot be carried over is
    told on standard error. A report of XML is on one policy: where FILE has failures under several,
    they are listed, and --policy says which.

    Status 0 where a report was written, 1 where nothing of it can be, 2 where FILE holds no report.
    """
    import msgspec

    from smtp_sts.cli.printing import safe_json
    from smtp_sts.tlsrpt import TlsrptError, open_report, to_draft, to_rfc8460
    from smtp_sts.tlsrpt.bounds import MAX_MAIL
    from smtp_sts.tlsrpt.names import clean
    from smtp_sts.tlsrpt.regular import regular

    def say(text: str) -> None:
        click.echo(f"smtp-sts: {clean(text, 1000)}", err=True)

    try:
        enclosed = open_report(file.read(MAX_MAIL + 1))
    except TlsrptError as error:
        say(f"{file.name}: {error} ({error.slug})")
        sys.exit(2)
    except OSError as error:
        say(str(error))
        sys.exit(2)
    report, draft = enclosed.read.report, enclosed.draft
    if form is None:
        form = "xml" if draft is None else "json"
    losses: tuple[str, ...] = ()
    try:
        if form == "json":
            if draft is not None:
                converted = to_rfc8460(draft)
                report, losses = converted.report, converted.losses
            fit = regular(report)
            report, losses = fit.report, (*losses, *fit.losses)
            body = (
                safe_json(msgspec.json.format(report.render(), indent=2).decode()).encode() + b"\n"
            )
        elif draft is not None:
            body = draft.render()
        else:
            fit = regular(report)
            made = to_draft(fit.report)
            losses = (*fit.losses, *made.losses)
            body = _chosen(made.reports, number).render()
    except LookupError as error:
        say(str(error.args[0]))
        sys.exit(1)
    except TlsrptError as error:
        say(f"cannot be written as {form}: {error} ({error.slug})")
        sys.exit(1)
    for loss in losses:
        say(f"lost: {loss}")
    click.echo(body, nl=False)


def _chosen(reports: tuple[DraftReport, ...], number: int | None) -> DraftReport:
    """The one to write; LookupError says what there is."""
    if not reports:
        raise LookupError("no failures under a policy in it: the draft reports nothing else")
    if number is None and len(reports) == 1:
        return reports[0]
    if number is None or number > len(reports):
        there = ", ".join(f"{i} {r.domain} ({r.constraint})" for i, r in enumerate(reports, 1))
        raise LookupError(f"failures under {len(reports)} policies, take one by --policy: {there}")
    return reports[number - 1]
