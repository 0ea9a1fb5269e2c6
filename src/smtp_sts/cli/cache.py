"""`smtp-sts cache list|show|refresh|purge`: the policies that the running daemon keeps.

`list` and `show` read the store where no daemon runs. Must not: write to the store; only a daemon
does.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from smtp_sts.config import Config, UnixAddress
    from smtp_sts.daemon.control import Entry, Shown
    from smtp_sts.resolver.upkeep import Upkeep
    from smtp_sts.store import Stored

T = TypeVar("T")
#: What a user can mend, and what could not be told.
_USAGE, _UNKNOWN = 2, 3
_COLUMNS: Final = ("domain", "mode", "dialect", "id", "fetched", "expires", "used", "refresh")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_domains = click.argument("domains", nargs=-1, required=True, metavar="DOMAIN...")


@click.group()
def cache() -> None:
    """The policies that the running daemon keeps: list, show, refresh, purge.

    Asks the daemon through its control socket. `list` and `show` read the store where none runs.
    """


@cache.command("list")
@_as_json
@click.pass_obj
def list_(config_path: str | None, as_json: bool) -> None:
    """List every policy kept, by name, a line each.

    The last column is "ready", "due", "expired" or "failed N" (fetches in a row). Status 3 where
    neither daemon nor store could be read to the end: a JSON list is then left open.
    """
    from smtp_sts.daemon.control import Entry

    config, address = _load(config_path)
    rows = _or_store(
        _asked(address, "list", (), answer=Entry, reading=True),
        lambda: (Entry(stored) for stored in _kept(config)),
    )
    for line in _json_list(rows) if as_json else _table(rows):
        click.echo(line)


@cache.command()
@click.argument("domain")
@_as_json
@click.pass_obj
def show(config_path: str | None, domain: str, as_json: bool) -> None:
    """Show what is known of DOMAIN: its policy, times, last failure, and what MTAs are told.

    Status 1 where nothing is known of it.
    """
    from smtp_sts.daemon.control import Shown

    config, address = _load(config_path)
    policy_domain = _checked([domain])[0]
    shown = next(
        _or_store(
            _asked(address, "show", (domain,), answer=Shown, reading=True),
            lambda: _shown_from_store(config, domain, policy_domain),
        ),
        None,
    )
    if shown is None:
        _fail(f"nothing is known of {policy_domain}; `smtp-sts query {policy_domain}` looks", 1)
    if as_json:
        click.echo(_pretty(_shown_data(shown)))
    else:
        for name, text in _shown_rows(shown):
            click.echo(f"{name:<17}{_plain(text)}")


@cache.command()
@_domains
@click.option("--force", is_flag=True, help="Do not wait after a failed fetch.")
@_as_json
@click.pass_obj
def refresh(config_path: str | None, domains: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Have the daemon fetch the policies of these domains now.

    After a failed fetch the same domain is left in peace for a while (RFC 8461 section 3.3: five
    minutes); --force asks all the same. A failure weakens nothing: what is cached applies. Status
    0 where all were fetched, 1 where one was not, 3 where one has to wait or could not be asked.
    """
    from smtp_sts.daemon.control import Refreshed

    _, address = _load(config_path)
    status = 0
    results = []
    for batch in _batches(_checked(domains)):
        for done in _asked(address, "refresh", batch, answer=Refreshed, force=force):
            renewal, decision = done.renewal, done.decision
            status = max(status, {"fetched": 0, "failed": 1}.get(renewal.result, _UNKNOWN))
            text = {
                "fetched": "fetched",
                "failed": f"failed ({renewal.reason}): {renewal.detail}",
                "waits": f"waits until {_time(renewal.retry_at)}, for the last fetch has failed "
                f"({renewal.reason}): {renewal.detail}; --force does not wait",
                "overloaded": "not fetched: too many look-ups are under way; try again",
            }[renewal.result]
            if as_json:
                results.append(
                    {"domain": done.domain, "result": renewal.result, "reason": renewal.reason,
                     "detail": renewal.detail, "retry_at": _time(renewal.retry_at),
                     "outcome": decision["outcome"], "policy": decision["policy"]}
                )  # fmt: skip
            else:
                click.echo(f"{done.domain}: {_plain(text)}; applies: {decision['outcome']}")
    if as_json:
        click.echo(_pretty(results))
    sys.exit(status)


