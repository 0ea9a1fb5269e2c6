"""Reports of the forms that were seen in the field, in `found/`, and mails around them."""

from __future__ import annotations

import base64
import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from smtp_sts.cli import main
from smtp_sts.tlsrpt import (
    AppliedPolicy,
    Failure,
    PolicyResult,
    Report,
    compose,
    open_report,
    open_reports,
    pack,
)
from smtp_sts.tlsrpt.bounds import MAX_MAILS
from smtp_sts.tlsrpt.regular import Regular, regular
from smtp_sts.tlsrpt.sessions import Sessions, sessions_of

from .samples import REPORT, REPORTS, STS
from .test_tlsrpt_report import _body

FOUND = Path(__file__).parent / "found"
NOW = datetime(2026, 4, 2, tzinfo=UTC)
DOMAIN = "company-y.example"
FROM = b"From: sts-reporting@company-x.example\r\n"


def _show(path: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["report", "show", str(path), *options])


def _mail() -> bytes:
    return compose(REPORT, DOMAIN, f"r@{DOMAIN}", "1", NOW)


@pytest.mark.parametrize(
    ("name", "reports", "sessions", "oddity", "status"),
    [
        ("report-details-without-summary.json", 1, (0, 5), "summary: absent", 1),
        ("report-forwarded-base64.eml", 1, (1, 0), "", 0),
        ("report-lower-case-z.json", 1, (1, 0), "", 0),
        ("report-nested-policy-string.json", 1, (2, 0), "an array or several lines", 0),
        ("report-two-in-one.mbox", 2, (1, 0), "", 0),
    ],
)
def test_what_was_found_is_read(
    name: str, reports: int, sessions: tuple[int, int], oddity: str, status: int
) -> None:
    result = _show(FOUND / name, "--json")
    assert result.exit_code == status, result.output
    told = json.loads(result.output)
    assert 1 + len(told["more"]) == reports
    assert told["unread"] == []
    assert (told["sessions"]["successful"], told["sessions"]["failed"]) == sessions
    for one in (told, *told["more"]):
        assert one["report"]["contact-info"].endswith(".example")
        assert any(oddity in text for text in one["oddities"]) or not oddity
    assert "Traceback" not in _show(FOUND / name).output


def test_a_forwarded_report_shows_its_reporter_and_who_passed_it_on() -> None:
    found = open_report((FOUND / "report-forwarded-base64.eml").read_bytes())
    assert found.sender == "noreply-smtp-tls-reporting@large.example"
    assert found.forwarded_by == "r@large.example"
    assert found.message_id == "<66d83c20.dtls@large.example>"
    assert found.file_name == "large.example!bob.example!1774569600!1774655999!001.json.gz"


def _forward(inner: bytes, kind: str = "message/rfc822", encoding: str = "base64") -> bytes:
    head = (
        "From: someone@y.example\nSubject: Fwd\n"
        'Content-Type: multipart/mixed; boundary="o"\n\n--o\nContent-Type: text/plain\n\nfw\n'
        f"--o\nContent-Type: {kind}\nContent-Transfer-Encoding: {encoding}\n\n"
    ).encode()
    body = base64.encodebytes(inner) if encoding.lower().startswith("base64") else inner
    return head + body + b"\n--o--\n"


@pytest.mark.parametrize(
    "mail",
    [
        _forward(_mail(), encoding="8bit"),
        _forward(_mail()),
        _forward(_mail(), encoding="Base64 (as (it) is \\) done)"),
        _forward(_forward(_mail())),
        _forward(_mail(), kind='application/octet-stream; name="report.EML"'),
        _forward(_mail(), kind="message/global"),
    ],
    ids=["plain", "base64", "comment", "twice", "attached", "global"],
)
def test_a_report_is_found_however_it_is_forwarded(mail: bytes) -> None:
    found = open_report(mail)
    assert found.read.report == REPORT
    assert found.sender == "sts-reporting@company-x.example"
    assert (found.domain, found.submitter) == (DOMAIN, "company-x.example")
    assert found.forwarded_by == "someone@y.example"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Transfer-Encoding: base64", b"Transfer-Encoding: base64 (RFC 2045 (6.8))"),
        (b"Transfer-Encoding: base64", b"Transfer-Encoding: (so) \r\n BASE64 ;"),
        (b"Content-Transfer-Encoding: base64", b"ContentTransferEncoding: base64"),
        (b"Content-Transfer-Encoding: base64\r\n", b""),
        (b"Content-Type: multipart", b"ContentType: multipart"),
        (b"Content-Type: application", b"CONTENTTYPE: application"),
    ],
)
def test_header_fields_that_are_not_to_the_letter_are_understood(old: bytes, new: bytes) -> None:
    mail = _mail()
    assert old in mail
    found = open_report(mail.replace(old, new))
    assert found.read.report == REPORT
    odd = any("its name is Content-" in text for text in found.read.oddities)
    assert odd == (b"ontentT" in new or b"CONTENTT" in new)


