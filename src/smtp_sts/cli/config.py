"""`smtp-sts config check` and `smtp-sts config example`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from smtp_sts.config import Config


@click.group()
def config() -> None:
    """Check the configuration, or print one that explains itself."""


@config.command()
def example() -> None:
    """Print a commented configuration that holds every default."""
    from smtp_sts.config import EXAMPLE

    click.echo(EXAMPLE, nl=False)


@config.command()
@click.pass_obj
def check(config_path: str | None) -> None:
    """Read the configuration as the daemon would; status 2 where it would refuse it."""
    from smtp_sts import daemon
    from smtp_sts.config import ConfigError, control_address, find_path, listeners, load
    from smtp_sts.daemon import starting
    from smtp_sts.resolver import overrides
    from smtp_sts.resolver.reach import reach_of
    from smtp_sts.store import StoreError, is_shared, missing, open_store, open_to_read

    try:
        loaded = load(config_path)
        starting.check(loaded)
    except ConfigError as error:
        click.echo(f"smtp-sts: {error}", err=True)
        sys.exit(2)
    click.echo(f"configuration: {find_path(config_path) or 'defaults, no file'}: good")
    click.echo(f"listens on:    {', '.join(map(str, listeners(loaded)))}")
    click.echo(f"control:       {control_address(loaded) or 'off'}")
    dane = loaded.policy.dane and reach_of(loaded).dns.trusts_ad
    for sentence in overrides.never_applied(overrides.read(loaded.overrides), dane=dane):
        click.echo(f"warning:       {sentence}")
    _check_postfix(loaded, dane=dane)
    click.echo(f"workers:       {daemon.worker_count(loaded)}")
    if loaded.tls_reports.enabled:
        _check_reports(loaded)
    try:
        if place := missing(loaded.store.url):  # whoever makes it owns it: that is the daemon
            click.echo(f"store:         {place}, not there yet: the daemon makes it")
        else:
            opened = open_store if is_shared(loaded.store.url) else open_to_read
            store = opened(loaded.store.url)
            click.echo(f"store:         {store.place}, {store.count()} policies")
            store.close()
    except StoreError as error:
        click.echo(f"smtp-sts: {error}", err=True)
        sys.exit(2)


def _check_postfix(config: Config, *, dane: bool) -> None:
    """How the Postfix on this machine asks, and what does not fit; nothing where there is none."""
    import asyncio

    from smtp_sts.config import listeners
    from smtp_sts.daemon import postconf
    from smtp_sts.mta.postfix_fit import asks_by, misfits

    settings = asyncio.run(postconf.read())
    if not settings:
        return
    names = asks_by(settings, listeners(config))
    how = f"asks by {', '.join(names)}" if names else "does not ask here (smtp_tls_policy_maps)"
    click.echo(f"Postfix:       {settings.get('mail_version', 'version unknown')}, {how}")
    for sentence in misfits(settings, listeners(config), dane=dane):
        click.echo(f"warning:       {sentence}")


def _check_reports(config: Config) -> None:
    """How reports go out, and what will not do what the operator wants."""
    import asyncio

    from smtp_sts.config import ConfigError
    from smtp_sts.daemon import postconf
    from smtp_sts.mta.postfix_fit import counts_reports
    from smtp_sts.reporting.dkim import record_faults
    from smtp_sts.reporting.settings import read_settings, warnings
    from smtp_sts.resolver.reach import reach_of

    if not config.tls_reports.deliver:
        click.echo("TLS reports:   collected, not sent")
        return
    try:
        settings = read_settings(config)
    except ConfigError as error:
        click.echo(f"smtp-sts: {error}", err=True)
        sys.exit(2)
    click.echo(f"TLS reports:   from {settings.sender.contact}, mail by {config.tls_reports.mail}")
    faults = warnings(config, settings)
    if config.tls_reports.socket:
        faults += counts_reports(asyncio.run(postconf.read()), settings.sender.contact)
    if settings.signer is not None:
        found = asyncio.run(record_faults(settings.signer, reach_of(config).dns))
        click.echo(f"DKIM key:      {settings.signer.record_name}{'' if found else ', published'}")
        faults += found
    for sentence in faults:
        click.echo(f"warning:       {sentence}")
