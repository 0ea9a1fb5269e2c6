"""`smtp-sts report show FILE`: a report for people and for programs; hostile files."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from smtp_sts.cli import main
from smtp_sts.tlsrpt import Failure, PolicyResult, compose, pack, read_json

from .samples import REPORT, STS

NOW = datetime(2026, 4, 2, tzinfo=UTC)


def _show(path: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["report", "show", str(path), *options])


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("r.json", REPORT.render()),
        ("r.json.gz", pack(REPORT.render())),
        ("r.eml", compose(REPORT, "company-y.example", "r@company-y.example", "1", NOW)),
    ],
)
def test_any_form_of_a_report_is_shown_for_people(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    result = _show(tmp_path / name)
    assert result.exit_code == 1  # sessions failed
    for text in (
        "Company-X, sts-reporting@company-x.example",
        "2026-04-01 00:00:00 UTC",
        "5,326 as the policy asks for, 303 failed",
        "company-y.example: sts  5,326 good, 303 failed",
        "mode: testing",
        "certificate-expired",
        "The certificate had expired",
        "Renew it",
    ):
        assert text in result.output


def test_for_programs_there_is_json(tmp_path: Path) -> None:
    path = tmp_path / "r.eml"
    path.write_bytes(compose(REPORT, "company-y.example", "r@company-y.example", "1", NOW))
    data = json.loads(_show(path, "--json").output)
    assert read_json(json.dumps(data["report"]).encode()).report == REPORT
    assert data["oddities"] == []
    assert data["mail"]["submitter"] == "company-x.example"


def test_a_report_without_failures_has_status_0(tmp_path: Path) -> None:
    good = msgspec.structs.replace(REPORT, policies=(PolicyResult(STS, 5, 0),))
    (tmp_path / "r").write_bytes(good.render())
    assert _show(tmp_path / "r").exit_code == 0


def test_standard_input_is_read() -> None:
    result = CliRunner().invoke(main, ["report", "show", "-"], input=REPORT.render())
    assert "Company-X" in result.output


def test_oddities_are_named(tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(REPORT.render().replace(b'"Company-X"', b"null"))
    output = _show(tmp_path / "r").output
    assert "not as RFC 8460 has it" in output
    assert "organization-name: absent" in output


@pytest.mark.parametrize(
    ("data", "slug"),
    [
        (b"", "not-a-report"),
        (b"\x00" * 100, "not-a-report"),
        (b'{"policies": 1}', "report-no-date-range"),
        (b"[" * 100_000, "report-too-deep"),
        (pack(b" " * 100_000_000), "unpacked-too-large"),
        (pack(REPORT.render())[:-9], "gzip-truncated"),
        (b"Subject: hello\n\nno report\n", "mail-no-report"),
        (b"<feedback/>", "report-not-tls"),
        (b"<html></html>", "not-a-report"),
    ],
)
def test_a_hostile_file_gives_a_clear_error(tmp_path: Path, data: bytes, slug: str) -> None:
    (tmp_path / "r").write_bytes(data)
    result = _show(tmp_path / "r")
    assert result.exit_code == 2
    assert result.output.startswith(f"smtp-sts: {tmp_path}/r: ")
    assert f"({slug})" in result.output
    assert len(result.output.splitlines()) == 1


def test_law_5_what_a_stranger_wrote_does_not_steer_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b[2J\x07[red]x[/red]\u202egnp.exe\r\nfake: line"
    body = msgspec.json.encode(
        msgspec.structs.replace(
            REPORT,
            organization_name=evil,
            report_id=evil,
            policies=(
                PolicyResult(
                    msgspec.structs.replace(STS, policy_string=(evil,), policy_domain=evil),
                    1,
                    1,
                    (Failure(evil, 1, evil, evil, evil, evil, evil, evil),),
                ),
            ),
        ).plain()
    )
    (tmp_path / "r").write_bytes(body)
    output = _show(tmp_path / "r").output
    assert not {"\x1b", "\x07", "\u202e", "\r"} & set(output)
    assert "[red]" in output
    assert not any(line.startswith("fake:") for line in output.splitlines())


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    assert _show(tmp_path / "absent").exit_code == 2


def test_many_failures_are_cut_and_said_to_be(tmp_path: Path) -> None:
    failures = tuple(Failure("certificate-expired", n) for n in range(1, 200))
    report = msgspec.structs.replace(REPORT, policies=(PolicyResult(STS, 1, 9, failures),))
    (tmp_path / "r").write_bytes(report.render())
    assert "and 149 more; --json prints them all" in _show(tmp_path / "r").output


UNSEEN = "\x7f\x9b\u061c\u200f\u202e\u2066\U000e0001"


@pytest.mark.parametrize("name", ["organization_name", "contact_info"])
def test_law_5_json_shows_controls_as_escapes_and_means_the_same(tmp_path: Path, name: str) -> None:
    evil = f"a{UNSEEN}\x1b[2Jé"
    body = msgspec.json.encode(msgspec.structs.replace(REPORT, **{name: evil}).plain())
    (tmp_path / "r").write_bytes(body)
    output = _show(tmp_path / "r", "--json").output
    assert all(c.isprintable() or c == "\n" for c in output)
    assert "\\u202e" in output and "é" in output
    assert json.loads(output)["report"][name.replace("_", "-")] == evil
    plain = _show(tmp_path / "r").output
    assert all(c.isprintable() or c == "\n" for c in plain)
    assert "\\u202e" in plain


LINES = '{"policy":{"policy-string":[' + ",".join(['"x"'] * 700) + "]}}"
DETAILS = '{"failure-details":[' + ",".join(['{"result-type":"' + "x y" * 700 + '"}'] * 60) + "]}"


@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.parametrize(
    "policies",
    [
        ["{}"] * 260_000,
        [LINES] * 900,
        ['{"policy":{"policy-type":"' + "\x9b\x7f" * 1000 + '"}}'] * 3000,
        [DETAILS] * 100,
    ],
    ids=["empty", "lines", "controls", "details"],
)
def test_what_a_small_file_prints_is_bounded_in_time_and_bytes(
    tmp_path: Path, policies: list[str], options: tuple[str, ...]
) -> None:
    import time

    moment = '"2026-01-01T00:00:00Z"'
    dates = f'"start-datetime":{moment},"end-datetime":{moment}'
    body = f'{{"date-range":{{{dates}}},"policies":[{",".join(policies)}]}}'
    (tmp_path / "r").write_bytes(pack(body.encode()))
    began = time.process_time()
    result = _show(tmp_path / "r", *options)
    assert result.exit_code == 0
    assert time.process_time() - began < 15
    assert len(result.output) < (30_000_000 if options else 300_000)
    if options:
        assert any(json.loads(result.output)["left_out"].values())
    else:
        assert "left out" in result.output


def test_sessions_of_what_is_left_out_are_counted(tmp_path: Path) -> None:
    from smtp_sts.tlsrpt.bounds import MAX_POLICIES

    data = REPORT.plain()
    fine = {"summary": {"total-successful-session-count": 1, "total-failure-session-count": 0}}
    bad = {"summary": {"total-successful-session-count": 2, "total-failure-session-count": 3}}
    data["policies"] = [fine] * MAX_POLICIES + [bad] * 4
    (tmp_path / "r").write_bytes(json.dumps(data).encode())
    result = _show(tmp_path / "r")
    assert result.exit_code == 1
    assert "4 policies beyond the first 1,000, with 8 good and 12 failed sessions" in result.output
