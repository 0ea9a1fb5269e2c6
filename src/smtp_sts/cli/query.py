"""`smtp-sts query DOMAIN`: what an MTA would be told, and why."""

from __future__ import annotations

import sys
from typing import Any

import click


@click.command()
@click.argument("domain")
@click.option("--json", "as_json", is_flag=True, help="Print the decision as JSON.")
@click.option("--server", metavar="ADDRESS", help="Ask a running daemon: host:port or unix:/path.")
@click.pass_obj
def query(config_path: str | None, domain: str, as_json: bool, server: str | None) -> None:
    """Tell what applies to DOMAIN (a domain or a next hop as an MTA writes it), step by step.

    Status 0 where a policy was found or there is none, 1 where one is there and cannot be used, 2
    for wrong usage, 3 where it could not be told.
    """
    import asyncio

    import msgspec

    from smtp_sts.config import ConfigError, load, parse_address
    from smtp_sts.mta.client import ClientError, explain
    from smtp_sts.mta.lookup import look_up
    from smtp_sts.policy import NextHopError, policy_domain

    try:
        policy_domain(domain)
        if server is not None:
            data = asyncio.run(explain(parse_address(server), domain))
        else:
            data = asyncio.run(look_up(load(config_path), domain))
    except (NextHopError, ConfigError) as error:
        click.echo(f"smtp-sts: {error}", err=True)
        sys.exit(2)
    except (ClientError, OSError) as error:
        click.echo(f"smtp-sts: {error}", err=True)
        sys.exit(3)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(data), indent=2))
    else:
        _print(data)
    sys.exit(_status(data))


def _status(data: dict[str, Any]) -> int:
    if data["outcome"] != "no-policy" or data["reason"] == "no-record":
        return 0
    if data["reason"] in ("dns-error", "discovery-timeout", "overloaded"):
        return 3
    return 1


def _print(data: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    from smtp_sts.resolver.decision import REASONS

    console = Console(soft_wrap=True, highlight=False)

    def row(name: str, text: str, style: str = "") -> None:
        console.print(Text(f"{name:<17}", style="bold"), Text(text, style=style), sep="")

    colour = {"enforce": "green", "testing": "yellow"}.get(data["outcome"], "")
    row("domain", data["domain"])
    if data["policy_domain"] != data["domain"]:
        row("policy domain", data["policy_domain"])
    for step in data["steps"]:
        mark = {True: "ok    ", False: "FAILED"}.get(step["ok"], "      ")
        row(step["name"], f"{mark}  {step['text']}", "red" if step["ok"] is False else "")
    row("outcome", f"{data['outcome']}: {REASONS[data['reason']]} ({data['reason']})", colour)
    if data["policy"]:
        row("from", f"{data['from']}, fetched {data['fetched_at']}, expires {data['expires_at']}")
    console.print(Text("an MTA is told", style="bold"))
    for name, reply in data["replies"].items():
        row(f"  {name}", reply)
