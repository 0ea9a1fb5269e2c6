"""`smtp-sts report import-log FILE`: the sessions of an old log into the counts."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NoReturn

import click

if TYPE_CHECKING:
    from rich.console import Console

    from smtp_sts.config import Config
    from smtp_sts.reporting.import_log import Options, Summary
    from smtp_sts.store import Stored
    from smtp_sts.store.tallies import Tallies

#: Counters of a summary, and what to say of those that are not 0.
_NOTES: Final = {
    "plain": "deliveries in sessions without TLS: not counted, no policy asked for any",
    "silent": "deliveries and failures of which the log does not tell whether there was TLS: not "
    "counted; is smtp_tls_loglevel = 1 in main.cf?",
    "reused": "messages over sessions that are counted already",
    "relayed": "sessions with relays of yours: not counted, they are not the recipients' affair",
    "own": "lines of our own reports: never counted",
    "not_understood": "lines in no form that is known",
    "unclear": "lines about deliveries that cannot be read for certain",
    "undated": "lines whose time cannot be: is --year right?",
    "unfinished": "sessions whose message is not told further of in this log",
    "unattributed": "failures whose domain the log does not tell",
    "too_long": "lines of more than 16 kB: left out",
    "cut": "line without an end: left out, the log ends in its middle",
    "lost_datagrams": "datagrams that Postfix could not send to the daemon (docs/tls-reports.md)",
    "refused": "sessions of more domains in a day than are kept: not counted",
    "folded": "sessions that were counted under less detail: too many EHLO names or reasons",
}
#: Days that are printed one by one; --json has them all.
MAX_DAYS = 40


def _zone(_context: click.Context, _parameter: click.Parameter, text: str | None) -> tzinfo | None:
    if text is None:
        return None
    from datetime import datetime
    from zoneinfo import ZoneInfo

    try:
        if text.startswith(("Z", "+", "-")):
            return datetime.fromisoformat(f"2000-01-01T00:00:00{text}").tzinfo
        return ZoneInfo(text)
    except (ValueError, OSError, KeyError):  # a zone that is not there is a KeyError
        raise click.BadParameter(f"{text!r} is no zone: write Europe/Berlin, +01:00 or Z") from None


@click.command("import-log")
@click.argument("file", type=click.File("rb"))
@click.option("--format", "kind", type=click.Choice(["postfix", "exim"]), help="Whose log it is.")
@click.option("--year", type=click.IntRange(1970, 9998), help="Year of the first line.")
@click.option("--zone", callback=_zone, metavar="ZONE", help="Time zone of the lines.")
@click.option("--host", metavar="NAME", default="", help="The host whose log it is.")
@click.option("--again", is_flag=True, help="Count what was counted before, too.")
@click.option("--dry-run", is_flag=True, help="Read and say what there is; count nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_obj
def import_log(
    config_path: str | None,
    file: BinaryIO,
    kind: str | None,
    year: int | None,
    zone: tzinfo | None,
    host: str,
    again: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Count the TLS sessions in FILE, a log of Postfix or Exim, as it is or packed by gzip,
    bzip2, xz or zstd, in whatever form (docs/tls-reports.md); "-" for standard input.

    A log is counted once, whatever its name: one that has grown, or was rotated, goes on where it
    was left, and so does one whose import was broken off. Days that the daemon of the same host
    has counted are left out. --again lifts both. What is read where the daemon runs is taken for
    its own log unless its lines or --host say otherwise.

    Times without a year are of the last that fits before the file was changed, times without a
    zone of this machine's, unless --year and --zone say otherwise.

    Status 2 where FILE cannot be read to its end, 3 where the store cannot be used.
    """
    from smtp_sts.config import ConfigError, load
    from smtp_sts.reporting.hindsight import Hindsight
    from smtp_sts.reporting.import_log import Options
    from smtp_sts.reporting.import_log import import_log as run
    from smtp_sts.reporting.log_kind import LogError, unpacked
    from smtp_sts.store import StoreError

    name = _name(file)
    tallies = None
    try:
        config = load(config_path)
        options = Options(
            kind=kind,  # type: ignore[arg-type]
            year=year,
            zone=zone,
            last=_last_change(file),
            host=host,
            own_senders=[config.tls_reports.contact] if config.tls_reports.contact else [],
            again=again,
            dry_run=dry_run,
        )
        tallies = _open(config, dry_run)
        with _progress(file, name) as progress:
            match = Hindsight(_policies(config))
            summary = run(unpacked(file), tallies, options, match, progress)
    except ConfigError as error:
        _fail(str(error))
    except (LogError, OSError) as error:
        _fail(f"{name}: {error}")
    except StoreError as error:
        _fail(str(error), 3)
    finally:
        if tallies is not None:
            tallies.close()
    if as_json:
        from smtp_sts.cli.printing import to_json

        click.echo(to_json(summary))
    else:
        _print(summary, options)
    if summary.trouble:
        _fail(f"{name}: {summary.trouble}")
    if summary.damage:
        _fail(f"{name}: {summary.damage}; what stands before is counted")


