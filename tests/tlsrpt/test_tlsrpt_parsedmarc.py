"""What we write is read without complaint by parsedmarc, the reader most receivers run.

It has some forty dependencies of its own, so it lives in a virtual environment that is made once
from `requirements/readers.txt`, under $SMTP_STS_CACHE or /var/cache/smtp-sts-tests.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from smtp_sts.cli import main
from smtp_sts.tlsrpt import (
    RESULTS,
    AppliedPolicy,
    Failure,
    PolicyResult,
    Report,
    compose,
    read_json,
    split,
)

from ..reporting.post_office import PostOffice
from .samples import REPORT, STS

LOCKED = Path(__file__).parents[2] / "requirements" / "readers.txt"
#: Reads base64 of a mail a line, writes what parsedmarc made of it, or its complaint.
SCRIPT = """
import base64, json, logging, sys
import parsedmarc
for line in sys.stdin:
    complaints = []
    class Complaints(logging.Handler):
        def emit(self, record):
            complaints.append(record.getMessage())
    logging.getLogger("parsedmarc").handlers = [Complaints(logging.WARNING)]
    try:
        read = parsedmarc.parse_report_email(base64.b64decode(line), offline=True)
        print(json.dumps({"read": read, "complaints": complaints}))
    except parsedmarc.ParserError as error:
        print(json.dumps({"read": None, "complaints": [repr(error)]}))
