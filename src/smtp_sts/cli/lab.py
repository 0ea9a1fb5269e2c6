"""`smtp-sts lab`: mail from alice to bob, mallory between them, with and without protection.

Promises: exit status 0 only where no scenario came out wrong, 1 where one did, 3 where the lab
could not be played. Must not: hold any logic of the lab.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    import asyncio

    from smtp_sts.lab.play import Result
    from smtp_sts.lab.scenarios import Scenario

_WORDS = {
    None: "",
    "verified": "delivered, verified TLS",
    "delivered": "delivered",
    "mallory": "mallory reads it",
    "deferred": "waits, nobody reads it",
}


class _PlayUnlessTold(click.Group):
    """Options and names of scenarios without a command are those of `play`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["play", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_PlayUnlessTold)
def lab() -> None:
    """Play attacks on mail in a small Internet on this machine.

    Starts DNS, policy hosts and mail servers on loopback and the daemon against them, lets alice
    send mail to bob while mallory attacks, and prints what came of it. Needs neither root nor
    network. Exit status 0: nothing came out wrong; 1: something did; 3: it could not be played.
    """
    missing = _missing()
    if missing:
        click.echo(f"The lab needs the package {missing}: pip install 'smtp-sts[lab]'", err=True)
        raise SystemExit(3)


def _missing() -> str:
    try:
        import aiosmtpd  # noqa: F401
        import dns  # noqa: F401
    except ImportError as error:
        return error.name or "?"
    return ""


_json = click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
_junit = click.option(
    "--junit", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path),
    help="Write the results as JUnit XML too.",
)  # fmt: skip


_inside = click.option("--inside", is_flag=True, hidden=True)


@lab.command()
@click.option(
    "--real",
    is_flag=True,
    help="With a real mail server, unbound and NSD, in namespaces (root on Debian).",
)
@click.option(
    "--mta",
    metavar="NAME",
    help="Which mail server, postfix-3.10 if none is named; implies --real.",
)
@_inside
@_json
@_junit
@click.argument("names", nargs=-1)
def play(
    names: tuple[str, ...],
    real: bool,
    mta: str | None,
    inside: bool,
    as_json: bool,
    junit: Path | None,
) -> None:
    """Play scenarios, all or those with one of the NAMES or tags (`demo`: a telling dozen)."""
    from smtp_sts.lab.play import play as perform

    chosen = _chosen(names)
    if real or mta:
        _play_real(chosen, mta, inside, as_json=as_json, junit=junit)
    _perform(lambda done: perform(chosen, done=done), chosen, as_json=as_json, junit=junit)


def _play_real(
    chosen: Sequence[Scenario], mta: str | None, inside: bool, *, as_json: bool, junit: Path | None
) -> NoReturn:
    from smtp_sts.lab import machine, real

    name = mta or real.DEFAULT
    if name not in real.MTAS:
        raise click.BadParameter(f"{name!r} is none of {', '.join(real.MTAS)}.", param_hint="--mta")
    if inside:
        _perform(
            lambda done: real.run(chosen, name, done=done),
            chosen, as_json=as_json, junit=junit, stop_with_input=True,
        )  # fmt: skip
    if missing := machine.missing():
        click.echo(f"The lab could not be played: {missing}", err=True)
        raise SystemExit(3)
    try:
        if not real.MTAS[name].is_there:
            click.echo(f"Debian's {name} is fetched and unpacked into {machine.cache()}, "
                       "once; that takes some minutes.", err=True)  # fmt: skip
        real.MTAS[name].root_file_system()
    except machine.CannotBuild as error:
        click.echo(f"The lab could not be played: {error}", err=True)
        raise SystemExit(3) from None
    except KeyboardInterrupt:
        click.echo("Stopped.", err=True)
        raise SystemExit(130) from None
    _enter()


def _enter() -> NoReturn:
    """Run this very command in namespaces of its own."""
    from smtp_sts.lab.apart import ApartError, inside_of
    from smtp_sts.lab.python import OURSELVES

    try:
        raise SystemExit(inside_of([*OURSELVES, *sys.argv[1:]]))
    except ApartError as error:
        click.echo(f"The lab could not be played: {error}", err=True)
        raise SystemExit(3) from None


@lab.command()
@click.argument("names", nargs=-1)
def explain(names: tuple[str, ...]) -> None:
    """Tell the story of one scenario in words; without NAMES, list them all."""
    from smtp_sts.lab.story import tell

    chosen = _chosen(names)
    if names:
        click.echo(_for_eyes("\n\n".join(tell(scenario) for scenario in chosen)))
        return
    width = max(len(scenario.name) for scenario in chosen)
    for scenario in chosen:
        click.echo(f"{scenario.name:{width}}  {scenario.title} [{', '.join(scenario.tags)}]")


