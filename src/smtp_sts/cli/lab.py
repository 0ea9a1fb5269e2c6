"""`smtp-sts lab`: mail from alice to bob, mallory between them, with and without protection.

Promises: exit status 0 only where every scenario came out right, 1 where one did not, 3 where the
lab could not be played. Must not: hold any logic of the lab.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from smtp_sts.lab.play import Result

_WORDS = {
    "verified": "delivered, verified TLS",
    "delivered": "delivered",
    "mallory": "mallory reads it",
    "deferred": "waits, nobody reads it",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def lab(as_json: bool) -> None:
    """Play attacks on mail in a small Internet on this machine.

    Starts DNS, policy hosts and mail servers on loopback and the daemon against them, lets alice
    send mail to bob while mallory attacks, and prints what happened with protection and what would
    have happened without. Needs neither root nor network. Exit status 0: all as it must be.
    """
    try:
        import aiosmtpd  # noqa: F401
        import dns  # noqa: F401
    except ImportError as error:
        click.echo(f"The lab needs the package {error.name}: pip install 'smtp-sts[lab]'", err=True)
        raise SystemExit(3) from None
    import time

    from smtp_sts.lab.play import PlayError
    from smtp_sts.lab.scenarios import SCENARIOS

    began = time.monotonic()
    try:
        results = _play(len(SCENARIOS), quiet=as_json)
    except (PlayError, OSError) as error:
        click.echo(f"The lab could not be played: {error}", err=True)
        raise SystemExit(3) from None
    except KeyboardInterrupt:
        click.echo("Stopped.", err=True)
        raise SystemExit(130) from None
    seconds = time.monotonic() - began
    if as_json:
        _print_json(results, seconds)
    elif sys.stdout.isatty():
        _print_table(results)
    else:
        _print_plain(results)
    wrong = [result for result in results if not result.right]
    if not as_json:
        if wrong:
            click.echo(f"{len(wrong)} of {len(results)} came out wrong.")
        else:
            click.echo(f"All {len(results)} came out right, in {seconds:.1f} s.")
    raise SystemExit(1 if wrong else 0)


def _play(total: int, *, quiet: bool) -> list[Result]:
    """Play everything, with progress on standard error where that is a terminal."""
    import asyncio
    import logging
    import signal

    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn

    from smtp_sts.lab.play import play

    # The receivers log every handshake that alice breaks off; what matters is in the results.
    logging.getLogger("mail.log").setLevel(logging.CRITICAL)
    console = Console(stderr=True)
    columns = (TextColumn("alice, bob and mallory play"), MofNCompleteColumn())

    async def whole() -> list[Result]:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await play(done=lambda _: progress.advance(bar))

    with Progress(
        *columns, console=console, transient=True, disable=quiet or not console.is_terminal
    ) as progress:
        bar = progress.add_task("", total=total)
        try:
            return asyncio.run(whole())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


def _print_json(results: list[Result], seconds: float) -> None:
    import json

    rows = [
        {
            "name": result.scenario.name,
            "mallory": result.scenario.does,
            "rule": f"RFC 8461 {result.scenario.rule}",
            "with": result.protected,
            "with_expected": result.scenario.protected,
            "without": result.unprotected,
            "without_expected": result.scenario.unprotected,
            "reply": result.reply,
            "waited": round(result.waited, 3),
            "story": result.story,
            "troubles": result.troubles,
            "right": result.right,
        }
        for result in results
    ]
    right = all(result.right for result in results)
    click.echo(json.dumps({"right": right, "seconds": round(seconds, 1), "rows": rows}, indent=2))


def _verdict(result: Result) -> str:
    if not result.right:
        return f"WRONG: {'; '.join(result.troubles)}"
    if result.protected == "deferred" and result.unprotected == "mallory":
        return "protected"
    return "right"


def _print_table(results: list[Result]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("mallory", "with protection", "without", "verdict", title="smtp-sts lab")
    for result in results:
        table.add_row(
            result.scenario.does,
            _WORDS[result.protected],
            _WORDS[result.unprotected],
            _verdict(result),
            style=None if result.right else "red",
        )
    Console().print(table)


def _print_plain(results: list[Result]) -> None:
    rows = [("mallory", "with protection", "without", "verdict")]
    rows += [
        (r.scenario.does, _WORDS[r.protected], _WORDS[r.unprotected], _verdict(r)) for r in results
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True))
        click.echo("  ".join(cells).rstrip())
