"""`smtp-sts report status` and `preview`: what was collected, what waits, what became of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from smtp_sts.cli import main
from smtp_sts.reporting.aggregate import DAY
from smtp_sts.reporting.compile import Sender, compile_reports
from smtp_sts.reporting.overview import date_of
from smtp_sts.store.outbox import Outbox, Part, Planned, open_outbox
from smtp_sts.store.tallies import (
    Tallies,
    Tally,
    daemon_source,
    import_source,
    open_tallies,
)
from smtp_sts.tlsrpt import AppliedPolicy, Failure, PolicyResult, pack, read_json

NOW = time.time()
TODAY = int(NOW // DAY)
SENDER = Sender("Alice's Mail", "tls@alice.example")
EVIL = "\x1b[2J\x07451 later\r\nfake: line"


def _result(domain: str, good: int, bad: int) -> PolicyResult:
    failure = Failure("certificate-expired", bad, receiving_mx_hostname=f"mx.{domain}")
    policy = AppliedPolicy("sts", domain, ("version: STSv1",), (f"mx.{domain}",))
    return PolicyResult(policy, good, bad, (failure,) if bad else ())


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    config = tmp_path / "c.toml"
    config.write_text(
        f'[store]\nurl = "sqlite:///{tmp_path}/s.db"\n[tls_reports]\nenabled = true\n'
        f'organization = "{SENDER.organization}"\ncontact = "{SENDER.contact}"\n'
    )

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["--config", str(config), "report", *arguments])

    return run


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/s.db"


def _make(outbox: Outbox, tallies: Tallies, day: int, domain: str, *to: Planned) -> None:
    outbox.plan(day, {domain: NOW - 60})
    (pending,) = outbox.claim_reports(NOW, "h", 1, day=day, domains=[domain])
    reports = compile_reports(day, domain, tallies.results(day, domain), SENDER)
    parts = [Part(report.report_id, pack(report.render())) for report in reports]
    assert outbox.make(pending, "h", parts, to, now=NOW, give_up_at=NOW + DAY)


@pytest.fixture
def filled(url: str) -> None:
    """Today's counts of two hosts; of yesterday a report of every fate."""
    tallies, outbox = open_tallies(url), open_outbox(url)
    tallies.add([Tally(TODAY, "a.example", "", _result("a.example", 90, 10))], daemon_source("mx1"))
    tallies.add([Tally(TODAY, "b.example", "", _result("b.example", 5, 0))], import_source("mx2"))
    names = ("a", "waits", "late", "gone", "unasked", "skips")
    tallies.add(
        [
            Tally(TODAY - 1, f"{name}.example", "", _result(f"{name}.example", 7, 1))
            for name in names
        ],
        daemon_source("mx1"),
    )
    mail, post = Planned("mailto:r@a.example", ""), Planned("https://a.example/r", "a.example")
    _make(outbox, tallies, TODAY - 1, "a.example", mail, post)
    for delivery in outbox.claim(NOW, "h", 10):
        if delivery.uri.startswith("mailto"):
            outbox.settle(delivery, "delivered", "250 queued as 4X", now=NOW)
        else:
            outbox.settle(delivery, "given-up", "no answer within 60 s", now=NOW)
    _make(outbox, tallies, TODAY - 1, "late.example", Planned("mailto:r@late.example", ""))
    (delivery,) = outbox.claim(NOW, "h", 10)
    outbox.put_off(delivery, "h", NOW + 300, EVIL)
    skipped = Planned("mailto:r@skips.example", "", "suppressed by skips.example")
    _make(outbox, tallies, TODAY - 1, "skips.example", skipped)
    for name, state, why in (
        ("gone", "given-up", "SERVFAIL"),
        ("unasked", "unwanted", "no record"),
    ):
        outbox.plan(TODAY - 1, {f"{name}.example": NOW - 60})
        (pending,) = outbox.claim_reports(NOW, "h", 1)
        outbox.drop(pending, "h", state, why, now=NOW)  # type: ignore[arg-type]
    outbox.plan(TODAY - 1, {"waits.example": NOW + 3600})
    outbox.close()
    tallies.close()


@pytest.mark.usefixtures("filled")
def test_status_tells_what_was_collected_what_waits_and_what_became_of_it(
    run: Callable[..., Result],
) -> None:
    result = run("status")
    assert result.exit_code == 1  # one was given up
    text = " ".join(result.output.split())
    for said in (
        "UTC: 105 sessions with 2 domains, 10 failed",
        "100 counted by the daemon on mx1",
        "5 counted by import-log, logs of mx2",
        "a.example: 10 of 100 failed: certificate-expired 10",
        f"{date_of(TODAY)} 2 95 10 the day goes on",
        f"{date_of(TODAY - 1)} 6 42 6 1 delivered, 1 given up, 1 not asked for, 1 skipped, 1 under",
        "waits (2)",
        f"{date_of(TODAY - 1)} waits.example is made",
        f"{date_of(TODAY - 1)} late.example -> mailto:r@late.example (try 2): [2J 451 later",
        "not delivered (3)",
        f"{date_of(TODAY - 1)} a.example -> https://a.example/r: no answer within 60 s",
        f"{date_of(TODAY - 1)} gone.example: SERVFAIL",
        "mailto:r@skips.example: skipped, suppressed by skips.example",
        "delivered (1)",
        "a.example -> mailto:r@a.example: 250 queued as 4X",
    ):
        assert said in text
    assert not {"\x1b", "\x07"} & set(result.output)  # law 5
    assert not any(line.startswith("fake:") for line in result.output.splitlines())