def _fail(message: str, status: int = 2) -> NoReturn:
    click.echo(f"smtp-sts: {message}", err=True)
    sys.exit(status)


def _name(file: BinaryIO) -> str:
    from smtp_sts.tlsrpt.names import clean

    return clean(str(getattr(file, "name", "-")), 1000)


def _last_change(file: BinaryIO) -> float | None:
    """When a file was written last; None for a stream."""
    try:
        found = os.fstat(file.fileno())
    except io.UnsupportedOperation:
        return None
    return found.st_mtime if stat.S_ISREG(found.st_mode) else None


def _open(config: Config, dry_run: bool) -> Tallies | None:
    """The counts; None where there are none yet and none are to be made."""
    from smtp_sts.store import StoreError, is_shared
    from smtp_sts.store.tallies import open_tallies

    url = config.store.url
    path = Path(url.removeprefix("sqlite:///"))
    if is_shared(url) or path.exists():
        return open_tallies(url)
    if dry_run:
        return None
    if not path.parent.is_dir():
        raise StoreError(
            f"store {path}: its folder is not there; start the daemon once, or set store.url "
            "(--config FILE)"
        )
    tallies = open_tallies(url)
    if os.geteuid() == 0:  # it is the daemon's, as its folder is
        owner = path.parent.stat()
        for file in path.parent.glob(f"{path.name}*"):
            os.chown(file, owner.st_uid, owner.st_gid)
    return tallies


def _policies(config: Config) -> Iterator[Stored]:
    """What is kept of policies; nothing where there is no store yet."""
    from smtp_sts.store import is_shared, open_store, pages

    url = config.store.url
    if not is_shared(url) and not Path(url.removeprefix("sqlite:///")).exists():
        return
    store = open_store(url)
    for page in pages(store.page):
        yield from page
    store.close()


@contextlib.contextmanager
def _progress(file: BinaryIO, name: str) -> Iterator[Callable[[int, int], None] | None]:
    """What is told of a long log while it is read; nothing where nobody looks."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    size = None
    with contextlib.suppress(io.UnsupportedOperation):
        size = os.fstat(file.fileno()).st_size or None
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(None),
        TextColumn("{task.fields[told]}", markup=False),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(Path(name).name, total=size, told="")

        def tell(lines: int, sessions: int) -> None:
            done = None
            if size is not None:  # of a packed file: its packed bytes
                done = file.tell()
            bar.update(task, completed=done, told=f"{lines:,} lines, {sessions:,} sessions")

        yield tell


def _print(summary: Summary, options: Options) -> None:
    from rich.text import Text

    from smtp_sts.cli.printing import wide_console

    console = wide_console()

    def row(name: str, text: str, style: str = "") -> None:
        console.print(Text(f"{name:<13}", style="bold"), Text(text, style=style), sep="")

    if summary.shorter_copy:
        row("nothing new", "this is the beginning of a log that was counted on "
            f"{_moment(summary.known_at)}; --again counts it again")  # fmt: skip
        return
    if summary.known_at is not None and not summary.lines:
        row("nothing new", f"all {summary.known_lines:,} lines were counted on "
            f"{_moment(summary.known_at)}; --again counts them again")  # fmt: skip
        return
    if summary.known_at is not None:
        row("known", f"{summary.known_lines:,} lines were counted on {_moment(summary.known_at)}; "
            "what follows is of those behind them (--again counts all)")  # fmt: skip
    row("log", f"{'Postfix' if summary.kind == 'postfix' else 'Exim'}, {summary.lines:,} lines")
    verb = "would be counted" if options.dry_run else "counted"
    row("sessions", f"{summary.sessions:,} {verb}, of {summary.domains:,} domains")
    _print_days(console, summary)
    for day, sessions in summary.left_out.items():
        row("left out", f"{sessions:,} sessions of {day}: the daemon of this host has counted "
            "that day; --again counts them too, or --host NAME where the log is another host's",
            "yellow")  # fmt: skip
    notes = [(getattr(summary, name), text) for name, text in _NOTES.items()]
    if any(number for number, _ in notes):
        console.print()
    for number, text in notes:
        if number:
            console.print(Text(f"{int(number):>11,}  {text}"))


def _print_days(console: Console, summary: Summary) -> None:
    from rich.table import Table

    if not summary.days:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("day (UTC)")
    for column in ("domains", "good", "failed"):
        table.add_column(column, justify="right")
    for day, count in list(summary.days.items())[-MAX_DAYS:]:
        table.add_row(day, f"{count.domains:,}", f"{count.successful:,}", f"{count.failed:,}")
    console.print()
    if len(summary.days) > MAX_DAYS:
        console.print(f"the last {MAX_DAYS} of {len(summary.days):,} days; --json has them all")
    console.print(table, soft_wrap=False)


def _moment(at: float | None) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(at or 0.0, UTC):%Y-%m-%d %H:%M} UTC"
