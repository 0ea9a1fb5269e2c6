"""A day's counts as reports: the same on every machine, and always fit to be sent."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_sts.reporting.compile import Sender, compile_reports, report_id, unique_id
from smtp_sts.tlsrpt import (
    AppliedPolicy,
    Failure,
    PolicyResult,
    Report,
    ReportError,
    compose,
    file_name,
    read_json,
)

DAY = 20_544  # 2026-04-01
ALICE = Sender("Alice's Mail", "tlsrpt@alice.example")
STS = AppliedPolicy("sts", "bob.example", ("version: STSv1", "mode: enforce"), ("*.bob.example",))
EXPIRED = Failure("certificate-expired", 3, "192.0.2.1", "mx.bob.example", "mx", "192.0.2.2")
RESULTS = [
    PolicyResult(AppliedPolicy("no-policy-found", "bob.example"), 2, 0),
    PolicyResult(STS, 10, 4, (EXPIRED, Failure("starttls-not-supported", 1))),
]


def test_a_report_is_of_a_whole_utc_day_and_from_the_sender() -> None:
    (report,) = compile_reports(DAY, "bob.example", RESULTS, ALICE)
    assert report.start == datetime(2026, 4, 1, tzinfo=UTC)
    assert report.end == datetime(2026, 4, 1, 23, 59, 59, tzinfo=UTC)  # section 4.1
    assert (report.organization_name, report.contact_info) == (ALICE.organization, ALICE.contact)
    assert report.submitter == "alice.example"
    assert (report.successful, report.failed) == (12, 4)
    assert report.policies[0].failures == (EXPIRED, Failure("starttls-not-supported", 1))
    assert read_json(report.render()).oddities == ()


def test_the_same_counts_in_any_order_are_the_same_report() -> None:
    """So it is the same on each machine of a fleet, and for each retry."""
    once = compile_reports(DAY, "bob.example", RESULTS, ALICE)
    for seed in range(5):
        mixed = [
            msgspec.structs.replace(
                r, failures=tuple(random.Random(seed).sample(r.failures, len(r.failures)))
            )
            for r in random.Random(seed).sample(RESULTS, len(RESULTS))
        ]
        assert [r.render() for r in compile_reports(DAY, "bob.example", mixed, ALICE)] == [
            r.render() for r in once
        ]


def test_report_ids_tell_apart_day_domain_sender_and_part() -> None:
    others = {
        report_id(DAY, "bob.example", ALICE),
        report_id(DAY + 1, "bob.example", ALICE),
        report_id(DAY, "bobby.example", ALICE),
        report_id(DAY, "bob.example", Sender("Carol", "tlsrpt@carol.example")),
        report_id(DAY, "bob.example", Sender("Alice", "tlsrpt@alice.example", "another-store")),
    }
    assert len(others) == 5
    failures = tuple(
        Failure("certificate-expired", 1, receiving_ip=f"192.0.{n // 250}.{n % 250}")
        for n in range(2000)
    )
    results = [PolicyResult(STS, 5, 2000, failures)]
    parts = compile_reports(DAY, "bob.example", results, ALICE, 40_000)
    assert len(parts) > 2
    assert len({p.report_id for p in parts} | others) == 5 + len(parts)
    assert sum(p.failed for p in parts) == 2000
    assert compile_reports(DAY, "bob.example", results, ALICE, 40_000) == parts


def test_each_delivery_has_a_unique_part_that_a_retry_has_again() -> None:
    (report,) = compile_reports(DAY, "bob.example", RESULTS, ALICE)
    one = unique_id(report, "mailto:a@bob.example")
    assert one == unique_id(report, "mailto:a@bob.example")
    assert one != unique_id(report, "mailto:b@bob.example")
    assert file_name(report, "bob.example", one) == (
        f"alice.example!bob.example!1775001600!1775087999!{one}.json.gz"
    )
    mail = compose(report, "bob.example", "a@bob.example", one, datetime.now(UTC))
    assert f"Message-ID: <{one}.{report.report_id}>".encode() in mail


def test_nothing_counted_is_no_report() -> None:
    assert compile_reports(DAY, "bob.example", [], ALICE) == []
    assert compile_reports(DAY, "bob.example", [PolicyResult(STS, 0, 0)], ALICE) == []


def test_a_policy_that_nobody_could_name_is_reported_as_none_found() -> None:
    unknown = PolicyResult(AppliedPolicy("", "bob.example"), 5, 0)
    (report,) = compile_reports(DAY, "bob.example", [*RESULTS, unknown], ALICE)
    (none,) = [p for p in report.policies if p.policy.policy_type == "no-policy-found"]
    assert none.successful == 7


def test_what_cannot_be_reported_costs_its_detail_and_no_session() -> None:
    odd = Failure("no-such-type", 2, "10.0.0.0.1", "not a host", "a\r\nb", "fe80::1%eth0")
    policy = AppliedPolicy("sts", "bob example", ("line\x00one",), ("*.bob.example", "b ad", "*."))
    (report,) = compile_reports(
        DAY, "bob.example", [PolicyResult(policy, 1, 2, (odd, Failure("tlsa-invalid", 0)))], ALICE
    )
    (result,) = report.policies
    assert result.policy == AppliedPolicy("sts", "bob.example", ("line one",), ("*.bob.example",))
    assert result.failures == (
        Failure(
            "validation-failure", 2, receiving_mx_helo="a b", failure_reason_code="no-such-type"
        ),
    )
    assert (result.successful, result.failed) == (1, 2)


_anything = st.text(max_size=12)
_counts = st.integers(-5, 2**53)


@given(
    st.lists(
        st.builds(
            PolicyResult,
            st.builds(AppliedPolicy, _anything, _anything, st.lists(_anything).map(tuple),
                      st.lists(_anything).map(tuple)),
            _counts,
            _counts,
            st.lists(
                st.builds(Failure, _anything, _counts, _anything, _anything, _anything, _anything,
                          _anything, _anything),
                max_size=3,
            ).map(tuple),
        ),
        max_size=4,
    )
)  # fmt: skip
def test_whatever_was_counted_renders(results: list[PolicyResult]) -> None:
    for report in compile_reports(DAY, "bob.example", results, ALICE):
        assert isinstance(report, Report)
        # Counts that do not add up are told of as they are; everything else is read as written.
        assert all("a sum of" in odd for odd in read_json(report.render()).oddities)


@pytest.mark.parametrize(
    ("organization", "contact", "place"),
    [
        ("", "tlsrpt@alice.example", "organization"),
        ("two\nlines", "tlsrpt@alice.example", "organization"),
        ("Alice", "", "contact"),
        ("Alice", "alice.example", "contact"),
        ("Alice", "tlsrpt@Alice.example", "contact"),
        ("Alice", "tlsrpt@alice.example\r\nBcc: x@y.example", "contact"),
    ],
)
def test_a_sender_that_no_report_could_name_is_refused(
    organization: str, contact: str, place: str
) -> None:
    with pytest.raises(ReportError, match="is to be") as caught:
        Sender(organization, contact)
    assert caught.value.place == place