@pytest.mark.usefixtures("filled")
def test_status_of_one_domain(run: Callable[..., Result]) -> None:
    result = run("status", "A.EXAMPLE")
    assert "100 sessions with 1 domain, 10 failed" in result.output
    assert "b.example" not in result.output
    assert "late.example" not in result.output
    assert run("status", "nobody.example").output.count("nothing was collected yet") == 1
    assert run("status", "not a domain").exit_code == 2


@pytest.mark.usefixtures("filled")
def test_status_for_programs(run: Callable[..., Result]) -> None:
    data = json.loads(run("status", "--json").output)
    assert data["today"]["sources"] == {"daemon:mx1": 100, "import:mx2": 5}
    assert data["today"]["worst"] == [
        {"domain": "a.example", "successful": 90, "failed": 10,
         "results": {"certificate-expired": 10}}
    ]  # fmt: skip
    assert data["counts"] == {"waiting": 2, "delivered": 1, "failed": 3}
    assert [entry["domain"] for entry in data["waiting"]] == ["late.example", "waits.example"]
    assert data["waiting"][0]["at"] == pytest.approx(NOW + 300)
    assert data["days"][0]["reports"] == {
        "delivered": 1, "given up": 1, "not asked for": 1, "skipped": 1, "under way": 1,
        "waiting": 1,
    }  # fmt: skip


def test_status_where_nothing_is_yet(run: Callable[..., Result], url: str, tmp_path: Path) -> None:
    result = run("status")
    assert (result.exit_code, "there is none" in result.output) == (3, True)
    assert not (tmp_path / "s.db").exists()
    open_tallies(url).close()
    result = run("status")
    assert (result.exit_code, "nothing was collected yet" in result.output) == (0, True)


def test_long_lists_are_cut_and_said_to_be(run: Callable[..., Result], url: str) -> None:
    outbox = open_outbox(url)
    outbox.plan(TODAY - 1, {f"d{n}.example": NOW + n for n in range(3000)})
    outbox.close()
    assert "and 2,992 more; name a domain, or --json" in run("status").output
    data = json.loads(run("status", "--json").output)
    assert (len(data["waiting"]), data["counts"]["waiting"]) == (1000, 3000)


@pytest.mark.usefixtures("filled")
def test_preview_is_of_what_is_counted_so_far(run: Callable[..., Result], url: str) -> None:
    result = run("preview", "a.example")
    assert result.exit_code == 0
    assert result.output.startswith("not made yet; of what is counted so far\n")
    assert "a.example: sts  90 good, 10 failed" in result.output
    assert "Renew it" in result.output
    report = read_json(run("preview", "a.example", "--json").output.encode()).report
    assert (report.successful, report.failed, report.start.date().isoformat()) == (
        90, 10, date_of(TODAY),
    )  # fmt: skip
    waits = run("preview", "waits.example", "--day", date_of(TODAY - 1))
    assert "is made on" in waits.output


@pytest.mark.usefixtures("filled")
def test_preview_of_a_report_that_was_made_is_the_very_report(
    run: Callable[..., Result], url: str
) -> None:
    tallies, outbox = open_tallies(url), open_outbox(url)
    tallies.forget(TODAY - 1, "a.example")
    (part,) = outbox.parts(TODAY - 1, "a.example")
    outbox.close()
    tallies.close()
    day = date_of(TODAY - 1)
    assert run("preview", "a.example", "--day", day).output.startswith(
        "the report that was made: delivered\n"
    )
    output = run("preview", "a.example", "--day", day, "--json").output
    assert pack(output.removesuffix("\n").encode()) == part.body


@pytest.mark.usefixtures("filled")
def test_a_preview_of_nothing_says_where_there_is_something(run: Callable[..., Result]) -> None:
    result = run("preview", "b.example", "--day", date_of(TODAY - 1))
    assert result.exit_code == 1
    assert f"nothing was counted of b.example on {date_of(TODAY - 1)}" in result.output
    assert f"sessions were counted on {date_of(TODAY)} (--day)" in result.output


def test_a_preview_needs_to_know_who_reports(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f'[store]\nurl = "sqlite:///{tmp_path}/s.db"\n')
    command = ["--config", str(tmp_path / "c.toml"), "report", "preview", "a.example"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert "[tls_reports] organization: is to be one line of text" in result.output