@cache.command()
@_domains
@click.option("--yes", is_flag=True, help="Do not ask.")
@_as_json
@click.pass_obj
def purge(config_path: str | None, domains: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Have the daemon forget these domains: their policies, their failures, the ready replies.

    The daemon never does this by itself while a policy lives: between the purge and the next
    fetch an attacker who blocks that fetch gets mail in the clear. Status 1 where no policy was
    kept for one of them, 3 where one was not forgotten everywhere.
    """
    from smtp_sts.daemon.control import Purged

    _, address = _load(config_path)
    wanted = _checked(domains)
    _confirm(address, wanted, yes)
    status = 0
    results = []
    for batch in _batches(wanted):
        for done in _asked(address, "purge", batch, answer=Purged):
            told = "forgotten" if done.stored is not None else "no policy was kept"
            if done.stored is None:
                status = max(status, 1)
            if not done.lasting:
                status = _UNKNOWN
                told += "; the store has refused to delete it, and it is back after a restart"
            if done.deaf:
                status = _UNKNOWN
                told += f"; {done.deaf} workers have not confirmed it: restart the daemon"
            results.append(
                {"domain": done.domain, "policy_kept": done.stored is not None,
                 "lasting": done.lasting, "deaf_workers": done.deaf}
            )  # fmt: skip
            if not as_json:
                click.echo(f"{done.domain}: {told}")
    if as_json:
        click.echo(_pretty(results))
    sys.exit(status)


def _confirm(address: UnixAddress | None, domains: list[str], yes: bool) -> None:
    """Warn of what purging opens, and ask who sits at a terminal."""
    import time

    from smtp_sts.daemon.control import Shown

    for domain in domains:
        for shown in _asked(address, "show", (domain,), answer=Shown):
            stored = shown.stored
            if stored and stored.expires_at > time.time() and _mode(stored) == "enforce":
                click.echo(
                    f"smtp-sts: warning: {domain} has an enforce policy until "
                    f"{_time(stored.expires_at)}. Until it is fetched again, an attacker who "
                    "blocks the fetch gets mail to it in the clear.",
                    err=True,
                )
    if yes:
        return
    if not sys.stdin.isatty():
        _fail("purge asks before it forgets; where nobody can be asked, give --yes", _USAGE)
    if not click.confirm(f"Forget {', '.join(domains)}?", err=True):
        _fail("nothing purged", 1)


# -- where it comes from ----------------------------------------------------------------------


def _load(config_path: str | None) -> tuple[Config, UnixAddress | None]:
    from smtp_sts.config import ConfigError, control_address, load
    from smtp_sts.resolver import overrides

    try:
        config = load(config_path)
        overrides.read(config.overrides)
        return config, control_address(config)
    except ConfigError as error:
        _fail(str(error), _USAGE)


def _checked(domains: Iterable[str]) -> list[str]:
    from smtp_sts.policy import NextHopError, policy_domain

    try:
        return list(dict.fromkeys(policy_domain(domain) for domain in domains))
    except NextHopError as error:
        _fail(str(error), _USAGE)


def _batches(domains: list[str]) -> Iterator[list[str]]:
    from smtp_sts.daemon.control import MAX_DOMAINS

    for start in range(0, len(domains), MAX_DOMAINS):
        yield domains[start : start + MAX_DOMAINS]


def _asked(
    address: UnixAddress | None,
    command: str,
    domains: Iterable[str],
    *,
    answer: type[T],
    force: bool = False,
    reading: bool = False,
) -> Iterator[T]:
    """The daemon's answers; ends the command with status 3 where there are none.

    Raises NotRunning where no daemon runs, if this is `reading` only.
    """
    from smtp_sts.daemon.control import ControlError
    from smtp_sts.daemon.control_client import NotRunning, ask

    try:
        if address is None:
            raise NotRunning("control.socket is off")
        yield from ask(address, command, list(domains), force=force, answer=answer)
    except NotRunning as error:
        if reading:
            raise
        _fail(f"{error}: start the daemon; only it changes what is kept", _UNKNOWN)
    except ControlError as error:
        _fail(str(error), _UNKNOWN)


def _or_store(rows: Iterator[T], otherwise: Any) -> Iterator[T]:
    """The daemon's answers, or where none runs those of the store."""
    from smtp_sts.daemon.control_client import NotRunning
    from smtp_sts.store import StoreError

    try:
        yield from rows
    except NotRunning as error:
        click.echo(f"smtp-sts: {error}; this is what the store holds", err=True)
    else:
        return
    try:
        yield from otherwise()
    except StoreError as error:
        _fail(str(error), _UNKNOWN)


def _kept(config: Config) -> Iterator[Stored]:
    from smtp_sts.store import open_to_read, pages

    store = open_to_read(config.store.url)
    for page in pages(store.page):
        yield from page
    store.close()


def _shown_from_store(config: Config, next_hop: str, domain: str) -> Iterator[Shown]:
    from smtp_sts.daemon.control import Shown
    from smtp_sts.mta.told import replies
    from smtp_sts.policy import draft_record_name
    from smtp_sts.resolver.decision import as_data
    from smtp_sts.resolver.one_off import decide_by_kept
    from smtp_sts.store import open_to_read

    store = open_to_read(config.store.url)
    found = store.get([domain, draft_record_name(domain)])
    stored = found.get(domain) or found.get(draft_record_name(domain))
    store.close()
    if stored is not None:
        decision = decide_by_kept(config, stored)
        yield Shown(domain, stored, None, as_data(next_hop, decision, replies(decision)))


# -- how it looks -----------------------------------------------------------------------------


def _split(stored: Stored) -> tuple[str, str]:
    """The policy domain and the dialect of a policy that is kept."""
    from smtp_sts.resolver.stored import dialect_of, domain_of

    return domain_of(stored.domain), dialect_of(stored.domain)


def _mode(stored: Stored) -> str:
    from smtp_sts.resolver.stored import from_store

    cached = from_store(stored)  # None where somebody else wrote into our file
    return str(cached.policy.mode) if cached is not None else "invalid"


def _time(when: float) -> str:
    from smtp_sts.resolver.decision import rfc3339

    return (rfc3339(when) or "") if when else "-"


def _state(stored: Stored, upkeep: Upkeep | None) -> str:
    import time

    now = time.time()
    if stored.expires_at <= now:
        return "expired"
    if upkeep is not None and upkeep.failures:
        return f"failed {upkeep.failures}"
    return "due" if stored.refresh_at <= now else "ready"


def _row(entry: Entry) -> tuple[str, ...]:
    stored, upkeep = entry.stored, entry.upkeep
    used = max(stored.used_at, upkeep.used_at if upkeep else 0.0)
    times = (_time(when) for when in (stored.fetched_at, stored.expires_at, used))
    domain, dialect = _split(stored)
    return domain, _mode(stored), dialect, stored.policy_id, *times, _state(stored, upkeep)


def _table(rows: Iterable[Entry]) -> Iterator[str]:
    # The head follows the first policy: where none can be read there is nothing to print.
    lines = map(_row, rows)
    first = [row for row in [next(lines, None)] if row]
    for row in itertools.chain([_COLUMNS], first, lines):
        yield _plain("{:<30} {:<7} {:<7} {:<20} {:<20} {:<20} {:<20} {}".format(*row))


def _json_list(rows: Iterable[Entry]) -> Iterator[str]:
    """One JSON list, a policy a line, as they come."""
    from smtp_sts.cli.printing import to_json

    before = "["
    for entry in rows:
        row = dict(zip(_COLUMNS, _row(entry), strict=True))
        yield before + to_json(row, indent=0)
        before = ","
    yield "[]" if before == "[" else "]"


def _shown_data(shown: Shown) -> dict[str, Any]:
    stored, upkeep = shown.stored, shown.upkeep
    return {
        **shown.decision,
        "used_at": _time(
            max(stored.used_at if stored else 0.0, upkeep.used_at if upkeep else 0.0)
        ),
        "refresh_at": _time(stored.refresh_at) if stored else None,
        "refresh": _state(stored, upkeep) if stored else None,
        "last_failure": {
            "at": _time(upkeep.failed_at), "reason": upkeep.failure, "detail": upkeep.detail,
            "failures": upkeep.failures, "retry_at": _time(upkeep.retry_at),
        }
        if upkeep and upkeep.failed_at
        else None,
    }  # fmt: skip


def _shown_rows(shown: Shown) -> Iterator[tuple[str, str]]:
    data = _shown_data(shown)
    policy, failure = data["policy"], data["last_failure"]
    yield "domain", shown.domain
    yield "outcome", f"{data['outcome']} ({data['reason']}): {_plain(data['detail'])}"
    if policy:
        yield "policy", f"mode {policy['mode']}, id {policy['id']}, max_age {policy['max_age']} s"
        if policy["dialect"] != "rfc8461":
            yield "dialect", _of_draft(policy)
        yield "MX hosts", ", ".join(policy["mx"]) or "none"
    if shown.stored:
        yield "fetched", _time(shown.stored.fetched_at)
        yield "expires", _time(shown.stored.expires_at)
        yield "refresh", f"{data['refresh']}, next at {data['refresh_at']}"
    yield "last used", data["used_at"]
    if failure:
        text = f"{failure['at']} ({failure['reason']}): {_plain(failure['detail'])}"
        yield "last failure", text
        if failure["failures"]:
            yield "", f"{failure['failures']} in a row; not fetched before {failure['retry_at']}"
    yield "an MTA is told", ""
    for name, reply in data["replies"].items():
        yield f"  {name}", reply


def _of_draft(policy: dict[str, Any]) -> str:
    proven = "proven" if policy["authenticated"] else "not proven"
    by = policy["authentication"] or "no mechanism"
    met = (
        "an MX host has met it" if policy["applied"] else "never met, so no mail is refused for it"
    )
    return f"{policy['dialect']}: {proven} ({by}); certificates {policy['constraint']}; {met}"


def _pretty(data: object) -> str:
    from smtp_sts.cli.printing import to_json

    return to_json(data)


def _plain(text: str) -> str:
    """Law 5: nothing that a stranger published moves the cursor of a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _fail(text: str, status: int) -> NoReturn:
    click.echo(f"smtp-sts: {_plain(text)}", err=True)
    sys.exit(status)
