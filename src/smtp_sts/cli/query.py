"""`smtp-sts query DOMAIN`: what an MTA would be told, and why."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from smtp_sts.config import Config

#: Characters of one line.
MAX_LINE: Final = 4000
#: More of a reply is for programs (characters).
_SHOWN: Final = 300
_COLOURS: Final = {
    "enforce": "green", "dane": "green", "testing": "yellow", "temporary-failure": "red",
}  # fmt: skip
#: `--server` without an address.
CONFIGURED: Final = ""


@click.command()
@click.argument("domain", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the decision as JSON.")
@click.option(
    "--server",
    metavar="[ADDRESS]",
    is_flag=False,
    flag_value=CONFIGURED,
    help="Ask a running daemon: that of the configuration, or where host:port or unix:/path is.",
)
@click.option(
    "--dialect",
    "wanted",
    multiple=True,
    metavar="DIALECT",
    help="Look for policies of this dialect (rfc8461, draft00), whatever the configuration says; "
    "may be given twice.",
)
@click.pass_obj
def query(
    config_path: str | None,
    domain: str | None,
    as_json: bool,
    server: str | None,
    wanted: tuple[str, ...],
) -> None:
    """Tell what applies to DOMAIN (a domain or a next hop as an MTA writes it), step by step.

    Status 0 where a policy was found or there is none, 1 where one is there and cannot be used, 2
    for wrong usage, 3 where it could not be told.
    """
    import asyncio

    import msgspec

    from smtp_sts.config import ConfigError, dialects, load, parse_address
    from smtp_sts.daemon.control import ControlError
    from smtp_sts.mta.client import ClientError, explain
    from smtp_sts.mta.told import replies
    from smtp_sts.policy import NextHopError, parse_next_hop
    from smtp_sts.resolver.decision import as_data
    from smtp_sts.resolver.one_off import decide_once

    if domain is None and server not in (None, CONFIGURED) and ":" not in str(server):
        domain, server = server, CONFIGURED  # `query --server DOMAIN`
    if domain is None:
        raise click.UsageError("Missing argument 'DOMAIN'.")
    if wanted and server is not None:
        raise click.UsageError("a running daemon knows the dialects of its own configuration")
    try:
        where = parse_next_hop(domain)
        if server == CONFIGURED:
            data = _ask_configured(load(config_path), domain)
        elif server is not None:
            data = asyncio.run(explain(parse_address(server), domain))
        else:
            config = load(config_path)
            if wanted:
                section = msgspec.structs.replace(config.policy, dialects=wanted)
                config = msgspec.structs.replace(config, policy=section)
                dialects(config)
            decision = asyncio.run(decide_once(config, where))
            data = as_data(domain, decision, replies(decision))
    except (NextHopError, ConfigError) as error:
        click.echo(f"smtp-sts: {error}", err=True)
        sys.exit(2)
    except (ClientError, ControlError, OSError) as error:
        click.echo(f"smtp-sts: {error}", err=True)
        sys.exit(3)
    if as_json:
        from smtp_sts.cli.printing import to_json

        click.echo(to_json(data))
    else:
        _print(data)
    sys.exit(_status(data))


def _ask_configured(config: Config, domain: str) -> dict[str, Any]:
    """Ask the daemon of this configuration: through its control socket, else where MTAs ask."""
    import asyncio

    from smtp_sts.config import ConfigError, control_address, listeners
    from smtp_sts.daemon import control_client
    from smtp_sts.daemon.control import ControlError
    from smtp_sts.mta.client import ClientError, explain

    if address := control_address(config):
        try:
            return next(control_client.ask(address, "query", [domain], answer=dict[str, Any]))
        except control_client.NotRunning:
            pass  # a daemon that could not open it answers MTAs all the same
        except ControlError as error:
            click.echo(f"smtp-sts: {error}; asking where MTAs ask", err=True)
    spoken = (where for where, protocol in listeners(config).items() if protocol == "socketmap")
    where = next(spoken, None)
    if where is None:
        raise ConfigError("policy.listen is empty: give --server an address")
    try:
        return asyncio.run(explain(where, domain))
    except ClientError as error:
        raise ClientError(f"no running daemon answers: {error}") from None


def _status(data: dict[str, Any]) -> int:
    if data["outcome"] == "temporary-failure":
        return 3
    if data["outcome"] != "no-policy" or data["reason"] == "no-record":
        return 0
    if data["reason"] in ("dns-error", "discovery-timeout", "overloaded"):
        return 3
    return 1


def _level(data: dict[str, Any]) -> str:
    """What a rule's level means; "" where there is none."""
    said = data["replies"]["postfix"].partition(" ")[2]
    if data["reason"] != "override" or data["outcome"] != "no-policy" or not said:
        return ""
    return f"Postfix sends at its level {said!r}; Exim and Sendmail know no levels and send as ever"


def _print(data: dict[str, Any]) -> None:
    from rich.text import Text

    from smtp_sts.cli.printing import one_line, wide_console
    from smtp_sts.mta.told import MTAS
    from smtp_sts.policy import DIALECTS
    from smtp_sts.resolver.decision import MEANINGS, REASONS

    console = wide_console()

    def row(name: str, text: str, style: str = "", width: int = 17) -> None:
        console.print(
            Text(f"{name:<{width}}", style="bold"),
            Text(one_line(text, MAX_LINE), style=style),
            sep="",
        )

    colour = _COLOURS.get(data["outcome"], "red" if _status(data) else "")
    row("domain", data["domain"])
    if data["policy_domain"] != data["domain"]:
        row("policy domain", data["policy_domain"])
    for step in data["steps"]:
        mark = {True: "ok    ", False: "FAILED"}.get(step["ok"], "      ")
        row(step["name"], f"{mark}  {step['text']}", "red" if step["ok"] is False else "")
    row("outcome", f"{data['outcome']}: {REASONS[data['reason']]} ({data['reason']})", colour)
    kept = "; a daemon that holds a policy goes on with it (--server)" if _status(data) else ""
    kept = kept if data["outcome"] == "no-policy" and data["from"] == "network" else ""
    row("so", (_level(data) or MEANINGS[data["outcome"]]) + kept, colour)
    if data["policy"]:
        row("dialect", DIALECTS[data["policy"]["dialect"]])
        row("from", f"{data['from']}, fetched {data['fetched_at']}, expires {data['expires_at']}")
    console.print(Text("an MTA is told", style="bold"))
    # A daemon of another version may know other profiles.
    told = {
        name if (mta := MTAS.get(name, "Postfix")) == "Postfix" else f"{name} ({mta})": reply
        for name, reply in data["replies"].items()
    }
    for name, reply in told.items():
        more = f"... ({len(reply)} bytes; whole with --json)" if len(reply) > _SHOWN else ""
        row(f"  {name}", reply[:_SHOWN] + more, width=max(map(len, told)) + 4)
