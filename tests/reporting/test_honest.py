"""Testing mode is reported as our own looks saw it, never better than it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from smtp_sts.cli import main
from smtp_sts.reporting.compile import Sender, compile_reports
from smtp_sts.reporting.day import results_of
from smtp_sts.reporting.honest import is_testing, with_checks
from smtp_sts.reporting.overview import date_of
from smtp_sts.store.checks import Check
from smtp_sts.store.tallies import Tallies, Tally, open_tallies
from smtp_sts.tlsrpt import AppliedPolicy, Failure, PolicyResult
from smtp_sts.tlsrpt.results import RESULTS

TODAY = 20_544
LINES = ("version: STSv1", "mode: testing", "mx: *.bob.example", "max_age: 86400")
TESTING = AppliedPolicy("sts", "bob.example", LINES, ("*.bob.example",))
ENFORCE = AppliedPolicy(
    "sts", "bob.example", tuple(line.replace("testing", "enforce") for line in LINES),
    ("*.bob.example",),
)  # fmt: skip
NONE = AppliedPolicy("no-policy-found", "bob.example")
MX = "mx.bob.example"
GOOD = Check(MX, "192.0.2.1", "", helo="mx")
EXPIRED = Check(MX, "192.0.2.1", "certificate-expired", "the certificate expired", "mx", 2)


def _one(checks: list[Check], good: int = 7, failures: tuple[Failure, ...] = ()) -> PolicyResult:
    failed = sum(f.failed_session_count for f in failures)
    (result,) = with_checks([PolicyResult(TESTING, good, failed, failures)], checks).results
    return result


def test_success_is_believed_where_our_looks_were_good() -> None:
    checked = with_checks(
        [PolicyResult(TESTING, 7, 0)], [GOOD, Check("mx2.bob.example", "::1", "")]
    )
    assert checked.results == [PolicyResult(TESTING, 7, 0)]
    assert (checked.left_out, checked.looks, checked.note) == (0, 0, "")


def test_success_where_every_look_failed_is_failure_and_marked() -> None:
    assert _one([EXPIRED]) == PolicyResult(
        TESTING, 0, 7,
        (Failure("certificate-expired", 7, "", MX, "mx", "192.0.2.1", "",
                 "sender-check: the certificate expired"),),
    )  # fmt: skip


def test_a_session_is_not_ascribed_to_one_of_several_hosts() -> None:
    other = Check("mx2.bob.example", "192.0.2.2", "certificate-expired", "old", "mx")
    assert _one([EXPIRED, other]).failures == (
        Failure("certificate-expired", 7, receiving_mx_helo="mx",
                failure_reason_code="sender-check: each MX host fails so"),
    )  # fmt: skip


def test_hosts_that_fail_in_different_ways_are_named_in_the_reason() -> None:
    other = Check("mx2.bob.example", "192.0.2.2", "starttls-not-supported", "none")
    result = _one([EXPIRED, other])
    assert (result.successful, result.failed) == (0, 7)
    assert result.failures == (
        Failure("validation-failure", 7, failure_reason_code="sender-check: each MX host fails: "
                "mx.bob.example certificate-expired, mx2.bob.example starttls-not-supported"),
    )  # fmt: skip


def test_where_looks_differ_they_stand_in_for_the_sessions() -> None:
    checked = with_checks([PolicyResult(TESTING, 7, 0)], [GOOD, EXPIRED])
    assert checked.results == [
        PolicyResult(
            TESTING, 1, 2,
            (Failure("certificate-expired", 2, "", MX, "mx", "192.0.2.1", "",
                     "sender-check: the certificate expired"),),
        )
    ]  # fmt: skip
    assert (checked.left_out, checked.looks) == (7, 3)
    assert checked.note == (
        "7 sessions in testing mode are left out: our looks at the MX hosts differ"
    )


def test_where_nothing_was_seen_the_sessions_are_left_out() -> None:
    seen_by_mta = Failure("starttls-not-supported", 3)
    checked = with_checks([PolicyResult(TESTING, 7, 3, (seen_by_mta,))], [])
    assert checked.results == [PolicyResult(TESTING, 0, 3, (seen_by_mta,))]
    assert (checked.left_out, checked.looks) == (7, 0)
    assert "we could not look" in checked.note


def test_what_the_mta_calls_failed_stays_and_is_not_counted_again() -> None:
    seen_by_mta = Failure("certificate-expired", 3)
    result = _one([EXPIRED], 7, (seen_by_mta,))
    assert (result.successful, result.failed) == (0, 10)
    assert [f.failed_session_count for f in result.failures] == [3, 7]
    untouched = PolicyResult(TESTING, 0, 3, (seen_by_mta,))
    assert with_checks([untouched], [EXPIRED]).results == [untouched]


@pytest.mark.parametrize("host", ["mx.mallory.example", "a.b.bob.example", "bob.example"])
def test_a_host_that_the_policy_does_not_name_fails_whatever_its_certificate(host: str) -> None:
    """RFC 8461 section 4.1."""
    (failure,) = _one([Check(host, "192.0.2.1", "")]).failures
    assert failure.result_type == "validation-failure"
    assert failure.failure_reason_code == "sender-check: mx-mismatch"


@pytest.mark.parametrize(
    "policy", [ENFORCE, NONE, AppliedPolicy("tlsa", "bob.example", ("3 1 1 ab",))]
)
def test_other_policies_are_the_mtas_word(policy: AppliedPolicy) -> None:
    results = [PolicyResult(policy, 7, 1, (Failure("certificate-expired", 1),))]
    assert with_checks(results, [EXPIRED]).results == results


@pytest.mark.parametrize(
    ("line", "testing"),
    [("mode: testing", True), ("mode:testing", True), ("mode: testing ", True),
     ("mode: enforce", False), ("mx: mode: testing", False), ("mode: testing2", False)],
)  # fmt: skip
def test_which_policies_are_in_testing_mode(line: str, testing: bool) -> None:
    assert is_testing(AppliedPolicy("sts", "bob.example", (line,))) is testing


hosts = st.sampled_from([MX, "mx2.bob.example", "mx.mallory.example"])
looks = st.builds(
    Check, hosts, st.sampled_from(["192.0.2.1", "2001:db8::1"]),
    st.sampled_from(["", "", *RESULTS]), st.text(max_size=5), st.text(max_size=5),
    st.integers(0, 5),
)  # fmt: skip
results = st.builds(
    lambda policy, good, counts: PolicyResult(
        policy, good, sum(counts), tuple(Failure("certificate-expired", n) for n in counts)
    ),
    st.sampled_from([TESTING, ENFORCE, NONE]),
    st.integers(0, 1000),
    st.lists(st.integers(1, 9), max_size=3),
)


@given(st.lists(results, max_size=4), st.lists(looks, max_size=6))
def test_no_session_is_lost_but_those_left_out_and_none_is_counted_twice(
    given_: list[PolicyResult], checks: list[Check]
) -> None:
    checked = with_checks(given_, checks)
    before = sum(r.successful + r.failed for r in given_)
    after = sum(r.successful + r.failed for r in checked.results)
    assert after == before - checked.left_out + checked.looks
    assert [r.policy for r in checked.results] == [r.policy for r in given_]
    for old, new in zip(given_, checked.results, strict=True):
        assert new.failed >= old.failed
        assert new.failures[: len(old.failures)] == old.failures
        details = sum(f.failed_session_count for f in new.failures)
        assert details == new.failed
        # never better than the MTA saw it, but for looks of our own
        assert new.successful <= old.successful + checked.looks
    for report in compile_reports(
        TODAY, "bob.example", checked.results, Sender("A", "a@b.example")
    ):
        report.render()


@pytest.fixture
def tallies(tmp_path: Path) -> Iterator[Tallies]:
    opened = open_tallies(f"sqlite:///{tmp_path}/s.db")
    yield opened
    opened.close()


def test_looks_last_are_added_up_and_go_with_the_counts(tallies: Tallies) -> None:
    tallies.add([Tally(TODAY, "bob.example", "", PolicyResult(TESTING, 7, 0))])
    tallies.checks.add(TODAY, "bob.example", [EXPIRED, EXPIRED])
    tallies.checks.add(TODAY, "bob.example", [EXPIRED])
    tallies.checks.add(TODAY, "bob.example", [])
    tallies.checks.add(TODAY + 1, "bob.example", [GOOD])
    (found,) = tallies.checks.of(TODAY, "bob.example")
    assert (found.result_type, found.looks) == ("certificate-expired", 6)
    checked = results_of(tallies, TODAY, "bob.example", check_testing=True)
    assert (checked.results[0].successful, checked.results[0].failed) == (0, 7)
    as_told = results_of(tallies, TODAY, "bob.example", check_testing=False)
    assert as_told.results == [PolicyResult(TESTING, 7, 0)]
    tallies.forget(TODAY, "bob.example")
    assert tallies.checks.of(TODAY, "bob.example") == []
    assert tallies.checks.of(TODAY + 1, "bob.example") == [GOOD]


def test_preview_shows_what_our_looks_make_of_it(tallies: Tallies, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(
        f'[store]\nurl = "sqlite:///{tmp_path}/s.db"\n'
        '[tls_reports]\norganization = "A"\ncontact = "a@alice.example"\n'
    )

    def preview(*more: str) -> tuple[int, str]:
        day = date_of(TODAY)
        line = ["--config", str(config), "report", "preview", "bob.example", "--day", day, *more]
        result = CliRunner().invoke(main, line)
        return result.exit_code, result.output

    tallies.add([Tally(TODAY, "bob.example", "", PolicyResult(TESTING, 7, 0))])
    status, output = preview()
    assert status == 1
    assert "7 sessions in testing mode are left out: we could not look" in output
    tallies.checks.add(TODAY, "bob.example", [EXPIRED])
    status, output = preview("--json")
    (policy,) = json.loads(output)["policies"]
    assert policy["summary"] == {
        "total-successful-session-count": 0, "total-failure-session-count": 7,
    }  # fmt: skip
    assert policy["failure-details"][0]["failure-reason-code"].startswith("sender-check: ")
    tallies.checks.add(TODAY, "bob.example", [GOOD])
    assert "our looks at the MX hosts differ" in preview()[1]
