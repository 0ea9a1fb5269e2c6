"""`smtp-sts report`: TLS reports, those that go out and those of others; one file a command."""

from __future__ import annotations

from typing import Final

import click

from smtp_sts.cli import Commands

#: command -> what it is for; the module of that name ("-" as "_") has it as an attribute.
COMMANDS: Final = {
    "convert": "A TLS report into the other form: JSON of RFC 8460, XML of the first draft.",
    "import-log": "Count the TLS sessions in an old log of Postfix or Exim.",
    "preview": "The report of a day to a domain, as it would go or went.",
    "send": "The reports of a day, now; or what would be sent, and where to.",
    "show": "Any TLS report, for people: counts, failures, what they mean and what to do.",
    "status": "What was collected today, what waits, and what was delivered and where.",
}


@click.group(cls=Commands, package=__name__, summaries=COMMANDS)
def report() -> None:
    """TLS reports (RFC 8460): what was collected, what goes out, and what others say."""
