"""`smtp-sts reload`: the running daemon reads its configuration again, and says what came of it."""

from __future__ import annotations

import sys

import click


@click.command()
@click.option("--pid", type=click.IntRange(min=1), help="The daemon's main process.")
@click.pass_obj
def reload(config_path: str | None, pid: int | None) -> None:
    """Have the running daemon read its configuration again.

    The daemon is found by its control socket, or named by --pid. Exit status 0: the configuration
    was taken; 2: it was refused, and the one before goes on; 3: that could not be told.
    """
    from smtp_sts.config import ConfigError, control_address, load
    from smtp_sts.daemon.reloading import ReloadError, ask, supervisor_at

    try:
        if pid is None:
            try:
                address = control_address(load(config_path))
            except ConfigError as error:  # the daemon would refuse it as well
                click.echo(f"smtp-sts: {error}", err=True)
                sys.exit(2)
            if address is None:
                raise ReloadError("there is no control socket to find the daemon by: give --pid")
            try:
                pid = supervisor_at(address)
            except OSError as error:
                text = f"no daemon is found at {address} ({error.strerror}): give --pid"
                raise ReloadError(text) from None
        verdict = ask(pid)
    except ReloadError as error:
        click.echo(f"smtp-sts: {error}", err=True)
        sys.exit(3)
    if verdict.refused:
        click.echo(
            f"smtp-sts: configuration not taken, going on with the one before: {verdict.refused}",
            err=True,
        )
        sys.exit(2)
    click.echo("configuration taken")
