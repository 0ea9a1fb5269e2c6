"""`smtp-sts serve`: the policy daemon in the foreground."""

from __future__ import annotations

import sys

import click


@click.command()
@click.pass_obj
def serve(config_path: str | None) -> None:
    """Answer MTAs until SIGTERM; SIGHUP re-reads the configuration."""
    from smtp_sts import daemon
    from smtp_sts.config import ConfigError
    from smtp_sts.daemon.sockets import ListenError

    try:
        daemon.serve(config_path)
    except ConfigError as error:
        click.echo(f"smtp-sts: {error}", err=True)
        sys.exit(2)
    except ListenError as error:
        click.echo(f"smtp-sts: {error.strerror}", err=True)
        sys.exit(2)
