"""The command `smtp-sts`: one file a command, imported only when it is run.

Exit status: 0 good, 1 a negative verdict, 2 wrong usage or configuration, 3 could not tell.
Must not hold logic: commands parse arguments, call a room below, and print.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

import click

from smtp_sts import __version__

#: command -> what it is for
COMMANDS: Final = {
    "cache": "The policies that the running daemon keeps: list, show, refresh, purge.",
    "config": "Check the configuration, or print one that explains itself.",
    "lab": "A small Internet on this machine, with an attacker in it.",
    "policy": "Policies as text: from RFC 8461 into the first draft, and back.",
    "query": "What an MTA would be told for a domain, and why.",
    "reload": "Have the running daemon read its configuration again, and say what came of it.",
    "report": "TLS reports: what was collected, what goes out, and what others say.",
    "serve": "The policy daemon.",
}


class Commands(click.Group):
    """Commands that are imported only when they are run.

    The module NAME of `package` ("_" for "-") has the command as an attribute of that name.
    """

    def __init__(self, *arguments: Any, package: str, summaries: dict[str, str], **more: Any):
        super().__init__(*arguments, **more)
        self._package = package
        self._summaries = summaries

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, in order."""
        return sorted(self._summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; None where there is none."""
        if cmd_name not in self._summaries:
            return None
        name = cmd_name.replace("-", "_")
        command = getattr(importlib.import_module(f"{self._package}.{name}"), name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{self._package}.{name} has no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """What each is for, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(self._summaries.items()))


@click.group(cls=Commands, package=__name__, summaries=COMMANDS)
@click.version_option(__version__, prog_name="smtp-sts")
@click.option("--config", "config_path", metavar="FILE", help="Configuration file (TOML).")
@click.pass_context
def main(context: click.Context, config_path: str | None) -> None:
    """SMTP Strict Transport Security: policy daemon, queries, and a lab."""
    context.obj = config_path