"""


def _no_parsedmarc(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must run parsedmarc: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def parsedmarc() -> Path:
    """The Python that has parsedmarc."""
    cache = Path(os.environ.get("SMTP_STS_CACHE") or "/var/cache/smtp-sts-tests")
    mark = hashlib.sha256(LOCKED.read_bytes() + sys.version.encode()).hexdigest()[:16]
    final = cache / f"readers-{mark}"
    python = final / "bin" / "python"
    if (final / "complete").exists():
        return python
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for command in (
            [sys.executable, "-P", "-m", "venv", "--clear", str(final)],
            [
                str(python),
                "-P",
                "-m",
                "pip",
                "-q",
                "install",
                "--require-hashes",
                "-r",
                str(LOCKED),
            ],
        ):
            subprocess.run(command, check=True, capture_output=True, timeout=300)
        (final / "complete").touch()
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", b"") or b""
        _no_parsedmarc(f"parsedmarc cannot be installed: {error} {output[-200:]!r}")
    return python


def _every_result() -> Report:
    failures = tuple(
        Failure(
            name,
            number,
            "192.0.2.1",
            "mx1.company-y.example",
            "mx1.company-y.example",
            "2001:db8::2",
            "https://company-x.example/why?x=1",
            "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED",
        )
        for number, name in enumerate(RESULTS, 1)
    )
    tlsa = AppliedPolicy(
        "tlsa", "mx1.company-y.example", ("3 1 1 " + "ab" * 32,), ("mx1.x.example",)
    )
    none = AppliedPolicy("no-policy-found", "company-y.example")
    return msgspec.structs.replace(
        REPORT,
        organization_name="Käserei Müller",
        policies=(
            PolicyResult(STS, 10, 66, failures),
            PolicyResult(tlsa, 0, 1, (Failure("tlsa-invalid", 1),)),
            PolicyResult(none, 2**53 - 1, 0),
        ),
    )


def _large() -> list[Report]:
    failures = tuple(
        Failure("certificate-expired", 1, receiving_ip=f"192.0.{n // 250}.{n % 250}")
        for n in range(2000)
    )
    return split(
        msgspec.structs.replace(REPORT, policies=(PolicyResult(STS, 5, 2000, failures),)), 40_000
    )


def test_parsedmarc_reads_what_we_write_and_finds_the_same_in_it(parsedmarc: Path) -> None:
    reports = [REPORT, _every_result(), *_large()]
    now = datetime(2026, 4, 2, 3, tzinfo=UTC)
    mails = [compose(r, "company-y.example", "r@y.example", "1", now) for r in reports]
    answers = _read(parsedmarc, mails)
    assert [answer["complaints"] for answer in answers] == [[]] * len(reports)
    assert len(answers) == len(reports) > 4
    for report, answer in zip(reports, answers, strict=True):
        assert answer["read"]["report_type"] == "smtp_tls"
        _same(report, answer["read"]["report"])


def test_parsedmarc_reads_a_mail_that_was_delivered(parsedmarc: Path, tmp_path: Path) -> None:
    async def deliver() -> list[bytes]:
        async with PostOffice(tmp_path) as office:
            office.count("bob.example")
            office.ask("bob.example", "mailto:reports@bob.example")
            await office.while_delivering(office.settled)
            return office.mta.contents()

    (mail,) = asyncio.run(deliver())
    (answer,) = _read(parsedmarc, [mail])
    assert answer["complaints"] == []
    (policy,) = answer["read"]["report"]["policies"]
    assert (policy["successful_session_count"], policy["failed_session_count"]) == (7, 3)
    assert policy["failure_details"][0]["result_type"] == "certificate-expired"


def _read(parsedmarc: Path, mails: list[bytes]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [parsedmarc, "-c", SCRIPT],
        input=b"\n".join(map(base64.b64encode, mails)),
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-500:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def _same(report: Report, read: dict[str, Any]) -> None:
    assert read["organization_name"] == report.organization_name
    assert read["contact_info"] == report.contact_info
    assert read["report_id"] == report.report_id
    assert read["begin_date"] == "2026-04-01T00:00:00Z"
    assert len(read["policies"]) == len(report.policies)
    for ours, theirs in zip(report.policies, read["policies"], strict=True):
        assert theirs["policy_type"] == ours.policy.policy_type
        assert theirs["policy_domain"] == ours.policy.policy_domain
        assert theirs["successful_session_count"] == ours.successful
        assert theirs["failed_session_count"] == ours.failed
        details = theirs.get("failure_details", [])
        assert [(d["result_type"], d["failed_session_count"]) for d in details] == [
            (f.result_type, f.failed_session_count) for f in ours.failures
        ]


def test_parsedmarc_reads_the_preview_of_an_old_log(parsedmarc: Path, tmp_path: Path) -> None:
    """Log of Postfix -> counts -> preview -> mail -> parsedmarc, by the commands of a user."""
    head = "2026-04-01T03:00:00Z alice postfix/smtp"
    mx = "mx.bob.example[192.0.2.2]:25"
    to = f"relay={mx}, delay=0.9, delays=0/0/0.5/0"
    log = "".join(
        f"{head}[{n}]: {'Trusted' if n < 2 else 'Verified'} TLS connection established to {mx}: "
        f"TLSv1.3\n{head}[{n}]: 4X{n}: to=<x@bob.example>, {to}, "
        + (
            "dsn=4.7.5, status=deferred (Server certificate not verified)\n"
            if n < 2
            else "dsn=2.0.0, status=sent (250 ok)\n"
        )
        for n in range(5)
    )
    config = tmp_path / "c.toml"
    config.write_text(
        f'[store]\nurl = "sqlite:///{tmp_path}/s.db"\n'
        '[tls_reports]\norganization = "Alice"\ncontact = "tls@alice.example"\n'
    )
    command = ["--config", str(config), "report"]
    runner = CliRunner()
    (tmp_path / "mail.log").write_text(log)
    assert runner.invoke(main, [*command, "import-log", f"{tmp_path}/mail.log"]).exit_code == 0
    shown = runner.invoke(
        main, [*command, "preview", "bob.example", "--day", "2026-04-01", "--json"]
    )
    report = read_json(shown.output.encode()).report
    assert report.render() == shown.output.rstrip("\n").encode()
    now = datetime(2026, 4, 2, 3, tzinfo=UTC)
    (answer,) = _read(parsedmarc, [compose(report, "bob.example", "r@bob.example", "1", now)])
    assert answer["complaints"] == []
    _same(report, answer["read"]["report"])
    (policy,) = report.policies
    assert (policy.successful, policy.failed) == (3, 2)
    assert policy.failures[0].result_type == "certificate-host-mismatch"
