"""`smtp-sts policy convert`: a policy of RFC 8461 into the first draft's form, and back."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

if TYPE_CHECKING:
    from smtp_sts.policy import Authentication, DraftRecord, ReportUri

_QUOTED: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE: Final = re.compile(rb"\\(?:([0-9]{3})|(.))", re.DOTALL)
#: Characters of one character-string of a TXT record (RFC 1035 section 3.3).
TXT_STRING: Final = 255


@click.group()
def policy() -> None:
    """Policies as text: from one dialect into the other."""


@policy.command()
@click.argument("file", type=click.File("rb"))
@click.option("--domain", required=True, help="The policy domain that publishes it.")
@click.option(
    "--from",
    "source",
    type=click.Choice(("rfc8461", "draft00")),
    help="The dialect of FILE; without it, told from its first bytes.",
)
@click.option(
    "--authentication",
    metavar="dnssec|URL",
    help="For draft00, its field a; without it, the place of the draft's example.",
)
@click.option("--rua", metavar="URI[!SIZE],...", help="For draft00, where reports go.")
@click.option("--tlsa", is_flag=True, help="For draft00, c=tlsa: MX hosts have TLSA records.")
@click.option("--id", "policy_id", help="For rfc8461, the id; without it, the time.")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
def convert(
    file: Any,
    domain: str,
    source: str | None,
    authentication: str | None,
    rua: str | None,
    tlsa: bool,
    policy_id: str | None,
    as_json: bool,
) -> None:
    """Say the policy in FILE ("-" for standard input) in the other dialect, with all there is to
    publish for it. What gets lost is told on standard error.

    FILE holds a policy document of RFC 8461, or the text of a TXT record of
    draft-margolis-smtp-sts-00, in quotes or without.

    Status 0 where it was converted, 2 where FILE or an option is not valid.
    """
    from smtp_sts.policy import MAX_SIZE, LanguageError, NextHopError, policy_domain
    from smtp_sts.policy.dialect import DIALECTS, dialect_of

    try:
        body = file.read(MAX_SIZE + 1)
        name = policy_domain(domain)
        dialect = source or dialect_of(body)
        if dialect == "draft00":
            result = _to_rfc8461(body, name, policy_id)
        else:
            result = _to_draft(body, name, authentication, rua, tlsa)
    except NextHopError as error:
        _fail(f"--domain: {error}")
    except LanguageError as error:
        _fail(f"{file.name}: {error} ({error.slug})")
    except OSError as error:
        _fail(str(error))
    if as_json:
        from smtp_sts.cli.printing import to_json

        click.echo(to_json(result))
        return
    for loss in result["losses"]:
        click.echo(f"smtp-sts: lost: {loss}", err=True)
    click.echo(f"; {DIALECTS[result['dialect']]}")
    for owner, text in result["dns"].items():
        click.echo(f"{owner}. IN TXT {_strings(text)}")
    if result["url"]:
        exactly = ", these bytes and no line end" if result["dialect"] == "draft00" else ""
        click.echo(f"; {result['url']}{exactly}")
        click.echo(result["body"], nl=not result["body"].endswith("\n"))


def _fail(text: str) -> NoReturn:
    from smtp_sts.tlsrpt.names import clean

    click.echo(f"smtp-sts: {clean(text, 1000)}", err=True)
    sys.exit(2)


def _to_rfc8461(body: bytes, domain: str, policy_id: str | None) -> dict[str, Any]:
    from smtp_sts.policy import Record, policy_url, record_name
    from smtp_sts.policy.conversion import to_rfc8461
    from smtp_sts.tlsrpt import Record as ReportRecord
    from smtp_sts.tlsrpt import destination
    from smtp_sts.tlsrpt import record_name as report_record_name

    found = _record(body, domain)
    converted = to_rfc8461(found)
    losses = list(converted.losses)
    # section 3.1: sts-id is 1*32(ALPHA / DIGIT)
    made = policy_id or f"{datetime.now(UTC):%Y%m%d%H%M%S}Z"
    if not re.fullmatch(r"[A-Za-z0-9]{1,32}", made, re.ASCII):
        raise click.BadParameter("not 1 to 32 letters and digits", param_hint="--id")
    dns = {record_name(domain): Record(made).render()}
    reach = []
    for uri in found.rua:
        try:
            reach.append(destination(uri.uri.encode()))
        except ValueError as error:
            losses.append(f"{uri.uri} {error}")
    if reach:
        dns[report_record_name(domain)] = ReportRecord(tuple(reach)).render()
    return {
        "dialect": "rfc8461",
        "domain": domain,
        "dns": dns,
        "url": policy_url(domain),
        "body": converted.policy.render().decode("ascii"),
        "losses": losses,
    }


def _record(body: bytes, domain: str) -> DraftRecord:
    """The draft's record in a file: as it is, or as dig and zone files quote it."""
    from smtp_sts.policy import RecordError, find_draft_record

    text = body.strip(b"\r\n")
    records = [text]
    if text.lstrip(b" \t(").startswith(b'"'):
        # dig prints a record a line; in a zone file parentheses hold one together
        lines = [text] if b"(" in text.partition(b'"')[0] else text.splitlines()
        records = [b"".join(map(_unquoted, _QUOTED.findall(line))) for line in lines]
    record = find_draft_record(records, domain)
    if record is None:
        raise RecordError("record-none", "does not begin with v=STS1")
    return record


def _unquoted(string: bytes) -> bytes:
    """A character-string without its escapes (RFC 1035 section 5.1)."""
    return _ESCAPE.sub(lambda m: bytes([int(m[1]) & 255]) if m[1] else m[2], string)


def _to_draft(
    body: bytes, domain: str, authentication: str | None, rua: str | None, tlsa: bool
) -> dict[str, Any]:
    from smtp_sts.policy import Policy, draft_record_name
    from smtp_sts.policy.conversion import to_draft, unknown_keys

    converted = to_draft(
        Policy.parse(body),
        _authentication(authentication, domain),
        _rua(rua),
        "tlsa" if tlsa else "webpki",
    )
    record = converted.record
    url = record.authentication.url if record.authentication is not None else ""
    unknown = [f"unknown key {key}" for key in unknown_keys(body)]
    return {
        "dialect": "draft00",
        "domain": domain,
        "dns": {draft_record_name(domain): record.text},
        "url": url,
        "body": record.text if url else "",
        "losses": [*converted.losses, *unknown],
    }


def _authentication(value: str | None, domain: str) -> Authentication:
    from smtp_sts.policy import RecordError
    from smtp_sts.policy.draft00_authentication import read_authentication, well_known

    if value is None:
        return well_known(domain)
    try:
        return read_authentication(value, domain)
    except RecordError as error:
        raise click.BadParameter(str(error), param_hint="--authentication") from None


def _rua(value: str | None) -> tuple[ReportUri, ...]:
    from smtp_sts.policy.draft00_rua import read_rua

    found, skipped = read_rua(value or "")
    if skipped:
        raise click.BadParameter(skipped[0], param_hint="--rua")
    return found


def _strings(text: str) -> str:
    """Character-strings as a zone file has them."""
    pieces = [text[i : i + TXT_STRING] for i in range(0, len(text), TXT_STRING)]
    quoted = " ".join(f'"{piece}"' for piece in pieces)
    return quoted if len(pieces) == 1 else f"( {quoted} )"