@lab.command()
@click.argument("names", nargs=-1)
def shell(names: tuple[str, ...]) -> None:
    """Leave the world of some scenarios standing, with lines to paste into another terminal.

    Each Enter does the next step of the scenarios NAMES (`strip` if none is named); end of input or
    Ctrl-C ends it.
    """

    from smtp_sts.lab.shell import standing

    chosen = _chosen(names or ("strip",))

    async def stand() -> None:
        async with standing(chosen) as made:
            click.echo("\n".join(made.lines()))
            click.echo("\nThe world stands. Enter: the next step. Ctrl-C or Ctrl-D: the end.")
            lines = await _lines()
            while await lines.readline():
                done = await made.next()
                click.echo(_for_eyes(done or "Nothing is left to do; the world still stands."))

    _run(stand)


async def _lines() -> asyncio.StreamReader:
    """Standard input, read without holding up the world."""
    import asyncio
    import os
    import stat

    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    kind = os.fstat(sys.stdin.fileno()).st_mode
    if sys.stdin.isatty() or stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind):
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    else:  # a file or /dev/null: nothing there to wait for
        reader.feed_data(sys.stdin.buffer.read())
        reader.feed_eof()
    return reader


@lab.command()
@click.option(
    "--socketmap", metavar="ADDRESS:MAP",
    help="Where the daemon listens, as Postfix writes it: inet:127.0.0.1:8461:postfix.",
)  # fmt: skip
@click.option("--start", metavar="COMMAND", help="What starts it; it must stay in the foreground.")
@click.option(
    "--patience", metavar="SECONDS", type=click.FloatRange(min=0.5, max=600), default=8.0,
    show_default=True, help="How long it has to see a change at a domain in use.",
)  # fmt: skip
@_inside
@_json
@_junit
@click.argument("names", nargs=-1)
def score(
    names: tuple[str, ...],
    socketmap: str | None,
    start: str | None,
    patience: float,
    inside: bool,
    as_json: bool,
    junit: Path | None,
) -> None:
    """Play the scenarios against any policy daemon; against this one if none is named.

    The daemon runs in namespaces of its own (root, or user namespaces), where resolv.conf and the
    system's CA certificates lead into the lab: DNS on port 53, policy hosts on 443. COMMAND is run
    by the shell; $LAB_HOME is an empty directory for its files. Let it look at domains in use as
    often as it can, and keep what it knows on disk. $SSL_CERT_FILE names the lab's CA.
    """
    from smtp_sts.lab.score import run
    from smtp_sts.lab.subject import parse_socketmap

    chosen = _chosen(names)
    if bool(socketmap) != bool(start):
        raise click.UsageError("--socketmap and --start go together.")
    try:
        where = parse_socketmap(socketmap) if socketmap else None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--socketmap") from None
    if not inside:
        _enter()
    _perform(
        lambda done: run(chosen, start or "", where, patience=patience, done=done),
        chosen, as_json=as_json, junit=junit, stop_with_input=True,
    )  # fmt: skip


def _chosen(names: Sequence[str]) -> list[Scenario]:
    from smtp_sts.lab.scenarios import ScenarioError, choose, load

    try:
        return choose(load(), names)
    except ScenarioError as error:
        click.echo(f"{error}", err=True)
        raise SystemExit(2) from None


def _perform(
    work: Callable[[Callable[[Result], None]], Awaitable[list[Result]]],
    chosen: Sequence[Scenario],
    *,
    as_json: bool,
    junit: Path | None,
    stop_with_input: bool = False,
) -> NoReturn:
    """Play with progress on standard error where that is a terminal, print, and exit."""
    import time

    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn

    from smtp_sts.lab import results as forms

    began = time.monotonic()
    console = Console(stderr=True)
    columns = (TextColumn("alice, bob and mallory play"), MofNCompleteColumn())
    with Progress(
        *columns, console=console, transient=True, disable=as_json or not console.is_terminal
    ) as progress:
        bar = progress.add_task("", total=len(chosen))
        results = _run(lambda: work(lambda _: progress.advance(bar)), stop_with_input)
    seconds = time.monotonic() - began
    if junit:
        try:
            junit.write_bytes(forms.junit(results, seconds))
        except OSError as error:
            click.echo(f"{junit} cannot be written: {error.strerror}", err=True)
            raise SystemExit(3) from None
    wrong, unsupported = forms.count(results, "wrong"), forms.count(results, "not supported")
    if as_json:
        from smtp_sts.cli.printing import to_json

        click.echo(to_json(forms.as_data(results, seconds)))
        raise SystemExit(1 if wrong else 0)
    _print(results)
    if wrong or unsupported:
        right = len(results) - wrong - unsupported
        click.echo(f"{right} of {len(results)} came out right, {wrong} wrong, "
                   f"{unsupported} not supported, in {seconds:.1f} s.")  # fmt: skip
    else:
        click.echo(f"All {len(results)} came out right, in {seconds:.1f} s.")
    raise SystemExit(1 if wrong else 0)