def test_of_two_froms_the_one_that_a_signature_covers_is_shown() -> None:
    found = open_report(b"From: Big Bank <x@bank.example>\r\n" + _mail())
    assert found.sender == "sts-reporting@company-x.example"
    assert any("2 From fields" in odd and "bank" in odd for odd in found.read.oddities)


def _of(policies: tuple[PolicyResult, ...]) -> bytes:
    report = msgspec.structs.replace(REPORT, policies=policies)
    return compose(report, DOMAIN, f"r@{DOMAIN}", "1", NOW)


def test_what_the_mail_says_completes_the_report_and_is_compared_with_it() -> None:
    packed = base64.b64encode(pack(REPORT.render()))
    bare = REPORT.plain()
    del bare["policies"][0]["policy"]["policy-domain"]
    mail = _mail().replace(
        b"\r\n".join(packed[i : i + 76] for i in range(0, len(packed), 76)),
        base64.b64encode(gzip.compress(json.dumps(bare).encode())),
    )
    found = open_report(mail)
    assert found.read.report == REPORT
    assert any("taken as company-y.example" in odd for odd in found.read.oddities)

    assert open_report(_mail()).read.oddities == ()
    other = _mail().replace(b"Report-Domain: company-y", b"Report-Domain: company-z")
    assert any(
        "the mail is about company-z.example, the report about 'company-y.example'" in odd
        for odd in open_report(other).read.oddities
    )
    dane = PolicyResult(AppliedPolicy("tlsa", "mx.host.example", ("3 1 1 00",)), 1, 0)
    assert open_report(_of((PolicyResult(STS, 1, 0), dane))).read.oddities == ()


def test_a_time_long_past_or_yet_to_come_is_told() -> None:
    late = compose(REPORT, DOMAIN, f"r@{DOMAIN}", "1", datetime(2027, 4, 2, tzinfo=UTC))
    assert any("365 days before" in odd for odd in open_report(late).read.oddities)
    early = compose(REPORT, DOMAIN, f"r@{DOMAIN}", "1", datetime(2026, 3, 1, tzinfo=UTC))
    assert any("after the mail" in odd for odd in open_report(early).read.oddities)
    for year, words in ((2029, "more than a year ago"), (2026, ""), (2020, "yet to come")):
        (found,) = open_reports(REPORT.render(), datetime(year, 6, 1, tzinfo=UTC)).reports
        assert len(found.read.oddities) == bool(words)
        assert all(words in odd for odd in found.read.oddities)


def test_every_report_of_a_mail_is_read() -> None:
    second = msgspec.structs.replace(REPORT, report_id="2@company-x.example")
    packed = base64.encodebytes(pack(second.render())).replace(b"\n", b"\r\n")
    mail = _mail()
    edge = mail.rindex(b"--=_")
    boundary = mail[edge:].rstrip().removesuffix(b"--")
    mail = (
        mail[:edge] + boundary + b"\r\nContent-Type: application/tlsrpt+gzip\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n" + packed + mail[edge:]
    )
    opened = open_reports(mail)
    assert [one.read.report for one in opened.reports] == [REPORT, second]
    assert opened.unread == ()


def test_every_report_of_an_mbox_is_read_and_the_rest_is_told(tmp_path: Path) -> None:
    line = b"From MAILER Fri Mar 27 00:00:00 2026\n"
    mail = _mail().replace(b"\r\n", b"\n")
    good = _of((PolicyResult(STS, 5, 0),)).replace(b"\r\n", b"\n")
    box = line + good + b"\n" + line + b"Subject: hello\n\nFrom here on\n\n" + line + mail
    (tmp_path / "box").write_bytes(box)
    opened = open_reports(box)
    assert [one.read.report.failed for one in opened.reports] == [0, 303]
    assert opened.unread == ("mail 2: no report in it",)
    result = _show(tmp_path / "box")
    assert result.exit_code == 1  # that of the worst
    assert "report 2 of 2" in result.output and "mail 2: no report" in result.output
    many = open_reports((line + mail + b"\n") * (MAX_MAILS + 3))
    assert len(many.reports) <= MAX_MAILS
    assert any("3 mails beyond the first" in text for text in many.unread)


