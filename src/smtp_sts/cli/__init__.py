"""The command `smtp-sts`: one file a command, imported only when it is run.

Exit status: 0 good, 1 a negative verdict, 2 wrong usage or configuration, 3 could not tell.
Must not hold logic: commands parse arguments, call a room below, and print.
"""

from __future__ import annotations

import importlib
from typing import Final

import click

from smtp_sts import __version__

#: command -> what it is for; the module `smtp_sts.cli.NAME` has it as an attribute of that name.
COMMANDS: Final = {
    "cache": "The policies that the running daemon keeps: list, show, refresh, purge.",
    "config": "Check the configuration, or print one that explains itself.",
    "lab": "A small Internet on this machine, with an attacker in it.",
    "query": "What an MTA would be told for a domain, and why.",
    "report": "TLS reports: show any of them.",
    "serve": "The policy daemon.",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"smtp_sts.cli.{cmd_name}"), cmd_name)
        if not isinstance(command, click.Command):
            raise TypeError(f"smtp_sts.cli.{cmd_name} has no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


@click.group(cls=_Commands)
@click.version_option(__version__, prog_name="smtp-sts")
@click.option("--config", "config_path", metavar="FILE", help="Configuration file (TOML).")
@click.pass_context
def main(context: click.Context, config_path: str | None) -> None:
    """SMTP Strict Transport Security: policy daemon, queries, and a lab."""
    context.obj = config_path