def _for_eyes(text: str) -> str:
    """Lines broken between words where a terminal would break them in words."""
    if not sys.stdout.isatty():
        return text
    import re
    import shutil
    import textwrap

    width = shutil.get_terminal_size().columns
    broken = []
    for line in text.splitlines():
        begins = re.match(r"\s*(?:[\w-]+ )?(?:\d+\. )?", line)
        indent = " " * (len(begins[0]) if begins and begins[0].endswith(". ") else
                        len(line) - len(line.lstrip()))  # fmt: skip
        broken += textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        ) or [""]
    return "\n".join(broken)


def _run(work: Callable[[], Awaitable[Any]], stop_with_input: bool = False) -> Any:
    """Run until done or stopped by Ctrl-C, SIGTERM, or the end of standard input."""
    import asyncio
    import logging
    import signal

    from smtp_sts.lab.apart import ApartError
    from smtp_sts.lab.machine import MachineError
    from smtp_sts.lab.scenarios import ScenarioError
    from smtp_sts.lab.subject import SubjectError

    # The receivers log every handshake that alice breaks off; what matters is in the results.
    logging.getLogger("mail.log").setLevel(logging.CRITICAL)

    async def whole() -> Any:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGHUP)  # the terminal may be closed

        def stop() -> None:
            # Once: another cancellation would break off the cleaning up. An end of input stays.
            if stop_with_input:
                loop.remove_reader(sys.stdin)
            for number in numbers:
                loop.add_signal_handler(number, lambda: None)
            task.cancel()

        for number in numbers:
            loop.add_signal_handler(number, stop)
        if stop_with_input:
            loop.add_reader(sys.stdin, stop)
        try:
            return await work()
        finally:
            if stop_with_input:
                loop.remove_reader(sys.stdin)

    try:
        return asyncio.run(whole())
    except (SubjectError, ApartError, ScenarioError, MachineError, OSError) as error:
        click.echo(f"The lab could not be played: {error}", err=True)
        raise SystemExit(3) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo("Stopped.", err=True)
        raise SystemExit(130) from None


def _verdict(result: Result) -> str:
    from smtp_sts.lab.results import consequences

    if result.verdict == "wrong":
        return f"WRONG ({consequences(result)}): {'; '.join(t.text for t in result.troubles)}"
    if result.verdict == "not supported":
        return f"not supported: {result.reason}"
    if result.protected == "deferred" and result.unprotected == "mallory":
        return "protected"
    return "right"


def _print(results: Sequence[Result]) -> None:
    rows = [
        (r.scenario.name, r.scenario.title, _WORDS[r.protected], _WORDS[r.unprotected], _verdict(r))
        for r in results
    ]
    head = ("scenario", "mallory", "with protection", "without", "verdict")
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console, Group
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        # The title below the name: names are for `lab explain`, and stay whole at 80 columns.
        table = Table(box=box.SIMPLE_HEAD, title="smtp-sts lab", padding=(0, 1, 0, 0))
        table.add_column("scenario: what mallory does", ratio=1, overflow="fold")
        for title, width in ((head[2], 14), (head[3], 13), (head[4], 14)):
            table.add_column(title, min_width=min(width, len(title)), max_width=width)
        for (name, title, with_, without, verdict), result in zip(rows, results, strict=True):
            word, _, details = verdict.partition(": ")
            below = [Text(title, "dim"), *([Text(details)] if details else [])]
            first = Group(Text(name, "bold"), *(Padding(one, (0, 0, 0, 2)) for one in below))
            style = None if result.right else "red"
            table.add_row(first, Text(with_), Text(without), Text(word), style=style)
        Console().print(table)
        return
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(4)]
    for row in [head, *rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True))
        click.echo("  ".join(cells).rstrip())