@pytest.mark.parametrize(
    ("policies", "domain", "sessions"),
    [
        ((("sts", "b.example", 2, 1), ("tlsa", "b.example", 2, 1)), "", (2, 1, True)),
        ((("sts", "b.example", 5, 0), ("tlsa", "mx.b.example", 3, 1)), "", (5, 1, True)),
        # mox: a session without DANE
        ((("sts", "b.example", 1, 0), ("no-policy-found", "mx.b.example", 1, 0)), "", (1, 0, True)),
        ((("no-policy-found", "b.example", 1, 0), ("no-policy-found", "mx.x.example", 1, 0)),
         "b.example", (1, 0, True)),
        # two policies of one day; before and after there was one
        ((("sts", "b.example", 2, 1), ("sts", "b.example", 3, 1)), "", (5, 2, False)),
        ((("sts", "b.example", 2, 1), ("no-policy-found", "b.example", 3, 1)), "", (5, 2, False)),
        ((("sts", "b.example", 2, 1), ("no-policy-found", "c.example", 3, 1)), "", (5, 2, False)),
        ((("tlsa", "mx.b.example", 2, 1),), "", (2, 1, False)),
    ],
)  # fmt: skip
def test_no_session_is_counted_twice(
    policies: tuple[tuple[str, str, int, int], ...], domain: str, sessions: tuple[int, int, bool]
) -> None:
    results = [PolicyResult(AppliedPolicy(kind, of), good, bad) for kind, of, good, bad in policies]
    assert sessions_of(results, domain) == Sessions(*sessions)


def test_failures_that_no_total_counts_are_failures(tmp_path: Path) -> None:
    """mox in testing mode writes a total of 0 beside failures."""
    data = REPORT.plain()
    data["policies"][0]["summary"]["total-failure-session-count"] = 0
    (tmp_path / "r").write_bytes(json.dumps(data).encode())
    result = _show(tmp_path / "r")
    assert result.exit_code == 1
    assert "where the total is 0" in result.output


def test_a_long_result_type_leaves_the_other_columns_their_room(tmp_path: Path) -> None:
    failure = Failure("x" * 150, 1, "192.0.2.1", "mx.company-y.example", "ehlo", "192.0.2.2", "why")
    data = msgspec.structs.replace(REPORT, policies=(PolicyResult(STS, 0, 1, (failure,)),))
    (tmp_path / "r").write_bytes(json.dumps(data.plain()).encode())
    narrow = CliRunner().invoke(
        main, ["report", "show", str(tmp_path / "r")], env={"COLUMNS": "80", "FORCE_COLOR": "1"}
    )
    for text in ("192.0.2.1", "192.0.2.2", "ehlo", "why"):
        assert text in narrow.output
    # where nobody reads along nothing is folded
    (row,) = [line for line in _show(tmp_path / "r").output.splitlines() if "x" * 150 in line]
    assert "192.0.2.1" in row and "why" in row


def _convert(path: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["report", "convert", str(path), *options])


@pytest.mark.parametrize(
    "name",
    ["report-details-without-summary.json", "report-nested-policy-string.json",
     "report-two-in-one.mbox"],
)  # fmt: skip
def test_ids_of_large_senders_are_no_hindrance_to_conversion(name: str) -> None:
    result = _convert(FOUND / name, "--to", "json")
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert made["report-id"].count("@") == 1
    assert "report-id" in result.stderr


def test_the_example_of_the_rfc_is_converted_there_and_back(tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(_body({}))
    xml = _convert(tmp_path / "r")
    assert xml.exit_code == 0, xml.output
    assert "<connectedIp>203.0.113.56</connectedIp>" in xml.stdout
    assert "2001:db8:abcd:13::1" in xml.stdout
    (tmp_path / "x").write_text(xml.stdout)
    back = _convert(tmp_path / "x")
    assert back.exit_code == 0, back.output
    assert json.loads(back.stdout)["policies"][0]["summary"]["total-failure-session-count"] == 303


@given(REPORTS)
def test_what_is_regular_stays_as_it_is(report: Report) -> None:
    assert regular(report) == Regular(report, ())


@given(st.text(max_size=30), st.text(max_size=30), st.integers(-5, 2**60))
def test_whatever_is_made_regular_renders(text: str, other: str, number: int) -> None:
    failure = Failure(text, number, other, text, other, text, other, text)
    policy = AppliedPolicy(text, DOMAIN, (text, other), (other, text))
    report = msgspec.structs.replace(
        REPORT,
        organization_name=other,
        report_id=other,
        policies=(PolicyResult(policy, number, -number, (failure,)),),
    )
    assert regular(report).report.render()
